"""The HTTP endpoint for short clips: the flow's own steps behind Ray Serve.

`clips` processes one clip and says what happens; `fetch` takes a clip in, within limits; `api` is the HTTP surface,
`keys` who may use it, `problems` what it answers when something is wrong; `app` puts them on Ray Serve, as
`config.yaml` describes. Modules here write `import ray.serve as ray_serve`: this
package has the name Ray's documentation imports.
"""

from __future__ import annotations

import os
import sys

# Who runs the endpoint at first has no keys yet, so it listens to this machine alone.
HOST, PORT = "127.0.0.1", 8000


def command(store_url: str, host: str = HOST, port: int = PORT) -> list[str]:
    """The command line that serves clips from this machine; this interpreter first.

    A store's address that stands in the environment already is left there: it may hold a password, and arguments can
    be read by every user of the machine.
    """
    argv = [sys.executable, "-m", "serve", "--host", host, "--port", str(port)]
    return argv if os.environ.get("SIGHTFLOW_STORE__URL") == store_url else [*argv, "--store", store_url]

"""The HTTP endpoint for short clips: the flow's own steps behind Ray Serve.

What happens to a clip, in order:

- `keys`: who may ask
- `fetch`: from the request, or the address in it, to a file; `arrival`: counted and looked at while it comes
- `clip`: the file and what is asked of it
- `clips`: one clip through the flow's steps, telling what happens; `decoder`: its frames, from a process of their own
- `streams`: the events as an answer

Besides, `jobs` and `runners` for longer videos, `archive` for what is stored, `problems` for what goes wrong. `api`
puts these together, `app` puts them on Ray Serve as `config.yaml` describes (its `args` are the `settings`), and
`client` is the other side. Modules here write `import ray.serve as ray_serve`: Ray's documentation imports a name that
is this package's.
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

"""`python -m serve`: the endpoint on this machine, until it is interrupted."""

from __future__ import annotations

import argparse
import sys

from flows.config import Settings
from serve import HOST, PORT
from serve.keys import is_loopback
from serve.settings import ServeSettings


def main() -> None:
    """Start Ray where there is none, serve, and stop on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--store", default=Settings.load().store.url, help="A folder or postgresql://...")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    if not is_loopback(given.host) and not ServeSettings().keys:
        sys.exit(
            f"error: {given.host} is open to others, so keys are needed: `python -m serve.keys` makes one, and "
            "SIGHTFLOW_SERVE_KEYS='[\"sha256$...\"]' takes its hash"
        )
    # What takes seconds to import comes after what may end in a line.
    import ray.serve as ray_serve

    from flows.pipeline import start_ray
    from serve.app import build

    start_ray()
    ray_serve.start(http_options={"host": given.host, "port": given.port})
    ray_serve.run(build({"store": given.store}), name="sightflow", blocking=True)


if __name__ == "__main__":
    main()

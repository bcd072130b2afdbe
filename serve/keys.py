"""API keys: who may ask. `python -m serve.keys` makes one.

A key is 256 random bits, which nobody guesses however fast the hash is, so one round of salted SHA-256 keeps it secret
where settings are read by others; a slow hash would only slow requests down.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.problems import problem
from serve.settings import ServeSettings

# What probes and people without a key may see: that the endpoint is well, and how to use it.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
_SCHEME = "sha256"


def new_key() -> tuple[str, str]:
    """A key for a client, and its hash for the settings."""
    key = f"sf_{secrets.token_urlsafe(32)}"
    return key, _hashed(key, secrets.token_hex(16))


def fits(key: str, hashes: Sequence[str]) -> bool:
    """Whether a key is one of those the hashes are of; takes as long whatever is wrong with it."""
    # A sum, because `any` would stop at the first that fits.
    return sum(hmac.compare_digest(_hashed(key, known.split("$")[1]), known) for known in hashes) > 0


def _hashed(key: str, salt: str) -> str:
    return f"{_SCHEME}${salt}${hashlib.sha256(f'{salt}{key}'.encode()).hexdigest()}"


def is_loopback(host: str) -> bool:
    """Whether a host, as in an address or a `Host` header, is this machine as it sees itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class KeyCheck:
    """Lets through who shows a key; where there are no keys, who asks from this machine over its loopback address.

    A browser on this machine asks from there for whatever page it shows. So without keys the `Host` must be this
    machine's own (a page may point its own name at 127.0.0.1), and the `Origin`, if any, one that is allowed.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._settings.keys:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and fits(key.strip(), self._settings.keys):
                await self._app(scope, receive, send)
                return
            refused = problem(
                401, "A key is needed", "expected `Authorization: Bearer <key>`", **{"WWW-Authenticate": "Bearer"}
            )
        elif self._from_here(scope, headers):
            await self._app(scope, receive, send)
            return
        else:
            detail = (
                "no keys are set, so only this machine is answered, at 127.0.0.1 or localhost; see docs/endpoint.md"
            )
            refused = problem(403, "No keys are set", detail)
        await refused(scope, receive, send)

    def _from_here(self, scope: Scope, headers: Headers) -> bool:
        bound = (scope.get("server") or ("",))[0]
        origin = headers.get("origin")
        host = urlsplit(f"//{headers.get('host', '')}")
        return (
            is_loopback(bound)
            and is_loopback(host.hostname or "")
            and (origin is None or urlsplit(origin).netloc == host.netloc or origin in self._settings.cors_origins)
        )


def main() -> None:
    """Print a new key and its hash."""
    key, hashed = new_key()
    sys.stdout.write(
        f"key, for the client, shown this once:   {key}\nhash, for `keys` of the settings:        {hashed}\n"
    )


if __name__ == "__main__":
    main()

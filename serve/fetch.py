"""Taking a clip in: from an upload or a URL, counted while it arrives."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit

from flows.errors import UsageError
from serve.clips import Clip
from serve.problems import TooLargeError
from serve.settings import ServeSettings

PIECE_BYTES = 1 << 20
TIMEOUT_S = 20


def too_large(settings: ServeSettings) -> TooLargeError:
    """The error of a clip that is larger than the limit."""
    return TooLargeError(
        f"expected a clip of at most {settings.max_clip_mb:g} MB, got more: use `sightflow run` for large videos"
    )


def save_upload(file: IO[bytes], name: str, settings: ServeSettings, source_id: str | None, store: bool) -> Clip:
    """A clip from an upload that has arrived."""
    pieces = iter(lambda: file.read(PIECE_BYTES), b"")
    return _saved(pieces, PurePath(name).name or "clip", settings, source_id, store)


def fetch_url(url: str, settings: ServeSettings, source_id: str | None, store: bool) -> Clip:
    """A clip from an `http://` or `https://` address; redirects are not followed.

    Raises:
        UsageError: an address of another kind, one in a private network, or one that does not answer with a file.
        TooLargeError: more than the limit.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise UsageError(f"expected an http:// or https:// address, got {url!r}") from None
    if not parts.hostname:
        raise UsageError(f"expected an address with a host, got {url!r}")
    try:
        address = _resolved(parts.hostname, port, settings.allow_private_urls)
        connection = _Connection(parts.hostname, port, address, parts.scheme == "https")
        try:
            return _fetched(connection, parts, settings, source_id, store)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"{url}: no answer ({type(error).__name__}: {error})") from None


def _fetched(
    connection: http.client.HTTPConnection,
    parts: SplitResult,
    settings: ServeSettings,
    source_id: str | None,
    store: bool,
) -> Clip:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "sightflow", "Accept": "*/*"})
    response = connection.getresponse()
    if 300 <= response.status < 400:
        raise UsageError(f"{parts.geturl()} redirects to {response.headers.get('Location')!r}: give that address")
    if response.status != 200:
        raise UsageError(f"{parts.geturl()} answers {response.status} {response.reason}; expected a video file")
    pieces = iter(lambda: response.read(PIECE_BYTES), b"")
    return _saved(pieces, PurePath(unquote(parts.path)).name or "clip", settings, source_id, store)


def _resolved(host: str, port: int, allow_private: bool) -> str:
    """The address of a host; it is connected to as it was checked, so that a second answer of DNS changes nothing."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not allow_private and not ipaddress.ip_address(address.split("%")[0]).is_global:
            raise UsageError(f"{host} is in a private network ({address}); clips are fetched from public addresses")
    return found[0]


class _Connection(http.client.HTTPConnection):
    """HTTP(S) to an address that was looked up before; certificates are checked against the host's name."""

    def __init__(self, host: str, port: int, address: str, tls: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _saved(pieces: Iterator[bytes], name: str, settings: ServeSettings, source_id: str | None, store: bool) -> Clip:
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(
        prefix="sightflow-clip-", suffix=PurePath(name).suffix[:16], dir=settings.uploads, delete=False
    ) as file:
        path = Path(file.name)
        try:
            for piece in pieces:
                size += len(piece)
                if size > settings.max_clip_bytes:
                    raise too_large(settings)
                digest.update(piece)
                file.write(piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    # Clips that name no camera are cameras of their own: nothing joins what two strangers sent.
    return Clip(path, name, source_id or f"clip-{digest.hexdigest()[:16]}", store)

"""Taking a clip in: from an upload or from an address on the web, counted while it arrives."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from pathlib import PurePath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flows.errors import UsageError
from serve.arrival import Arrival, Form, too_large
from serve.settings import ServeSettings

_PIECE_BYTES = 1 << 20
_JSON_BYTES = 64 << 10
# Of silence, and for the whole clip: who sends a byte a second holds a thread.
_TIMEOUT_S, _PATIENCE_S = 20, 300
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def take_in(request: Request, settings: ServeSettings) -> Arrival:
    """The clip a request carries, on disk.

    Raises:
        UsageError, TooLargeError, NotVideoError: It carries none that can be used; nothing is left on disk.
        HTTPException: Neither a form nor JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = Form(settings, request.headers["content-type"])
        if _declared(request.headers.get("content-length")) > settings.max_clip_bytes + (64 << 10):
            raise too_large(settings)
        try:
            async for piece in request.stream():
                await run_in_threadpool(form.write, piece)
            return form.finish()
        except BaseException:
            form.discard()
            raise
    if kind == "application/json":
        return await run_in_threadpool(fetch_url, await _url(request), settings)
    raise HTTPException(415, f"expected multipart/form-data or application/json, got {kind or 'no content type'}")


async def _url(request: Request) -> str:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_BYTES:
            raise HTTPException(413, f"expected at most {_JSON_BYTES} bytes of JSON")
    try:
        url = json.loads(body)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        url = None
    if not isinstance(url, str):
        raise UsageError('expected a JSON object {"url": "https://…"}')
    return url


def fetch_url(url: str, settings: ServeSettings) -> Arrival:
    """A clip from an `http://` or `https://` address, and from where that redirects to.

    Raises:
        UsageError: An address of another kind, one in a private network, or one that does not answer with a file.
        TooLargeError, NotVideoError: As `Arrival.write`'s.
    """
    until_s = time.monotonic() + _PATIENCE_S
    for _ in range(1 + _MAX_REDIRECTS):
        parts = _split(url)
        try:
            connection = _connected(parts, settings.allow_private_urls)
            try:
                response = _asked(connection, parts)
                if response.status not in _REDIRECTS:
                    return _saved(response, parts, settings, until_s)
                # Whatever it leads to is checked as the first one was.
                url = urljoin(url, response.headers.get("Location") or "")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise UsageError(f"{url}: no answer ({type(error).__name__}: {error})") from None
    raise UsageError(f"more than {_MAX_REDIRECTS} redirects, the last to {url}")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"expected an http:// or https:// address, got {url!r}") from None
    if parts.scheme not in ("http", "https") or port == 0:
        raise UsageError(f"expected an http:// or https:// address, got {url!r}")
    if not parts.hostname:
        raise UsageError(f"expected an address with a host, got {url!r}")
    return parts


def _connected(parts: SplitResult, allow_private: bool) -> http.client.HTTPConnection:
    host, tls = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    return _Connection(host, port, _resolved(host, port, allow_private), tls)


def _resolved(host: str, port: int, allow_private: bool) -> str:
    """The address of a host; it is connected to as it was checked, so that a second answer of DNS changes nothing."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not allow_private and not _is_public(address):
            raise UsageError(f"{host} is in a private network ({address}); clips are fetched from public addresses")
    return found[0]


def _is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also what it stands for where it wraps another."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return _is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast


class _Connection(http.client.HTTPConnection):
    """HTTP(S) to an address that was looked up before; certificates are checked against the host's name."""

    def __init__(self, host: str, port: int, address: str, tls: bool) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S)
        self._address, self._tls = address, tls
        self.default_port = 443 if tls else 80  # which the Host header leaves out

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _asked(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "sightflow", "Accept": "*/*"})
    return connection.getresponse()


def _saved(response: http.client.HTTPResponse, parts: SplitResult, settings: ServeSettings, until_s: float) -> Arrival:
    if response.status != 200:
        raise UsageError(f"{parts.geturl()} answers {response.status} {response.reason}; expected a video file")
    if _declared(response.headers.get("Content-Length")) > settings.max_clip_bytes:
        raise too_large(settings)
    clip = Arrival(settings, PurePath(unquote(parts.path)).name)
    try:
        # read1: what has come, rather than a whole piece, so that slow ones are counted and timed as well.
        while piece := response.read1(_PIECE_BYTES):
            clip.write(piece)
            if time.monotonic() > until_s:
                raise UsageError(f"{parts.geturl()} sent {clip.size} bytes in {_PATIENCE_S} s; expected a whole clip")
        if response.length:
            raise UsageError(f"{parts.geturl()} ended {response.length} bytes before its end; try again")
        clip.finish()
    except BaseException:
        clip.discard()
        raise
    return clip


def _declared(length: str | None) -> int:
    return int(length) if length and length.isascii() and length.isdigit() else 0

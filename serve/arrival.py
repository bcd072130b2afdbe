"""A clip that is arriving: counted and looked at piece by piece, so that what will be refused is not taken in first."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PurePath

from python_multipart.multipart import MultipartParser, parse_options_header

from flows.errors import UsageError
from serve.problems import NotVideoError, TooLargeError
from serve.settings import ServeSettings

# A form's boundaries, field names and other fields come on top of the clip.
_FORM_BYTES = 64 << 10
_NAME_LENGTH = 200

# How the containers begin that `flows.media` lets FFmpeg read; which of them it is, FFmpeg finds out.
_SIGNATURES = re.compile(
    rb"....(?:ftyp|moov|mdat|free|skip|wide|pnot|styp)"  # mp4, mov, 3gp
    rb"|\x1aE\xdf\xa3"  # Matroska, WebM
    rb"|RIFF....AVI |FLV|OggS|DKIF|DHAV|YUV4MPEG2|\.RMF|nut/multimedia"
    rb"|\x30\x26\xb2\x75"  # ASF, WMV
    rb"|\x06\x0e\x2b\x34"  # MXF
    rb"|(?:....)?G.{187}(?:....)?G"  # MPEG transport streams, of packets of 188 or 192 bytes
    rb"|\x00\x00\x01[\xb3\xba\xb0\x40-\x7f\x01\x05-\x09\x25-\x29\x61-\x69]"  # MPEG, H.264, H.265
    rb"|\x00\x00\x00\x01[\x01-\x7f]"  # H.264, H.265
    rb"|\xff\xd8\xff",  # MJPEG
    re.DOTALL,
)
_SNIFFED_BYTES = 400

_PREFIX = "sightflow-clip-"
# No clip is worked on for as long as this.
_LEFT_S = 24 * 3600


class Arrival:
    """The file a clip is written to while it comes.

    Args:
        settings: The limits, and where clips lie.
        name: What the sender calls it.
    """

    def __init__(self, settings: ServeSettings, name: str = "") -> None:
        self._settings = settings
        self.name = _plain(name)
        self._digest, self.size = hashlib.sha256(), 0
        self._head = b""
        # Without the sender's ending: what it is, its content says.
        self._file = tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=settings.uploads, delete=False)  # noqa: SIM115
        self.path = Path(self._file.name)

    def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            TooLargeError: They are too many.
            NotVideoError: No video begins like this.
        """
        self.size += len(piece)
        if self.size > self._settings.max_clip_bytes:
            raise too_large(self._settings)
        if len(self._head) < _SNIFFED_BYTES:
            self._head = (self._head + piece)[:_SNIFFED_BYTES]
            if len(self._head) == _SNIFFED_BYTES:
                self._sniff()
        self._digest.update(piece)
        self._file.write(piece)

    def finish(self) -> None:
        """Close the file.

        Raises:
            NotVideoError: It is none.
        """
        if self.size < _SNIFFED_BYTES:
            self._sniff()
        self._file.close()

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def content_name(self) -> str:
        """A name for the content."""
        return self._digest.hexdigest()[:16]

    def _sniff(self) -> None:
        if not _SIGNATURES.match(self._head):
            raise NotVideoError(
                f"{self.name}: expected a video file, as mp4, Matroska, AVI or MPEG; nothing like it begins with "
                f"{self._head[:12]!r}"
                if self._head
                else f"{self.name} is empty"
            )


class Form:
    """A multipart form that is arriving; what comes in its field `file` is the clip.

    Raises:
        UsageError: From any method: a form that is none, without a clip or with two.
    """

    def __init__(self, settings: ServeSettings, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary or len(boundary) > 70:  # RFC 2046
            raise UsageError("expected a boundary of up to 70 characters in the content type multipart/form-data")
        self.clip: Arrival | None = None
        self._settings = settings
        self._left = settings.max_clip_bytes + _FORM_BYTES
        self._field, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._in_clip, self._ended = False, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_begin": self._begin_header,
                "on_header_field": self._add_field,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Take the next bytes of the form; errors as `Arrival.write`'s."""
        self._left -= len(piece)
        if self._left < 0:
            raise too_large(self._settings)
        try:
            self._parser.write(piece)
        except ValueError as error:  # of which the parser's own errors are a kind
            raise UsageError(f"expected multipart/form-data: {error}") from None

    def finish(self) -> Arrival:
        """The clip, once the form has come to its end."""
        if self.clip is None:
            raise UsageError("expected the clip in the multipart field `file`")
        if not self._ended:
            raise UsageError("the form was cut off before its last boundary; send it again")
        self.clip.finish()
        return self.clip

    def discard(self) -> None:
        """Remove what has come."""
        if self.clip is not None:
            self.clip.discard()

    def _begin_header(self) -> None:
        self._field, self._value = b"", b""

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._in_clip = options.get(b"name") == b"file" and b"filename" in options
        if self._in_clip:
            if self.clip is not None:
                raise UsageError("expected one clip, got a second field `file`")
            self.clip = Arrival(self._settings, options[b"filename"].decode("utf-8", "replace"))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_clip and self.clip is not None:
            self.clip.write(data[start:end])

    def _end(self) -> None:
        self._ended = True


def sweep(folder: Path) -> None:
    """Remove what endpoints that were killed have left: of clips that came more than a day ago."""
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def too_large(settings: ServeSettings) -> TooLargeError:
    """The error of a clip that is larger than the limit."""
    return TooLargeError(
        f"expected a clip of at most {settings.max_clip_mb:g} MB, got more: use `sightflow run` for large videos"
    )


def _plain(name: str) -> str:
    """A name as it may be shown and stored: no folders, nothing unprintable."""
    return "".join(c for c in PurePath(name).name if c.isprintable())[:_NAME_LENGTH] or "clip"

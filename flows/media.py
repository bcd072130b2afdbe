"""Finding and opening video files: paths, folders, globs and URLs, and what is wrong with one that does not open.

Local files are opened with the `file:` protocol only, and nothing a file refers to is ever opened: playlists and
concatenation lists are refused. URLs are read through fsspec, piece by piece; credentials are fsspec's business.
"""

from __future__ import annotations

import difflib
import functools
import glob
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import av
import fsspec

from flows.errors import MissingExtraError, VideoError

_SUFFIXES = (
    ".3gp .264 .265 .asf .avi .dav .flv .h264 .h265 .hevc .ivf .m2ts .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg .mts"
    " .mxf .ogv .ts .vob .webm .wmv .y4m"
)
VIDEO_EXTENSIONS = frozenset(_SUFFIXES.split())
"""What counts as a video in a folder or glob. A file named outright may have any extension."""

# Demuxers that read one self-contained file. Left out are those that open further files or addresses named inside
# (hls, dash, concat, image2, sdp, ...). The audio ones are in so that an audio file is told from a damaged one.
_DEMUXERS = (
    "3gp,aac,asf,av1,avi,dhav,dv,flac,flv,gxf,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mpjpeg,"
    "mxf,nut,obu,ogg,rm,vc1,wav,webm,wtv,yuv4mpegpipe"
)

_HASHED_PIECE = 1 << 20

_log = logging.getLogger(__name__)

# A demuxer that cannot resynchronise fails on every call: past this many failures in a row the file has ended.
_MAX_READ_FAILURES = 8


def is_url(path: str) -> bool:
    """Whether fsspec reads it (`s3://`, `gs://`, `https://`, ...), not the file system."""
    return "://" in path


def find_videos(paths: Sequence[str]) -> list[str]:
    """Resolve files, folders, globs and URLs to single videos.

    Folders are searched recursively, through links, for files with a known video extension; hidden files and folders
    are left out, and such as cannot be listed, with a warning. A URL that ends in `/` or names a folder of its store,
    or contains `*`, is expanded the same way.

    Returns:
        Absolute paths and URLs, sorted, each once.

    Raises:
        VideoError: a path does not exist, matches nothing, or holds no video.
        MissingExtraError: a URL's protocol needs a package that is not installed.
    """
    if not paths:
        raise VideoError("expected at least one video: a file, a folder, a glob or a URL; got none")
    found: set[str] = set()
    for path in paths:
        found.update(_find_remote(path) if is_url(path) else _find_local(path))
    return sorted(found)


def _find_local(path: str) -> list[str]:
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(full):
        return [full]
    if os.path.isdir(full):
        inside = [os.path.join(folder, name) for folder, names in _walk(full) for name in names]
        return _videos_among(inside, path, "folder")
    if glob.has_magic(full):
        matches = glob.glob(full, recursive=True)
        folders = [match for match in matches if os.path.isdir(match)]
        inside = [os.path.join(folder, name) for top in folders for folder, names in _walk(top) for name in names]
        return _videos_among([match for match in matches if os.path.isfile(match)] + inside, path, "pattern")
    raise VideoError(_missing(path, full))


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Folders and the files in them, through links, each once: a link may lead back to where it lies."""
    seen = {os.path.realpath(top)}
    for folder, folders, names in os.walk(top, followlinks=True, onerror=_tell_of_locked):
        # By their own names before by links to them.
        inside = sorted(folders, key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        folders.clear()
        for name in inside:
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                folders.append(name)
        yield folder, names


def _tell_of_locked(error: OSError) -> None:
    # No error: the root of a disk has a `lost+found` that none but root may look into.
    tell_once(f"{error.filename}: left out, for it cannot be listed ({error.strerror})")


@functools.cache
def tell_once(message: str) -> None:
    """Warn of something that is found again each time somebody looks."""
    _log.warning(message)


def _videos_among(files: Sequence[str], path: str, kind: str) -> list[str]:
    videos = [name for name in files if _has_video_extension(name)]
    if videos:
        return videos
    other = f" (it holds {len(files)} other files)" if files else ""
    known = " ".join(sorted(VIDEO_EXTENSIONS))
    raise VideoError(f"{path}: no video in this {kind}{other}; expected files ending in {known}")


def _has_video_extension(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def _missing(path: str, full: str) -> str:
    parent, name = os.path.split(full)
    try:
        os.stat(full)
    except PermissionError:
        return f"{path}: permission denied: let this user enter the folders it lies in"
    except OSError:
        pass  # it is missing indeed
    if os.path.islink(full):
        return f"{path}: a link to {os.readlink(full)}, which does not exist"
    if not os.path.isdir(parent):
        return f"{path}: no such file or folder, and the folder {parent} does not exist either"
    near: list[str] = []
    with suppress(PermissionError):
        near = difflib.get_close_matches(name, os.listdir(parent), n=1)
    return f"{path}: no such file or folder" + (f"; did you mean {os.path.join(parent, near[0])}?" if near else "")


def _find_remote(url: str) -> list[str]:
    filesystem, inner = _filesystem(url)
    if url.startswith(("http:", "https:")):
        return [url]
    try:
        if glob.has_magic(inner):
            return _videos_among([filesystem.unstrip_protocol(p) for p in filesystem.glob(inner)], url, "pattern")
        if filesystem.isdir(inner):
            return _videos_among([filesystem.unstrip_protocol(p) for p in filesystem.find(inner)], url, "folder")
        if not filesystem.exists(inner):
            raise VideoError(f"{url}: no such file or folder; check its name and your credentials")
    except OSError as error:
        raise VideoError(f"{url}: cannot be listed ({error}); check its name and your credentials") from None
    return [url]


def _filesystem(url: str) -> tuple[Any, str]:
    scheme = url.split("://", 1)[0]
    try:
        filesystem, inner = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            f"{url}: {scheme}:// needs a package: {error}; pip install 'sightflow[cloud]'"
        ) from None
    except ValueError:
        raise VideoError(
            f"{url}: expected a recorded file by path, s3://, gs:// or https://, got {scheme}://; "
            "live streams have to be recorded first"
        ) from None
    return filesystem, str(inner)


@contextmanager
def open_bytes(uri: str) -> Iterator[IO[bytes]]:
    """Open a file or URL for reading with seeks, nothing downloaded in advance.

    Raises:
        VideoError: it does not exist, is a folder, is empty or cannot be read.
    """
    try:
        if is_url(uri):
            filesystem, inner = _filesystem(uri)
            opened: IO[bytes] = filesystem.open(inner, "rb")
        elif os.path.exists(uri) and not (os.path.isfile(uri) or os.path.isdir(uri)):
            # Opening a pipe would wait for its writer, for ever.
            raise VideoError(f"{uri}: expected a recorded file, got a pipe, socket or device")
        else:
            opened = open(uri, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        hint = "check its name" if is_url(uri) else _missing(uri, os.path.abspath(uri))
        raise VideoError(hint if not is_url(uri) else f"{uri}: no such file; {hint}") from None
    except IsADirectoryError:
        raise VideoError(f"{uri}: expected a video file, got a folder; name the files in it") from None
    except (VideoError, MissingExtraError):
        raise
    except Exception as error:  # each kind of remote file has its library's own errors
        raise VideoError(f"{uri}: cannot be read: {error}") from error
    with opened:
        yield opened


def content_hash(uri: str) -> str:
    """Identity of the content, independent of name and place.

    SHA-256 over the size and the first, middle and last megabyte (all of it up to 4 MB): reading a terabyte to name
    it would cost more than a wrong answer, which takes two recordings of one size that agree in all three places.

    Returns:
        32 hexadecimal digits.

    Raises:
        VideoError: the file is missing, empty or cannot be read.
    """
    with open_bytes(uri) as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise VideoError(f"{uri}: the file is empty (0 bytes); copy or record it again")
        if size <= 4 * _HASHED_PIECE:
            places, length = [0], size
        else:
            places, length = [0, (size - _HASHED_PIECE) // 2, size - _HASHED_PIECE], _HASHED_PIECE
        digest = hashlib.sha256(str(size).encode())
        for place in places:
            file.seek(place)
            digest.update(file.read(length))
    return digest.hexdigest()[:32]


@contextmanager
def open_video(uri: str) -> Iterator[tuple[Any, Any]]:
    """Open a video file or URL and choose its video stream.

    Yields:
        PyAV's input container and the video stream.

    Raises:
        VideoError: missing, empty, not a video, a playlist, cut off before its index, or without a video stream.
    """
    with open_bytes(uri) as file:
        _refuse_playlist(uri, file)
        remote = is_url(uri)
        try:
            container = av.open(
                file if remote else "file:" + os.path.abspath(uri),
                container_options={"protocol_whitelist": "file", "format_whitelist": _DEMUXERS},
                metadata_errors="replace",
                # Without this a container that names other files would have them opened through Python.
                io_open=_refuse_nested if remote else None,
                buffer_size=1 << 18 if remote else 1 << 15,
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(_why_unreadable(uri, file, error)) from None
        # Inside, because a remote container reads from the file object to its end.
        with container:
            yield container, _video_stream(uri, container)


def _refuse_nested(url: str, *_: object) -> None:
    raise VideoError(f"a video must be one file, but it refers to {url}")


def _refuse_playlist(uri: str, file: IO[bytes]) -> None:
    head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise VideoError(f"{uri}: the file is empty (0 bytes); copy or record it again")
    file.seek(0)
    if head.startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")):
        raise VideoError(f"{uri}: expected a video file, got a playlist or description; name the videos it lists")


def _video_stream(uri: str, container: Any) -> Any:
    picture = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & picture]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{uri}: expected a video, got a file with {kinds} only")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(f"{uri}: no decoder for its video stream; re-encode it, for instance to H.264")
    return stream


def _why_unreadable(uri: str, file: IO[bytes], error: Exception) -> str:
    boxes = _top_level_boxes(file)
    if boxes and boxes[0] in ("ftyp", "mdat", "wide", "free", "skip") and "moov" not in boxes:
        return (
            f"{uri}: the recording was cut off: its index (the moov box) is missing, found {', '.join(boxes)}; "
            "copy it again, or rebuild the index with a repair tool such as untrunc"
        )
    reason = getattr(error, "strerror", None) or str(error)
    if Path(uri).suffix.lower() in VIDEO_EXTENSIONS:
        return f"{uri}: damaged, or no video in spite of its name ({reason}); see whether a player opens it"
    return f"{uri}: expected a video file, got something else ({reason})"


def _top_level_boxes(file: IO[bytes]) -> list[str]:
    """Names of an mp4's outermost boxes, empty for other files."""
    size = file.seek(0, os.SEEK_END)
    names: list[str] = []
    place = 0
    while place + 8 <= size and len(names) < 1000:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        name = head[4:8]
        if not name.isalnum():
            break
        names.append(name.decode("ascii", "replace"))
        length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - place
        if length < 8:
            break
        place += length
    return names


class Decoder:
    """Packets and frames of an open video stream; damage is counted, not raised."""

    def __init__(self, container: Any, stream: Any, threads: int = 0) -> None:
        """Decode `stream` with this many threads, 0 for as many as there are cores."""
        self.container = container
        self.stream = stream
        self.corrupt_packets = 0
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads

    def packets(self) -> Iterator[Any]:
        """Packets from where the container stands, the last one empty: it flushes the decoder.

        Raises:
            VideoError: the file or its store cannot be read any more.
        """
        failures = 0
        while failures < _MAX_READ_FAILURES:
            try:
                for packet in self.container.demux(self.stream):
                    failures = 0
                    yield packet
            except (av.InvalidDataError, av.ArgumentError):
                failures += 1
                self.corrupt_packets += 1
            except Exception as error:  # each kind of remote file has its library's own errors
                raise VideoError(f"{self.container.name}: reading stopped: {error}") from error
            else:
                return
        yield av.Packet()

    def frames(self, packets: Iterator[Any] | None = None) -> Iterator[Any]:
        """Decoded frames in presentation order; a packet that does not decode is counted and skipped.

        A frame whose damage the decoder has covered up from its neighbours is kept and counted.
        """
        for packet in packets or self.packets():
            damaged = packet.is_corrupt
            frames: list[Any] = []
            try:
                frames = self.stream.codec_context.decode(packet if packet.size else None)
            except av.EOFError:
                return
            except av.FFmpegError:
                damaged = True
            self.corrupt_packets += damaged + sum(frame.is_corrupt for frame in frames)
            yield from frames

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from flows.decode import probe, read_frames
from flows.errors import MissingExtraError, VideoError
from flows.media import content_hash, find_videos, open_video
from tests.nobody import as_nobody
from tests.videos import write_audio, write_video


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_files_folders_and_globs_are_found_once_and_sorted(tmp_path: Path) -> None:
    b, a, deep = tmp_path / "b.mp4", tmp_path / "a.MKV", tmp_path / "day" / "c.avi"
    _touch(b, a, deep, tmp_path / "notes.txt", tmp_path / "._b.mp4", tmp_path / ".trash" / "d.mp4")
    assert find_videos([str(tmp_path)]) == [str(a), str(b), str(deep)]
    assert find_videos([str(b), str(tmp_path), str(tmp_path / "*.mp4")]) == [str(a), str(b), str(deep)]
    assert find_videos([str(tmp_path / "**" / "*")]) == [str(a), str(b), str(deep)]
    assert find_videos([str(tmp_path / "notes.txt")]) == [str(tmp_path / "notes.txt")]  # named outright


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert find_videos(["a.mp4", "./a.mp4"]) == [str(tmp_path / "a.mp4")]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    _touch(tmp_path / "cam[1].mp4")
    assert find_videos([str(tmp_path / "cam[1].mp4")]) == [str(tmp_path / "cam[1].mp4")]


def test_folders_are_searched_through_links_each_once(tmp_path: Path) -> None:
    _touch(tmp_path / "nas" / "a.mp4", tmp_path / "archive" / "z" / "b.mp4")
    for link, to in (("gate-1", "../nas"), ("a", "z"), ("z/back", "..")):
        (tmp_path / "archive" / link).symlink_to(to)
    found = [str(tmp_path / "archive" / name) for name in ("gate-1/a.mp4", "z/b.mp4")]
    assert find_videos([str(tmp_path / "archive")]) == found


def test_what_one_may_not_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-locked-") as name:
        locked, open_one = Path(name, "locked", "a.mp4"), Path(name, "open", "b.mp4")
        _touch(locked, open_one)
        Path(name).chmod(0o755)
        locked.parent.chmod(0)
        with as_nobody():
            assert find_videos([name]) == [str(open_one)]
            for lost in (locked, locked.with_name("c.mp4")):
                with pytest.raises(VideoError, match=f"{lost}: permission denied"):
                    find_videos([str(lost)])
        locked.parent.chmod(0o755)
    assert caplog.messages == [f"{locked.parent}: left out, for it cannot be listed (Permission denied)"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("front-dor.mp4", r"no such file or folder; did you mean .*front-door\.mp4\?"),
        ("nowhere/x.mp4", r"nor? .*nowhere does not exist|does not exist either"),
        ("*.mov", r"no video in this pattern"),
        ("empty", r"no video in this folder"),
        ("texts", r"no video in this folder \(it holds 1 other files\)"),
        ("rtsp://camera/1", r"expected a recorded file.*live streams"),
        ("memory://no/such.mp4", r"memory://no/such\.mp4: no such file"),
    ],
)
def test_what_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    _touch(tmp_path / "front-door.mp4", tmp_path / "texts" / "a.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match=message):
        find_videos([path])


def test_a_link_to_nothing_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "gate.mp4").symlink_to("gone.mp4")
    with pytest.raises(VideoError, match=r"gate\.mp4: a link to gone\.mp4, which does not exist"):
        probe(str(tmp_path / "gate.mp4"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "camera.mp4")
    with pytest.raises(VideoError, match="got a pipe"):
        probe(str(tmp_path / "camera.mp4"))


def test_no_paths_is_an_error() -> None:
    with pytest.raises(VideoError, match="at least one video"):
        find_videos([])


def test_a_protocol_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r"s3://.*Install s3fs.*sightflow\[cloud\]"):
        find_videos(["s3://bucket/a.mp4"])


def test_stores_of_objects_are_listed_and_read(tmp_path: Path) -> None:
    local = write_video(tmp_path / "v.mp4", frames=10)
    memory = fsspec.filesystem("memory")
    for name in ("cams/b/v.mp4", "cams/a/v.mp4", "cams/a/readme.txt"):
        memory.pipe(f"/{name}", local.read_bytes())
    expected = ["memory:///cams/a/v.mp4", "memory:///cams/b/v.mp4"]
    assert [re.sub(":/+", ":///", url) for url in find_videos(["memory://cams"])] == expected
    assert [re.sub(":/+", ":///", url) for url in find_videos(["memory://cams/*/*"])] == expected
    remote, here = probe("memory://cams/a/v.mp4"), probe(str(local))
    assert (remote.content_hash, remote.fps, remote.duration_s) == (here.content_hash, here.fps, here.duration_s)
    assert remote.source_id == "v"
    pictures = zip(read_frames(remote, 200_000_000), read_frames(here, 200_000_000), strict=True)
    assert all((a.image_rgb == b.image_rgb).all() and a.pts_ns == b.pts_ns for a, b in pictures)


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A web server that knows byte ranges, and the sizes of its answers."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, with_body: bool) -> None:
            path = folder / self.path.lstrip("/").split("?")[0]
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)) if asked else (0, len(data))
            body = data[first : last + 1]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                sent.append(len(body))
                self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_web_address_is_read_in_pieces(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="reading http:// needs aiohttp (the cloud extra)")
    # Incompressible, so that the file is far larger than what one chunk needs.
    path = write_video(tmp_path / "v.mkv", codec="ffv1", frames=150, size=(320, 240), b_frames=0)
    size = path.stat().st_size
    assert size > 12_000_000
    with _serving(tmp_path) as (address, sent):
        assert find_videos([f"{address}/v.mkv?token=1"]) == [f"{address}/v.mkv?token=1"]
        video = probe(f"{address}/v.mkv?token=1")
        assert video.source_id == "v"
        assert video.duration_s == pytest.approx(6)
        sent.clear()
        wanted = [frame.pts_ns for frame in read_frames(video, 3_000_000_000, 3_080_000_000)]
        assert wanted == [3_000_000_000, 3_040_000_000]
        assert sum(sent) < size * 0.9
        with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
            probe(f"{address}/gone.mp4")


def _make_bad(path: Path) -> Path:
    """The bad file that `path`'s name asks for."""
    kind = path.stem
    if kind == "folder":
        path.mkdir()
    elif kind == "audio":
        write_audio(path)
    elif kind == "cut":
        write_video(path, frames=60)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "header_only":
        write_video(path)
        path.write_bytes(path.read_bytes()[:400])
    else:
        contents = {
            "empty": b"",
            "text": b"just some notes\n" * 100,
            "noise": os.urandom(50_000),
            "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
            "image": b"\x89PNG\r\n\x1a\n" + os.urandom(5_000),
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "no such file or folder"),
        ("folder.mp4", "expected a video file, got a folder"),
        ("empty.mp4", r"empty \(0 bytes\)"),
        ("text.txt", "expected a video file, got something else"),
        ("text.mp4", "no video in spite of its name"),
        ("noise.mkv", "no video in spite of its name"),
        ("image.png", "expected a video file, got something else"),
        ("audio.mp4", "expected a video, got a file with audio only"),
        ("cut.mp4", r"cut off: its index \(the moov box\) is missing, found ftyp, free, mdat"),
        ("header_only.mkv", "header_only.mkv: "),
        ("playlist.m3u8", "got a playlist"),
        ("playlist.mp4", "got a playlist"),
        ("concat.mp4", "got a playlist"),
    ],
)
def test_what_is_not_a_video_says_so(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    if path.stem != "missing":
        _make_bad(path)
    with pytest.raises(VideoError, match=message) as caught:
        probe(str(path))
    assert str(path) in str(caught.value)


def test_a_web_page_is_not_a_video(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/page.mp4", b"<html><body>404</body></html>")
    with pytest.raises(VideoError, match="no video in spite of its name"), open_video("memory://page.mp4"):
        pass


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    big = bytearray(os.urandom(6 << 20))
    one, copy = tmp_path / "one.mp4", tmp_path / "copy.mp4"
    one.write_bytes(big)
    copy.write_bytes(big)
    assert content_hash(str(one)) == content_hash(str(copy))
    for place in (0, len(big) // 2, len(big) - 1):
        changed = bytearray(big)
        changed[place] ^= 1
        copy.write_bytes(changed)
        assert content_hash(str(one)) != content_hash(str(copy))
    copy.write_bytes(big + b"\0")
    assert content_hash(str(one)) != content_hash(str(copy))

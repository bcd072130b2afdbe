"""The command line as a person meets it: messages and exit codes, most of all for what is wrong."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest

from flows.console import print_undated
from flows.schema import EPOCH, Video
from flows.store import open_store
from tests.tracked import make_store, sighting

CLI = [sys.executable, "-m", "flows"]


def _sightflow(*arguments, cwd, **environment):
    return subprocess.run(
        [*CLI, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _write_video(path: Path, frames: int = 5) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _make_store(folder: Path, **overrides) -> Path:
    """A store with one video and an object seen on two frames of it."""
    about = {
        "uri": "/archive/gate.mp4", "content_hash": "0" * 32, "source_id": "gate", "width_px": 64, "height_px": 48,
        "fps": 10.0, "duration_s": 1.0, "codec": "h264", "container": "mp4", "rotation_deg": 0,
        "start_time": datetime(2026, 5, 1, tzinfo=UTC), "seekable": True,
    }  # fmt: skip
    video = Video(**(about | overrides))
    make_store(folder, video, [sighting(video, video.uri, number, (5, 5, 20, 40)) for number in (0, 1)]).close()
    return folder


def _truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _assert_error(done, code, *said):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr


def test_missing_file(tmp_path):
    _assert_error(_sightflow("run", "nowhere.mp4", cwd=tmp_path), 1, "nowhere.mp4")


def _overwrite(path: Path, start: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[start : start + len(data)] = data
    path.write_bytes(content)
    return path


def _without_frames(path: Path) -> Path:
    content = _write_video(path).read_bytes()
    first, last = content.index(b"mdat") + 4, content.index(b"moov") - 4
    return _overwrite(path, first, bytes(last - first))


def _too_fast(path: Path) -> Path:
    """A header in which frames follow each other millions of times a second."""
    content = _write_video(path).read_bytes()
    return _overwrite(path, content.index(b"mdhd") + 16, (0x0FFFFFFF).to_bytes(4, "big"))


@pytest.mark.slow
def test_damaged_packets_cost_their_frames_and_nothing_else(tmp_path):
    film = _write_video(tmp_path / "film.mp4", 60)
    _overwrite(film, film.stat().st_size // 2, bytes(2000))
    done = _sightflow("run", "film.mp4", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 chunks processed" in done.stdout
    ledger = _sightflow("report", "ledger", "--store", "store", "--format", "json", cwd=tmp_path)
    frames = json.loads(ledger.stdout.splitlines()[0])["frames"]
    assert 20 <= frames < 60


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.write_text("I am a shopping list") and p, "film.mp4"),
        (lambda p: p.write_bytes(b"") or p, "film.mp4"),
        (_write_audio, "video"),
        (lambda p: _truncate(_write_video(p, 30)), "film.mp4"),
        (_without_frames, "expected at least one frame"),
        (_too_fast, "frames per second; expected at most 1000"),
    ],
    ids=["no video", "empty", "audio only", "truncated", "no frame", "absurd metadata"],
)
def test_a_file_that_cannot_be_read_is_said_and_recorded(tmp_path, make, said):
    make(tmp_path / "film.mp4")
    done = _sightflow("run", "film.mp4", "--store", "store", cwd=tmp_path)
    _assert_error(done, 1, "rejected", said)
    ledger = _sightflow("report", "ledger", "--store", "store", "--format", "json", cwd=tmp_path)
    assert '"state": "failed"' in ledger.stdout
    assert said in ledger.stdout


def test_unknown_class_names_those_known(tmp_path):
    _write_video(tmp_path / "film.mp4")
    done = _sightflow("run", "film.mp4", "--classes", "persn", cwd=tmp_path)
    _assert_error(done, 2, "persn", "did you mean 'person'", "excavator")


def test_unknown_model(tmp_path):
    _write_video(tmp_path / "film.mp4")
    _assert_error(_sightflow("run", "film.mp4", "--detector", "yolo11q", cwd=tmp_path), 1, "yolo11q", "yolo11n")


def test_model_that_cannot_be_fetched_says_which_file_to_put_where(tmp_path):
    _write_video(tmp_path / "film.mp4")
    mirror = {"SIGHTFLOW_MODEL_MIRROR": "http://127.0.0.1:9", "SIGHTFLOW_CACHE": str(tmp_path / "cache")}
    done = _sightflow("run", "film.mp4", "--segmenter", "sam2.1-tiny", cwd=tmp_path, **mirror)
    _assert_error(done, 1, "sam2.1_hiera_tiny.pt", str(tmp_path / "cache"))


def test_model_with_a_wrong_checksum(tmp_path):
    _write_video(tmp_path / "film.mp4")
    listing = _sightflow("models", "list", cwd=tmp_path, SIGHTFLOW_CACHE=str(tmp_path))
    assert "yolo11n" in listing.stdout
    (tmp_path / "yolo11n.pt").write_bytes(b"not the weights")
    done = _sightflow("run", "film.mp4", "--detector", "yolo11n", cwd=tmp_path, SIGHTFLOW_CACHE=str(tmp_path))
    _assert_error(done, 1, "yolo11n.pt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--detect-every", "0"], "detect.detect_every"),
        (["--chunk-seconds", "1"], "overlap_seconds (1) must be at most half of chunk_seconds (1)"),
        (["--chunk-seconds", "1e300"], "plan.chunk_seconds"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, arguments, said):
    _write_video(tmp_path / "film.mp4")
    _assert_error(_sightflow("run", "film.mp4", *arguments, cwd=tmp_path), 2, said)


def test_source_in_another_encoding(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no video")
    source = os.fsdecode(b"caf\xe9")
    _assert_error(_sightflow("run", "film.mp4", "--source", source, cwd=tmp_path), 1, "film.mp4")
    with open_store(str(tmp_path / "sightflow-data")) as store:
        assert store.ledger()["source_id"].to_pylist() == ["caf\\xe9"]
    assert "Traceback" not in _sightflow("zones", source, cwd=tmp_path).stderr
    _assert_error(_sightflow("zones", source, "none.yaml", cwd=tmp_path), 2, "none.yaml")
    assert "caf" in _sightflow("status", cwd=tmp_path).stdout
    _assert_error(_sightflow("stitch", source + "s", cwd=tmp_path), 2, "xe9s")


def test_unreachable_database_is_named_without_its_password(tmp_path):
    _write_video(tmp_path / "film.mp4")
    url = "postgresql://me:secret@127.0.0.1:9/tracks"
    done = _sightflow("run", "film.mp4", "--store", url, cwd=tmp_path)
    _assert_error(done, 1, "127.0.0.1")
    assert "secret" not in done.stderr + done.stdout


def test_start_time_is_of_one_video(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        _write_video(tmp_path / name)
    done = _sightflow("run", ".", "--source", "gate", "--start-time", "2026-05-01T08:00", cwd=tmp_path)
    _assert_error(done, 2, "got 2 videos of gate")


def test_a_misspelt_source_is_said(tmp_path):
    _make_store(tmp_path / "store")
    (tmp_path / "zones.yaml").write_text("zones: [{name: a, kind: zone, points: [[0, 0], [9, 0], [9, 9]]}]")
    _assert_error(_sightflow("stitch", "gaet", "--store", "store", cwd=tmp_path), 2, "'gaet'", "gate")
    # Zones may come before the first video.
    _assert_error(_sightflow("zones", "gaet", "zones.yaml", "--store", "store", cwd=tmp_path), 0, "'gaet'", "gate")


def test_an_audit_of_too_little_is_said(tmp_path):
    store = _make_store(tmp_path / "store")
    done = _sightflow("audit", "gate", "--store", str(store), cwd=tmp_path)
    _assert_error(done, 2, "gate: no tracklet is longer than 2 s")


def test_videos_without_a_start_time_are_said(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        _make_store(tmp_path / "store", content_hash=name.zfill(32), uri=name, start_time=EPOCH)
    with open_store(str(tmp_path / "store")) as store:
        print_undated(store, {"gate"})
        print_undated(store, {"another"})
    assert capsys.readouterr().err.count("2 videos of gate know no start time") == 1


@pytest.mark.parametrize("name", ["gate-3", "videos/gate.mp4"])
def test_a_video_is_named_by_its_source_or_path(tmp_path, name):
    _make_store(tmp_path / "store", source_id="gate-3", uri=str(tmp_path / "videos" / "gate.mp4"))
    done = _sightflow("export", "a.csv", "--format", "csv", "--video", name, "--store", "store", cwd=tmp_path)
    _assert_error(done, 0)


def test_few_of_many_videos_are_listed(tmp_path):
    for number in range(25):
        _make_store(tmp_path / "store", source_id="gate", content_hash=f"{number:032}", uri=f"/{number}.mp4")
    done = _sightflow("render", "a.mp4", "--store", "store", cwd=tmp_path)
    _assert_error(done, 2, "the store has 25 videos", "... and 5 more")


def test_names_are_no_markup(tmp_path):
    _make_store(tmp_path / "store", source_id="[bold]gate[/x]")
    assert "[bold]gate[/x]" in _sightflow("status", "--store", "store", cwd=tmp_path).stdout


def test_a_store_in_the_home_folder(tmp_path):
    _make_store(tmp_path / "store")
    done = _sightflow("status", cwd=tmp_path, HOME=str(tmp_path), SIGHTFLOW_STORE__URL="~/store")
    _assert_error(done, 0)


@pytest.mark.parametrize("name", [".", "folder"])
def test_an_output_that_is_a_folder(tmp_path, name):
    _make_store(tmp_path / "store")
    (tmp_path / "folder").mkdir()
    done = _sightflow("export", name, "--format", "csv", "--store", "store", cwd=tmp_path)
    _assert_error(done, 2, "expected a file name, got a folder")


def test_the_log_level_is_checked(tmp_path):
    _assert_error(_sightflow("report", "list", cwd=tmp_path, SIGHTFLOW_LOG="debug"), 0)
    _assert_error(_sightflow("report", "list", cwd=tmp_path, SIGHTFLOW_LOG="loud"), 2, "SIGHTFLOW_LOG", "loud")


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    _write_video(tmp_path / "film.mp4")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "taxes.txt").write_text("2026")
    _assert_error(_sightflow("run", "film.mp4", "--store", "papers", cwd=tmp_path), 1, "papers")
    assert [p.name for p in (tmp_path / "papers").iterdir()] == ["taxes.txt"]


def test_a_store_of_another_version(tmp_path):
    _write_video(tmp_path / "film.mp4")
    _sightflow("run", _write_audio(tmp_path / "a.mp4"), "--store", "store", cwd=tmp_path)
    (version,) = (tmp_path / "store").glob("schema_version*")
    version.write_text("999\n")
    _assert_error(_sightflow("report", "--store", "store", cwd=tmp_path), 1, "999")


def test_reading_makes_no_store(tmp_path):
    _assert_error(_sightflow("report", "--store", "nowhere", cwd=tmp_path), 1, "no store there yet")
    assert not (tmp_path / "nowhere").exists()


def test_unknown_report_lists_those_there_are(tmp_path):
    _sightflow("run", _write_audio(tmp_path / "a.mp4"), "--store", "store", cwd=tmp_path)
    _assert_error(_sightflow("report", "coutns", "--store", "store", cwd=tmp_path), 2, "coutns", "counts")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_said(tmp_path):
    """A store on a file system without room: here one whose folder is a file that takes nothing."""
    _write_video(tmp_path / "film.mp4")
    _assert_error(_sightflow("run", "film.mp4", "--store", "/dev/full/store", cwd=tmp_path), 1, "/dev/full")


def test_help_and_doctor(tmp_path):
    assert "run" in _sightflow("--help", cwd=tmp_path).stdout
    doctor = _sightflow("doctor", "--store", "store", cwd=tmp_path)
    assert "Traceback" not in doctor.stderr
    assert "Python" in doctor.stdout


def test_imported_tracks_are_compared_with_ones_own(tmp_path):
    _write_video(tmp_path / "v.mp4")
    (tmp_path / "gt.txt").write_text("".join(f"{n},1,{5 + n},9,20,30,1,1,1\n" for n in range(1, 6)))
    for source in ("ours", "theirs"):
        command = ("import", "gt.txt", "--video", "v.mp4", "--source", source, "--store", "store")
        _assert_error(_sightflow(*command, cwd=tmp_path), 0)
    common = ("--video", "ours", "--store", "store")
    done = _sightflow("evaluate", "--truth", "theirs", *common, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["hota"] == pytest.approx(100)
    done = _sightflow("evaluate", "--truth", "thiers", *common, cwd=tmp_path)
    _assert_error(
        done, 2, "--truth thiers: no such file, and no source of this name has the same video; others do: theirs"
    )
    done = _sightflow("render", "both.mp4", "--beside", "theirs", *common, cwd=tmp_path)
    _assert_error(done, 0)
    assert "5 frames" in done.stdout
    done = _sightflow("export", "a.csv", "--format", "csv", "--source", "thiers", "--store", "store", cwd=tmp_path)
    _assert_error(done, 2, "no video of source 'thiers' in the store; it has ours, theirs")
    assert not (tmp_path / "a.csv").exists()
    done = _sightflow("render", "a.mp4", *common, "--track", "7", cwd=tmp_path)
    _assert_error(done, 2, "--track 7: no track has this number in the video, they go from 1 to 1")

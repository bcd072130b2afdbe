"""One chunk through the real steps: real decoding, the nano detector, the nano segmenter."""

import os
from pathlib import Path

import pytest
import torch

from flows.config import Settings
from flows.decode import plan_chunks, probe
from flows.demo.scene import Scene
from flows.demo.writer import VIDEO_NAME, write_scene
from flows.mask import Mask
from flows.process import DetectChunk, TrackChunk
from flows.schema import State
from flows.threads import torch_threads


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    write_scene(Scene.random(7, width=320, height=180, fps=10.0, duration_s=4.0, n_objects=4), folder)
    return folder / VIDEO_NAME


def _make_settings(**flags):
    return Settings.load(flags={"detect": {"detect_every": 5}, **flags})


def _process(video: Path, settings: Settings):
    (chunk,) = plan_chunks(probe(str(video)), settings.plan, "hash")
    return TrackChunk(settings, threads=1)(DetectChunk(settings, threads=1)(chunk))


def test_a_chunk_gives_observations_with_masks(video):
    result = _process(video, _make_settings())
    assert result.error is None
    assert result.counters["frames"] == 40
    assert set(result.timings_s) == {"detect", "decode", "segment", "track"}
    assert result.timings_s["decode"] + result.timings_s["segment"] > 0
    assert result.tracklets.num_rows >= 1
    states = set(result.observations["state"].to_pylist())
    assert State.DETECTED in states
    assert any(mask is not None for mask in result.observations["mask"].to_pylist())


def test_the_same_chunk_gives_the_same_result(video):
    first, second = (_process(video, _make_settings()) for _ in range(2))
    assert first.observations.equals(second.observations)


def test_threads_are_those_given_but_for_a_narrow_segmenter_while_it_tracks(video):
    settings = _make_settings()
    (chunk,) = plan_chunks(probe(str(video)), settings.plan, "hash")
    given, taken = (os.cpu_count() or 1) + 1, set()
    with torch_threads():
        detected = DetectChunk(settings, threads=given)(chunk)
        assert torch.get_num_threads() == given
        TrackChunk(settings, threads=given)(detected, lambda _: taken.add(torch.get_num_threads()))
        assert (taken, torch.get_num_threads()) == ({1}, given)


def test_masks_can_be_left_out(video):
    result = _process(video, _make_settings(store={"masks": "none"}))
    assert set(result.observations["mask"].to_pylist()) == {None}


def test_masks_can_be_outlines(video):
    pixels, polygons = (_process(video, _make_settings(store={"masks": form})) for form in ("rle", "polygon"))
    stored = [result.observations["mask"].to_pylist() for result in (pixels, polygons)]
    assert any(mask is not None for mask in stored[1])
    for mask, outline in zip(*stored, strict=True):
        assert (mask and Mask.from_bytes(mask).to_bytes("polygon")) == outline


def test_a_video_that_went_away_is_the_chunks_error(video, tmp_path):
    settings = _make_settings()
    copy = tmp_path / "film.mp4"
    copy.write_bytes(video.read_bytes())
    (chunk,) = plan_chunks(probe(str(copy)), settings.plan, "hash")
    detect, track = DetectChunk(settings, threads=1), TrackChunk(settings, threads=1)
    detected = detect(chunk)
    copy.unlink()
    assert "film.mp4" in track(detected).error
    assert "film.mp4" in track(detect(chunk)).error


def test_a_file_that_was_replaced_is_not_taken_for_the_one_that_was_probed(video, tmp_path):
    rolling, settings = tmp_path / "rolling.mp4", _make_settings()
    rolling.write_bytes(video.read_bytes())
    (chunk,) = plan_chunks(probe(str(rolling)), settings.plan, "hash")
    detected = DetectChunk(settings, threads=1)(chunk)
    assert detected.error is None
    rolling.write_bytes(video.read_bytes() + bytes(8))
    for error in (DetectChunk(settings, threads=1)(chunk).error, TrackChunk(settings, threads=1)(detected).error):
        assert error == f"{rolling}: its content has changed since the run looked at it: run again"

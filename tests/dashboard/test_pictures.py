"""What the dashboard shows of the camera: thumbnails, stills and clips."""

import base64
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

import dashboard
from dashboard import clips, stills
from dashboard.data import forget, store_url
from flows.decode import probe, read_frames
from flows.privacy import hide_classes
from flows.store import open_store
from tests.tracked import make_store, sighting
from tests.videos import write_video

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)
SIZE = (320, 240)
BOX = (100, 60, 200, 180)
INSIDE = (slice(80, 160), slice(120, 180))


@pytest.fixture
def video_id(tmp_path, monkeypatch):
    """A video with a person in the same place on each of its frames, in the store that the dashboard shows."""
    forget()
    url = str(tmp_path / "store")
    monkeypatch.setenv(dashboard.STORE_VARIABLE, url)
    video = probe(str(write_video(tmp_path / "v.mp4", size=SIZE)), "gate", START)
    rows = [sighting(video, "walker", frame.number, BOX, pts_ns=frame.pts_ns) for frame in read_frames(video)]
    make_store(tmp_path / "store", video, rows)
    return video.video_id


def _roughness(image: np.ndarray) -> float:
    """How much neighbouring pixels differ: much in the video's noise, hardly inside the cells of a mosaic."""
    return float(np.abs(np.diff(image.astype(np.float64).mean(axis=2), axis=1)).mean())


def _of_url(url: str | None) -> np.ndarray:
    assert url is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def _thumbnail(video_id: str) -> float:
    return _roughness(_of_url(stills.thumbnail_url(video_id, 0, BOX))[20:-20, 20:-20])


def _still(video_id: str) -> float:
    return _roughness(_of_url(stills.still_url("gate"))[INSIDE])


def _clip(video_id: str, tmp_path) -> float:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clips._clip(store_url(), stills.hidden_classes(), video_id, START))
    return max(_roughness(frame.image_rgb[INSIDE]) for frame in read_frames(probe(str(path))))


def test_what_the_store_hides_is_hidden_on_every_picture_from_then_on(video_id, tmp_path):
    shown = _thumbnail(video_id), _still(video_id), _clip(video_id, tmp_path)
    with open_store(store_url()) as store:
        hide_classes(store, ["person"], "test")
    hidden = _thumbnail(video_id), _still(video_id), _clip(video_id, tmp_path)
    for before, after in zip(shown, hidden, strict=True):
        assert after < before / 3, (shown, hidden)

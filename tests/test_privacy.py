"""Nothing that is to be hidden may be seen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decode import probe, read_frames
from flows.errors import UsageError
from flows.exchange import privacy
from flows.mask import Mask
from flows.privacy import Blur, hidden_classes, hide_classes, pixelate
from flows.render import RenderOptions, picked_frames, render_frames
from flows.schema import NS, OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, Video, make_id
from flows.store.base import Store
from flows.store.postgis import PostgisStore
from tests.tracked import make_mask, make_store, sighting
from tests.videos import write_video

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)
BARE = RenderOptions(masks=False, zones=False, clock=False, trail_s=0)
BOX = (50, 40, 90, 110)


def _make(folder: Path, **overrides: dict[int, dict[str, Any] | None]) -> tuple[Video, Store]:
    """A video of 30 frames with a person on frames 5 to 19; overrides by frame, None for no observation."""
    video = probe(str(write_video(folder / "v.mp4", size=(160, 120))), "gate", START)
    pts = {frame.number: frame.pts_ns for frame in read_frames(video)}
    changed = overrides.get("rows", {})
    rows = [
        sighting(video, "walker", i, BOX, pts_ns=pts[i], **(changed.get(i) or {}))
        for i in range(5, 20)
        if changed.get(i, {}) is not None
    ]
    return video, make_store(folder / "store", video, rows)


def _changed(store: Store, video: Video, classes: tuple[str, ...] = ("person",)) -> list[np.ndarray]:
    """Where each frame differs from the video's."""
    blur = Blur(store, video, classes)
    found = []
    for frame in read_frames(video):
        image = frame.image_rgb.copy()
        blur.apply(image, frame.pts_ns)
        found.append((image != frame.image_rgb).any(axis=2))
    return found


def _mostly(changed: np.ndarray, inside: np.ndarray) -> bool:
    # A pixel may by chance have the colour of its cell.
    return bool(changed[inside].mean() > 0.9)


@pytest.mark.parametrize("shape", ["mask", "box"])
def test_what_is_left_depends_on_nothing_but_the_means_of_few_cells(shape: str) -> None:
    """Whoever has the picture cannot tell which of many originals it was made from."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (160, 96, 3), dtype=np.uint8)
    cell = 20
    shuffled = image.copy()
    for y in range(0, 160, cell):
        for x in range(0, 80, cell):
            pixels = shuffled[y : y + cell, x : x + cell].reshape(-1, 3)
            shuffled[y : y + cell, x : x + cell] = rng.permutation(pixels).reshape(cell, cell, 3)
    box = (0, 0, 80, 160)
    mask = Mask(0, 0, np.ones((160, 80), dtype=bool)) if shape == "mask" else None
    for picture in (image, shuffled):
        pixelate(picture, box, mask)
    assert (image[:, :80] == shuffled[:, :80]).all()
    assert len(np.unique(image[:, :80].reshape(-1, 3), axis=0)) <= 4 * 8
    assert set(np.unique(image[:, :80]) % 8) == {4}  # the middles of 32 steps


@given(st.tuples(*[st.integers(-50, 200)] * 4), st.booleans())
def test_boxes_anywhere_hide_what_they_cover_and_nothing_else(box: tuple[int, int, int, int], masked: bool) -> None:
    image = np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    before = image.copy()
    x1, y1, x2, y2 = box
    mask = make_mask(box) if masked and x2 > x1 and y2 > y1 else None
    pixelate(image, box, mask)
    inside = np.zeros((90, 120), bool)
    inside[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    if mask is not None:
        inside &= mask.full(90, 120)
    assert not (image != before).any(axis=2)[~inside].any()
    if inside.sum() > 200:
        assert _mostly((image != before).any(axis=2), inside)


def test_a_mask_is_hidden_with_a_margin_and_little_else(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    changed = _changed(store, video)[12]
    mask = make_mask(BOX).full(120, 160)
    assert _mostly(changed, mask)
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))).astype(bool)
    assert not changed[~grown].any()


@pytest.mark.parametrize(
    "row",
    [
        {"mask": None},
        {"mask": None, "state": "bridged", "confidence": None},
        {"mask": make_mask((0, 0, 20, 20)).to_bytes()},
        {"mask": make_mask((50, 60, 90, 110)).to_bytes()},
        None,
    ],
    ids=["no mask", "bridged", "a mask elsewhere", "a mask without a head", "no observation"],
)
def test_without_a_mask_that_fits_the_whole_box_is_hidden(tmp_path: Path, row: dict[str, Any] | None) -> None:
    video, store = _make(tmp_path, rows={12: row})
    changed = _changed(store, video)[12]
    box = np.zeros((120, 160), bool)
    box[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert _mostly(changed, box)
    assert not changed[:, 130:].any()


def test_a_moment_before_and_after_the_box_is_hidden_as_well(tmp_path: Path) -> None:
    video, store = _make(tmp_path, rows=dict.fromkeys((*range(5, 18), 19)))  # left is frame 18 of 30, at 25 a second
    hidden = [bool(changed.any()) for changed in _changed(store, video)]
    assert hidden == [6 <= number <= 30 for number in range(30)]


def test_a_way_that_is_not_known_hides_both_ends_and_what_lies_between(tmp_path: Path) -> None:
    video, store = _make(
        tmp_path, rows={19: {"x1_px": 120.0, "x2_px": 150.0}} | dict.fromkeys(range(6, 19))
    )  # a second and more between
    changed = _changed(store, video)[12]
    between = np.zeros((120, 160), bool)
    between[BOX[1] : BOX[3], BOX[0] : 150] = True
    assert _mostly(changed, between)


def test_frames_that_were_not_processed_are_hidden_whole(tmp_path: Path) -> None:
    _, store = _make(tmp_path)
    other = probe(str(write_video(tmp_path / "other.mp4", size=(160, 120), frames=12)), "gate", START)
    store.add_video(other)
    store.plan([Chunk(other, 0, 0, NS, 0, "test")])
    assert all(_mostly(changed, np.ones((120, 160), bool)) for changed in _changed(store, other))


def test_results_of_settings_no_longer_shown_do_not_count_as_processed(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    half = Chunk(video, 0, 0, NS // 2, 0, "newer settings")
    store.plan([half])
    assert store.begin(half, max_attempts=1)
    store.commit(ChunkResult(half, OBSERVATIONS.empty_table(), TRACKLETS.empty_table()))
    whole = [_mostly(changed, np.ones((120, 160), bool)) for changed in _changed(store, video)]
    assert whole == [number >= 13 for number in range(30)]


PLACES = ((10, 40, 40, 110), (110, 40, 140, 110))


def _make_two(folder: Path, linked: str, class_name: str = "person") -> tuple[Video, Store]:
    """A person at the first place and somebody at the second, frames 5 to 19; those named are joined in one track."""
    video = probe(str(write_video(folder / "v.mp4", size=(160, 120))), "gate", START)
    pts = [frame.pts_ns for frame in read_frames(video)]
    rows = [
        sighting(video, name, i, box, pts_ns=pts[i], class_name=kind, mask=None)
        for i in range(5, 20)
        for name, kind, box in zip("ab", ("person", class_name), PLACES, strict=True)
    ]
    store = make_store(folder / "store", video, rows)
    links = [
        {"tracklet_id": make_id("tracklet", name), "track_id": "one", "source_id": "gate", "version": 2, "score": None,
         "reason": "merged"}
        for name in linked
    ]  # fmt: skip
    store.write_links("gate", 2, pa.Table.from_pylist(links, schema=TRACK_LINKS))
    return video, store


def test_tracklets_that_are_not_stitched_yet_hide_the_whole_frame(tmp_path: Path) -> None:
    video, store = _make_two(tmp_path, "a")
    whole = [_mostly(changed, np.ones((120, 160), bool)) for changed in _changed(store, video)]
    assert whole == [5 <= number < 20 for number in range(30)]


@pytest.mark.parametrize("class_name", ["person", "bicycle"])
def test_of_tracklets_joined_in_one_track_each_is_hidden_on_a_frame_they_share(tmp_path: Path, class_name: str) -> None:
    video, store = _make_two(tmp_path, "ab", class_name)
    changed = _changed(store, video)[12]
    for x1, y1, x2, y2 in PLACES:
        assert _mostly(changed[y1:y2, x1:x2], np.ones((y2 - y1, x2 - x1), bool))
    assert not changed[:, 60:90].any()


def test_the_longer_nobody_looked_the_more_is_hidden(tmp_path: Path) -> None:
    video, store = _make(tmp_path, rows=dict.fromkeys(range(6, 19)))
    shares = [changed.mean() for changed in _changed(store, video)]
    assert shares[12] > shares[8] > shares[6] > shares[5]


def test_pruned_observations_hide_the_whole_frame(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    assert store.prune(datetime(2026, 5, 2, tzinfo=UTC).date())
    whole = [_mostly(changed, np.ones((120, 160), bool)) for changed in _changed(store, video)]
    assert whole == [5 <= number < 20 for number in range(30)]


def test_other_classes_are_left_alone(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    assert not any(changed.any() for changed in _changed(store, video, ("car",)))
    assert not any(changed.any() for changed in _changed(store, video, ()))


def test_a_class_nothing_has_is_refused_rather_than_nothing_hidden(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    with pytest.raises(UsageError, match="--blur persn: the store has no such class, only person"):
        list(render_frames(store, video.video_id, options=RenderOptions(blur=("persn",))))


def test_a_store_may_hide_a_class_that_nothing_has_yet_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = _make(tmp_path)
    privacy(["person", "persn"], str(tmp_path / "store"))
    told = capsys.readouterr().err
    assert "nothing here is a persn so far" in told
    assert "a person so far" not in told
    assert hidden_classes(store) == ("persn", "person")


def test_a_store_that_hides_a_class_hides_it_on_every_picture(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    plain = [frame.image_rgb for frame in read_frames(video)]
    assert hidden_classes(store) == ()
    hide_classes(store, ["person"], "sightflow privacy person")
    assert hidden_classes(store) == ("person",)
    mask = make_mask(BOX).full(120, 160)
    for frames in (
        render_frames(store, video.video_id, options=BARE),
        picked_frames(store, video.video_id, lambda number, pts_ns: True),
    ):
        shown = [frame.image_rgb for frame in frames]
        assert _mostly((shown[12] != plain[12]).any(axis=2), mask)
        assert (shown[29] == plain[29])[:, 130:].all()
    hide_classes(store, [], "sightflow privacy --off")
    assert hidden_classes(store) == ()


def test_an_interval_hides_as_the_whole_video_does(tmp_path: Path) -> None:
    video, store = _make(tmp_path, rows=dict.fromkeys(range(6, 19)))
    options = RenderOptions(masks=False, clock=False, trail_s=0, blur=("person",))
    whole = {frame.number: frame.image_rgb for frame in render_frames(store, video.video_id, options=options)}
    for frame in render_frames(store, video.video_id, t0=video.time_at(NS // 2), options=options):
        assert (frame.image_rgb == whole[frame.number]).all()


def test_both_stores_keep_the_setting(tmp_path: Path, postgis_database: str) -> None:
    video, folder = _make(tmp_path)
    server = PostgisStore(postgis_database)
    pts = [frame.pts_ns for frame in read_frames(video)]
    make_store(tmp_path, video, [sighting(video, "walker", i, BOX, pts_ns=pts[i]) for i in range(5, 20)], server)
    for store in (folder, server):
        hide_classes(store, ["person", "car", "person"], "sightflow privacy person car")
        assert hidden_classes(store) == ("car", "person")
    for ours, theirs in zip(_changed(folder, video, ()), _changed(server, video, ()), strict=True):
        assert (ours == theirs).all()
    server.close()

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.mask import Mask
from flows.overlay import PALETTE_RGB, Outline, Overlay, Sighting, colour_of, label_image
from flows.schema import NS, State
from tests.tracked import make_mask


def _make_sighting(**overrides: Any) -> Sighting:
    box_xyxy = overrides.get("box_xyxy", (300.0, 200.0, 400.0, 420.0))
    fields = {
        "short_id": 1, "class_name": "person", "state": State.PROPAGATED, "box_xyxy": box_xyxy, "confidence": 0.9,
        "point_px": ((box_xyxy[0] + box_xyxy[2]) / 2, box_xyxy[3]), "mask": make_mask(box_xyxy),
    }  # fmt: skip
    return Sighting(**(fields | overrides))


def _grey(width: int = 1280, height: int = 720) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def _changed(image: np.ndarray) -> np.ndarray:
    return (image != 128).any(axis=2)


def test_a_mask_colours_its_own_pixels_only() -> None:
    image = _grey()
    Overlay(1280, 720, trail_s=0).draw(image, [_make_sighting(box_xyxy=(300.0, 200.0, 420.0, 440.0))], 0)
    inside = image[320, 360].astype(int)
    assert np.abs(inside - (0.55 * 128 + 0.45 * np.array(PALETTE_RGB[0]))).max() <= 2
    assert (image[212, 312] == 128).all()  # in the box, outside the ellipse
    assert not _changed(image)[460:].any()


def test_nothing_is_drawn_where_nothing_is_stored() -> None:
    image = _grey()
    Overlay(1280, 720).draw(image, [], 0)
    assert not _changed(image).any()


@pytest.mark.parametrize("state", State)
def test_what_is_inferred_has_a_dashed_outline(state: State) -> None:
    image = _grey()
    Overlay(1280, 720, trail_s=0).draw(image, [_make_sighting(state=state, mask=None)], 0)
    left_edge = (image[230:400, 300] == PALETTE_RGB[0]).all(axis=1)
    dashed = state in (State.BRIDGED, State.INTERPOLATED)
    assert left_edge.mean() == pytest.approx(0.6, abs=0.15) if dashed else left_edge.all()


def test_trails_follow_for_as_long_as_asked_and_not_over_pauses() -> None:
    overlay = Overlay(1280, 720, trail_s=2.0)
    for i in range(60):  # 3 s at 20 frames a second, 10 px a frame
        overlay.follow([_make_sighting(point_px=(100.0 + 10 * i, 600.0))], i * NS // 20)
    image = _grey()
    far = _make_sighting(box_xyxy=(900.0, 20.0, 960.0, 100.0), point_px=(690.0, 600.0), mask=None)
    overlay.draw(image, [far], 59 * NS // 20)
    trail = _changed(image)[590:610].any(axis=0)
    assert not trail[:280].any()
    assert trail[330:690].all()

    image = _grey()
    overlay.draw(image, [far], 70 * NS // 20)  # half a second without it
    trail = _changed(image)[590:610].any(axis=0)
    assert trail[600:660].any()
    image = _grey()
    overlay.draw(image, [far], 200 * NS // 20)  # all of it too old
    assert not _changed(image)[590:610, :640].any()


def test_names_do_not_cover_each_other() -> None:
    image = _grey()
    crowd = [_make_sighting(short_id=i + 1, box_xyxy=(300.0 + 40 * i, 300.0, 400.0 + 40 * i, 420.0)) for i in range(5)]
    Overlay(1280, 720, trail_s=0).draw(image, crowd, 0)
    for seen in crowd:
        plates = [label_image(text, 17, colour_of(seen.short_id)) for text in _texts(seen)]
        assert any(_contains(image, plate) for plate in plates), seen.short_id


def _texts(seen: Sighting) -> list[str]:
    return [f"{seen.short_id} person 90%", f"{seen.short_id} person", f"{seen.short_id}"]


def _contains(image: np.ndarray, plate: np.ndarray) -> bool:
    height, width = plate.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(image, (height, width, 3))[200:500, 200:700, 0]
    corners = np.argwhere((windows[..., 0, 0, :] == plate[0, 0]).all(axis=-1))
    return any((windows[y, x] == plate).all() for y, x in corners)


def test_zones_lines_and_the_clock_are_drawn() -> None:
    outlines = [
        Outline("yard", np.array([[100, 300], [500, 300], [500, 600]]), closed=True),
        Outline("gate", np.array([[700, 300], [900, 500]]), closed=False),
    ]
    image = _grey()
    Overlay(1280, 720, outlines).draw(image, [], 0, clock="2026-05-01 08:30:00.00 UTC")
    changed = _changed(image)
    assert changed[600, 500]  # a corner of the zone
    assert changed[450, 300]  # the side that closes it
    assert changed[400, 800]  # on the line
    assert changed[:20, :150].mean() > 0.9  # the clock
    assert not changed[100:250].any()


_sides = st.sampled_from([(320, 180), (321, 241), (64, 48), (1920, 1080), (720, 1280)])


@given(
    size=_sides,
    box=st.tuples(*[st.floats(-500, 5000) for _ in range(4)]),
    state=st.sampled_from(State),
    with_mask=st.booleans(),
    crop=st.tuples(st.integers(-80, 4000), st.integers(-80, 3000), st.integers(1, 90), st.integers(1, 90)),
)
@settings(max_examples=40, deadline=None)
def test_anything_at_any_size_can_be_drawn(
    size: tuple[int, int], box: tuple[float, ...], state: State, with_mask: bool, crop: tuple[int, ...]
) -> None:
    box_xyxy = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    mask = Mask(crop[0], crop[1], np.ones((crop[3], crop[2]), dtype=np.bool_)) if with_mask else None
    image = _grey(*size)
    overlay = Overlay(*size, [Outline("z" * 30, np.array([[-10, -10], [10_000, 50], [5, 9_000]]), closed=True)])
    overlay.draw(image, [_make_sighting(box_xyxy=box_xyxy, state=state, mask=mask)], 0, clock="00:00:00.00")
    assert image.shape == (size[1], size[0], 3)


def test_lines_and_letters_grow_with_the_picture() -> None:
    heights = [
        label_image("1 person", Overlay(*size)._font_px, (0, 0, 0)).shape[0] for size in ((320, 180), (3840, 2160))
    ]
    assert heights[0] < 180 / 8
    assert 2160 / 60 < heights[1] < 2160 / 20


def test_names_in_other_alphabets_are_written() -> None:
    letters = "кжΩéü"
    drawn = {label_image(letter, 24, (0, 0, 0)).tobytes() for letter in letters}
    assert len(drawn) == len(letters)  # those no font has look all the same
    nobodys = [label_image(text, 24, (0, 0, 0)) for text in ("\U000f0000", "\U000f0001")]
    assert (nobodys[0] == nobodys[1]).all()
    assert nobodys[0].tobytes() not in drawn

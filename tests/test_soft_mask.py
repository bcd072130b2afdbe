"""Masks as logits: measured without pixels, they must be what the mask at full size is."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.soft_mask import soft_mask


def _logits(seed: int, size: int = 32, smooth: float = 3.0) -> np.ndarray:
    """A few blobs on a negative ground."""
    rng = np.random.default_rng(seed)
    field = np.full((size, size), -0.6, dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(0, size, 2)
        rx, ry = rng.uniform(2, size / 3, 2)
        ys, xs = np.mgrid[:size, :size]
        field = np.maximum(field, 1 - ((xs - x) / rx) ** 2 - ((ys - y) / ry) ** 2)
    field += cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), smooth)
    return (4 * field).astype(np.float32)


def _full_size(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """What SAM 2's video predictor makes of logits."""
    return (
        torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], (height, width), mode="bilinear")[0, 0]
        > 0
    ).numpy()


def _box(inside: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(inside)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)


SIZES = st.sampled_from([(90, 160), (432, 768), (1080, 1920), (33, 31)])


@given(st.integers(0, 10_000), SIZES)
@settings(max_examples=60, deadline=None)
def test_measures_are_those_of_the_mask_at_full_size(seed, size):
    mask = soft_mask(_logits(seed), *size)
    if mask is None:
        return
    pixels = mask.full(*size)
    np.testing.assert_allclose(mask.box_xyxy, _box(pixels), atol=1)
    outline = int((pixels != cv2.erode(pixels.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)).sum())
    assert abs(mask.area_px - pixels.sum()) <= outline
    ys, xs = np.nonzero(pixels)
    np.testing.assert_allclose(mask.centroid_xy, [xs.mean() + 0.5, ys.mean() + 0.5], atol=1)


@given(st.integers(0, 10_000), SIZES)
@settings(max_examples=40, deadline=None)
def test_the_mask_at_full_size_is_sam_2s(seed, size):
    logits = _logits(seed)
    if cv2.connectedComponents((logits > 0).astype(np.uint8))[0] != 2:
        return
    difference = soft_mask(logits, *size).full(*size) != _full_size(logits, *size)
    assert difference.sum() <= 2  # a pixel on the outline may round the other way


def test_specks_go_and_large_pieces_stay():
    logits = np.full((32, 32), -4, dtype=np.float32)
    logits[4:14, 4:14] = logits[20:27, 20:27] = logits[2:4, 28:30] = 4
    pixels = soft_mask(logits, 320, 320).full(320, 320)
    assert pixels[80, 80]
    assert pixels[230, 230]
    assert not pixels[:60, 240:].any()


@given(st.integers(0, 10_000), SIZES, st.tuples(*[st.floats(-0.2, 1.2)] * 4))
@settings(max_examples=60, deadline=None)
def test_a_part_is_the_part_of_the_mask_at_full_size(seed, size, corners):
    mask = soft_mask(_logits(seed), *size)
    if mask is None:
        return
    height, width = size
    box = np.array([corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height], np.float32)
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    expected = np.zeros(size, dtype=bool)
    window = slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0))
    expected[window] = mask.full(*size)[window]
    part = mask.within(box)
    if part is None:
        assert expected.sum() <= 1
        return
    assert (part.full(*size) != expected).sum() <= 2
    if expected.sum() > 4:
        np.testing.assert_allclose(part.box_xyxy, _box(expected), atol=1)


def test_a_box_around_everything_changes_nothing():
    mask = soft_mask(_logits(3), 432, 768)
    assert mask.within(np.array([-10, -10, 5000, 5000], np.float32)) is mask


@pytest.mark.parametrize("value", [-9.0, 9.0])
def test_no_mask_and_a_mask_of_everything(value):
    mask = soft_mask(np.full((32, 32), value, dtype=np.float32), 90, 160)
    if value < 0:
        assert mask is None
        return
    np.testing.assert_array_equal(mask.box_xyxy, [0, 0, 160, 90])
    assert mask.area_px == 90 * 160
    assert mask.full(90, 160).all()


def test_a_mask_thinner_than_a_pixel_keeps_one():
    logits = np.full((64, 64), -100, dtype=np.float32)
    logits[10, 10] = 0.01
    mask = soft_mask(logits, 90, 90)
    assert mask.area_px == 1
    assert mask.full(90, 90).sum() == 1

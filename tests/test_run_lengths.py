import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from flows.mask import Mask
from flows.run_lengths import compressed, decompressed, framed


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), max_size=5))
def test_run_lengths_are_compressed_as_coco_does(masks: list[list[int]]) -> None:
    plain = [{"size": [1, sum(runs)], "counts": runs} for runs in masks]
    expected = [coco.frPyObjects([one], *one["size"])[0]["counts"] for one in plain]
    flat, sizes = np.array([run for runs in masks for run in runs], dtype=np.int64), np.array([len(m) for m in masks])
    assert compressed(flat, sizes.astype(np.int64)) == expected
    runs, n_runs = decompressed(expected)
    assert runs.tolist() == flat.tolist()
    assert n_runs.tolist() == sizes.tolist()


@st.composite
def _masks(draw: st.DrawFn, frame: tuple[int, int]) -> Mask:
    """Of any size and place, often beyond the frame; or over all of it, which joins columns."""
    if draw(st.booleans()):
        crop, corner = frame, (0, 0)
    else:
        crop = draw(st.tuples(st.integers(1, 15), st.integers(1, 15)))
        corner = draw(st.tuples(st.integers(-9, 12), st.integers(-9, 12)))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return Mask(*corner, np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(crop) < share)


@given(st.data(), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_masks_on_their_frame_are_what_coco_makes_of_their_pixels(data: st.DataObject, frame: tuple[int, int]) -> None:
    masks = data.draw(st.lists(_masks(frame), max_size=4))
    pixels = [mask.full(*frame) for mask in masks]
    expected = [(coco.encode(np.asfortranarray(full, dtype=np.uint8))["counts"], full.sum()) for full in pixels]
    assert framed([mask.to_bytes() for mask in masks], *frame) == expected

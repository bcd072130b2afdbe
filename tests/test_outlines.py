"""Outlines of masks: small, near to their masks, and read by others."""

from __future__ import annotations

import cv2
import numpy as np
import psycopg
import pyarrow as pa
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import outlines
from flows.evaluate import mask_iou
from flows.mask import Mask
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult
from flows.store import open_store
from flows.store.base import Store
from tests.stores import make_chunk, make_links, make_observation, make_tracklet
from tests.tracked import make_mask


def _blobs(seed: int, height: int, width: int) -> Mask:
    """A mask of any shape, in pieces as it may be, its holes filled."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), rng.uniform(0.5, 5))
    inside = (field >= np.quantile(field, rng.uniform(0.1, 0.9))).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    solid = cv2.drawContours(np.zeros_like(inside), contours, -1, 1, -1)
    return Mask(*rng.integers(-20, 4000, 2).tolist(), solid.astype(np.bool_))


_SIDE = st.integers(1, 60)


@given(st.integers(0, 10_000), _SIDE, _SIDE)
@settings(deadline=None)
def test_outlines_survive_being_stored_and_are_told_from_run_lengths(seed: int, height: int, width: int) -> None:
    mask = _blobs(seed, height, width)
    rings = outlines.rings_of(mask)
    data = mask.to_bytes("polygon")
    assert outlines.is_polygon(data)
    assert not outlines.is_polygon(mask.to_bytes())
    for back in (outlines.from_bytes(data), outlines.from_bytes(mask.to_bytes())):
        assert [ring.tolist() for ring in back] == [ring.tolist() for ring in rings]


@given(st.integers(0, 10_000), _SIDE, _SIDE)
@settings(deadline=None)
def test_rings_go_along_the_edges_of_pixels_to_within_one(seed: int, height: int, width: int) -> None:
    mask = _blobs(seed, height, width)
    rings = outlines.rings_of(mask)
    assert all(shapely.Polygon(ring).exterior.is_ccw for ring in rings)
    back = Mask.from_bytes(mask.to_bytes("polygon"))
    size = (4100, 4100)
    off = mask.full(*size) != back.full(*size)
    edge = cv2.morphologyEx(mask.full(*size).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    assert not (off & (cv2.dilate(edge, np.ones((3, 3), np.uint8)) == 0)).any()


@given(st.integers(0, 10_000), st.integers(60, 200))
@settings(deadline=None, max_examples=40)
def test_what_is_big_stays_nearly_as_it_is_in_less_room(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    mask = make_mask((0, 0, side * rng.uniform(0.4, 1), side))
    assert mask_iou(mask, Mask.from_bytes(mask.to_bytes("polygon"))) > 0.9
    assert len(mask.to_bytes("polygon")) < 0.7 * len(mask.to_bytes())


def test_a_pixel_and_a_line_stay_what_they_are() -> None:
    for shape in ((1, 1), (1, 30), (30, 1), (2, 2)):
        mask = Mask(7, 5, np.ones(shape, dtype=np.bool_))
        back = Mask.from_bytes(mask.to_bytes("polygon"))
        assert (back.x_px, back.y_px, back.crop.shape) == (7, 5, shape)
        assert back.crop.all()


def _store(store: Store, masks: list[bytes | None]) -> None:
    chunk = make_chunk(0)
    rows = [make_observation(chunk, number, mask=mask) for number, mask in enumerate(masks)]
    tracklet = make_tracklet(chunk, rows)
    store.commit(
        ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist([tracklet], TRACKLETS))
    )
    store.write_links("gate", 1, make_links("gate", {tracklet["tracklet_id"]: "track"}))


def test_postgis_reads_what_is_stored(postgis_database: str) -> None:
    mask = _blobs(3, 50, 40)
    with open_store(postgis_database) as store:
        _store(store, [mask.to_bytes("polygon"), mask.to_bytes(), None])
    with psycopg.connect(postgis_database) as connection:
        found = connection.execute("select track_id, st_asbinary(geom) from sightflow.outlines").fetchall()
    ((track_id, wkb),) = found
    ours = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in outlines.rings_of(mask)])
    assert track_id == "track"
    assert shapely.equals(shapely.normalize(shapely.from_wkb(wkb)), shapely.normalize(ours))

"""The stitcher on tracklets cut in two."""

import numpy as np
import pyarrow as pa
import pytest

from flows.audit import AUDIT, audit_source
from flows.config import StitchSettings
from flows.errors import UsageError
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult, make_id
from flows.store import open_store
from tests.stores import make_chunk, make_observation, make_tracklet

FPS = 10


def _fill(store, *objects, seconds=12.0):
    """A minute in which objects, (x0, y, px/s, turning every so many seconds), are seen ten times a second."""
    chunk = make_chunk()
    rows, tracklets = [], []
    for number, (x0, y, speed, period_s) in enumerate(objects):
        times = np.arange(round(seconds * FPS)) / FPS
        x = x0 + speed * times if period_s is None else x0 + speed * np.abs((times % period_s) - period_s / 2)
        seen = [
            make_observation(
                chunk, t, tracklet_id=make_id("tracklet", number), x1_px=at, y1_px=y, x2_px=at + 20, y2_px=y + 50
            )
            for t, at in zip(times.tolist(), x.tolist(), strict=True)
        ]
        boxes = np.array([[row[f"{side}_px"] for side in ("x1", "y1", "x2", "y2")] for row in seen])
        ends = {}
        for end, of in (("head", slice(FPS)), ("tail", slice(-FPS, None))):
            ends |= {f"{end}_pts_ns": [row["pts_ns"] for row in seen[of]], f"{end}_xyxy_px": boxes[of].ravel().tolist()}
        tracklets.append(make_tracklet(chunk, seen, **ends))
        rows += seen
    store.add_video(chunk.video)
    store.plan([chunk])
    store.commit(
        ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist(tracklets, TRACKLETS))
    )


def test_pieces_of_what_moves_steadily_are_found(store_url):
    with open_store(store_url) as store:
        _fill(store, *((30, 30 + 100 * n, 20, None) for n in range(4)))
        # Nobody described what these look like, and motion alone leads no further.
        settings = StitchSettings(max_gap_seconds=3)
        table = audit_source(store, "gate", settings, cuts=60, seed=1)
        again, other = (audit_source(store, "gate", settings, cuts=60, seed=seed) for seed in (1, 2))
    assert table.schema == AUDIT
    assert table.equals(again)
    assert not table.equals(other)
    *by_gap, total = table.to_pylist()
    assert total["gap_s"] == "all"
    assert total["cuts"] == sum(row["cuts"] for row in by_gap) == 60
    assert (total["precision"], total["recall"], total["joined_wrongly"]) == (100, 100, 0)
    assert by_gap[-1]["gap_s"] == "2-3"


def test_a_crowd_of_twins_is_told_by_wrong_joins(tmp_path):
    """Many that turn back all the time, on one place: where motion leads is often another."""
    with open_store(str(tmp_path)) as store:
        _fill(store, *((5 * n, 100, 60, 1 + n / 7) for n in range(6)))
        total = audit_source(store, "gate", StitchSettings(), cuts=60, seed=0).to_pylist()[-1]
    assert total["joined_wrongly"] > 0
    assert total["precision"] < 95


def test_what_is_too_short_to_be_cut_is_said(tmp_path):
    with open_store(str(tmp_path)) as store:
        _fill(store, (0, 100, 20, None), seconds=1.5)
        with pytest.raises(UsageError, match="no tracklet is longer than 2 s"):
            audit_source(store, "gate", StitchSettings(), cuts=1, seed=0)

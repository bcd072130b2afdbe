"""Arrow -> store -> Arrow, whatever the rows hold."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.errors import StoreError
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult, State
from flows.store import Filter, Store, open_store
from tests.stores import make_chunk, make_links, make_observation, make_result, make_tracklet

# PostgreSQL's text has no NUL, and Arrow's no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
TIMES = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59, 999999)).map(
    lambda time: time.replace(tzinfo=UTC)
)
FLOAT32 = st.floats(width=32, allow_nan=False)
FLOAT64 = st.floats(allow_nan=False)
INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "tracklet_id": TEXT,
            "ts": TIMES,
            "pts_ns": INT64,
            "frame": INT64,
            "class_name": TEXT,
            "state": st.sampled_from([state.value for state in State]),
            **dict.fromkeys(("x1_px", "y1_px", "x2_px", "y2_px", "x_px", "y_px"), FLOAT32),
            **{name: st.none() | FLOAT32 for name in ("confidence", "object_score", "area_px", "sigma_m")},
            **{name: st.none() | FLOAT64 for name in ("x_m", "y_m")},
            "mask": st.none() | st.binary(max_size=20),
        }
    ),
    max_size=8,
)
LISTS = st.fixed_dictionaries(
    {
        "class_name": TEXT,
        "head_pts_ns": st.lists(INT64, max_size=4),
        **{name: st.lists(FLOAT32, max_size=4) for name in ("head_xyxy_px", "tail_xyxy_px", "appearance")},
    }
)


@pytest.fixture(scope="module", params=["parquet", "postgis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One store for all examples; each commits the same chunk again."""
    if request.param == "postgis":
        with open_store(request.getfixturevalue("postgis_module_database")) as opened:
            yield opened
        return
    with tempfile.TemporaryDirectory() as folder, open_store(str(Path(folder) / "store")) as opened:
        yield opened


@given(rows=ROWS, lists=LISTS, source_id=TEXT)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_committed_comes_back(
    store: Store, rows: list[dict[str, Any]], lists: dict[str, Any], source_id: str
) -> None:
    chunk = make_chunk(source_id=source_id)
    observations = pa.Table.from_pylist([{**make_observation(chunk), **row} for row in rows], OBSERVATIONS)
    tracklets = pa.Table.from_pylist([make_tracklet(chunk, [make_observation(chunk)], **lists)], TRACKLETS)
    store.commit(ChunkResult(chunk, observations, tracklets))

    stored = store.query(f"select {', '.join(OBSERVATIONS.names)} from observations where chunk_id = $chunk_id",
                         {"chunk_id": chunk.chunk_id}).cast(OBSERVATIONS)  # fmt: skip
    assert _sorted(stored) == _sorted(observations)
    assert store.tracklets(source_id).equals(tracklets)

    # Each row once, although ids may repeat: an id is linked once.
    store.write_links(source_id, 1, make_links(source_id, {row["tracklet_id"]: "T" for row in rows}))
    batches = list(store.observations(Filter(source_id=source_id)))
    assert sum(batch.num_rows for batch in batches) == len(rows)
    for batch in batches:
        assert batch.drop_columns("track_id").schema == OBSERVATIONS


def _sorted(table: pa.Table) -> list[str]:
    """Rows as text: -0.0 and 0.0 differ, and so do None and 0."""
    return sorted(map(repr, table.to_pylist()))


def test_not_a_number_and_infinity_are_kept(store: Store) -> None:
    chunk = make_chunk(source_id="odd")
    values = [float("nan"), float("inf"), float("-inf"), -0.0]
    rows = [make_observation(chunk, second, x_m=v, y_m=v, confidence=v) for second, v in enumerate(values)]
    observations = pa.Table.from_pylist(rows, OBSERVATIONS)
    store.commit(ChunkResult(chunk, observations, TRACKLETS.empty_table()))
    stored = store.query("select x_m, y_m, confidence from observations where source_id = 'odd' order by pts_ns")
    assert repr(stored["x_m"].to_pylist()) == repr(stored["confidence"].to_pylist()) == "[nan, inf, -inf, -0.0]"


def test_a_time_no_calendar_has_is_refused(store: Store) -> None:
    result = make_result(make_chunk(source_id="far"), n_rows=1)
    beyond = pa.array([253_402_300_800_000_000], pa.timestamp("us", tz="UTC"))
    index = OBSERVATIONS.get_field_index("ts")
    observations = result.observations.set_column(index, OBSERVATIONS.field("ts"), beyond)
    with pytest.raises(StoreError, match="years 1 to 9999"):
        store.commit(ChunkResult(result.chunk, observations, result.tracklets))

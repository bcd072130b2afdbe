from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.export import by_track, export
from flows.export.selection import Selection, tracklet_rows
from flows.schema import TIMESTAMP
from flows.store import Filter, open_store
from tests import archive

SCHEMA = pa.schema([("track_id", pa.string()), ("ts", TIMESTAMP), ("frame", pa.int64())])


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 99)), max_size=60),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9)),
    st.integers(0, 60),
)
def test_every_row_comes_once_by_track_and_time(rows: list[tuple[str, int]], sizes: dict[str, int], n: int) -> None:
    table = pa.table({"track_id": [r[0] for r in rows], "ts": [r[1] for r in rows], "frame": range(len(rows))})
    batches = table.cast(SCHEMA).to_batches(max_chunksize=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_track, "ROWS_PER_PART", 5)
        found = list(by_track.by_track(batches, SCHEMA, sizes, n))
    names = [set(track["track_id"].to_pylist()) for track in found]
    assert all(len(of_one) == 1 for of_one in names)
    once = [name for (name,) in names]
    assert len(set(once)) == len(once)
    assert (known := [name for name in once if name in sizes]) == sorted(known)
    for track in found:
        assert track["ts"].to_pylist() == sorted(track["ts"].to_pylist())
    assert sorted(frame for track in found for frame in track["frame"].to_pylist()) == list(range(len(rows)))


def test_an_archive_leaves_whole_and_in_the_same_order_however_it_is_dealt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(str(tmp_path / "store")) as store:
        total = archive.fill(store, n_sources=2, n_chunks=4, n_rows=3000)
        assert tracklet_rows(store, Filter()) == total
        heard: list[int] = []
        written = []
        for n in (by_track.ROWS_PER_PART, 500):
            monkeypatch.setattr(by_track, "ROWS_PER_PART", n)
            tracks = list(Selection(store, Filter(), heard.append).trajectories(["frame"]))
            assert sum(track.num_rows for track in tracks) == total
            assert export(store, "geojson", tmp_path / "out", Filter()) == len(tracks)
            written.append((tmp_path / "out").read_bytes())
        assert written[0] == written[1]
        assert sum(heard) == 2 * total
        # Videos, tracks and observations of the archive belong together.
        for source in ("camera-00", "camera-01"):
            assert export(store, "mot", tmp_path / "out", Filter(source)) == total // 2

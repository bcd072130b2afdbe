from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import StoreError
from flows.schema import NS, Chunk
from flows.store import Filter, Store, open_store, parquet, stretches
from tests.stores import make_links, make_result, make_video

COLUMNS = ["video_id", "pts_ns", "track_id", "x1_px"]


def _fill(store: Store) -> None:
    """Two videos of ten minutes; the first done twice, with chunks of one minute and of 90 s, in no order of time."""
    for name, settings in (("a", {"old": 90, "new": 60}), ("b", {"new": 60})):
        video = make_video(content_hash=name, uri=f"{name}.mp4")
        store.add_video(video)
        for hash_, seconds in settings.items():
            for index in sorted(range(600 // seconds), key=lambda i: i * 7 % 5):
                chunk = Chunk(video, index, index * seconds * NS, (index + 1) * seconds * NS, NS, hash_)
                # Seen once a second; the rows of the first chunk reach into the second.
                store.commit(make_result(chunk, n_rows=seconds + 5 * (index == 0)))
    tracklets = store.tracklets("gate")["tracklet_id"].to_pylist()
    store.write_links("gate", 1, make_links("gate", {name: name for name in tracklets}))


def test_sorted_stretch_by_stretch_a_video_is_sorted_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(str(tmp_path)) as store:
        _fill(store)
        for where in (Filter(), Filter(video_id=make_video(content_hash="a").video_id)):
            monkeypatch.setattr(parquet, "ROWS_PER_STRETCH", 10**9)
            expected = pa.Table.from_batches(store.observations(where, COLUMNS))
            for n_rows in (0, 100, 400):
                for module in (parquet, stretches):
                    monkeypatch.setattr(module, "ROWS_PER_STRETCH", n_rows)
                found = pa.Table.from_batches(store.observations(where, COLUMNS))
                assert found.num_rows == expected.num_rows > 1000
                assert found.equals(expected)


def _write(path: Path, *pts_ns: int, statistics: bool = True) -> str:
    pq.write_table(pa.table({"frame": pts_ns, "pts_ns": pts_ns}), path, write_statistics=statistics)
    return str(path)


def test_files_that_overlap_in_time_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "ROWS_PER_STRETCH", 2)
    late = _write(tmp_path / "late", 20, 21)
    early, within, touching = (_write(tmp_path / n, *t) for n, t in {"e": (0, 9), "w": (3, 4), "t": (9, 12)}.items())
    empty = _write(tmp_path / "empty")
    assert list(stretches.stretches([late, touching, empty, early, within])) == [[early, within, touching], [late]]
    assert list(stretches.stretches([empty])) == []
    # Of a file that does not say its times, nothing can be said.
    silent = _write(tmp_path / "silent", 1, statistics=False)
    assert list(stretches.stretches([late, early, silent])) == [[silent, early, late]]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(StoreError, match=r"broken\.parquet: .*run again"):
        list(stretches.stretches([str(tmp_path / "broken.parquet")]))

import errno
import json
import os
import signal
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from flows.errors import SchemaVersionError, StoreError
from flows.store import duck, ledger, open_store
from flows.store.base import SCHEMA_VERSION
from tests.stores import make_chunk, make_links, make_result


def _files(store: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in store.glob(pattern))


def _count(store: Path) -> int:
    n: int = open_store(str(store)).query("select count(*) as n from observations")["n"][0].as_py()
    return n


def test_a_chunk_over_midnight_lies_in_two_days(tmp_path: Path) -> None:
    chunk = make_chunk(source_id="gate 1")
    with open_store(str(tmp_path)) as store:
        store.commit(make_result(chunk))
    folder = "observations/source_id=gate%201"
    names = _files(tmp_path, "observations/**/*.parquet")
    assert [Path(name).parent for name in names] == [Path(folder, "day=2026-03-01"), Path(folder, "day=2026-03-02")]
    assert all(Path(name).name.startswith(chunk.chunk_id) for name in names)
    row = json.loads((tmp_path / "ledger" / f"{chunk.chunk_id}.json").read_text())
    assert sorted(name for name in row["files"] if name.startswith("observations/")) == names


def test_others_read_the_folder_as_a_hive_partitioned_dataset(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        store.commit(make_result(make_chunk(source_id="gate 1")))
    table = ds.dataset(tmp_path / "observations", partitioning="hive").to_table()
    assert table.num_rows == 90
    assert set(table["source_id"].to_pylist()) == {"gate 1"}
    assert {str(day) for day in table["day"].to_pylist()} == {"2026-03-01", "2026-03-02"}


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty and holds no Sightflow store"):
        open_store(str(tmp_path)).prepare()
    assert os.listdir(tmp_path) == ["thesis.txt"]
    (tmp_path / "thesis.txt").rename(tmp_path / ".DS_Store")
    open_store(str(tmp_path)).prepare()


@pytest.mark.parametrize(
    ("version", "fix"),
    [(f"{SCHEMA_VERSION + 1}", "upgrade this one"), ("1", "sightflow db upgrade"), ("x", "sightflow db upgrade")],
)
def test_another_schema_version_is_refused(tmp_path: Path, version: str, fix: str) -> None:
    (tmp_path / "schema_version").write_text(f"{version}\n")
    with pytest.raises(SchemaVersionError, match=f"has schema version '{version}', expected {SCHEMA_VERSION}.*{fix}"):
        open_store(str(tmp_path)).prepare()


@pytest.mark.parametrize("url", ["s3://bucket/store", "mysql://alice:s3cret@host/db"])
def test_other_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(StoreError, match=r"a folder or postgresql://") as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="File exists"):
        open_store(str(tmp_path / "file")).prepare()
    with pytest.raises(StoreError, match="a part of the path is a file"):
        open_store(str(tmp_path / "file" / "store")).prepare()


def test_a_source_id_too_long_for_a_folder_is_explained(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store, pytest.raises(StoreError, match="source id is too long"):
        store.plan([make_chunk(source_id="ü" * 100)])


def test_a_full_disk_leaves_nothing_behind_and_the_chunk_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = make_chunk()
    with open_store(str(tmp_path)) as store:
        assert store.begin(chunk, 3)
        written = _files(tmp_path, "**/*")
        sync = os.fsync

        def full(descriptor: int) -> None:
            if next(calls):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        # The first file and its folder take one each, the second file fails.
        calls = iter([False, False, True])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="the disk is full: free some space"):
                store.commit(make_result(chunk))
        left = [name for name in _files(tmp_path, "**/*") if (tmp_path / name).is_file() and name not in written]
        assert left == []
        assert _count(tmp_path) == 0
        assert store.begin(chunk, 3)
        store.commit(make_result(chunk))
        assert _count(tmp_path) == 90


def test_replaced_files_stay_for_readers_and_then_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = make_chunk()
    with open_store(str(tmp_path)) as store:
        store.commit(make_result(chunk))
        store.commit(make_result(chunk, n_rows=50))
        assert len(_files(tmp_path, "observations/**/*.parquet")) == 3
        store.plan([chunk])
        assert len(_files(tmp_path, "observations/**/*.parquet")) == 3
        monkeypatch.setattr(ledger, "SUPERSEDED_S", 0.0)
        store.plan([chunk])
        assert len(_files(tmp_path, "observations/**/*.parquet")) == 1
        assert len(_files(tmp_path, "tracklets/**/*.parquet")) == 1
    assert _count(tmp_path) == 50


def test_what_killed_writers_left_is_never_read_and_goes_with_the_next_commit(tmp_path: Path) -> None:
    chunk, other = make_chunk(0), make_chunk(1)
    with open_store(str(tmp_path)) as store:
        store.commit(make_result(other))
        assert store.begin(chunk, 5)
        folder = tmp_path / "observations/source_id=gate/day=2026-03-01"
        folder.mkdir(exist_ok=True)
        strays = [folder / f"{chunk.chunk_id}-dead.parquet", folder / f".{chunk.chunk_id}-dead.parquet.1-ab"]
        for stray in strays:
            stray.write_bytes(b"PAR1")
        assert _count(tmp_path) == 90
        assert store.begin(chunk, 5)
        store.commit(make_result(chunk))
    assert not any(stray.exists() for stray in strays)
    assert _count(tmp_path) == 180


def test_a_folder_with_special_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*? 'day=3' ü"
    with open_store(str(folder)) as store:
        result = make_result(make_chunk())
        store.commit(result)
        store.write_links("gate", 1, make_links("gate", {result.tracklets["tracklet_id"][0].as_py(): "T"}))
    assert _count(folder) == 90


def test_queries_leave_the_working_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store("store") as store:
        store.commit(make_result(make_chunk()))
        store.query("select * from observations order by mask, ts")
    assert os.listdir(tmp_path) == ["store"]


def test_a_signal_while_a_query_computes_is_no_error_of_the_store() -> None:
    seconds = "select count(*) as n from range(20000) a, range(20000) b where (a.range * b.range) % 7 = 1"
    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    duck.query({}, "select 1 as n", None)
    try:
        stop.start()
        with pytest.raises(KeyboardInterrupt):
            duck.query({}, seconds, None)
    finally:
        stop.cancel()
        signal.signal(signal.SIGINT, held)
    assert duck.query({}, "select 1 as n", None)["n"].to_pylist() == [1]


def test_a_signal_while_a_query_reads_a_table_is_no_error_of_the_store() -> None:
    def read() -> pa.Table:
        raise duckdb.InvalidInputException("exporting a stream from 'chunks' failed: KeyboardInterrupt: ")

    with pytest.raises(KeyboardInterrupt):
        duck.query({"chunks": read}, "select * from chunks", None)


def test_what_fails_outside_duckdb_stays_what_it_is() -> None:
    def read() -> pa.Table:
        raise RuntimeError("of somebody else")

    with pytest.raises(RuntimeError, match="of somebody else"):
        duck.query({"chunks": read}, "select * from chunks", None)

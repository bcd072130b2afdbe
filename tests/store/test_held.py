from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.store import held, open_store
from flows.store.base import Store
from tests.stores import make_chunk, make_links, make_result

SQL = "select class_name, count(*) as n, min(ts) as first from track_samples group by 1 order by 1"
LENGTHS = "select tracklet_id, n_observations, t1 from tracklets order by 1, 2"


def _answers(store: Store) -> list[list[dict[str, object]]]:
    return [store.query(sql).to_pylist() for sql in (SQL, LENGTHS)]


def test_what_is_held_answers_as_the_files_do_while_chunks_come_and_change(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    with open_store(url) as writer, open_store(url) as reader, open_store(url) as holding:
        holding.hold_in_memory()
        assert _answers(holding) == _answers(reader) == [[], []]
        for index, source, rows in ((0, "gate", 90), (1, "gate", 30), (0, "yard", 20), (0, "gate", 50)):
            result = make_result(make_chunk(index, source_id=source), n_rows=rows)
            writer.commit(result)
            ids = writer.tracklets(source)["tracklet_id"].to_pylist()
            writer.write_links(source, 1, make_links(source, {name: name for name in ids}))
            assert _answers(holding) == _answers(reader)
        assert sorted(row["n_observations"] for row in _answers(holding)[1]) == [20, 30, 50]


def test_only_the_source_that_changed_is_read_again(tmp_path: Path, monkeypatch) -> None:
    read = list[list[str]]()
    read_files = held.read_files
    monkeypatch.setattr(held, "read_files", lambda files: read.append(files.paths) or read_files(files))
    with open_store(str(tmp_path)) as store:
        store.hold_in_memory()
        store.commit(make_result(make_chunk(source_id="gate")))
        store.commit(make_result(make_chunk(source_id="yard")))
        store.query(LENGTHS)
        assert len(read) == 1
        store.query(LENGTHS)
        assert len(read) == 1
        store.commit(make_result(make_chunk(1, source_id="yard")))
        store.query(LENGTHS)
        assert ["yard" in path for path in read[1]] == [True, True]
        assert len(read) == 2


def test_what_is_too_large_is_read_from_its_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(held, "MAX_BYTES", 1)
    with open_store(str(tmp_path)) as store:
        store.hold_in_memory()
        store.commit(make_result(make_chunk()))
        assert store.query("select head_pts_ns from tracklets").num_rows == 1


@pytest.mark.parametrize("together_bytes", [1, held.TOGETHER_BYTES])
def test_sources_read_by_one_statement_are_told_apart_whatever_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together_bytes: int
) -> None:
    monkeypatch.setattr(held, "TOGETHER_BYTES", together_bytes)
    names = ["gate", "Hof/Süd 'A' 100%", "__HIVE_DEFAULT_PARTITION__", "null", "2026-03-01"]
    with open_store(str(tmp_path)) as store:
        store.hold_in_memory()
        for rows, name in enumerate(names, 10):
            store.commit(make_result(make_chunk(source_id=name), n_rows=rows))
        found = store.query("select source_id, sum(n_observations) as n from tracklets group by 1").to_pylist()
        assert {row["source_id"]: row["n"] for row in found} == {name: n for n, name in enumerate(names, 10)}
        assert store.query(LENGTHS).num_rows == sum(
            [part[2].num_rows for part in store._held["tracklets"]._parts.values()]
        )


def test_questions_asked_at_once_of_two_stores_are_not_mixed_up(tmp_path: Path) -> None:
    counts = {str(tmp_path / "small"): 10, str(tmp_path / "large"): 300}
    for url, rows in counts.items():
        with open_store(url) as store:
            store.commit(make_result(make_chunk(), n_rows=rows))
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        stores = {url: stack.enter_context(open_store(url)) for url in counts}
        asked = list(counts) * 20
        answers = threads.map(lambda url: stores[url].query("select count(*) as n from observations"), asked)
        assert [answer["n"][0].as_py() for answer in answers] == [counts[url] for url in asked]

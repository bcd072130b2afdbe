"""Exactly once: writers that are killed, writers that run into each other, readers that look on."""

import multiprocessing
import random
from collections.abc import Iterator
from itertools import count
from multiprocessing.synchronize import Event

import pytest

from flows.schema import ChunkState
from flows.store import Store, open_store
from tests.stores import make_chunk, make_links, make_result

N_CHUNKS = 5
N_ROWS = 90
ROUNDS = 5

# A server that has imported everything forks a writer in milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["flows.store.parquet", "flows.store.postgis", "tests.stores"])


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


def _run(url: str, ready: Event) -> None:
    """What a run does to a store: plan, begin, commit, stitch."""
    with open_store(url) as store:
        chunks = [make_chunk(index) for index in range(N_CHUNKS)]
        store.plan(chunks)
        ready.set()
        for chunk in chunks:
            if store.begin(chunk, max_attempts=1000):
                store.commit(make_result(chunk, N_ROWS, class_name="run"))
        with store.locked("gate"):
            ids = store.tracklets("gate")["tracklet_id"].to_pylist()
            store.write_links("gate", 1, make_links("gate", dict.fromkeys(ids, "T")))


def _commit_for_ever(url: str, index: int, ready: Event) -> None:
    """Commit one chunk again and again with a number of rows that its class tells."""
    with open_store(url) as store:
        for turn in count():
            n_rows = 61 + turn % 40
            store.commit(make_result(make_chunk(index), n_rows, class_name=str(n_rows)))
            ready.set()


def _assert_whole(store: Store) -> None:
    """Chunks are there with all the rows their ledger row and their class tell, or not at all."""
    rows = store.query(
        """
        select c.state, c.rows, coalesce(o.n, 0) as n, coalesce(o.frames, 0) as frames, o.mark
        from chunks c left join (
            select chunk_id, count(*) as n, count(distinct frame) as frames,
                min(class_name) as mark, max(class_name) as other
            from observations group by chunk_id
        ) o on o.chunk_id = c.chunk_id and o.mark = o.other
        """
    ).to_pylist()
    for row in rows:
        assert row["rows"] == row["n"] == row["frames"], row
        assert (row["state"] == ChunkState.DONE) == (row["n"] > 0), row
        assert row["mark"] in (None, "run", str(row["n"])), row


def test_a_killed_run_loses_nothing_and_writes_nothing_twice(store: Store, store_url: str) -> None:
    rng = random.Random(7)
    for _ in range(ROUNDS):
        ready = processes.Event()
        writer = processes.Process(target=_run, args=(store_url, ready))
        writer.start()
        assert ready.wait(30)
        writer.join(rng.uniform(0, 0.15))
        writer.kill()
        writer.join()
        _assert_whole(store)
    _run(store_url, processes.Event())
    _assert_whole(store)
    ledger = store.ledger()
    assert ledger["state"].to_pylist() == [ChunkState.DONE] * N_CHUNKS
    assert store.query("select n_tracklets, n_observations from tracks").to_pylist() == [
        {"n_tracklets": N_CHUNKS, "n_observations": N_CHUNKS * N_ROWS}
    ]
    assert store.query("select count(*) as n from track_observations")["n"].to_pylist() == [N_CHUNKS * N_ROWS]


def test_readers_never_see_half_a_chunk_or_an_error(store: Store, store_url: str) -> None:
    # Two writers on one chunk, one on another of the same source: all run past midnight, into two days.
    ready = [processes.Event() for _ in range(3)]
    writers = [
        processes.Process(target=_commit_for_ever, args=(store_url, index, event))
        for index, event in zip((0, 0, 1), ready, strict=True)
    ]
    for writer in writers:
        writer.start()
    try:
        assert all(event.wait(30) for event in ready)
        for _ in range(10):
            _assert_whole(store)
            assert store.tracklets("gate").num_rows == 2
    finally:
        for writer in writers:
            assert writer.is_alive()
            writer.kill()
            writer.join()
    _assert_whole(store)

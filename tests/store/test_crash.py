"""Exactly once: writers that are killed, writers that run into each other, readers that look on."""

from collections.abc import Iterator
from itertools import count
from multiprocessing.synchronize import Event

import pytest

from flows.store import Store, open_store
from tests.crash import N_ROWS, assert_whole, kill_writers, processes
from tests.stores import make_chunk, make_result

N_CHUNKS = 10
ROUNDS = 5
"""`tests/benchmarks/bench_store.py` has more of them."""


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


def _commit_for_ever(url: str, index: int, ready: Event) -> None:
    """Commit one chunk again and again with a number of rows that its class tells."""
    with open_store(url) as store:
        for turn in count():
            n_rows = 61 + turn % 40
            store.commit(make_result(make_chunk(index), n_rows, class_name=str(n_rows)))
            ready.set()


def test_a_killed_run_loses_nothing_and_writes_nothing_twice(store: Store, store_url: str) -> None:
    killed = kill_writers(store, store_url, ROUNDS, N_CHUNKS)
    assert killed.at_work > 0
    assert (killed.lost, killed.twice) == (0, 0)
    assert store.query("select n_tracklets, n_observations from tracks").to_pylist() == [
        {"n_tracklets": N_CHUNKS, "n_observations": N_CHUNKS * N_ROWS}
    ]


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
            assert_whole(store)
            assert store.tracklets("gate").num_rows == 2
    finally:
        for writer in writers:
            assert writer.is_alive()
            writer.kill()
            writer.join()
    assert_whole(store)

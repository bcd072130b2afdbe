"""Two runs on one store: no chunk is begun by both, none is lost with the run that began it."""

import multiprocessing
import time

import pytest

from flows.errors import StoreError
from flows.lease import Lease
from flows.schema import ChunkState
from flows.store import Store, open_store
from tests.stores import make_chunk, make_result


def _row(store: Store, chunk) -> tuple[str, int]:
    (row,) = store.ledger([chunk.chunk_id]).to_pylist()
    return row["state"], row["attempts"]


def test_what_a_living_run_began_is_its_own(store_url):
    chunk, other = make_chunk(0), make_chunk(1)
    with open_store(store_url) as store:
        store.hold("a", 60)
        store.hold("b", 60)
        assert store.begin(chunk, 3, "a")
        assert not store.begin(chunk, 3, "b")
        assert store.begin(other, 3, "b")
        assert store.held("b", [chunk.chunk_id, other.chunk_id, "unknown"]) == {chunk.chunk_id}
        assert _row(store, chunk) == (ChunkState.RUNNING, 1)
        # A run may begin its own again: its worker has died.
        assert store.begin(chunk, 3, "a")
        store.commit(make_result(chunk))
        assert store.held("b", [chunk.chunk_id]) == set()


def test_what_a_dead_run_began_is_anybodys(store_url):
    chunk = make_chunk(0)
    with open_store(store_url) as store:
        store.hold("a", 0.2)
        store.hold("b", 60)
        assert store.begin(chunk, 3, "a")
        time.sleep(0.3)
        assert store.held("b", [chunk.chunk_id]) == set()
        assert store.begin(chunk, 3, "b")
        assert _row(store, chunk) == (ChunkState.RUNNING, 2)
        # Its first owner comes back, and leaves it alone.
        store.hold("a", 60)
        assert not store.begin(chunk, 3, "a")
        assert store.hand_back("a") == 0


def test_what_is_handed_back_was_never_begun(store_url):
    chunks = [make_chunk(index) for index in range(3)]
    with open_store(store_url) as store:
        store.hold("a", 60)
        store.hold("b", 60)
        for chunk in chunks:
            assert store.begin(chunk, 3, "a")
        store.commit(make_result(chunks[0]))
        assert store.hand_back("a", [chunks[1].chunk_id]) == 1
        assert _row(store, chunks[1]) == (ChunkState.PLANNED, 0)
        assert store.begin(chunks[1], 3, "b")
        assert store.hand_back("a") == 1
        assert [_row(store, chunk)[0] for chunk in chunks] == [ChunkState.DONE, ChunkState.RUNNING, ChunkState.PLANNED]


def test_a_lease_is_renewed_while_its_run_lives_and_ends_with_it(store_url):
    chunk = make_chunk(0)
    with open_store(store_url) as store:
        store.hold("b", 60)
        with Lease(store_url, "a", 0.4):
            assert store.begin(chunk, 3, "a")
            time.sleep(1)
            assert not store.begin(chunk, 3, "b")
        assert _row(store, chunk) == (ChunkState.PLANNED, 0)
        assert store.begin(chunk, 3, "b")


def _begin_all(url: str, run_id: str, n_chunks: int, go, begun) -> None:
    with open_store(url) as store:
        store.hold(run_id, 60)
        go.wait()
        begun.put([index for index in range(n_chunks) if store.begin(make_chunk(index), 3, run_id)])


def test_runs_that_race_share_the_chunks(store_url):
    processes = multiprocessing.get_context("forkserver")
    go, begun = processes.Event(), processes.Queue()
    with open_store(store_url) as store:
        store.plan([make_chunk(index) for index in range(40)])
        runs = [processes.Process(target=_begin_all, args=(store_url, run_id, 40, go, begun)) for run_id in "abc"]
        for run in runs:
            run.start()
        go.set()
        indices = sorted(index for _ in runs for index in begun.get(timeout=60))
        for run in runs:
            run.join()
        assert indices == list(range(40))
        assert set(store.ledger()["attempts"].to_pylist()) == {1}


def test_a_folder_that_is_not_the_drivers_is_refused(tmp_path):
    """What a second machine sees that does not share the driver's file system."""
    with open_store(str(tmp_path / "drivers")) as store:
        store.hold("a", 60)
    with open_store(str(tmp_path / "others")) as other, pytest.raises(StoreError, match="all machines share"):
        other.begin(make_chunk(0), 3, "a")
    nothing = open_store(str(tmp_path / "nothing"))
    for write in (lambda: nothing.begin(make_chunk(0), 3), lambda: nothing.commit(make_result(make_chunk(0)))):
        with pytest.raises(StoreError, match="all machines share"):
            write()
    assert not (tmp_path / "nothing").exists()

"""A run's writer that can be killed at any moment, and what must then be true of the store."""

import multiprocessing
import random
from dataclasses import dataclass
from multiprocessing.synchronize import Event

from flows.schema import ChunkState
from flows.store import Store, open_store
from tests.stores import make_chunk, make_links, make_result

N_ROWS = 90

# A server that has imported everything forks a writer in milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["flows.store.parquet", "flows.store.postgis", "tests.stores"])


def run(url: str, n_chunks: int, ready: Event | None = None) -> None:
    """What a run does to a store: plan, begin, commit, stitch."""
    with open_store(url) as store:
        chunks = [make_chunk(index) for index in range(n_chunks)]
        store.plan(chunks)
        if ready is not None:
            ready.set()
        for chunk in chunks:
            if store.begin(chunk, max_attempts=1000):
                store.commit(make_result(chunk, N_ROWS, class_name="run"))
        with store.locked("gate"):
            ids = store.tracklets("gate")["tracklet_id"].to_pylist()
            store.write_links("gate", 1, make_links("gate", dict.fromkeys(ids, "T")))


@dataclass(frozen=True)
class Killed:
    """What came of it: writers killed at work, observations lost, observations there twice."""

    at_work: int
    lost: int
    twice: int


def kill_writers(store: Store, url: str, rounds: int, n_chunks: int, seed: int = 7) -> Killed:
    """Kill as many writers at random moments, let one finish, and compare the store with what it must hold."""
    rng = random.Random(seed)
    at_work = 0
    for _ in range(rounds):
        ready = processes.Event()
        writer = processes.Process(target=run, args=(url, n_chunks, ready))
        writer.start()
        assert ready.wait(60)
        writer.join(rng.uniform(0, 0.15))
        at_work += writer.is_alive()
        writer.kill()
        writer.join()
        assert_whole(store)
    run(url, n_chunks)
    assert_whole(store)
    assert store.ledger()["state"].to_pylist() == [ChunkState.DONE] * n_chunks
    (found,) = store.query(
        "select count(*) as n, count(distinct concat(chunk_id, ' ', frame)) as different from track_observations"
    ).to_pylist()
    return Killed(at_work, n_chunks * N_ROWS - found["different"], found["n"] - found["different"])


def assert_whole(store: Store) -> None:
    """Chunks are there with all the rows their ledger row and their class tell, or not at all."""
    rows = store.query(
        """
        select c.state, c.rows, coalesce(o.n, 0) as n, coalesce(o.frames, 0) as frames, o.mark,
            coalesce(s.n, 0) as sampled
        from chunks c left join (
            select chunk_id, count(*) as n, count(distinct frame) as frames,
                min(class_name) as mark, max(class_name) as other
            from observations group by chunk_id
        ) o on o.chunk_id = c.chunk_id and o.mark = o.other left join (
            select chunk_id, cast(sum(n_observations) as bigint) as n from samples group by chunk_id
        ) s on s.chunk_id = c.chunk_id
        """
    ).to_pylist()
    for row in rows:
        assert row["rows"] == row["n"] == row["frames"] == row["sampled"], row
        assert (row["state"] == ChunkState.DONE) == (row["n"] > 0), row
        assert row["mark"] in (None, "run", str(row["n"])), row

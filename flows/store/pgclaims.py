"""Whose chunk is it: the claims of runs in a PostGIS store, and the leases that say which runs are alive."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection

from flows.schema import ChunkState

SHOW = """
    update chunks set updated_at = now()
    where video_id = %(video_id)s and settings_hash = %(settings_hash)s and state = %(done)s and settings_hash <> (
        select settings_hash from chunks where video_id = %(video_id)s and state = %(done)s
        order by updated_at desc limit 1
    )
"""
_HOLD = """
    insert into leases values (%(run_id)s, now() + make_interval(secs => %(seconds)s))
    on conflict (run_id) do update set until = excluded.until
"""
_HELD = """
    select c.chunk_id from chunks c join claims o on o.chunk_id = c.chunk_id join leases l on l.run_id = o.run_id
    where c.chunk_id = any(%(chunk_ids)s) and c.state = %(running)s and o.run_id <> %(run_id)s and l.until > now()
"""
_HAND_BACK = """
    update chunks c set state = %(planned)s, attempts = greatest(attempts - 1, 0), updated_at = now()
    from claims o where o.run_id = %(run_id)s and c.chunk_id = o.chunk_id and c.state = %(running)s
"""


def claim(connection: Connection, run_id: str, chunk_id: str) -> None:
    """Write down that a run has begun a chunk."""
    sql = "insert into claims values (%s, %s) on conflict (chunk_id) do update set run_id = excluded.run_id"
    connection.execute(sql, (chunk_id, run_id))


def hold(connection: Connection, run_id: str, seconds: float) -> None:
    """See `Store.hold`."""
    if seconds > 0:
        connection.execute(_HOLD, {"run_id": run_id, "seconds": seconds})
    else:
        connection.execute("delete from leases where run_id = %s", (run_id,))


def held(connection: Connection, run_id: str, chunk_ids: Sequence[str]) -> set[str]:
    """See `Store.held`."""
    asked = {"run_id": run_id, "chunk_ids": list(chunk_ids), "running": ChunkState.RUNNING.value}
    return {chunk_id for (chunk_id,) in connection.execute(_HELD, asked).fetchall()}


def hand_back(connection: Connection, run_id: str, chunk_ids: Sequence[str] | None) -> int:
    """See `Store.hand_back`."""
    states = {"planned": ChunkState.PLANNED.value, "running": ChunkState.RUNNING.value, "run_id": run_id}
    if chunk_ids is None:
        return connection.execute(_HAND_BACK, states).rowcount
    some = {**states, "chunk_ids": list(chunk_ids)}
    return connection.execute(f"{_HAND_BACK} and c.chunk_id = any(%(chunk_ids)s)", some).rowcount

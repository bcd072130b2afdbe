"""What a person sees and the stitcher did not: tracks marked wrong, merged and split, each as a new version of links.

Nothing is lost: tracklets and observations stay, every version of the links stays, and any can be taken up again. The
stitcher keeps these decisions when it brings the newest links up to date (`decided`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from flows.errors import UsageError
from flows.schema import TRACK_LINKS, make_id
from flows.store.base import Store

WRONG, MERGED, SPLIT = "wrong", "merged", "split"
"""Reasons of links that a person decided. The views of tracks (views.sql) leave out what is `wrong`."""

_DECIDED = (WRONG, MERGED, SPLIT)

Rows = list[dict[str, Any]]


def mark_wrong(store: Store, source_id: str, track_id: str) -> int:
    """Take a track out of all reports; returns the version written.

    Raises:
        UsageError: The newest links have no such track.
    """
    return _revised(store, source_id, (track_id,), lambda rows: _set(rows, reason=WRONG))


def merge(store: Store, source_id: str, track_id: str, other_id: str) -> int:
    """Make the second track part of the first; returns the version written.

    Raises:
        UsageError: The newest links have no such tracks, or both are one.
    """
    if track_id == other_id:
        raise UsageError(f"track {track_id} cannot be merged with itself: name another")

    def change(rows: Rows) -> None:
        _set([row for row in rows if row["track_id"] == other_id], track_id=track_id, reason=MERGED)

    return _revised(store, source_id, (track_id, other_id), change)


def split(store: Store, source_id: str, track_id: str, tracklet_id: str) -> int:
    """Make a new track of a tracklet and those after it; returns the version written.

    Raises:
        UsageError: The track has no such tracklet, or begins with it.
    """
    t0 = dict(zip(*(store.tracklets(source_id)[name].to_pylist() for name in ("tracklet_id", "t0")), strict=True))

    def change(rows: Rows) -> None:
        mine = sorted((row for row in rows if row["track_id"] == track_id), key=lambda row: t0[row["tracklet_id"]])
        later = [row for row in mine if t0[row["tracklet_id"]] >= t0.get(tracklet_id, t0[mine[0]["tracklet_id"]])]
        if len(later) in (0, len(mine)) or tracklet_id not in {row["tracklet_id"] for row in later}:
            raise UsageError(f"track {track_id} cannot be split at {tracklet_id}: name one of its later tracklets")
        _set(later, track_id=make_id("split", track_id, tracklet_id), reason=SPLIT)

    return _revised(store, source_id, (track_id,), change)


def restore(store: Store, source_id: str, version: int) -> int:
    """Take an older version of the links up again, as a new one; returns the version written.

    Raises:
        UsageError: There is no such version.
    """
    with store.locked(source_id):
        rows = store.links(source_id, version).to_pylist()
        if not rows:
            raise UsageError(f"source {source_id!r} has no links of version {version}")
        return _write(store, source_id, rows)


def decided(links: pa.Table) -> dict[str, tuple[str, str]]:
    """What a person decided: tracklet_id -> (track_id, reason)."""
    return {
        row["tracklet_id"]: (row["track_id"], row["reason"]) for row in links.to_pylist() if row["reason"] in _DECIDED
    }


def _revised(store: Store, source_id: str, track_ids: Sequence[str], change: Callable[[Rows], None]) -> int:
    with store.locked(source_id):
        rows = store.links(source_id).to_pylist()
        known = {row["track_id"] for row in rows if row["reason"] != WRONG}
        for track_id in track_ids:
            if track_id not in known:
                raise UsageError(f"source {source_id!r} has no track {track_id} now: reload and choose again")
        change([row for row in rows if row["track_id"] in track_ids])
        return _write(store, source_id, rows)


def _set(rows: Rows, **fields: str) -> None:
    for row in rows:
        row.update(fields)


def _write(store: Store, source_id: str, rows: Rows) -> int:
    newest = max(store.links(source_id)["version"].to_pylist(), default=0) + 1
    for row in rows:
        row["version"] = newest
    store.write_links(source_id, newest, pa.Table.from_pylist(rows, schema=TRACK_LINKS))
    return newest

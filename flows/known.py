"""What a store has by a name that a person gave: an unknown one is refused, and told what there is instead.

A misspelt name would otherwise make an empty file, or hide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flows.errors import UsageError
from flows.store.base import Filter, Store

_CHOICES = 20
"""Tracks listed in a message: enough to see what their ids look like."""


def known_sources(store: Store) -> list[str]:
    """The sources a store has videos of."""
    names: list[str] = store.query("select distinct source_id from videos order by 1")["source_id"].to_pylist()
    return names


def known_classes(store: Store) -> list[str]:
    """The classes of all tracklets."""
    names: list[str] = store.query("select distinct class_name from tracklets order by 1")["class_name"].to_pylist()
    return names


def must_know(store: Store, source: str) -> None:
    """Refuse a source of which a store has no video.

    Raises:
        UsageError: naming the sources it has.
    """
    if source not in (known := known_sources(store)):
        raise UsageError(f"no video of source {source!r} in the store; it has {', '.join(known) or 'none yet'}")


def unknown_classes(store: Store, class_names: Iterable[str]) -> list[str]:
    """Those of some classes that nothing in the store has."""
    known = known_classes(store)
    return [name for name in class_names if name not in known]


def check_classes(store: Store, class_names: Sequence[str], option: str) -> None:
    """Refuse a class nothing in the store has.

    Raises:
        UsageError: naming the option it was given to, and the classes there are.
    """
    for name in unknown_classes(store, class_names) if class_names else ():
        known = ", ".join(known_classes(store)) or "none yet"
        raise UsageError(f"{option} {name}: the store has no such class, only {known}")


def check_tracks(store: Store, track_ids: Sequence[str], source: str | None = None) -> None:
    """Refuse a track the store, or a source, does not have.

    Raises:
        UsageError: naming some that there are.
    """
    if not track_ids:
        return
    given = {} if source is None else {"source": source}
    of_source = "source_id = $source" if given else "true"
    sql = f"select track_id, class_name from tracks where {of_source} and "
    found = store.query(sql + "track_id = any($ids)", {**given, "ids": list(track_ids)})["track_id"].to_pylist()
    missing = [track_id for track_id in track_ids if track_id not in found]
    if missing:
        some = store.query(f"{sql} true order by t0, track_id limit {_CHOICES}", given).to_pylist()
        listed = "".join(f"\n  {row['track_id']}  {row['class_name']}" for row in some) or " none"
        more = "\n  ..." if len(some) == _CHOICES else ""
        where = f"source {source}" if source is not None else store.url
        raise UsageError(f"no track {missing[0]} in {where}; it has:{listed}{more}")


def same_video(store: Store, video_id: str, source: str, said: str) -> dict[str, Any]:
    """The row of `videos` by which another source knows a video, as one that was imported does.

    Raises:
        UsageError: it does not know it; the message begins as said and names those that do.
    """
    rows = store.query(
        "select * from videos where content_hash = (select content_hash from videos where video_id = $id)"
        " and video_id <> $id order by source_id",
        {"id": video_id},
    ).to_pylist()
    for row in rows:
        if row["source_id"] == source:
            return dict(row)
    if not rows:
        raise UsageError(f"{said} no other source has the same video")
    has = ", ".join(row["source_id"] for row in rows)
    raise UsageError(f"{said} no source of this name has the same video; others do: {has}")


def check_filter(store: Store, where: Filter) -> None:
    """Refuse a filter that names what the store does not have, or what nothing can be in: a time that ends
    before it begins, a video of another source.

    Raises:
        UsageError: naming what there is.
    """
    if where.source_id is not None:
        must_know(store, where.source_id)
    if where.video_id is not None:
        found = store.query("select source_id from videos where video_id = $id", {"id": where.video_id})["source_id"]
        if not len(found):
            raise UsageError(f"no video {where.video_id} in {store.url}")
        if where.source_id not in (None, found[0].as_py()):
            raise UsageError(f"the video is of source {found[0]}, not of {where.source_id}: nothing is of both")
    if where.t0 is not None and where.t1 is not None and where.t0 >= where.t1:
        raise UsageError(f"--t1 {where.t1} is not after --t0 {where.t0}: nothing lies between")
    check_classes(store, where.class_names, "--class")
    check_tracks(store, where.track_ids, where.source_id)

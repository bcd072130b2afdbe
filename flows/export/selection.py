"""What is exported: the observations a filter chooses, in order of time or track by track, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import UsageError
from flows.export.by_track import by_track
from flows.store.base import Filter, Store
from flows.store.tables import TRACK_OBSERVATIONS

BOX = ("x1_px", "y1_px", "x2_px", "y2_px")


@dataclass(frozen=True)
class Selection:
    """Observations of a store that a filter chooses; `tell` hears how many more were read."""

    store: Store
    where: Filter
    tell: Callable[[int], None] = lambda n_rows: None

    def batches(self, columns: Sequence[str], *, ordered: bool = True) -> Iterator[pa.RecordBatch]:
        """As `Store.observations` gives them."""
        for batch in self.store.observations(self.where, columns, ordered=ordered):
            yield batch
            self.tell(batch.num_rows)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Row by row, by (video, pts_ns, track_id)."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()

    def trajectories(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Track by track by id, each a table of these columns in order of time; `track_id` and `ts` are among them.

        Memory holds a part of the tracks, see `by_track`.
        """
        names = list(dict.fromkeys(("track_id", "ts", *columns)))
        schema = pa.schema([TRACK_OBSERVATIONS.field(name) for name in names])
        n_rows = tracklet_rows(self.store, self.where)
        return by_track(self.batches(names, ordered=False), schema, self._sizes(), n_rows)

    def _sizes(self) -> dict[str, int]:
        """How many observations the tracks have that may be among these."""
        given = {} if self.where.source_id is None else {"source_id": self.where.source_id}
        condition = "source_id = $source_id" if given else "true"
        found = self.store.query(f"select track_id, n_observations as n from tracks where {condition}", given)
        return dict(zip(found["track_id"].to_pylist(), found["n"].to_pylist(), strict=True))

    def only_video(self) -> dict[str, Any]:
        """The row of `videos` meant.

        Raises:
            UsageError: it is not one; the message names those there are.
        """
        videos = self.videos()
        if len(videos) == 1:
            return videos[0]
        names = (
            "".join(f"\n  {video['video_id']}  {video['source_id']}  {video['uri']}" for video in videos[:20])
            or " none"
        )
        raise UsageError(f"this format holds one video a file; choose one of {len(videos)} with --video:{names}")

    def videos(self) -> list[dict[str, Any]]:
        """The rows of `videos` that source and video of the filter leave, by address."""
        given = {name: value for name in ("source_id", "video_id") if (value := getattr(self.where, name)) is not None}
        condition = " and ".join(f"{name} = ${name}" for name in given) or "true"
        rows: list[dict[str, Any]] = self.store.query(
            f"select * from videos where {condition} order by uri, video_id", given
        ).to_pylist()
        return rows

    def of_video(self, video_id: str) -> Selection:
        """The part of it in one video."""
        return replace(self, where=replace(self.where, video_id=video_id))


def xywh(row: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of an observation's box."""
    x1, y1, x2, y2 = (float(row[name]) for name in BOX)
    return x1, y1, x2 - x1, y2 - y1


def tracklet_rows(store: Store, where: Filter) -> int:
    """About how many observations a filter chooses, from tracklets alone: what a progress bar needs.

    Of a tracklet that lies partly in the time asked for, all are counted.
    """
    given = {
        "source_id = $source_id": where.source_id,
        "video_id = $video_id": where.video_id,
        "t1 >= $t0": where.t0,
        "t0 < $t1": where.t1,
        "class_name = any($class_names)": list(where.class_names) or None,
        "tracklet_id in (select tracklet_id from track_links where track_id = any($track_ids))": list(where.track_ids)
        or None,
    }
    clauses = [clause for clause, value in given.items() if value is not None]
    values = {clause.split("$")[1].rstrip(")"): given[clause] for clause in clauses}
    sql = "select cast(coalesce(sum(n_observations), 0) as bigint) as n from tracklets where "
    return int(store.query(sql + (" and ".join(clauses) or "true"), values)["n"][0].as_py())


def class_of(rows: pa.Table) -> str:
    """The class most observations of a track have."""
    counted = pc.value_counts(rows["class_name"])
    return str(counted.field("values")[int(np.argmax(counted.field("counts").to_numpy()))])

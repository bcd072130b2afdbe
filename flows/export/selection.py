"""What is exported: the observations a filter chooses, in order of time or track by track, in bounded memory."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import UsageError
from flows.store.base import Filter, Store
from flows.store.tables import TRACK_OBSERVATIONS

BOX = ("x1_px", "y1_px", "x2_px", "y2_px")

_SORT_MEMORY = "512MB"
"""What sorting by track may hold; the rest waits on disk."""

_SORTED_BATCH = 16_384


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
        """Track by track, each a table of these columns in order of time; `track_id` and `ts` are always among them.

        Tracks run through several chunks and videos, which a store reads one after the other; so they are sorted on
        disk first. Memory holds the longest track.
        """
        names = list(dict.fromkeys(("track_id", "ts", *columns)))
        schema = pa.schema([TRACK_OBSERVATIONS.field(name) for name in names])
        unsorted = pa.RecordBatchReader.from_batches(schema, self.batches(names, ordered=False))
        pending: list[pa.RecordBatch] = []
        for batch in _sorted(unsorted):
            runs = pc.run_end_encode(batch["track_id"])
            start = 0
            for track_id, end in zip(runs.values, runs.run_ends.to_pylist(), strict=True):
                if pending and pending[0]["track_id"][0] != track_id:
                    yield pa.Table.from_batches(pending).cast(schema)
                    pending = []
                pending.append(batch.slice(start, end - start))
                start = end
        if pending:
            yield pa.Table.from_batches(pending).cast(schema)

    def only_video(self) -> dict[str, Any]:
        """The row of `videos` meant.

        Raises:
            UsageError: it is not one; the message names those there are.
        """
        videos = self.videos()
        if len(videos) == 1:
            return videos[0]
        names = "".join(f"\n  {video['video_id']}  {video['uri']}" for video in videos[:20]) or " none"
        raise UsageError(f"this format holds one video a file; choose one of {len(videos)}:{names}")

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


def _sorted(unsorted: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    spill = Path(tempfile.gettempdir()) / f"sightflow-export-{secrets.token_hex(8)}"
    with duckdb.connect(config={"temp_directory": str(spill), "memory_limit": _SORT_MEMORY, "threads": "2"}) as sorter:
        sorter.execute("set TimeZone = 'UTC'")
        sorter.register("unsorted", unsorted)
        ordered = sorter.sql("select * from unsorted order by track_id, ts")
        yield from ordered.to_arrow_reader(_SORTED_BATCH)


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

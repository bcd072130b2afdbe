"""What a video's zones and lines have counted so far, from stored events: for writing beside their names."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.schema import Video
from flows.store.base import Store

_SQL = """
    select kind, zone, ts, coalesce(duration_s, 0) as duration_s, direction from events
    where source_id = $source_id and kind in ('visit', 'crossing') and ts < $t1
        and (ts >= $t0 or extract(epoch from ts) + duration_s >= extract(epoch from $t0))
    order by ts
"""


class Counters:
    """How many are in each zone, and how many have crossed each line since the video began."""

    def __init__(self, store: Store, video: Video) -> None:
        t1 = video.start_time + timedelta(seconds=video.duration_s + 1)
        found = store.query(_SQL, {"source_id": video.source_id, "t0": video.start_time, "t1": t1})
        self._start_us = round(video.start_time.timestamp() * 1e6)
        self._zones, self._lines = {}, {}
        for name in pc.unique(found["zone"]).to_pylist():
            rows = found.filter(pc.equal(found["zone"], name))
            visits = rows.filter(pc.equal(rows["kind"], "visit"))
            crossings = rows.filter(pc.equal(rows["kind"], "crossing"))
            if visits.num_rows:
                enter_us = _us(visits)
                leave_us = np.sort(enter_us + (visits["duration_s"].to_numpy() * 1e6).astype(np.int64))
                self._zones[name] = enter_us, leave_us
            if crossings.num_rows:
                self._lines[name] = [
                    _us(crossings.filter(pc.equal(crossings["direction"], way))) for way in ("forward", "backward")
                ]

    def at(self, pts_ns: int) -> dict[str, str]:
        """What to write at a time, by name of the zone or line; those where nothing ever happens are left out."""
        now_us = self._start_us + pts_ns // 1000
        said = {
            name: f"{_until(enter_us, now_us) - _until(leave_us, now_us)} inside"
            for name, (enter_us, leave_us) in self._zones.items()
        }
        for name, ways in self._lines.items():
            there, back = (_until(crossed_us, now_us) for crossed_us in ways)
            said[name] = f"{there} there, {back} back"
        return said


def _us(rows: pa.Table) -> np.ndarray:
    return rows["ts"].cast(pa.int64()).to_numpy()


def _until(times_us: np.ndarray, now_us: int) -> int:
    return int(np.searchsorted(times_us, now_us, side="right"))

"""Events with a duration -> how many at once, over time: occupancy from visits, queue length from waits."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import UsageError
from flows.events.paths import US
from flows.schema import TIMESTAMP

OCCUPANCY = pa.schema(
    [
        pa.field("zone", pa.string(), nullable=False),
        pa.field("bin_start", TIMESTAMP, nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("most", pa.int64(), nullable=False),
    ]
)
"""Mean and greatest number of objects at once, per zone and time bin from its first event to its last."""


def occupancy(events: pa.Table, bin_seconds: float, kind: str = "visit") -> pa.Table:
    """Objects at once per zone and time bin (schema OCCUPANCY).

    Args:
        events: schema EVENTS.
        bin_seconds: width of a bin; bins begin at whole multiples of it.
        kind: `visit` for occupancy, `wait` for the length of the queue.

    Raises:
        UsageError: a bin that is not positive.
    """
    if not bin_seconds > 0:
        raise UsageError(f"a time bin must be longer than 0 seconds, got {bin_seconds}")
    events = events.filter(pc.equal(events["kind"], kind))
    bin_us = round(bin_seconds * US)
    names = sorted(set(events["zone"].to_pylist()))
    parts = [_of_zone(name, events.filter(pc.equal(events["zone"], name)), bin_us) for name in names]
    return pa.concat_tables([OCCUPANCY.empty_table(), *parts])


def _of_zone(name: str, events: pa.Table, bin_us: int) -> pa.Table:
    enter = events["ts"].cast(pa.int64()).to_numpy()
    leave = enter + np.round(events["duration_s"].to_numpy() * US).astype(np.int64)
    bins = np.arange(enter.min() // bin_us, leave.max() // bin_us + 1)
    # Every bin's own start is a change of nothing, so that no step of the count spans two bins.
    times = np.concatenate([enter, leave, bins * bin_us])
    steps = np.concatenate([np.ones_like(enter), -np.ones_like(leave), np.zeros_like(bins)])
    # Who leaves at a moment makes room before the next one enters.
    order = np.lexsort((steps, times))
    times, count = times[order], np.cumsum(steps[order])
    lasts = np.diff(times, append=(bins[-1] + 1) * bin_us)
    own = times // bin_us - bins[0]
    total = np.bincount(own, weights=count * lasts, minlength=len(bins))
    most = np.zeros(len(bins), dtype=np.int64)
    np.maximum.at(most, own[lasts > 0], count[lasts > 0])
    starts = pa.array(bins * bin_us).cast(TIMESTAMP)
    return pa.table([[name] * len(bins), starts, total / bin_us, most], schema=OCCUPANCY)

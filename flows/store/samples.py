"""Observations -> samples: where each object was in each second, how it moved, and how that is known.

Reports of presence, movement and certainty read samples instead of observations: a twenty-fifth of the rows at 25
frames a second, and the same answers whatever the frame rate and `observe_hz`: a sample says how long it stands.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.schema import TIMESTAMP, State

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SAMPLES = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("tracklet_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        # The first observation of the second, and the time until the tracklet's next sample or its end.
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        # Means over the second; metres null where uncalibrated.
        pa.field("x_px", pa.float64(), nullable=False),
        pa.field("y_px", pa.float64(), nullable=False),
        pa.field("x_m", pa.float64()),
        pa.field("y_m", pa.float64()),
        # To the tracklet's next sample; null where less than MIN_STEP_S lies between.
        pa.field("speed_m_s", pa.float64()),
        pa.field("motion_per_s", pa.float64()),
        pa.field("n_observations", pa.int64(), nullable=False),
        pa.field("n_detected", pa.int64(), nullable=False),
        pa.field("n_bridged", pa.int64(), nullable=False),
        pa.field("n_interpolated", pa.int64(), nullable=False),
    ]
)
"""One row per tracklet and second.

`speed_m_s` is that of the ground point. `motion_per_s` is the mean way of two opposite corners of the box, in sizes of
the box (root of its area) per second: it needs no calibration, and a digger that turns on the spot moves.
"""

MIN_STEP_S = 0.5
"""A speed over less time than this is mostly the jitter of boxes."""

_SECOND_US = 1_000_000
_COUNTED = (State.DETECTED.value, State.BRIDGED.value, State.INTERPOLATED.value)
_CORNERS = ("x1_px", "y1_px", "x2_px", "y2_px")


def sample(observations: pa.Table) -> pa.Table:
    """The samples (SAMPLES) of observations (schema OBSERVATIONS), by tracklet and time."""
    if not observations.num_rows:
        return SAMPLES.empty_table()
    trail, kind = (_codes(observations[name]) for name in ("tracklet_id", "class_name"))
    t_us = observations["ts"].cast(pa.int64()).to_numpy()
    order = np.lexsort((t_us, trail))
    trail, kind, t_us = trail[order], kind[order], t_us[order]
    begins = (np.diff(trail) != 0) | (np.diff(t_us // _SECOND_US) != 0) | (np.diff(kind) != 0)
    first = np.flatnonzero(np.append(True, begins))
    rows = observations.take(pa.array(order))
    # Stored numbers may be anything, infinite too; so are their means then.
    with np.errstate(all="ignore"):
        mean = {name: _means(rows[name], first) for name in (*_CORNERS, "x_px", "y_px", "x_m", "y_m")}
        mid_s = np.add.reduceat((t_us - t_us[0]) / _SECOND_US, first) / _sizes(first, len(t_us))
        speed, motion = _rates(mean, mid_s, trail[first])
    keys = rows.select(["source_id", "chunk_id", "tracklet_id", "class_name", "ts"]).take(pa.array(first))
    known = {name: pc.equal(rows["state"], name).to_numpy().astype(np.int64) for name in _COUNTED}
    columns = {
        **{name: keys[name] for name in keys.column_names},
        "duration_s": _until_next(t_us, trail, first) / _SECOND_US,
        **{name: mean[name] for name in ("x_px", "y_px")},
        **{name: pa.array(mean[name], mask=_sums(rows[name].is_valid(), first) == 0) for name in ("x_m", "y_m")},
        "speed_m_s": pa.array(speed, mask=np.isnan(speed)),
        "motion_per_s": pa.array(motion, mask=np.isnan(motion)),
        "n_observations": _sizes(first, len(t_us)),
        **{f"n_{name}": np.add.reduceat(flags, first) for name, flags in known.items()},
    }
    return pa.table(columns, schema=SAMPLES)


def _codes(column: pa.ChunkedArray) -> Ints:
    return column.combine_chunks().dictionary_encode().indices.to_numpy()


def _sizes(first: Ints, n_rows: int) -> Ints:
    return np.diff(first, append=n_rows)


def _sums(flags: pa.ChunkedArray, first: Ints) -> Ints:
    return np.add.reduceat(flags.to_numpy().astype(np.int64), first)


def _means(column: pa.ChunkedArray, first: Ints) -> Floats:
    """Mean of each group's values that are not null; NaN where all are."""
    values = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy()
    means: Floats = np.add.reduceat(values, first) / _sums(column.is_valid(), first)
    return means


def _until_next(t_us: Ints, trail: Ints, first: Ints) -> Ints:
    """Microseconds from each group's first row to the next group's, or to the trail's last row."""
    last = np.append(first[1:] - 1, len(t_us) - 1)
    following = np.append(first[1:], len(t_us) - 1)
    until = np.where(trail[following] == trail[first], following, last)
    return t_us[until] - t_us[first]


def _rates(mean: dict[str, Floats], mid_s: Floats, trail: Ints) -> tuple[Floats, Floats]:
    """Speed of the ground point in m/s and motion of the box in its sizes per second, NaN where unknown.

    Each is taken to the trail's next sample; the last has that of the one before.
    """
    step_s = np.diff(mid_s)
    usable = (np.diff(trail) == 0) & (step_s >= MIN_STEP_S)
    x1, y1, x2, y2 = (mean[name] for name in _CORNERS)
    size = np.sqrt((x2 - x1) * (y2 - y1))[:-1]
    way = (np.hypot(np.diff(x1), np.diff(y1)) + np.hypot(np.diff(x2), np.diff(y2))) / 2
    rates = []
    for moved in (np.hypot(np.diff(mean["x_m"]), np.diff(mean["y_m"])), way / size):
        rate = np.append(np.where(usable, moved / step_s, np.nan), np.nan)
        before = np.append(np.nan, rate[:-1])
        is_last = np.append(np.diff(trail) != 0, True)
        has_before = np.append(False, np.diff(trail) == 0)
        rates.append(np.where(is_last & has_before, before, rate))
    return rates[0], rates[1]

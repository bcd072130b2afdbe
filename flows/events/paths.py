"""Observations -> the paths of tracks, in one unit, as flat arrays; and the events found on them, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.georeference import Floats
from flows.locate import jitter_m, sigma_of_ground_point_px
from flows.schema import State
from flows.store.base import Zone

Ints = npt.NDArray[np.int64]

COLUMNS = (
    *("source_id", "video_id", "track_id", "class_name", "ts", "pts_ns", "state"),
    *("x_px", "y_px", "x1_px", "y1_px", "x2_px", "y2_px", "x_m", "y_m", "sigma_m"),
)
"""The columns of `track_observations` that events are made from."""

US = 1_000_000
INFERRED_STATES = (State.BRIDGED.value, State.INTERPOLATED.value)


@dataclass(frozen=True, eq=False)
class Paths:
    """Observations by track and time, in one unit: (N,) arrays, `row` the observation's row in the table."""

    row: Ints
    track: npt.NDArray[np.int32]
    t_us: Ints
    x: Floats
    y: Floats
    sigma: Floats

    def xy(self, at: Ints) -> Floats:
        """Positions (M, 2) of some of them."""
        return np.stack([self.x[at], self.y[at]], axis=1)

    @cached_property
    def first(self) -> Ints:
        """(T,) where each track begins."""
        begins = np.flatnonzero(np.diff(self.track) != 0) + 1
        return np.concatenate([[0], begins]) if len(self.row) else np.empty(0, dtype=np.int64)

    @cached_property
    def last(self) -> Ints:
        """(T,) where each track ends, inclusive."""
        return np.append(self.first[1:], len(self.row))[: len(self.first)] - 1

    @cached_property
    def axis_us(self) -> Ints:
        """(N,) times on one rising axis, on which tracks follow each other far apart."""
        far = np.int64(3600 * US)
        length = self.t_us[self.last] - self.t_us[self.first] + far
        begin = np.concatenate([[0], np.cumsum(length)[:-1]]) if len(length) else np.empty(0, dtype=np.int64)
        of_track = np.repeat(np.arange(len(self.first)), self.last - self.first + 1)
        result: Ints = self.t_us - self.t_us[self.first][of_track] + begin[of_track]
        return result

    def window(self, window_us: int) -> tuple[Ints, Ints]:
        """(N,) and (N,) where the window about each observation begins and ends.

        It is as long as asked for, or reaches to the next observation where they are sparse; at a track's ends it is
        cut.
        """
        half, sizes = window_us // 2, self.last - self.first + 1
        before = np.searchsorted(self.axis_us, self.axis_us - half, side="right") - 1
        after = np.searchsorted(self.axis_us, self.axis_us + half, side="left")
        return np.maximum(before, np.repeat(self.first, sizes)), np.minimum(after, np.repeat(self.last, sizes))

    def speed(self, before: Ints, after: Ints) -> Floats:
        """(N,) units per second: the displacement over each observation's window; NaN where that has no length."""
        seconds = (self.t_us[after] - self.t_us[before]) / US
        seconds[seconds == 0] = np.nan
        result: Floats = np.hypot(self.x[after] - self.x[before], self.y[after] - self.y[before]) / seconds
        return result


@dataclass(frozen=True, eq=False)
class Found:
    """Events of one kind, (M,) arrays; `row` is the observation that made each, None leaves a column null.

    `begin` and `end` bound the observations an event speaks of, as places in the paths (inclusive): its speeds are
    taken over them.
    """

    kind: str
    zone: str
    row: Ints
    t_us: Ints
    duration_us: Ints | None = None
    direction: npt.NDArray[np.str_] | None = None
    other: npt.NDArray[np.str_] | None = None
    distance_m: Floats | None = None
    begin: Ints | None = None
    end: Ints | None = None


def paths(observations: pa.Table) -> dict[str, Paths]:
    """The paths by unit, `px` and `m`; observations without a position in a unit are left out of its paths."""

    def column(name: str) -> Floats:
        return pc.cast(observations[name], pa.float64()).to_numpy()

    encoded = observations["track_id"].combine_chunks().dictionary_encode()
    track, t_us = encoded.indices.to_numpy(), observations["ts"].cast(pa.int64()).to_numpy()
    # Stored observations come by time, which the stable sort is quick to see; few tracks then sort by counting.
    row = np.argsort(t_us, kind="stable")
    row = row[np.argsort(track[row].astype(np.min_scalar_type(len(encoded.dictionary))), kind="stable")]
    track, t_us = track[row], t_us[row]
    sigmas = {"px": sigma_of_ground_point_px(column("y1_px"), column("y2_px")), "m": jitter_m(observations)}
    result = {}
    for unit, sigma in sigmas.items():
        x, y = column(f"x_{unit}")[row], column(f"y_{unit}")[row]
        known = np.isfinite(x) & np.isfinite(y)
        own = slice(None) if known.all() else known
        result[unit] = Paths(row[own], track[own], t_us[own], x[own], y[own], np.nan_to_num(sigma[row[own]]))
    return result


def around(paths: Paths, points: Floats, margin: float | Floats) -> Ints:
    """Observations in the box around the points, grown by a margin (one for all, or (N,))."""
    (low_x, low_y), (high_x, high_y) = points.min(axis=0), points.max(axis=0)
    at = np.flatnonzero((paths.x + margin >= low_x) & (paths.x - margin <= high_x))
    y, margin_y = paths.y[at], margin[at] if isinstance(margin, np.ndarray) else margin
    return at[(y + margin_y >= low_y) & (y - margin_y <= high_y)]


def between(paths: Paths, start: Ints, end: Ints, share: Floats) -> Ints:
    """Times a share of the way from one observation to another."""
    result: Ints = paths.t_us[start] + np.round(share * (paths.t_us[end] - paths.t_us[start])).astype(np.int64)
    return result


def outline(zone: Zone) -> Floats:
    """A zone's points, (K, 2)."""
    return np.array(zone.points)

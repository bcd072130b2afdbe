"""Paths + a line -> crossings, counted once per track and direction.

The object must have been seen clear of the line before and after, by a multiple of its own ground point's standard
deviation: who stands on the line and sways crosses nothing. The time is interpolated to the line itself. `forward` is
from the left of the line to its right, as one walks it from its first point to its last:

    left              in the picture (y down) and on the plan (y up) alike: draw the line
    A ---------> B    from A to B; what starts above it and ends below it crosses
    right             it forward, what comes back up crosses it backward
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely

from flows.events.paths import Found, Ints, Paths, around, between, outline
from flows.georeference import Floats
from flows.schema import BoolArray
from flows.store.base import Zone


def crossings(paths: Paths, zone: Zone, clear_sigmas: float) -> Found:
    """The crossings of one line."""
    points = outline(zone)
    at, sign, share = _steps_over(paths, points)
    if zone.unit == "px":
        sign = -sign  # y runs down in the picture, so left and right are exchanged
    before, after = _clear_around(paths, points, clear_sigmas, at)
    settled = (before >= 0) & (after < len(paths.row))
    settled[settled] &= paths.track[before[settled]] == paths.track[at[settled]]
    settled[settled] &= paths.track[after[settled]] == paths.track[at[settled]]
    at, sign, share, before = at[settled], sign[settled], share[settled], before[settled]
    # Steps over the line between the same two observations clear of it: what counts is their sum.
    _, group = np.unique(before, return_inverse=True)
    net = np.sign(np.bincount(group, weights=sign, minlength=0)).astype(np.int64)
    that_way = np.flatnonzero((net[group] != 0) & (np.sign(sign) == net[group]))
    # Of them the last in the direction of the sum is the crossing, and of a track's crossings the first.
    last = that_way[np.append(np.diff(group[that_way]) != 0, True)[: len(that_way)]]
    direction = net[group[last]]
    _, first = np.unique(np.stack([paths.track[at[last]], direction], axis=1), axis=0, return_index=True)
    made, direction = last[first], direction[first]
    t_us = between(paths, at[made] - 1, at[made], share[made])
    return Found(
        "crossing",
        zone.name,
        paths.row[at[made]],
        t_us,
        direction=np.where(direction > 0, "forward", "backward"),
        begin=at[made],
        end=at[made],
    )


def _steps_over(paths: Paths, points: Floats) -> tuple[Ints, Ints, Floats]:
    """The steps of the paths that cross a polyline; step i leads from observation i - 1 to i.

    Returns:
        (M,) steps, ascending; (M,) their net crossings, positive from the left (y up) to the right; (M,) where in
        the step the line lies, as a share of it.
    """
    (low_x, low_y), (high_x, high_y) = points.min(axis=0), points.max(axis=0)
    # A step can only cross the line if the boxes around both overlap.
    near = (np.minimum(paths.x[1:], paths.x[:-1]) <= high_x) & (np.maximum(paths.x[1:], paths.x[:-1]) >= low_x)
    at = np.flatnonzero(near & (paths.track[1:] == paths.track[:-1])) + 1
    y0, y1 = paths.y[at - 1], paths.y[at]
    at = at[(np.minimum(y0, y1) <= high_y) & (np.maximum(y0, y1) >= low_y)]
    sign, share = np.zeros(len(at), dtype=np.int64), np.zeros(len(at))
    a, b = paths.xy(at - 1), paths.xy(at)
    for p, q in pairwise(points):
        side_a, side_b = _cross(q - p, a - p), _cross(q - p, b - p)
        # The half-open comparison counts a point on the line, or a corner of it, exactly once.
        over = ((side_a >= 0) != (side_b >= 0)) & ((_cross(b - a, p - a) >= 0) != (_cross(b - a, q - a) >= 0))
        sign[over] += np.where(side_a[over] >= 0, 1, -1)
        share[over] = side_a[over] / (side_a[over] - side_b[over])
    crossed = sign != 0
    return at[crossed], sign[crossed], share[crossed]


def _cross(a: Floats, b: Floats) -> Floats:
    result: Floats = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return result


def _clear_around(paths: Paths, points: Floats, clear_sigmas: float, at: Ints) -> tuple[Ints, Ints]:
    """For each step, the last observation before and the first after it that are clear of the polyline.

    They may belong to another track, or be -1 or the number of observations where there is none.
    """
    margin = clear_sigmas * paths.sigma
    # Only tracks that step over the line at all are looked at closely.
    steps_over = np.zeros(int(paths.track.max(initial=-1)) + 1, dtype=np.bool_)
    steps_over[paths.track[at]] = True
    close = around(paths, points, margin)
    close = close[steps_over[paths.track[close]]]
    line = shapely.linestrings(points)
    shapely.prepare(line)
    close = close[shapely.distance(line, shapely.points(paths.xy(close))) <= margin[close]]
    apart = np.diff(close) != 1
    begins = close[np.append(True, apart)[: len(close)]]
    ends = close[np.append(apart, True)[: len(close)]]
    if not len(close):
        return at - 1, at

    def run(i: Ints) -> tuple[Ints, BoolArray]:
        index = np.maximum(np.searchsorted(begins, i, side="right") - 1, 0)
        return index, (begins[index] <= i) & (i <= ends[index])

    before, hidden_before = run(at - 1)
    after, hidden_after = run(at)
    return np.where(hidden_before, begins[before] - 1, at - 1), np.where(hidden_after, ends[after] + 1, at)

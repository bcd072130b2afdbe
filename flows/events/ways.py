"""Observations on the ground -> where vehicles head: what stands heads where it came from."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.events.paths import US, Ints, paths
from flows.events.steady import common
from flows.georeference import Floats
from flows.locate import BOX, WHEELED

# Places are medians over so long, and over so many boxes: one bad box is none of them.
_PLACE_US, _BOXES = US // 3, 3
# A way is as long at the least: shorter ones are boxes that tremble.
_WAY_M = 4.0
# No step between two of its places is a larger share of a way: what leaps was hidden, or is something else.
_STEP = 0.5
# No way takes longer: what stood in between, or was out of sight, begins anew, as if it had driven so far meanwhile.
_LONGEST_US, _FAR_M = 10 * US, 1e6
# It stands until it has gone this share of a way.
_GONE = 0.1
# Of what goes that far, both sides of the box move the same way, or apart from each other, by this share of its size.
# What something passing in front of it hides has one side moved.
_MOVED = 0.05


def ways(observations: pa.Table) -> Floats:
    """Angle (N,) on the ground at which each vehicle (`WHEELED`) heads, radians; NaN for what goes nowhere or is none.

    It is that of the ways between places four metres apart, half-way along each; from one to the next it turns by the
    distance driven. What stands heads where it came from. Forwards and backwards are one.

    Args:
        observations: of one source, at least `paths.COLUMNS`, placed.
    """
    found = np.full(observations.num_rows, np.nan)
    rows = np.flatnonzero(pc.is_in(observations["class_name"], pa.array(WHEELED)))
    driven = observations.take(pa.array(rows))
    in_m = paths(driven)["m"]
    boxes = np.stack([driven[name].to_numpy().astype(np.float64) for name in BOX], axis=1)[in_m.row]
    for first, last in zip(in_m.first.tolist(), in_m.last.tolist(), strict=True):
        track = slice(first, last + 1)
        found[rows[in_m.row[track]]] = _along(in_m.t_us[track], in_m.xy(np.arange(first, last + 1)), boxes[track])
    return found


def _along(t_us: Ints, xy_m: Floats, boxes: Floats) -> Floats:
    """Angles (N,) along one path."""
    t, x, y, *sides = _medians(t_us, np.column_stack([t_us, xy_m, boxes])).T
    places, places_px = np.column_stack([x, y]), np.column_stack(sides)
    steps_m = np.hypot(*np.diff(places, axis=0, prepend=places[:1]).T)
    angles, middles, driven_m, begin, last = [], [], np.zeros(len(t)), 0, 0
    times, points = t.tolist(), places.tolist()
    for end, (to_x, to_y) in enumerate(points):
        while times[end] - times[begin] > _LONGEST_US:
            begin += 1
        from_x, from_y = points[begin]
        length = math.hypot(to_x - from_x, to_y - from_y)
        if length < _WAY_M or steps_m[begin + 1 : end + 1].max() > _STEP * length:
            continue
        if not _moves(places_px[begin], places_px[end]):
            continue
        along = (places[begin : end + 1] - places[begin]) @ (places[end] - places[begin]) / length
        # In order: what hides it for a moment while it stands is no part of the way.
        gone_m = np.sort(np.clip(along, 0, length))
        stood = begin > last
        first = int(np.argmax(gone_m > _GONE * length)) - 1 if stood else 0
        driven_m[last : begin + first] = driven_m[last]
        before_m = driven_m[last] + _FAR_M * stood
        driven_m[begin + first : end + 1] = before_m + gone_m[first:]
        angles.append(math.atan2(to_y - from_y, to_x - from_x))
        middles.append(before_m + length / 2)
        begin = last = end
    if not angles:
        return np.full(len(t_us), np.nan)
    driven_m[last:] = driven_m[last]
    result: Floats = np.interp(np.interp(t_us, t, driven_m), middles, np.unwrap(angles, period=np.pi))
    return result


def _medians(t_us: Ints, values: Floats) -> Floats:
    """(P, C) of the values (N, C) of each piece of a path."""
    n = len(t_us)
    each = max(_BOXES, round(_PLACE_US * (n - 1) / max(int(t_us[-1] - t_us[0]), 1)))
    piece = np.minimum(np.arange(n) // each, max(n // each - 1, 0))
    begins = np.flatnonzero(np.diff(piece, prepend=-1))
    middle = (begins + np.append(begins[1:], n)) // 2
    return np.column_stack([column[np.lexsort((column, piece))][middle] for column in values.T])


def _moves(before: Floats, after: Floats) -> bool:
    """Whether what has these boxes (4,) was moved, not hidden in part."""
    x1, y1, x2, y2 = after - before
    size = np.sqrt(max(float((before[2:] - before[:2]).prod()), 1.0))
    grown = common(-x1, x2) if common(-x1, x2) * y2 > 0 else 0.0
    return bool(np.hypot(np.hypot(common(x1, x2), common(y1, y2)), grown) > _MOVED * size)

"""Paths in metres -> proximity: a person and a machine nearer to each other than a distance.

Both are looked at on one grid of time, because their observations need not be simultaneous where they are thinned; the
pairs come from one search tree in which every step of time lies far from the next.
"""

from __future__ import annotations

import numpy as np
import shapely

from flows.events.paths import US, Found, Ints, Paths
from flows.georeference import Floats
from flows.schema import BoolArray

STEP_US = US // 4
"""A person who walks and a truck that drives come 2.5 m nearer within one such step at most."""
LONGEST_GAP_US = 2 * US
"""Between observations further apart, a track's place is not known."""


def proximity(
    paths: Paths,
    people: BoolArray,
    machines: BoolArray,
    reach_m: Floats,
    near_m: float,
    debounce_us: int,
    names: list[str],
) -> Found:
    """Encounters of people and machines, made by the person; `other` is the machine's track.

    Args:
        paths: in metres.
        people, machines: (N,) which observations are of which; one track is of one kind throughout.
        reach_m: (N,) how far machines reach from their positions, taken as round.
        near_m: distance of the person and what the machine reaches below which they are in proximity.
        debounce_us: a separation shorter than this does not end an encounter.
        names: track ids by the paths' numbers.
    """
    person, machine = (_on_grid(paths, flags) for flags in (people, machines))
    # Far from each other in the tree: no two steps can be neighbours.
    farthest = near_m + float(reach_m[machines].max(initial=0.0))
    far = float(np.ptp(paths.x)) + farthest + 1.0 if len(paths.x) else 1.0
    tree = shapely.STRtree(_points(paths, machine, far))
    pairs = tree.query(_points(paths, person, far), predicate="dwithin", distance=farthest)
    step, x, y, at, track = (values[pairs[0]] for values in person)
    _, other_x, other_y, other_at, other = (values[pairs[1]] for values in machine)
    distance = np.maximum(np.hypot(x - other_x, y - other_y) - reach_m[other_at], 0.0)
    order = np.lexsort((step, other, track))
    order = order[distance[order] <= near_m]
    step, at, track, other, distance = (values[order] for values in (step, at, track, other, distance))
    least = max(1, -(-debounce_us // STEP_US))
    apart = (np.diff(track) != 0) | (np.diff(other) != 0) | (np.diff(step) > least)
    first = np.flatnonzero(np.append(True, apart)[: len(step)])
    last = np.append(first[1:], len(step))[: len(first)] - 1
    nearest = np.minimum.reduceat(distance, first) if len(first) else distance
    return Found(
        "proximity",
        "",
        paths.row[at[first]],
        step[first] * STEP_US,
        duration_us=(step[last] - step[first] + 1) * STEP_US,
        other=np.array([names[i] for i in other[first]], dtype=np.str_),
        distance_m=nearest,
    )


_Grid = tuple[Ints, Floats, Floats, Ints, Ints]


def _on_grid(paths: Paths, flags: BoolArray) -> _Grid:
    """Where the flagged tracks are at every step of the grid: step, x, y, place of the observation before, track."""
    chosen = np.flatnonzero(flags[paths.first]) if len(paths.first) else paths.first
    first, last = paths.first[chosen], paths.last[chosen]
    begin, end = -(-paths.t_us[first] // STEP_US), paths.t_us[last] // STEP_US
    sizes = np.maximum(end - begin + 1, 0)
    of_track = np.repeat(np.arange(len(chosen)), sizes)
    step = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begin[of_track]
    # On the axis where tracks follow each other, one search finds every step's place.
    on_axis = step * STEP_US - paths.t_us[first][of_track] + paths.axis_us[first][of_track]
    before = np.maximum(np.searchsorted(paths.axis_us, on_axis, side="right") - 1, 0)
    after = np.minimum(before + 1, last[of_track])
    gap = paths.t_us[after] - paths.t_us[before]
    share = (on_axis - paths.axis_us[before]) / np.where(gap > 0, gap, 1)
    x, y = (c[before] + share * (c[after] - c[before]) for c in (paths.x, paths.y))
    known = gap <= LONGEST_GAP_US
    return step[known], x[known], y[known], before[known], paths.track[before[known]].astype(np.int64)


def _points(paths: Paths, grid: _Grid, far: float) -> np.ndarray:
    step, x, y, *_ = grid
    origin = int(paths.t_us.min()) // STEP_US if len(paths.t_us) else 0
    return shapely.points(x + (step - origin) * 2 * far, y)

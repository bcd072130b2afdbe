"""Paths -> presence: one event per track, with its speeds and the way it went."""

from __future__ import annotations

import numpy as np

from flows.events.paths import US, Found, Ints, Paths
from flows.georeference import Floats

P85 = 0.85
"""The speed that 85 of 100 do not exceed, which traffic engineers set limits by."""


def presence(paths: Paths, speed_m_s: Floats) -> Found:
    """One event per track; the way is the sum of windowed speeds times time, so that jitter does not lengthen it."""
    begin, end = paths.first, paths.last
    lasts_s = np.append(np.diff(paths.t_us), 0) / US
    lasts_s[end] = 0.0
    known = np.logical_or.reduceat(np.isfinite(speed_m_s), begin)
    way_m = np.where(known, np.add.reduceat(np.nan_to_num(speed_m_s) * lasts_s, begin), np.nan)
    return Found(
        "presence",
        "",
        paths.row[begin],
        paths.t_us[begin],
        duration_us=paths.t_us[end] - paths.t_us[begin],
        distance_m=way_m,
        begin=begin,
        end=end,
    )


def speeds(speed: Floats, begin: Ints, end: Ints) -> tuple[Floats, Floats, Floats]:
    """Mean, 85th percentile and greatest of the speeds from `begin` to `end` (inclusive); NaN where none is known."""
    sizes = end - begin + 1
    group = np.repeat(np.arange(len(begin)), sizes)
    at = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begin[group]
    values = speed[at]
    known = np.isfinite(values)
    group, values = group[known], values[known]
    count = np.bincount(group, minlength=len(begin))
    total = np.bincount(group, weights=values, minlength=len(begin))
    # One sort of single numbers for all groups, several times as fast as one by two keys: events follow each other on
    # an axis of speeds. Doubles leave a micrometre per second of a million events.
    apart = float(values.max(initial=0.0)) + 1.0
    values = np.sort(group * apart + values) - group * apart
    first = np.cumsum(count) - count
    result = [np.full(len(begin), np.nan) for _ in range(3)]
    some = count > 0
    result[0][some] = total[some] / count[some]
    # Linear between ranks, as numpy's quantile.
    place = first[some] + P85 * (count[some] - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, first[some] + count[some] - 1)
    result[1][some] = values[low] + (place - low) * (values[high] - values[low])
    result[2][some] = values[first[some] + count[some] - 1]
    return result[0], result[1], result[2]

"""Paths + changes of masks -> stops, waits in zones, and spans of activity and idleness.

An object stands where its displacement over the speed window is small. A `stop` is a span of standing, a `wait` one
inside a zone: their number at one moment is the zone's queue. A machine that stands may still work (a digger's arm
swings), so `active` is moving or changing its mask, and `idle` neither; without masks only moving counts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.config import EventSettings
from flows.events.paths import US, Found, Ints, Paths, around, outline
from flows.events.summary import speeds
from flows.events.work import CHANGES, STEPS
from flows.georeference import Floats
from flows.schema import BoolArray
from flows.store.base import Zone

_WEAK = 0.15
"""Less than this share of what a machine's shape usually changes by (85th percentile) is tremble of its masks."""
_LOOK_ASIDE = 4
"""Standing is looked for about two moments this share of the window apart, measured on paths that stop and start."""


def standing(paths: Paths, pace: Floats, window_us: int, pause_us: int) -> BoolArray:
    """(N,) which observations show an object that stands: about a moment before or one to come it hardly moved.

    Either suffices, or the window in which an object stops would still count as moving.

    Args:
        paths: of the objects.
        pace: (N,) speed over the window about each observation, as a share of the slowest that is moving.
        window_us: that window.
        pause_us: movements shorter than this between two stops are none.
    """
    before, after = paths.window(window_us // _LOOK_ASIDE)
    return _without_short(paths, np.fmin(pace[before], pace[after]) < 1, pause_us)


def stops(paths: Paths, stands: BoolArray, least_us: int) -> Found:
    """Spans of standing no shorter than `least_us`."""
    return _found("stop", "", paths, *spans(paths, stands), least_us)


def waits(paths: Paths, stands: BoolArray, zone: Zone, least_us: int) -> Found:
    """Spans of standing inside a zone."""
    import shapely

    polygon = shapely.polygons(outline(zone))
    shapely.prepare(polygon)
    near = around(paths, outline(zone), 0.0)
    inside = np.zeros(len(paths.row), dtype=np.bool_)
    inside[near] = shapely.contains_xy(polygon, paths.x[near], paths.y[near])
    return _found("wait", zone.name, paths, *spans(paths, stands & inside), least_us)


def activity(paths: Paths, stands: BoolArray, changes: Floats, settings: EventSettings) -> list[Found]:
    """Spans of activity and of idleness; together they cover every track.

    Args:
        paths: of the objects.
        stands: (N,) from `standing`.
        changes: (N,) from `changes_at`.
        settings: of events.
    """
    pause_us = round(settings.idle_seconds * US)
    _, typical, _ = speeds(np.where(stands, changes, np.nan), paths.first, paths.last)
    least = np.fmax(_WEAK * typical, settings.work_share)
    with np.errstate(invalid="ignore", divide="ignore"):  # unknown, and never changed
        works = changes > np.repeat(least, paths.last - paths.first + 1)
        # A window about a moment of rest still sees the work before and after it, until too little of it is left.
        unseen = np.nan_to_num(np.clip(least / typical, 0, 1))
    works = _shrunk(paths, works, (1 - unseen) * settings.work_seconds * US / 2)
    works = _without_short(paths, works | ~stands, pause_us)
    works = ~_without_short(paths, ~works, pause_us)
    return [
        _found(kind, "", paths, *spans(paths, flags), 0, to_next=True)
        for kind, flags in (("active", works), ("idle", ~works))
    ]


def changes_at(observations: pa.Table, paths: Paths, changes: pa.Table, window_us: int) -> Floats:
    """(N,) how much the mask of each observation's object changed in the window about it, NaN where that is not known.

    Args:
        observations: the table the paths were made of.
        paths: of the objects.
        changes: schema `work.CHANGES`.
        window_us: over which they were taken.
    """
    result = np.full(len(paths.row), np.nan)
    if not changes.num_rows:
        return result
    assert changes.schema.equals(CHANGES)
    names = observations["track_id"].combine_chunks().dictionary_encode().dictionary
    code = pa.compute.index_in(changes["track_id"], value_set=names).to_numpy()
    order = np.lexsort((changes["ts"].cast(pa.int64()).to_numpy(), code))
    code = code[order]
    t_us, change = changes["ts"].cast(pa.int64()).to_numpy()[order], changes["change"].to_numpy()[order]
    first, last = np.searchsorted(code, paths.track[paths.first]), np.searchsorted(code, paths.track[paths.first] + 1)
    for track, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if a == b:
            continue
        own = slice(int(paths.first[track]), int(paths.last[track]) + 1)
        result[own] = _between(t_us[a:b], _median(change[a:b]), paths.t_us[own], window_us)
    return result


def _median(values: Floats) -> Floats:
    """The median of each value and its neighbours: a mask that is reset once jumps, an arm keeps moving."""
    reach = STEPS // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="edge"), 2 * reach + 1)
    result: Floats = np.median(around, axis=1)
    return result


def _between(times: Ints, values: Floats, wanted: Ints, reach: int) -> Floats:
    """Values at the wanted times, linear between known ones; NaN where none is known within reach.

    The nearest known one instead would move the ends of work by up to half a step, always towards rest.
    """
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    gap = np.abs(times[np.stack([np.maximum(after - 1, 0), after])] - wanted).min(axis=0)
    return np.where(gap <= reach, np.interp(wanted, times, values), np.nan)


def _without_short(paths: Paths, flags: BoolArray, least_us: int) -> BoolArray:
    """The flags with gaps shorter than `least_us` between two spans of one track filled."""
    filled = flags.copy()
    begin, end = spans(paths, ~flags)
    # From the last that is flagged to the first that is again.
    inner = (begin > 0) & (end < len(flags) - 1)
    begin, end = begin[inner], end[inner]
    inside = (paths.track[begin - 1] == paths.track[begin]) & (paths.track[end + 1] == paths.track[end])
    short = inside & (paths.t_us[np.minimum(end + 1, len(flags) - 1)] - paths.t_us[begin] < least_us)
    for a, b in zip(begin[short].tolist(), end[short].tolist(), strict=True):
        filled[a : b + 1] = True
    return filled


def _shrunk(paths: Paths, flags: BoolArray, by_us: Floats) -> BoolArray:
    """The flags without what lies nearer than `by_us` (T,) of its track to a span's end; ends of tracks are none."""
    begin, end = spans(paths, flags)
    less_us = by_us[np.searchsorted(paths.first, begin, side="right") - 1]
    from_us = np.where(np.isin(begin, paths.first), paths.axis_us[begin], paths.axis_us[begin] + less_us)
    until_us = np.where(np.isin(end, paths.last), paths.axis_us[end], paths.axis_us[end] - less_us)
    first = np.searchsorted(paths.axis_us, from_us, side="left")
    last = np.searchsorted(paths.axis_us, until_us, side="right")
    edges = np.zeros(len(flags) + 1, dtype=np.int64)
    some = last > first
    np.add.at(edges, first[some], 1)
    np.add.at(edges, last[some], -1)
    shrunk: BoolArray = np.cumsum(edges[:-1]) > 0
    return shrunk


def spans(paths: Paths, flags: BoolArray) -> tuple[Ints, Ints]:
    """First and last place, inclusive, of each unbroken span of flags within a track."""
    at = np.flatnonzero(flags)
    if not len(at):
        return at, at
    breaks = (np.diff(at) != 1) | (np.diff(paths.track[at]) != 0)
    return at[np.append(True, breaks)], at[np.append(breaks, True)]


def _found(kind: str, zone: str, paths: Paths, begin: Ints, end: Ints, least_us: int, to_next: bool = False) -> Found:
    """Spans as events; `to_next` lets one last until the next observation of its track, where the next span begins."""
    until = end
    if to_next and len(end):
        beside = np.minimum(end + 1, len(paths.row) - 1)
        until = np.where(paths.track[beside] == paths.track[end], beside, end)
    duration_us = paths.t_us[until] - paths.t_us[begin]
    long = duration_us >= least_us
    begin, end = begin[long], end[long]
    return Found(kind, zone, paths.row[begin], paths.t_us[begin], duration_us=duration_us[long], begin=begin, end=end)

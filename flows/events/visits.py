"""Paths + a zone -> visits: stays in it, with dwell.

A visit begins and ends where the path crosses the zone's edge, interpolated between observations. Absences shorter than
the debounce time do not end it. Stays shorter than it are none, unless the object was seen in the zone clear of its
edge, by a multiple of its own ground point's standard deviation: a car drives through one in a moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely

from flows.events.paths import Found, Ints, Paths, around, between, outline
from flows.schema import BoolArray
from flows.store.base import Zone


def visits(paths: Paths, zone: Zone, debounce_us: int, clear_sigmas: float) -> Found:
    """The visits of one zone."""
    polygon = shapely.polygons(outline(zone))
    shapely.prepare(polygon)
    inside = around(paths, outline(zone), 0.0)
    inside = inside[shapely.contains_xy(polygon, paths.x[inside], paths.y[inside])]
    goes_on = (np.diff(inside) == 1) & (np.diff(paths.track[inside]) == 0)
    begins = inside[np.concatenate([[True], ~goes_on])] if len(inside) else inside
    ends = inside[np.concatenate([~goes_on, [True]])] if len(inside) else inside
    enter_us = _edge_time(paths, polygon, begins, -1)
    exit_us = _edge_time(paths, polygon, ends, 1)
    # Stays of one track with only a short absence between are one visit: the first's begin, the last's end.
    again = (np.diff(paths.track[begins]) == 0) & (enter_us[1:] - exit_us[:-1] < debounce_us)
    first = np.flatnonzero(np.concatenate([[True], ~again])[: len(begins)])
    last = np.concatenate([first[1:], [len(begins)]])[: len(first)] - 1
    duration_us = exit_us[last] - enter_us[first]
    counts = duration_us >= debounce_us
    counts[~counts] = _was_clear(paths, polygon, inside, begins[first[~counts]], ends[last[~counts]], clear_sigmas)
    first, last, duration_us = first[counts], last[counts], duration_us[counts]
    return Found(
        "visit",
        zone.name,
        paths.row[begins[first]],
        enter_us[first],
        duration_us=duration_us,
        begin=begins[first],
        end=ends[last],
    )


def _was_clear(paths: Paths, polygon: Any, inside: Ints, begins: Ints, ends: Ints, clear_sigmas: float) -> BoolArray:
    """Whether any of the observations `inside`, from each begin to its end, is clear of the polygon's edge."""
    low, high = np.searchsorted(inside, begins), np.searchsorted(inside, ends, side="right")
    edge = shapely.boundary(polygon)
    shapely.prepare(edge)
    of_stay = np.repeat(np.arange(len(begins)), high - low)
    at = inside[np.arange(len(of_stay)) + np.repeat(low - np.append(0, np.cumsum(high - low)[:-1]), high - low)]
    clear = shapely.distance(edge, shapely.points(paths.xy(at))) > clear_sigmas * paths.sigma[at]
    return np.bincount(of_stay, weights=clear, minlength=len(begins)) > 0


def _edge_time(paths: Paths, polygon: Any, at: Ints, step: int) -> Ints:
    """When the path between the observation `at`, inside, and its neighbour outside crosses the polygon's edge.

    Where a track begins or ends inside there is no such neighbour: the observation's own time.
    """
    beside = np.clip(at + step, 0, max(len(paths.row) - 1, 0))
    beside = np.where(paths.track[beside] == paths.track[at], beside, at)
    way = shapely.linestrings(np.stack([paths.xy(at), paths.xy(beside)], axis=1))
    length = shapely.length(way)
    share = shapely.length(shapely.intersection(way, polygon)) / np.where(length > 0, length, 1)
    return between(paths, at, beside, share)

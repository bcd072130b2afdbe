"""Paths + a zone -> visits: stays in it, with dwell.

A visit begins and ends where the path crosses the zone's edge, interpolated between observations. Absences shorter than
the debounce time do not end it. Stays shorter than it are none, unless the path leads over the edge and in the zone
comes clear of it, by a multiple of the ground point's own standard deviation: a car drives through one in a moment.
Where what the picture's edge cuts below or at a side touches the ground, nobody knows: that is clear of nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely

from flows.events.paths import Found, Ints, Paths, around, between, outline
from flows.schema import BoolArray
from flows.store.base import Zone


def visits(paths: Paths, zone: Zone, cut: BoolArray, debounce_us: int, clear_sigmas: float, least_us: int = 0) -> Found:
    """The visits of one zone, but those shorter than `least_us`; `cut` (N,): as `locate.off_the_ground` says."""
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
    # Every observation inside is of the stay that began last.
    stay = np.searchsorted(begins[first], inside, side="right") - 1
    short, at = stay[~counts[stay]], inside[~counts[stay]]
    edge = shapely.boundary(polygon)
    clear = shapely.distance(edge, shapely.points(paths.xy(at))) > clear_sigmas * paths.sigma[at]
    clear &= ~cut[at]
    # A piece of a track that begins and ends inside leads nowhere.
    leads = (_beside(paths, begins[first], -1) != begins[first]) | (_beside(paths, ends[last], 1) != ends[last])
    counts[short[clear & leads[short]]] = True
    counts &= duration_us >= least_us
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


def _edge_time(paths: Paths, polygon: Any, at: Ints, step: int) -> Ints:
    """When the path between the observation `at`, inside, and its neighbour outside crosses the polygon's edge.

    Where a track begins or ends inside there is no such neighbour: the observation's own time.
    """
    beside = _beside(paths, at, step)
    way = shapely.linestrings(np.stack([paths.xy(at), paths.xy(beside)], axis=1))
    length = shapely.length(way)
    share = shapely.length(shapely.intersection(way, polygon)) / np.where(length > 0, length, 1)
    return between(paths, at, beside, share)


def _beside(paths: Paths, at: Ints, step: int) -> Ints:
    """The observations before (-1) or after (1) these on their tracks; themselves where there is none."""
    beside = np.clip(at + step, 0, max(len(paths.row) - 1, 0))
    return np.where(paths.track[beside] == paths.track[at], beside, at)

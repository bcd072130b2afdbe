"""Observations -> the same, with one box for a machine that works where it stands: what its boxes have in common.

An arm that swings moves the box and its lower edge, and with them the place where the machine seems to be, by metres.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.config import EventSettings
from flows.events.activity import spans, standing
from flows.events.paths import US, Ints, Paths, paths
from flows.georeference import Floats
from flows.locate import POINT, with_columns

_COLUMNS = ("x1_px", "y1_px", "x2_px", "y2_px", *POINT)
_INNER = (0.75, 0.75, 0.25, 0.25)
"""The quartile of each side that reaches less far."""
_CUT_PX = 2.0
"""A box whose side lies this near to the picture's edge goes on beyond it."""

_LEAST_US, _ELSEWHERE = 10 * US, 0.25
"""Two spans of a stand, as long as an arm's way round, lie apart by so many sizes where the machine was moved."""


def steady(observations: pa.Table, sizes_px: Mapping[str, tuple[int, int]], settings: EventSettings) -> pa.Table:
    """Give machines that stand one box for as long as they do.

    A machine stands while no two opposite sides of its box move the same way: an arm moves one of them, or both apart.
    Its box then lies between the quartiles of the sides that reach least far, so that neither arms nor what hid it for
    a moment counts. What crawls too slowly for that to be seen at once has one box after another.

    Args:
        observations: of one source, at least `paths.COLUMNS`.
        sizes_px: width and height of the pictures by video.
        settings: `working_classes`, and what counts as standing.

    Returns:
        The same rows; boxes and ground points in pixels differ.
    """
    rows = np.flatnonzero(pc.is_in(observations["class_name"], pa.array(settings.working_classes, pa.string())))
    if not len(rows):
        return observations
    in_px = paths(observations.take(pa.array(rows)))["px"]
    rows = rows[in_px.row]
    columns = np.stack([observations[name].to_numpy().astype(np.float64) for name in _COLUMNS], axis=1)
    boxes = columns[rows, :4]
    ids = observations["video_id"].take(pa.array(rows)).to_pylist()
    edges = np.array([(0, 0, *sizes_px[video_id]) for video_id in ids])
    for first, last in zip(*_stands(in_px, boxes, edges, settings), strict=True):
        span = slice(first, last + 1)
        boxes[span] = _in_common(boxes[span], in_px.t_us[span])
    columns[rows] = np.column_stack([boxes, boxes[:, [0, 2]].mean(axis=1), boxes[:, 3]])
    return with_columns(observations, _COLUMNS, columns)


def _stands(in_px: Paths, boxes: Floats, edges: Floats, settings: EventSettings) -> tuple[Ints, Ints]:
    """First and last place, inclusive, of each stand of machines with boxes (N, 4) in pictures with `edges` (N, 4).

    As between two stands, movements shorter than a pause are none between a stand and its track's end.
    """
    cut = np.abs(boxes - edges) < _CUT_PX
    window_us = round(settings.speed_window_seconds * US)
    before, after = in_px.window(window_us)
    moved = np.where(cut[before] | cut[after], np.nan, boxes[after] - boxes[before])
    seconds = np.maximum(in_px.t_us[after] - in_px.t_us[before], 1) / US
    size = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1))
    travelled = np.hypot(_common(moved[:, 0], moved[:, 2]), _common(moved[:, 1], moved[:, 3]))
    pace = travelled / seconds / size / settings.standing_sizes_s
    pause_us = round(settings.idle_seconds * US)
    begin, end = spans(in_px, standing(in_px, pace, window_us, pause_us))
    track = np.searchsorted(in_px.first, begin, side="right") - 1
    first, last = in_px.first[track], in_px.last[track]
    begin = np.where(in_px.t_us[begin] - in_px.t_us[first] < pause_us, first, begin)
    return begin, np.where(in_px.t_us[last] - in_px.t_us[end] < pause_us, last, end)


def _in_common(boxes: Floats, t_us: Ints) -> Floats:
    """What the boxes (N, 4) of a stand have in common, for each of them; by halves where these lie apart."""
    core = _core(boxes)
    half = len(boxes) // 2
    if half and t_us[-1] - t_us[0] >= 2 * _LEAST_US:
        moved = _core(boxes[half:]) - _core(boxes[:half])
        size = np.sqrt(np.maximum((core[2:] - core[:2]).clip(0).prod(), 1))
        if np.hypot(*_common(moved[:2], moved[2:])) > _ELSEWHERE * size:
            return np.concatenate([_in_common(boxes[part], t_us[part]) for part in (slice(half), slice(half, None))])
    return np.tile(core, (len(boxes), 1)) if (core[2:] > core[:2]).all() else boxes


def _core(boxes: Floats) -> Floats:
    return np.array([np.quantile(side, share) for side, share in zip(boxes.T, _INNER, strict=True)])


def _common(one: Floats, other: Floats) -> Floats:
    """What two opposite sides both moved by; where the picture cuts one of them, what the other did."""
    lesser = np.where(np.abs(one) < np.abs(other), one, other)
    both = np.where(one * other > 0, lesser, 0.0)
    return np.where(np.isnan(one), np.nan_to_num(other), np.where(np.isnan(other), one, both))

"""Observations -> the same, with one box for a machine whose arm swings while it stands: what its boxes have in common.

An arm moves the box and its lower edge, and with them the place where the machine seems to be, by metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.carried import at_edge
from flows.config import EventSettings
from flows.events.activity import spans, standing
from flows.events.paths import US, Ints, Paths, paths
from flows.georeference import Floats
from flows.locate import BOX, POINT, with_columns

_COLUMNS = (*BOX, *POINT)
_UNKNOWN_PX = (np.inf, np.inf)
# Movements shorter than this are an arm's.
_PAUSE_US = round(1.5 * US)
# What comes nearer or goes away grows or shrinks to both sides while its lower edge goes down or up, both by more than
# this in sizes a second over so long. An arm that reaches down moves one side, a machine that turns no lower edge.
_LOOK_US, _GROWN, _NEARER = 3 * US, 0.003, 0.03
# An arm has gone round in so long. What lies so many sizes apart after that was moved, or hidden, or is no longer.
_PIECE_US, _ELSEWHERE = 10 * US, 0.25


def steady(observations: pa.Table, sizes_px: Mapping[str, tuple[int, int]], settings: EventSettings) -> pa.Table:
    """Give machines with arms one box for as long as they stand.

    A machine stands while no two opposite sides of its box move the same way, for an arm moves one of them, and it does
    not come nearer or go away either. Its box then lies between the quartiles of the sides that reach least far, so
    that neither arms nor what hid it for a moment counts. What crawls too slowly for that to be seen at once has one
    box after another, and so has what is hidden for long.

    Args:
        observations: of one source, at least `paths.COLUMNS`.
        sizes_px: width and height of the pictures by video.
        settings: `arm_classes`, and what counts as standing.

    Returns:
        The same rows; boxes and ground points in pixels differ.
    """
    rows = np.flatnonzero(pc.is_in(observations["class_name"], pa.array(settings.arm_classes, pa.string())))
    in_px = paths(observations.take(pa.array(rows)))["px"]
    rows = rows[in_px.row]
    if not len(rows):
        return observations
    columns = np.stack([observations[name].to_numpy().astype(np.float64) for name in _COLUMNS], axis=1)
    boxes = columns[rows, :4]
    ids = observations["video_id"].take(pa.array(rows)).to_pylist()
    pictures_px = np.array([sizes_px.get(video_id, _UNKNOWN_PX) for video_id in ids], dtype=np.float64)
    for first, last in zip(*_stands(in_px, boxes, pictures_px, settings), strict=True):
        span = slice(first, last + 1)
        boxes[span] = _in_common(boxes[span], in_px.t_us[span])
    columns[rows] = np.column_stack([boxes, boxes[:, [0, 2]].mean(axis=1), boxes[:, 3]])
    return with_columns(observations, _COLUMNS, columns)


def _stands(in_px: Paths, boxes: Floats, pictures_px: Floats, settings: EventSettings) -> tuple[Ints, Ints]:
    """First and last place, inclusive, of each stand of machines with boxes (N, 4) in pictures of a size (N, 2).

    As between two stands, movements shorter than a pause are none between a stand and its track's end.
    """
    size = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1))[:, None]
    cut = at_edge(boxes, pictures_px)

    def speed(window_us: int) -> Floats:
        before, after = in_px.window(window_us)
        seconds = np.maximum(in_px.t_us[after] - in_px.t_us[before], 1)[:, None] / US
        return np.where(cut[before] | cut[after], np.nan, boxes[after] - boxes[before]) / seconds / size

    window_us = round(settings.speed_window_seconds * US)
    x1, y1, x2, y2 = speed(window_us).T
    pace = np.hypot(common(x1, x2), common(y1, y2)) / settings.standing_sizes_s
    x1, _, x2, y2 = speed(_LOOK_US).T
    grown = common(-x1, x2)
    drives = (grown * y2 > 0) & (np.abs(grown) > _GROWN) & (np.abs(y2) > _NEARER)
    begin, end = spans(in_px, standing(in_px, np.where(drives, np.inf, pace), window_us, _PAUSE_US))
    track = np.searchsorted(in_px.first, begin, side="right") - 1
    first, last = in_px.first[track], in_px.last[track]
    begin = np.where(in_px.t_us[begin] - in_px.t_us[first] < _PAUSE_US, first, begin)
    return begin, np.where(in_px.t_us[last] - in_px.t_us[end] < _PAUSE_US, last, end)


def _in_common(boxes: Floats, t_us: Ints) -> Floats:
    """What the boxes (N, 4) of a stand have in common, for each of them; apart where pieces of it lie apart."""
    pieces = max(int(t_us[-1] - t_us[0]) // _PIECE_US, 1)
    piece = np.minimum((t_us - t_us[0]) // _PIECE_US, pieces - 1)
    starts = [*np.flatnonzero(np.diff(piece, prepend=-1)).tolist(), len(boxes)]
    cores = [_core(boxes[a:b]) for a, b in pairwise(starts)]
    result, begin = boxes.copy(), 0
    for i in range(1, len(starts)):
        if i < len(cores) and not _elsewhere(cores[begin], cores[i]):
            continue
        span = slice(starts[begin], starts[i])
        core = _core(boxes[span])
        if (core[2:] > core[:2]).all():
            result[span] = core
        begin = i
    return result


def _core(boxes: Floats) -> Floats:
    """The quartile of each side that reaches less far."""
    low, high = np.quantile(boxes, (0.25, 0.75), axis=0)
    return np.concatenate([high[:2], low[2:]])


def _elsewhere(one: Floats, other: Floats) -> bool:
    """Whether a machine has moved from one box to another; what hides its lower edge moves it, too."""
    x1, _, x2, y2 = other - one
    size = np.sqrt(max(float((one[2:] - one[:2]).clip(0).prod()), 1))
    return bool(np.hypot(common(x1, x2), y2) > _ELSEWHERE * size)


def common(one: Floats, other: Floats) -> Floats:
    """What two opposite sides both moved by; where the picture cuts one of them, what the other did."""
    lesser = np.where(np.abs(one) < np.abs(other), one, other)
    both = np.where(one * other > 0, lesser, 0.0)
    return np.where(np.isnan(one), np.nan_to_num(other), np.where(np.isnan(other), one, both))

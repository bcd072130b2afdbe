"""CVAT for video 1.1: tracks as people correct them, to be trained on again.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Every stored box is written; only those that a line
between their neighbours would miss by more than a pixel are keyframes, so that a person has few to move. Of polygons
every one is a keyframe: between two of different corners CVAT has to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows import outlines
from flows.export.selection import BOX, Selection, class_of
from flows.georeference import Floats
from flows.schema import BoolArray, State
from flows.tracks import short_ids

_TOLERANCE_PX = 1.0
"""How far an edge of a box may lie from where CVAT interpolates it."""

_Shapes = Callable[[pa.Table, int], Iterable[str]]
"""The observations of one track and the video's number of frames -> its elements."""


def write_cvat(selection: Selection, path: Path) -> int:
    """A track a track, a box an observation; hidden objects are `occluded`, and `outside` where nothing is stored."""
    return _write(selection, path, BOX, _boxes)


def write_cvat_polygons(selection: Selection, path: Path) -> int:
    """The same with the outline of the mask's largest piece; the box's corners where no mask is stored."""
    return _write(selection, path, (*BOX, "mask"), _polygons)


def _write(selection: Selection, path: Path, columns: Sequence[str], shapes: _Shapes) -> int:
    video = selection.only_video()
    numbers = short_ids(selection.store, video["video_id"])
    n_frames = max(1, round(video["duration_s"] * video["fps"]))
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(selection, video, n_frames))
        for rows in selection.of_video(video["video_id"]).trajectories(("frame", "class_name", "state", *columns)):
            track_id = rows["track_id"][0].as_py()
            number = numbers.setdefault(track_id, len(numbers) + 1)
            label = class_of(rows)
            file.write(f'  <track id="{number - 1}" label={quoteattr(label)} source="auto">\n')
            file.writelines(shapes(rows, n_frames))
            file.write("  </track>\n")
            n_rows += rows.num_rows
        file.write("</annotations>\n")
    return n_rows


def _head(selection: Selection, video: dict[str, Any], n_frames: int) -> str:
    names = selection.store.query(
        "select distinct class_name from tracklets where video_id = $video_id order by 1",
        {"video_id": video["video_id"]},
    )["class_name"].to_pylist()
    labels = "".join(f"<label><name>{escape(name)}</name><attributes></attributes></label>" for name in names)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        f"      <name>{escape(Path(video['uri']).name)}</name><size>{n_frames}</size><mode>interpolation</mode>"
        f"<start_frame>0</start_frame><stop_frame>{n_frames - 1}</stop_frame>\n"
        f"      <labels>{labels}</labels>\n"
        f"      <original_size><width>{video['width_px']}</width><height>{video['height_px']}</height>"
        "</original_size>\n"
        f"    </task>\n    <source>{escape(Path(video['uri']).name)}</source>\n  </meta>\n"
    )


def _boxes(rows: pa.Table, n_frames: int) -> Iterator[str]:
    """The boxes of one track, and one `outside` after each run of frames, so that nothing is drawn across a gap."""
    for frames, run in _runs(rows):
        boxes_px, hidden = _boxes_px(run), _hidden(run)
        keys = _keyframes(frames, boxes_px)
        keys |= np.diff(hidden, prepend=hidden[0])
        texts = [_corners(box_px) for box_px in boxes_px]
        for frame, text, key, unseen in zip(frames, texts, keys, hidden, strict=True):
            yield _shape("box", frame, text, key=key, hidden=unseen)
        if frames[-1] + 1 < n_frames:
            yield _shape("box", frames[-1] + 1, texts[-1], outside=True)


def _polygons(rows: pa.Table, n_frames: int) -> Iterator[str]:
    """The same as `_boxes` of outlines."""
    for frames, run in _runs(rows):
        texts = [
            _points(_rectangle(box_px) if mask is None else outlines.from_bytes(mask)[0])
            for box_px, mask in zip(_boxes_px(run), run["mask"].to_pylist(), strict=True)
        ]
        for frame, text, unseen in zip(frames, texts, _hidden(run), strict=True):
            yield _shape("polygon", frame, text, hidden=unseen)
        if frames[-1] + 1 < n_frames:
            yield _shape("polygon", frames[-1] + 1, texts[-1], outside=True)


def _runs(rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Frames and observations of one track, run by run without a gap."""
    frames = rows["frame"].to_numpy()
    # Of observations that share a nominal frame number the last stands for it.
    last = np.append(np.diff(frames) > 0, True)
    frames, rows = frames[last], rows.filter(pa.array(last))
    starts = [0, *(np.flatnonzero(np.diff(frames) > 1) + 1).tolist(), len(frames)]
    for start, end in pairwise(starts):
        yield frames[start:end], rows.slice(start, end - start)


def _boxes_px(rows: pa.Table) -> Floats:
    return np.stack([rows[name].to_numpy() for name in BOX], axis=1).astype(np.float64)


def _hidden(rows: pa.Table) -> BoolArray:
    return np.asarray(pc.equal(rows["state"], State.BRIDGED.value).to_numpy())


def _shape(kind: str, frame: int, where: str, *, key: bool = True, outside: bool = False, hidden: bool = False) -> str:
    return (
        f'    <{kind} frame="{frame}" keyframe="{key:d}" outside="{outside:d}" occluded="{hidden:d}" {where} '
        f'z_order="0"></{kind}>\n'
    )


def _corners(box_px: Floats) -> str:
    return " ".join(f'{name}="{value:.2f}"' for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box_px, strict=True))


def _rectangle(box_px: Floats) -> Floats:
    x1, y1, x2, y2 = box_px
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _points(ring_px: np.ndarray) -> str:
    return 'points="' + ";".join(f"{x:.2f},{y:.2f}" for x, y in ring_px) + '"'


def _keyframes(frames: np.ndarray, boxes_px: Floats) -> BoolArray:
    """The boxes between which lines miss none by more than the tolerance (Ramer, 1972; Douglas and Peucker, 1973)."""
    keys = np.zeros(len(frames), dtype=np.bool_)
    keys[[0, -1]] = True
    todo = [(0, len(frames) - 1)]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        share = ((frames[first + 1 : last] - frames[first]) / (frames[last] - frames[first]))[:, None]
        line = boxes_px[first] + share * (boxes_px[last] - boxes_px[first])
        off = np.abs(boxes_px[first + 1 : last] - line).max(axis=1)
        worst = int(off.argmax())
        if off[worst] > _TOLERANCE_PX:
            middle = first + 1 + worst
            keys[middle] = True
            todo += [(first, middle), (middle, last)]
    return keys

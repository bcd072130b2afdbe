"""CVAT for video 1.1: tracks as people correct them, to be trained on again.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Every stored box is written; only those that a line
between their neighbours would miss by more than a pixel are keyframes, so that a person has few to move.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.export.selection import BOX, Selection, class_of
from flows.georeference import Floats
from flows.schema import BoolArray, State
from flows.tracks import short_ids

_TOLERANCE_PX = 1.0
"""How far an edge of a box may lie from where CVAT interpolates it."""


def write_cvat(selection: Selection, path: Path) -> int:
    """A track a track, a box an observation; hidden objects are `occluded`, and `outside` where nothing is stored."""
    video = selection.only_video()
    numbers = short_ids(selection.store, video["video_id"])
    n_frames = max(1, round(video["duration_s"] * video["fps"]))
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(selection, video, n_frames))
        for rows in selection.of_video(video["video_id"]).trajectories(("frame", "class_name", "state", *BOX)):
            track_id = rows["track_id"][0].as_py()
            number = numbers.setdefault(track_id, len(numbers) + 1)
            label = class_of(rows)
            file.write(f'  <track id="{number - 1}" label={quoteattr(label)} source="auto">\n')
            for box in _boxes(rows, n_frames):
                file.write(box)
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
    frames = rows["frame"].to_numpy()
    # Of observations that share a nominal frame number the last stands for it.
    last = np.append(np.diff(frames) > 0, True)
    frames, rows = frames[last], rows.filter(pa.array(last))
    boxes_px = np.stack([rows[name].to_numpy() for name in BOX], axis=1).astype(np.float64)
    hidden = pc.equal(rows["state"], State.BRIDGED.value).to_numpy()
    for run in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1):
        keys = _keyframes(frames[run], boxes_px[run])
        keys |= np.diff(hidden[run], prepend=hidden[run[0]])
        for row, key in zip(run, keys, strict=True):
            yield _box(int(frames[row]), boxes_px[row], key=bool(key), hidden=bool(hidden[row]))
        if frames[run[-1]] + 1 < n_frames:
            yield _box(int(frames[run[-1]]) + 1, boxes_px[run[-1]], outside=True)


def _box(frame: int, box_px: Floats, *, key: bool = True, outside: bool = False, hidden: bool = False) -> str:
    corners = " ".join(
        f'{name}="{value:.2f}"' for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box_px, strict=True)
    )
    return (
        f'    <box frame="{frame}" keyframe="{key:d}" outside="{outside:d}" occluded="{hidden:d}" {corners} '
        'z_order="0"></box>\n'
    )


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

"""CVAT for video 1.1: tracks as people correct them, to be trained on again.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Every stored box is written; only those that a line
between their neighbours would miss by more than a pixel are keyframes, so that a person has few to move. Of polygons
every one is a keyframe: between two of different corners CVAT has to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise, zip_longest
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows import outlines
from flows.export.selection import BOX, Selection, class_of
from flows.georeference import Floats
from flows.outlines import Ring
from flows.schema import BoolArray, State
from flows.tracks import short_ids

_TOLERANCE_PX = 1.0
"""How far an edge of a box may lie from where CVAT interpolates it."""

_Shapes = Callable[[pa.Table, int], Iterable[Iterable[str]]]
"""The observations of one track and the video's number of frames -> the elements of each track CVAT makes of it."""


def write_cvat(selection: Selection, path: Path) -> int:
    """A track a track, a box an observation; hidden objects are `occluded`, and `outside` where nothing is stored."""
    return _write(selection, path, BOX, _boxes)


def write_cvat_polygons(selection: Selection, path: Path) -> int:
    """The same with the outlines of masks; the box's corners where no mask is stored.

    A polygon has one ring: further pieces of a mask are tracks of their own, in one group with the largest.
    """
    return _write(selection, path, (*BOX, "mask"), _polygons)


def _write(selection: Selection, path: Path, columns: Sequence[str], shapes: _Shapes) -> int:
    video = selection.only_video()
    numbers = short_ids(selection.store, video["video_id"])
    n_frames = max(1, round(video["duration_s"] * video["fps"]))
    further = count(len(numbers) + 1)
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(selection, video, n_frames))
        for rows in selection.of_video(video["video_id"]).trajectories(("frame", "class_name", "state", *columns)):
            track_id, label = rows["track_id"][0].as_py(), quoteattr(class_of(rows))
            # A run that goes on may have added tracks since they were numbered.
            number = numbers[track_id] if track_id in numbers else next(further)
            pieces = list(shapes(rows, n_frames))
            group = f'group_id="{number}" ' if len(pieces) > 1 else ""
            for place, elements in enumerate(pieces):
                piece = next(further) if place else number
                file.write(f'  <track id="{piece - 1}" label={label} {group}source="auto">\n')
                file.writelines(elements)
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


def _boxes(rows: pa.Table, n_frames: int) -> Iterator[Iterator[str]]:
    yield _box_elements(rows, n_frames)


def _box_elements(rows: pa.Table, n_frames: int) -> Iterator[str]:
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


def _polygons(rows: pa.Table, n_frames: int) -> Iterator[list[str]]:
    """The same as `_boxes` of outlines, for each piece that the mask of a track has at a time."""
    pieces: list[list[tuple[int, Ring | Floats, bool]]] = []
    for frames, run in _runs(rows):
        shown = zip(frames.tolist(), _boxes_px(run), run["mask"].to_pylist(), _hidden(run).tolist(), strict=True)
        for frame, box_px, mask, unseen in shown:
            rings = [_rectangle(box_px)] if mask is None else outlines.from_bytes(mask)
            for place, ring in _placed(rings, [piece[-1][1] for piece in pieces]):
                if place == len(pieces):
                    pieces.append([])
                pieces[place].append((frame, ring, unseen))
    return (_polygon_elements(piece, n_frames) for piece in pieces)


def _placed(rings: Sequence[Ring | Floats], last: Sequence[Ring | Floats]) -> Iterator[tuple[int, Ring | Floats]]:
    """The piece each ring belongs to: the largest to the first, others to the nearest that is free, or to a new one."""
    centres = [ring.mean(axis=0) for ring in last]
    free = set(range(1, len(last)))
    n_pieces = max(len(last), 1)
    for number, ring in enumerate(rings):
        place = 0
        if number:
            centre = ring.mean(axis=0)
            place = min(free, key=lambda i: float(np.hypot(*(centres[i] - centre))), default=n_pieces)
            n_pieces += place == n_pieces
            free.discard(place)
        yield place, ring


def _polygon_elements(piece: Sequence[tuple[int, Ring | Floats, bool]], n_frames: int) -> list[str]:
    elements = []
    for (frame, ring, unseen), ahead in zip_longest(piece, (frame for frame, _, _ in piece[1:])):
        elements.append(_shape("polygon", frame, _points(ring), hidden=unseen))
        if ahead != frame + 1 < n_frames:
            elements.append(_shape("polygon", frame + 1, _points(ring), outside=True))
    return elements


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

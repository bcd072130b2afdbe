"""MOT Challenge files: results, ground truth and detections of one video.

Source: https://motchallenge.net/instructions. Frames and ids count from 1.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from flows.export.selection import BOX, Selection, xywh
from flows.schema import State
from flows.tracks import short_ids

logger = logging.getLogger(__name__)

CLASSES = {
    "person": 1,
    "car": 3,
    "bicycle": 4,
    "motorcycle": 5,
}
"""MOT16's numbers of the classes it shares with COCO."""

FIRST_OWN_CLASS = 14
"""Numbers of other classes begin here: MOT20 uses those to 13."""


def write_results(selection: Selection, path: Path) -> int:
    """Tracker results: `frame,id,x,y,w,h,conf,-1,-1,-1`."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        n_rows = 0
        for frame, number, row in _boxes(selection):
            confidence = 1.0 if row["confidence"] is None else row["confidence"]
            file.write(f"{frame},{number},{_text(row)},{confidence:.4f},-1,-1,-1\n")
            n_rows += 1
    return n_rows


def write_truth(selection: Selection, path: Path) -> int:
    """Ground truth: `frame,id,x,y,w,h,1,class,visibility`; what is hidden has visibility 0.

    Classes MOT has no number for are numbered from `FIRST_OWN_CLASS` by name; the log tells them.
    """
    numbers = class_numbers(selection)
    with path.open("w", encoding="ascii", newline="\n") as file:
        n_rows = 0
        for frame, number, row in _boxes(selection):
            visibility = 0 if row["state"] == State.BRIDGED else 1
            # A run that goes on may have added classes since they were numbered.
            class_number = numbers.setdefault(row["class_name"], max(numbers.values()) + 1)
            file.write(f"{frame},{number},{_text(row)},1,{class_number},{visibility}\n")
            n_rows += 1
    return n_rows


def write_detections(selection: Selection, path: Path) -> int:
    """Detections: `frame,-1,x,y,w,h,conf,-1,-1,-1`, of the frames on which the detector saw the object."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        n_rows = 0
        for frame, _, row in _boxes(selection):
            if row["state"] == State.DETECTED:
                confidence = 1.0 if row["confidence"] is None else row["confidence"]
                file.write(f"{frame},-1,{_text(row)},{confidence:.4f},-1,-1,-1\n")
                n_rows += 1
    return n_rows


def class_numbers(selection: Selection) -> dict[str, int]:
    """MOT's number of every class in the store."""
    names = selection.store.query("select distinct class_name from tracklets order by 1")["class_name"].to_pylist()
    own = [name for name in names if name not in CLASSES]
    if own:
        told = ", ".join(f"{FIRST_OWN_CLASS + i} {name}" for i, name in enumerate(own))
        logger.warning("classes MOT has no number for: %s", told)
    return {**CLASSES, **{name: FIRST_OWN_CLASS + i for i, name in enumerate(own)}}


def _boxes(selection: Selection) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Frame, id and observation, by frame and id.

    Where frames of a video with variable frame rate share a nominal number, the last of them stands for it: readers
    take two boxes of one id on one frame for an error.
    """
    video_id = selection.only_video()["video_id"]
    numbers = short_ids(selection.store, video_id)
    n_doubled = 0
    rows = selection.of_video(video_id).rows(("frame", "track_id", *BOX, "confidence", "class_name", "state"))
    for frame, group in groupby(rows, key=lambda row: int(row["frame"])):
        by_track: dict[int, dict[str, Any]] = {}
        for row in group:
            number = numbers.setdefault(row["track_id"], len(numbers) + 1)
            n_doubled += number in by_track
            by_track[number] = row
        for number, row in sorted(by_track.items()):
            yield frame + 1, number, row
    if n_doubled:
        logger.warning("video %s: %d observations share a nominal frame number; left out", video_id, n_doubled)


def _text(row: dict[str, Any]) -> str:
    return ",".join(f"{value:.2f}" for value in xywh(row))

"""A track on one picture: crops of it, evenly over its time, each with its moment and how it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flows.annotated import Clock
from flows.decode import read_frames
from flows.errors import UsageError
from flows.known import check_classes, check_tracks
from flows.output import written_whole
from flows.overlay import Rgb, colour_of, label_image
from flows.privacy import Blur
from flows.render import stored_video
from flows.schema import ImageArray, State
from flows.store.base import Filter, Store
from flows.tracks import short_ids

_CELL_PX = 240
_FONT_PX = 14
_AROUND = 0.35
"""What of its size is shown around the object: enough to see where it is."""
_PLATE_RGB = (20, 20, 20)
_COLUMNS = ("video_id", "pts_ns", "track_id", "class_name", "state", "x1_px", "y1_px", "x2_px", "y2_px")


def write_contact_sheet(
    store: Store, track_id: str, path: Path, *, n_crops: int = 12, columns: int = 4, blur: tuple[str, ...] = ()
) -> int:
    """Write a PNG; what the store hides is pixelated.

    Args:
        store: where the track is; its videos must still lie where they were.
        track_id: which.
        path: the file; an existing one is replaced.
        n_crops: how many, fewer where the track has fewer observations.
        columns: how many stand side by side.
        blur: classes to pixelate besides.

    Returns:
        Number of crops.

    Raises:
        UsageError: no such track, or a file that cannot be written.
        VideoError: a video is gone, has changed or cannot be read.
    """
    check_classes(store, blur, "--blur")
    check_tracks(store, [track_id])
    cells = [_cell(store, row, blur) for row in _moments(store, track_id, n_crops)]
    if not cells:
        raise UsageError(f"no track {track_id} in {store.url}")
    blank = np.zeros_like(cells[0])
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    width = min(columns, len(cells))
    sheet = np.vstack([np.hstack([*row, *[blank] * (width - len(row))]) for row in rows])
    with written_whole(path) as temporary:
        _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        temporary.write_bytes(png.tobytes())
    return len(cells)


def _moments(store: Store, track_id: str, n_crops: int) -> list[dict[str, Any]]:
    """Observations evenly over the track, those that were seen rather than bridged where there are enough."""
    where = Filter(track_ids=(track_id,))
    states = [state for batch in store.observations(where, ["state"]) for state in batch["state"].to_pylist()]
    seen = [i for i, state in enumerate(states) if state != State.BRIDGED] or list(range(len(states)))
    chosen = {seen[round(i)] for i in np.linspace(0, len(seen) - 1, min(n_crops, len(seen)))} if seen else set()
    rows = (row for batch in store.observations(where, list(_COLUMNS)) for row in batch.to_pylist())
    return [row for i, row in enumerate(rows) if i in chosen]


def _cell(store: Store, row: dict[str, Any], blur: tuple[str, ...]) -> ImageArray:
    video = stored_video(store, row["video_id"])
    frame = next(read_frames(video, row["pts_ns"], row["pts_ns"] + 1))
    image_rgb = np.require(frame.image_rgb, requirements=["C", "W"])
    Blur(store, video, blur, frame.pts_ns).apply(image_rgb, frame.pts_ns)
    number = short_ids(store, video.video_id)[row["track_id"]]
    cell = _fitted(image_rgb, row, colour_of(number))
    state = "" if row["state"] == State.DETECTED else f"  {row['state']}"
    said = label_image(f"{number} {row['class_name']}{state}", _FONT_PX, _PLATE_RGB)[:_CELL_PX, :_CELL_PX]
    cell[-said.shape[0] :, : said.shape[1]] = said
    when = label_image(Clock(store, video).text(frame.pts_ns), _FONT_PX, _PLATE_RGB)[:_CELL_PX, :_CELL_PX]
    cell[: when.shape[0], : when.shape[1]] = when
    return cell


def _fitted(image_rgb: ImageArray, row: dict[str, Any], colour: Rgb) -> ImageArray:
    """What lies around the object in a square cell, its shape kept, with its box."""
    x1, y1, x2, y2 = (row[name] for name in ("x1_px", "y1_px", "x2_px", "y2_px"))
    height, width = image_rgb.shape[:2]
    side = min((1 + 2 * _AROUND) * max(x2 - x1, y2 - y1, 8), 4 * max(width, height))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    scale = _CELL_PX / side
    # Beyond the edge of the picture the cell stays black.
    move = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell = cv2.warpAffine(image_rgb, move, (_CELL_PX, _CELL_PX), flags=smooth)
    corners = [(round((x - left) * scale), round((y - top) * scale)) for x, y in ((x1, y1), (x2, y2))]
    cv2.rectangle(cell, corners[0], corners[1], colour, 1, cv2.LINE_AA)
    return np.asarray(cell, dtype=np.uint8)

"""Write a scene to disk: the video, and everything that is true in it."""

from __future__ import annotations

import json
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from flows.demo.camera import Floats, transform
from flows.demo.scene import CLASS_NAMES, ObjectTruth, Scene

log = logging.getLogger(__name__)

VIDEO_NAME, TRUTH_NAME, MOT_NAME, MASKS_NAME = "scene.mp4", "truth.json", "truth.txt", "masks.npz"
SCORED_VISIBILITY, SCORED_HEIGHT_PX = 0.25, 12.0
"""Less of an object than this, or a smaller part, need not be found: a sliver behind a shelf is nobody's loss."""
CRF = 20  # visually clean, and about 0.5 MB for 20 s at 640x360


def write_scene(scene: Scene, folder: Path) -> None:
    """Write ``scene.mp4``, ``truth.json``, ``truth.txt`` (MOT) and ``masks.npz`` into a folder.

    Args:
        scene: what to write; its width and height must be even, as H.264 asks.
        folder: created if missing.

    Raises:
        ValueError: the width or the height is odd.
    """
    if scene.width_px % 2 or scene.height_px % 2:
        raise ValueError(f"H.264 needs an even width and height, got {scene.width_px}x{scene.height_px}")
    folder.mkdir(parents=True, exist_ok=True)
    frames: list[list[ObjectTruth]] = []
    lengths: list[npt.NDArray[np.uint32]] = []
    values: list[npt.NDArray[np.uint16]] = []
    rate = Fraction(scene.fps).limit_denominator(1001)
    with av.open(str(folder / VIDEO_NAME), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = scene.width_px, scene.height_px, "yuv420p"
        # One thread: x264 splits a picture differently for each number of threads, and the file would differ.
        stream.options = {"crf": str(CRF), "preset": "medium", "threads": "1"}
        for index in range(scene.frame_count):
            image, ids = scene.render(index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            frames.append(scene.truth(index))
            run_values, run_lengths = _encode_runs(ids)
            values.append(run_values)
            lengths.append(run_lengths)
        container.mux(stream.encode(None))
    (folder / MOT_NAME).write_text("".join(_mot_lines(scene, frames)))
    (folder / TRUTH_NAME).write_text(json.dumps(describe(scene, frames), indent=1) + "\n")
    np.savez_compressed(
        folder / MASKS_NAME,
        shape=np.array([scene.height_px, scene.width_px]),
        runs=np.array([len(run) for run in lengths]),
        lengths=np.concatenate(lengths),
        values=np.concatenate(values),
    )
    log.info("wrote %d frames and %d objects to %s", scene.frame_count, len(scene.actors), folder)


def read_masks(path: Path) -> npt.NDArray[np.uint16]:
    """(N, H, W) id maps from a ``masks.npz``: the visible object at each pixel, 0 for none."""
    with np.load(path) as saved:
        height, width = saved["shape"].tolist()
        pixels = np.repeat(saved["values"], saved["lengths"])
    maps: npt.NDArray[np.uint16] = pixels.reshape(-1, height, width)
    return maps


def _encode_runs(ids: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
    flat = ids.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    return flat[starts].astype(np.uint16), np.diff(np.append(starts, flat.size)).astype(np.uint32)


def _mot_lines(scene: Scene, frames: list[list[ObjectTruth]]) -> list[str]:
    """MOTChallenge ground truth: visible boxes, one-based frames and classes, in the 7th column whether to score."""
    lines = []
    for number, truths in enumerate(frames, start=1):
        for item in truths:
            if item.visibility <= 0:
                continue
            x0, y0, x1, y1 = item.box_xyxy
            box = f"{x0:.0f},{y0:.0f},{x1 - x0:.0f},{y1 - y0:.0f}"
            scored = item.visibility >= SCORED_VISIBILITY and y1 - y0 >= SCORED_HEIGHT_PX
            lines.append(f"{number},{item.id},{box},{scored:d},{item.class_index + 1},{item.visibility:.3f}\n")
    return lines


def describe(scene: Scene, frames: list[list[ObjectTruth]]) -> dict[str, Any]:
    """What ``truth.json`` holds: camera, zones, lines, objects, and the events that follow from their paths.

    Args:
        scene: the scene.
        frames: ``scene.truth(index)`` for every frame.
    """
    matrix = scene.image_from_ground(0)
    objects, visits, crossings = [], [], []
    for actor in scene.actors:
        shown = [index for index, truths in enumerate(frames) if truths[actor.id - 1].visibility > 0]
        if not shown:
            continue
        first, last = shown[0], shown[-1]
        objects.append(
            {
                "id": actor.id,
                "class": CLASS_NAMES[actor.class_index],
                "first_frame": first,
                "last_frame": last,
                "ground_xy_m": np.round(actor.path.xy_m[first : last + 1], 3).tolist(),
            }
        )
        xy_m = actor.path.xy_m[first : last + 1]
        for name, polygon_m in scene.stage.zones_m.items():
            visits += [
                {"zone": name, "id": actor.id, "enter_s": (first + a) / scene.fps, "exit_s": (first + b) / scene.fps}
                for a, b in zone_visits(xy_m, polygon_m)
            ]
        for name, line_m in scene.stage.lines_m.items():
            crossings += [
                {"line": name, "id": actor.id, "time_s": (first + step) / scene.fps, "direction": direction}
                for step, direction in line_crossings(xy_m, line_m)
            ]
    return {
        "seed": scene.seed,
        "theme": scene.theme,
        "width_px": scene.width_px,
        "height_px": scene.height_px,
        "fps": scene.fps,
        "frame_count": scene.frame_count,
        "class_names": list(CLASS_NAMES),
        "image_from_ground": matrix.tolist(),
        "ground_from_image": np.linalg.inv(matrix).tolist(),
        "zones": [_shape(name, points, matrix) for name, points in scene.stage.zones_m.items()],
        "lines": [_shape(name, points, matrix) for name, points in scene.stage.lines_m.items()],
        "objects": objects,
        "visits": sorted(visits, key=lambda visit: (visit["enter_s"], visit["id"])),
        "crossings": sorted(crossings, key=lambda crossing: (crossing["time_s"], crossing["id"])),
    }


def _shape(name: str, points_m: Floats, matrix: Floats) -> dict[str, Any]:
    return {
        "name": name,
        "points_m": np.round(points_m, 4).tolist(),
        "points_px": np.round(transform(matrix, points_m), 2).tolist(),
    }


def zone_visits(xy_m: Floats, polygon_m: Floats) -> list[tuple[int, int]]:
    """First and last row of each stay of a path (N, 2) inside a polygon (K, 2)."""
    outline = polygon_m.astype(np.float32)
    inside = np.array([cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in xy_m])
    edges = np.flatnonzero(np.diff(inside.astype(int), prepend=0, append=0))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def line_crossings(xy_m: Floats, line_m: Floats) -> list[tuple[float, str]]:
    """Where a path (N, 2) crosses a segment (2, 2).

    Returns:
        (fractional row of the path, direction) of each crossing. "right" means that the path went to the
        right-hand side of someone looking from the segment's first point to its second, on the ground
        seen from above.
    """
    start, along = line_m[0], line_m[1] - line_m[0]
    offset = xy_m - start
    side = along[0] * offset[:, 1] - along[1] * offset[:, 0]  # positive on the left
    found = []
    for step in np.flatnonzero((side[:-1] > 0) != (side[1:] > 0)):
        part = side[step] / (side[step] - side[step + 1])
        point = offset[step] * (1 - part) + offset[step + 1] * part
        if 0 <= float(point @ along) <= float(along @ along):
            found.append((float(step + part), "right" if side[step] > 0 else "left"))
    return found

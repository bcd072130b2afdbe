"""A calibration drawn on a still: the metre grid of its ground, the horizon, and where each control point lands.

Where the fit is right, grid lines run along kerbs and markings and squares look square on the ground; this shows
mistakes that a small error in metres hides, such as points that all lie in one corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from flows.decode import read_frames
from flows.errors import UsageError, VideoError
from flows.georeference import Calibration, Floats, ground_positions, to_pixels
from flows.output import written_whole
from flows.overlay import label_image
from flows.probe import probe
from flows.schema import BoolArray, ImageArray

_STEPS_M = (0.5, 1, 2, 5, 10, 20, 50, 100)
_LINES = 14
"""Grid lines in one direction over the ground the control points span; more hide the picture."""
_MOST_LINES = 200
"""More in one direction would be a plain area."""
_MARGIN = 0.75
"""How far the grid reaches beyond the control points, as a share of their extent."""
_SAMPLES = 60  # a lens bends lines, so they are drawn as polylines
_GRID_RGB, _ROUND_RGB, _USED_RGB, _ASIDE_RGB, _LANDS_RGB = (
    (86, 180, 233),
    (255, 255, 255),
    (0, 158, 115),
    (213, 94, 0),
    (240, 228, 66),
)
_PLATE_RGB = (20, 20, 20)
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def first_picture(uri: str) -> ImageArray:
    """A picture file, or the first frame of a video, (height, width, 3) RGB.

    Raises:
        VideoError: neither can be read.
    """
    if Path(uri).suffix.lower() in _PICTURES:
        # OpenCV would put a line of its own on the terminal for a file that is not there.
        image = cv2.imread(uri) if Path(uri).is_file() else None
        if image is None:
            raise VideoError(f"{uri}: not a picture that can be read")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    for frame in read_frames(probe(uri), threads=1):
        return frame.image_rgb
    raise VideoError(f"{uri}: no frame could be decoded")


def check_picture(
    image_rgb: ImageArray, calibration: Calibration, step_m: float | None = None
) -> tuple[ImageArray, float]:
    """A calibration drawn on a copy of a picture, and the metres between the grid's lines.

    Raises:
        UsageError: a step that gives no grid.
    """
    low, high = _extent(calibration)
    least, most = float((high - low).max()) / _MOST_LINES, float((high - low).max())
    if step_m is None:
        step_m = _fitting_step(calibration)
    elif not least <= step_m <= most:
        raise UsageError(f"a grid of this ground has lines every {least:.2g} to {most:.2g} m, got {step_m:g}")
    image = np.require(image_rgb.copy(), requirements=["C", "W"])
    _draw_horizon(image, calibration)
    _draw_grid(image, calibration, step_m)
    _draw_points(image, calibration)
    used = int(calibration.inliers.sum())
    _label(image, f"grid {step_m:g} m   error {calibration.rmse_m:.2f} m over {used} points", (0, 0))
    return image, float(step_m)


def write_check(path: Path, image_rgb: ImageArray, calibration: Calibration, step_m: float | None = None) -> float:
    """Draw a calibration on a picture and write it; returns the metres between grid lines.

    Raises:
        UsageError: a step that gives no grid, or a file name that is no picture's.
    """
    if (path.suffix or ".png").lower() not in _PICTURES:
        raise UsageError(f"{path}: expected the name of a picture ({', '.join(_PICTURES)})")
    image, step_m = check_picture(image_rgb, calibration, step_m)
    with written_whole(path) as temporary:
        done, encoded = cv2.imencode(path.suffix or ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not done:
            raise VideoError(f"{path}: the picture could not be encoded")
        temporary.write_bytes(encoded.tobytes())
    return step_m


def _extent(calibration: Calibration) -> tuple[Floats, Floats]:
    points_m = calibration.points_m[calibration.inliers]
    low, high = points_m.min(axis=0), points_m.max(axis=0)
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _fitting_step(calibration: Calibration) -> float:
    points_m = calibration.points_m[calibration.inliers]
    wanted = float(np.ptp(points_m, axis=0).min()) / _LINES * (1 + 2 * _MARGIN)
    return next((step for step in _STEPS_M if step >= wanted), _STEPS_M[-1])


def _draw_grid(image: ImageArray, calibration: Calibration, step_m: float) -> None:
    low, high = _extent(calibration)
    for axis in (0, 1):
        for number in range(int(np.ceil(low[axis] / step_m)), int(np.floor(high[axis] / step_m)) + 1):
            line_m = np.empty((_SAMPLES, 2))
            line_m[:, axis] = number * step_m
            line_m[:, 1 - axis] = np.linspace(low[1 - axis], high[1 - axis], _SAMPLES)
            # Every fifth line, and those through the origin, tell where one is.
            whole = number % 5 == 0
            pieces = list(_seen(image, to_pixels(calibration, line_m)))
            for piece in pieces:
                colour = _ROUND_RGB if whole else _GRID_RGB
                cv2.polylines(image, [piece], False, colour, 2 if whole else 1, cv2.LINE_AA)
            if whole and pieces:
                shown = pieces[0][_inside(image, pieces[0])]
                x, y = shown[len(shown) // 2]
                _label(image, f"{'xy'[axis]} {number * step_m:g}", (int(x), int(y)))


def _seen(image: ImageArray, points_px: Floats) -> Iterator[np.ndarray]:
    """The pieces of a polyline in and around the picture, as OpenCV wants them."""
    height, width = image.shape[:2]
    with np.errstate(invalid="ignore"):
        near = (np.abs(points_px - [width / 2, height / 2]) < 2 * max(width, height)).all(axis=1)
    inside = near & _inside(image, points_px)
    breaks = np.flatnonzero(np.diff(near.astype(int), prepend=0, append=0))
    for begin, end in zip(breaks[::2], breaks[1::2], strict=True):
        if end - begin > 1 and inside[begin:end].any():
            yield np.floor(points_px[begin:end]).astype(np.int32)


def _inside(image: ImageArray, points_px: np.ndarray) -> BoolArray:
    return np.asarray(((points_px >= 0) & (points_px < image.shape[1::-1])).all(axis=1), dtype=np.bool_)


def _draw_horizon(image: ImageArray, calibration: Calibration) -> None:
    """A thin line between pixels with and without a place on the ground."""
    height, width = image.shape[:2]
    columns, rows = np.meshgrid(np.arange(0, width, 4), np.arange(0, height, 2))
    xy_m, _ = ground_positions(calibration, np.stack([columns.ravel(), rows.ravel()], axis=1), 1.0)
    sky = np.isnan(xy_m[:, 0]).reshape(columns.shape)
    for y, x in np.argwhere(sky[:-1] & ~sky[1:]):
        cv2.circle(image, (int(4 * x), int(2 * y)), 1, _ASIDE_RGB, -1)


def _draw_points(image: ImageArray, calibration: Calibration) -> None:
    lands_px = to_pixels(calibration, calibration.points_m)
    radius = max(4, image.shape[1] // 160)
    for number, (given, lands, used) in enumerate(
        zip(calibration.points_px, lands_px, calibration.inliers, strict=True), start=1
    ):
        at = (round(float(given[0])), round(float(given[1])))
        cv2.circle(image, at, radius, _USED_RGB if used else _ASIDE_RGB, 2, cv2.LINE_AA)
        if np.isfinite(lands).all() and np.abs(lands).max() < 4 * max(image.shape[:2]):
            there = (round(float(lands[0])), round(float(lands[1])))
            cv2.line(image, at, there, _LANDS_RGB, 1, cv2.LINE_AA)
            cv2.drawMarker(image, there, _LANDS_RGB, cv2.MARKER_CROSS, 2 * radius, 1, cv2.LINE_AA)
        _label(image, str(number) if used else f"{number} set aside", (at[0] + radius, at[1] - 2 * radius))


def _label(image: ImageArray, text: str, corner_px: tuple[int, int]) -> None:
    plate = label_image(text, max(11, image.shape[1] // 55), _PLATE_RGB)
    height, width = (min(a, b) for a, b in zip(plate.shape[:2], image.shape[:2], strict=True))
    x = min(max(corner_px[0], 0), image.shape[1] - width)
    y = min(max(corner_px[1], 0), image.shape[0] - height)
    image[y : y + height, x : x + width] = plate[:height, :width]

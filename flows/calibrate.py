"""Control points -> calibration: a robust fit of the ground plane and, where asked for, of the lens."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from flows.errors import CalibrationError
from flows.georeference import MAX_K1, Calibration, Floats, Lens, homogeneous, middle_lonlat, place_lonlat
from flows.schema import BoolArray

FLATTEST = 0.01
"""Control points whose spread across their line is less than this share of the spread along it are one line."""
MAX_SUBSETS = 500
"""Four-point subsets tried by the robust fit: all of them up to 12 points, a fixed random sample of them beyond."""
LENS_POINTS = 8
"""A lens is fitted to no fewer points: with five, every lens fits exactly."""
_LENS_STEPS = 21
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class ControlPoints:
    """Places known both in the picture and on the ground: `points_px` and `points_m`, (N, 2) float64 each."""

    points_px: Floats
    points_m: Floats
    origin_lonlat: tuple[float, float] | None = None
    """Longitude and latitude of the metric frame's origin; x_m then is east of it and y_m north."""


def fit_homography(
    points_px: Floats,
    points_m: Floats,
    origin_lonlat: tuple[float, float] | None = None,
    lens: Lens | None = None,
) -> Calibration:
    """Fit the homography from image to ground, setting wrong control points aside.

    Normalised direct linear transform (Hartley and Zisserman, Multiple View Geometry, algorithm 4.2). From six points
    on, the fit starts from the four whose homography leaves the least quantile of squared ground errors (Rousseeuw
    and Leroy 1987, with their quantile and 2.5 sigma cut), so that a mistyped point is found and not averaged in.

    Args:
        points_px: (N, 2) pixels, N >= 4, not all on one line.
        points_m: (N, 2) ground positions of the same points in metres.
        origin_lonlat: longitude and latitude of the metric frame's origin, where known.
        lens: of the camera; None where its pictures are straight.

    Raises:
        CalibrationError: saying which of this the points do not fulfil.
    """
    points_px, points_m = np.asarray(points_px, dtype=np.float64), np.asarray(points_m, dtype=np.float64)
    _check_points(points_px, points_m)
    straight_px = lens.straighten(points_px) if lens else points_px
    if not np.isfinite(straight_px).all():
        raise CalibrationError(f"control points lie outside what a lens of k1 {lens and lens.k1} shows")
    inliers, _ = _inliers(straight_px, points_m)
    matrix = _solve(straight_px[inliers], points_m[inliers])
    if matrix is None:
        raise CalibrationError(
            "the control points do not determine a plane: three of four lie on one line; add a point beside that line"
        )
    scale = homogeneous(matrix, straight_px[inliers])[:, 2]
    if not (np.all(scale > 0) or np.all(scale < 0)):
        raise CalibrationError(
            "no camera sees these control points like this: the fitted horizon runs between them; look for two "
            "points exchanged, or x and y of one of them"
        )
    matrix = matrix / scale.mean()
    error_m = np.linalg.norm(_transform(matrix, straight_px[inliers]) - points_m[inliers], axis=1)
    rmse_m = float(np.sqrt(np.mean(error_m**2)))
    return Calibration(matrix, points_px, points_m, inliers, rmse_m, origin_lonlat, lens)


def fit_with_lens(control: ControlPoints, width_px: int, height_px: int) -> Calibration:
    """Fit the ground plane and one parameter of lens distortion together.

    The robust fit chooses `k1` among a few and so the points that agree; from there the root mean square error over
    those points is made least (golden section search).

    Args:
        control: at least `LENS_POINTS` points, some of them near the picture's edges: elsewhere no lens shows.
        width_px, height_px: of the picture.

    Raises:
        CalibrationError: too few points, or as `fit_homography`.
    """
    points_px, points_m = (np.asarray(points, dtype=np.float64) for points in (control.points_px, control.points_m))
    _check_points(points_px, points_m)
    if len(points_px) < LENS_POINTS:
        raise CalibrationError(
            f"fitting a lens needs at least {LENS_POINTS} control points, got {len(points_px)}; add some near the "
            "picture's edges, or give k1 where it is known"
        )

    def lens(k1: float) -> Lens:
        return Lens.of_picture(k1, width_px, height_px)

    grid = np.linspace(-MAX_K1, MAX_K1, _LENS_STEPS)
    fits = [_inliers(lens(k1).straighten(points_px), points_m) for k1 in grid]
    best = int(np.argmin([error_m for _, error_m in fits]))
    inliers = fits[best][0]

    def error_m(k1: float) -> float:
        straight_px = lens(k1).straighten(points_px[inliers])
        matrix = _solve(straight_px, points_m[inliers])
        if matrix is None:
            return np.inf
        return float(np.mean(np.sum((_transform(matrix, straight_px) - points_m[inliers]) ** 2, axis=1)))

    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _LENS_STEPS - 1)]
    for _ in range(40):  # 0.618^40 of 0.1: below what floating point tells apart
        a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, b) if error_m(a) < error_m(b) else (a, high)
    return fit_homography(points_px, points_m, control.origin_lonlat, lens(float((low + high) / 2)))


def read_points(path: Path, origin_lonlat: tuple[float, float] | None = None) -> ControlPoints:
    """Read control points from a CSV file with the columns x_px, y_px and either x_m, y_m or lon, lat.

    Longitude and latitude become metres east and north of the origin given, so that a source keeps its frame from one
    calibration to the next, or else of the points' mean.

    Raises:
        CalibrationError: naming the file, the line and what was expected.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path}: not a readable CSV file: {error}") from None
    header = set(rows[0][1]) if rows else set()
    ground = next((pair for pair in (("x_m", "y_m"), ("lon", "lat")) if header.issuperset(pair)), None)
    if ground is None or not header.issuperset({"x_px", "y_px"}):
        found = ", ".join(str(name) for name in rows[0][1]) if rows else "no rows"
        raise CalibrationError(f"{path}: expected the columns x_px, y_px and x_m, y_m (or lon, lat), found {found}")
    points_px, points = (_numbers(path, rows, names) for names in (("x_px", "y_px"), ground))
    if ground == ("x_m", "y_m"):
        return ControlPoints(points_px, points, origin_lonlat)
    origin = origin_lonlat or middle_lonlat(points)
    try:
        return ControlPoints(points_px, place_lonlat(origin, points), origin)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None


def _numbers(path: Path, rows: list[tuple[int, dict[str, Any]]], names: tuple[str, str]) -> Floats:
    values = np.full((len(rows), 2), np.nan)
    for i, (line, row) in enumerate(rows):
        for j, name in enumerate(names):
            with suppress(TypeError, ValueError):
                values[i, j] = float(row[name])
            if not np.isfinite(values[i, j]):
                raise CalibrationError(f"{path}, line {line}: {name} must be a number, got {row[name]!r}")
    return values


def _check_points(points_px: Floats, points_m: Floats) -> None:
    if points_px.ndim != 2 or points_px.shape[1:] != (2,) or points_px.shape != points_m.shape:
        raise CalibrationError(
            f"expected as many ground points as pixels, (N, 2) each, got {points_px.shape} and {points_m.shape}"
        )
    if len(points_px) < 4:
        raise CalibrationError(f"a ground plane needs at least 4 control points (better 6 to 12), got {len(points_px)}")
    for points, unit in ((points_px, "pixels"), (points_m, "metres")):
        if not np.isfinite(points).all():
            raise CalibrationError(f"control points in {unit} must be finite numbers, got {points.tolist()}")
        if len(np.unique(points, axis=0)) < 4:
            raise CalibrationError(f"fewer than 4 of the control points are different places in {unit}")
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] < FLATTEST * spread[0]:
            raise CalibrationError(
                f"the control points lie on one line in {unit}; add points beside it, spread over the whole ground"
            )


def _inliers(points_px: Floats, points_m: Floats) -> tuple[BoolArray, float]:
    """Which control points agree with each other, (N,), all of them where there are too few to tell; the quantile."""
    n = len(points_px)
    everything: BoolArray = np.ones(n, dtype=np.bool_)
    if n < 6:
        return everything, 0.0
    subsets = list(combinations(range(n), 4)) if n <= 12 else _random_subsets(n)
    quantile = (n + 5) // 2 - 1
    best, best_error_m = np.inf, None
    for subset in subsets:
        matrix = _solve(points_px[list(subset)], points_m[list(subset)])
        if matrix is None:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            error_m = np.nan_to_num(np.linalg.norm(_transform(matrix, points_px) - points_m, axis=1), nan=np.inf)
        if (at := float(np.partition(error_m, quantile)[quantile])) < best:
            best, best_error_m = at, error_m
    if best_error_m is None:
        return everything, np.inf
    # The floor keeps exact points from being cut at the noise of floating-point arithmetic.
    floor_m = 1e-6 * float(np.ptp(points_m, axis=0).max())
    sigma_m = max(1.4826 * (1 + 5 / (n - 4)) * best, floor_m)
    kept: BoolArray = best_error_m <= 2.5 * sigma_m
    return kept, best


def _random_subsets(n: int) -> list[tuple[int, ...]]:
    random = np.random.default_rng(0)
    return [tuple(random.choice(n, 4, replace=False).tolist()) for _ in range(MAX_SUBSETS)]


def _solve(points_px: Floats, points_m: Floats) -> Floats | None:
    """The homography by normalised direct linear transform; None where the points do not determine one."""
    from_px, from_m = _normaliser(points_px), _normaliser(points_m)
    u, v, _ = homogeneous(from_px, points_px).T
    x, y, _ = homogeneous(from_m, points_m).T
    zero, one = np.zeros_like(u), np.ones_like(u)
    rows = np.concatenate(
        [
            np.stack([u, v, one, zero, zero, zero, -x * u, -x * v, -x], axis=1),
            np.stack([zero, zero, zero, u, v, one, -y * u, -y * v, -y], axis=1),
        ]
    )
    _, values, vectors = np.linalg.svd(rows, full_matrices=True)
    normalised = vectors[-1].reshape(3, 3)
    if values[7] < 1e-6 * values[0] or abs(np.linalg.det(normalised)) < 1e-9:
        return None
    matrix: Floats = np.linalg.inv(from_m) @ normalised @ from_px
    return matrix


def _normaliser(points: Floats) -> Floats:
    """The similarity that moves points to mean 0 and mean distance sqrt(2) from it."""
    mean = points.mean(axis=0)
    scale = np.sqrt(2) / max(float(np.linalg.norm(points - mean, axis=1).mean()), 1e-12)
    return np.array([[scale, 0, -scale * mean[0]], [0, scale, -scale * mean[1]], [0, 0, 1]])


def _transform(matrix: Floats, points: Floats) -> Floats:
    mapped = homogeneous(matrix, points)
    result: Floats = mapped[:, :2] / mapped[:, 2:]
    return result

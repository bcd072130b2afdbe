"""Pixels -> ground metres -> longitude and latitude, with uncertainty.

The ground is a plane; a camera's view of it is one homography, fitted to control points whose place is known both in
the picture and on the ground. Only points on the ground map truly: use the bottom centre of an object, never its
middle (the centre of a 3 m object 30 m away lands 6 m too far). Pixels are those of the upright, undistorted frame.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.errors import CalibrationError
from flows.schema import BoolArray

Floats = npt.NDArray[np.float64]

GROUND_POINT_SIGMA = 0.03
"""Standard deviation of an object's bottom edge as a share of its box height: about 3 px on a person of 100 px."""
MIN_SIGMA_PX = 1.0
FLATTEST = 0.01
"""Control points whose spread across their line is less than this share of the spread along it are one line."""
NEAREST_HORIZON = 1e-6
"""A pixel whose homogeneous scale is below this share of the control points' own has no usable ground position."""
MAX_SUBSETS = 500
"""Four-point subsets tried by the robust fit: all of them up to 12 points, a fixed random sample of them beyond."""


@dataclass(frozen=True, eq=False)
class ControlPoints:
    """Places known both in the picture and on the ground: `points_px` and `points_m`, (N, 2) float64 each."""

    points_px: Floats
    points_m: Floats
    origin_lonlat: tuple[float, float] | None = None
    """Longitude and latitude of the metric frame's origin; x_m then is east of it and y_m north."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The homography from a source's image to its ground plane, and what it was fitted to.

    `image_to_ground` (3, 3) is scaled so that the homogeneous scale of the ground point is positive below the
    horizon and 1 on average over the control points that were used. `inliers` (N,) marks those; `rmse_m` is their
    root mean square distance from where the homography puts them.
    """

    image_to_ground: Floats
    points_px: Floats
    points_m: Floats
    inliers: BoolArray
    rmse_m: float
    origin_lonlat: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        matrix = self.image_to_ground
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < 3:
            raise CalibrationError(f"image_to_ground must be an invertible 3x3 matrix, got {matrix.tolist()}")

    def to_json(self) -> str:
        """The form in which the store keeps it."""
        return json.dumps(
            {
                "image_to_ground": self.image_to_ground.tolist(),
                "points_px": self.points_px.tolist(),
                "points_m": self.points_m.tolist(),
                "inliers": self.inliers.tolist(),
                "rmse_m": self.rmse_m,
                "origin_lonlat": self.origin_lonlat,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            CalibrationError: where it is something else.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            origin = data["origin_lonlat"]
            return cls(
                np.array(data["image_to_ground"], dtype=np.float64),
                np.array(data["points_px"], dtype=np.float64),
                np.array(data["points_m"], dtype=np.float64),
                np.array(data["inliers"], dtype=np.bool_),
                float(data["rmse_m"]),
                (float(origin[0]), float(origin[1])) if origin else None,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CalibrationError(
                f"not a stored calibration ({type(error).__name__}: {error}); calibrate the source again"
            ) from None


def fit_homography(
    points_px: Floats, points_m: Floats, origin_lonlat: tuple[float, float] | None = None
) -> Calibration:
    """Fit the homography from image to ground, setting wrong control points aside.

    Normalised direct linear transform (Hartley and Zisserman, Multiple View Geometry, algorithm 4.2). From six points
    on, the fit starts from the four whose homography leaves the least quantile of squared ground errors (Rousseeuw
    and Leroy 1987, with their quantile and 2.5 sigma cut), so that a mistyped point is found and not averaged in.

    Args:
        points_px: (N, 2) pixels, N >= 4, not all on one line.
        points_m: (N, 2) ground positions of the same points in metres.
        origin_lonlat: longitude and latitude of the metric frame's origin, where known.

    Raises:
        CalibrationError: saying which of this the points do not fulfil.
    """
    points_px, points_m = np.asarray(points_px, dtype=np.float64), np.asarray(points_m, dtype=np.float64)
    _check_points(points_px, points_m)
    inliers = _inliers(points_px, points_m)
    matrix = _solve(points_px[inliers], points_m[inliers])
    if matrix is None:
        raise CalibrationError(
            "the control points do not determine a plane: three of four lie on one line; add a point beside that line"
        )
    scale = _homogeneous(matrix, points_px[inliers])[:, 2]
    if not (np.all(scale > 0) or np.all(scale < 0)):
        raise CalibrationError(
            "no camera sees these control points like this: the fitted horizon runs between them; look for two "
            "points exchanged, or x and y of one of them"
        )
    matrix = matrix / scale.mean()
    error_m = np.linalg.norm(_transform(matrix, points_px[inliers]) - points_m[inliers], axis=1)
    return Calibration(matrix, points_px, points_m, inliers, float(np.sqrt(np.mean(error_m**2))), origin_lonlat)


def ground_positions(calibration: Calibration, points_px: Floats, sigma_px: float | Floats) -> tuple[Floats, Floats]:
    """Ground positions under pixels, and how sure they are.

    Args:
        calibration: of the source the pixels come from.
        points_px: (N, 2) pixels of points on the ground.
        sigma_px: standard deviation of the pixels, one for all or (N,).

    Returns:
        (N, 2) metres and (N,) standard deviation in metres along the direction in which it is largest: the pixel's,
        through the Jacobian of the homography. NaN at and beyond the horizon.
    """
    points_px = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    matrix = calibration.image_to_ground
    homogeneous = _homogeneous(matrix, points_px)
    scale = homogeneous[:, 2]
    scale = np.where(scale > NEAREST_HORIZON, scale, np.nan)
    xy_m = homogeneous[:, :2] / scale[:, None]
    # d(x/w)/du = (dx/du - (x/w) dw/du) / w, for both coordinates and both directions.
    jacobian = (matrix[None, :2, :2] - xy_m[:, :, None] * matrix[None, None, 2, :2]) / scale[:, None, None]
    return xy_m, np.asarray(sigma_px, dtype=np.float64) * _largest_singular_value(jacobian)


def to_pixels(calibration: Calibration, xy_m: Floats) -> Floats:
    """Pixels (N, 2) of ground positions (N, 2); NaN for what lies behind the camera."""
    xy_m = np.asarray(xy_m, dtype=np.float64).reshape(-1, 2)
    homogeneous = _homogeneous(np.linalg.inv(calibration.image_to_ground).astype(np.float64), xy_m)
    scale = np.where(homogeneous[:, 2] > 0, homogeneous[:, 2], np.nan)
    points_px: Floats = homogeneous[:, :2] / scale[:, None]
    return points_px


def to_lonlat(calibration: Calibration, xy_m: Floats) -> Floats:
    """Longitude and latitude in degrees (N, 2), WGS 84, of ground positions (N, 2).

    Raises:
        CalibrationError: where the calibration has no origin.
    """
    if calibration.origin_lonlat is None:
        raise CalibrationError(
            "this calibration has no longitude and latitude: calibrate from points with the columns lon and lat"
        )
    xy_m = np.asarray(xy_m, dtype=np.float64).reshape(-1, 2)
    lon, lat = _local_projection(calibration.origin_lonlat)(xy_m[:, 0], xy_m[:, 1], inverse=True)
    return np.stack([lon, lat], axis=1)


def locate(observations: pa.Table, calibration: Calibration) -> pa.Table:
    """The same observations with x_m, y_m and sigma_m; null where the ground point lies beyond the horizon."""

    def column(name: str) -> Floats:
        return observations[name].to_numpy().astype(np.float64)

    sigma_px = np.maximum(GROUND_POINT_SIGMA * (column("y2_px") - column("y1_px")), MIN_SIGMA_PX)
    xy_m, sigma_m = ground_positions(calibration, np.stack([column("x_px"), column("y_px")], axis=1), sigma_px)
    for name, values in (("x_m", xy_m[:, 0]), ("y_m", xy_m[:, 1]), ("sigma_m", sigma_m)):
        index = observations.schema.get_field_index(name)
        field = observations.schema.field(index)
        observations = observations.set_column(index, field, pa.array(values, mask=np.isnan(values)).cast(field.type))
    return observations


def read_points(path: Path) -> ControlPoints:
    """Read control points from a CSV file with the columns x_px, y_px and either x_m, y_m or lon, lat.

    Longitude and latitude become metres east and north of the points' mean.

    Raises:
        CalibrationError: naming the file, the line and what was expected.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path}: not a readable CSV file: {error}") from None
    header = set(rows[0]) if rows else set()
    ground = next((pair for pair in (("x_m", "y_m"), ("lon", "lat")) if header.issuperset(pair)), None)
    if ground is None or not header.issuperset({"x_px", "y_px"}):
        found = ", ".join(str(name) for name in rows[0]) if rows else "no rows"
        raise CalibrationError(f"{path}: expected the columns x_px, y_px and x_m, y_m (or lon, lat), found {found}")
    points_px, points = (_numbers(path, rows, names) for names in (("x_px", "y_px"), ground))
    if ground == ("x_m", "y_m"):
        return ControlPoints(points_px, points)
    if not ((np.abs(points) <= (180.0, 90.0)).all()):
        raise CalibrationError(f"{path}: lon must lie within +-180 and lat within +-90 degrees; are they exchanged?")
    origin = (float(points[:, 0].mean()), float(points[:, 1].mean()))
    x_m, y_m = _local_projection(origin)(points[:, 0], points[:, 1])
    return ControlPoints(points_px, np.stack([x_m, y_m], axis=1), origin)


def _numbers(path: Path, rows: list[dict[str, Any]], names: tuple[str, str]) -> Floats:
    values = np.empty((len(rows), 2))
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            try:
                values[i, j] = float(row[name])
            except (TypeError, ValueError):
                raise CalibrationError(f"{path}, line {i + 2}: {name} must be a number, got {row[name]!r}") from None
    return values


def local_frame(origin_lonlat: Sequence[float]) -> str:
    """The metric frame about an origin (longitude, latitude in degrees, WGS 84) in the words of PROJ.

    Azimuthal equidistant: distances from the origin are exact, others to 1e-7 over a few kilometres.
    """
    lon, lat = origin_lonlat
    return f"+proj=aeqd +lat_0={lat!r} +lon_0={lon!r} +datum=WGS84 +units=m +no_defs"


def _local_projection(origin_lonlat: tuple[float, float]) -> Any:
    from pyproj import Proj

    return Proj(local_frame(origin_lonlat))


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


def _inliers(points_px: Floats, points_m: Floats) -> BoolArray:
    """Which control points agree with each other, (N,); all of them where there are too few to tell."""
    n = len(points_px)
    everything: BoolArray = np.ones(n, dtype=np.bool_)
    if n < 6:
        return everything
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
        return everything
    # The floor keeps exact points from being cut at the noise of floating-point arithmetic.
    floor_m = 1e-6 * float(np.ptp(points_m, axis=0).max())
    sigma_m = max(1.4826 * (1 + 5 / (n - 4)) * best, floor_m)
    kept: BoolArray = best_error_m <= 2.5 * sigma_m
    return kept


def _random_subsets(n: int) -> list[tuple[int, ...]]:
    random = np.random.default_rng(0)
    return [tuple(random.choice(n, 4, replace=False).tolist()) for _ in range(MAX_SUBSETS)]


def _solve(points_px: Floats, points_m: Floats) -> Floats | None:
    """The homography by normalised direct linear transform; None where the points do not determine one."""
    from_px, from_m = _normaliser(points_px), _normaliser(points_m)
    u, v, _ = _homogeneous(from_px, points_px).T
    x, y, _ = _homogeneous(from_m, points_m).T
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


def _homogeneous(matrix: Floats, points: Floats) -> Floats:
    result: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def _transform(matrix: Floats, points: Floats) -> Floats:
    homogeneous = _homogeneous(matrix, points)
    result: Floats = homogeneous[:, :2] / homogeneous[:, 2:]
    return result


def _largest_singular_value(matrices: Floats) -> Floats:
    """(N,) of matrices (N, 2, 2), in closed form: from the trace and determinant of J J^T."""
    trace = np.sum(matrices**2, axis=(1, 2))
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]
    result: Floats = np.sqrt((trace + np.sqrt(np.maximum(trace**2 - 4 * determinant**2, 0))) / 2)
    return result

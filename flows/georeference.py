"""Pixels -> ground metres -> longitude and latitude, with uncertainty.

The ground is a plane; a camera's view of it, once its lens is straightened, is one homography (`calibrate` fits both).
Only points on the ground map truly: use the bottom centre of an object, never its middle (the centre of a 3 m object
30 m away lands 6 m too far). That is its near edge; its middle on the ground lies half its depth beyond. Pixels are
those of the upright frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import CalibrationError
from flows.schema import BoolArray

Floats = npt.NDArray[np.float64]

NEAREST_HORIZON = 1e-6
"""A pixel whose homogeneous scale is below this share of the control points' own has no usable ground position."""
FARTHEST_M = 100_000.0
"""No camera on the ground or on a drone shows a place this far from another one it shows."""
DEPTH_SIGMA = 0.15
"""Standard deviation of an object's depth about that of its class, as a share: cars are seen along and across."""
MAX_K1 = 0.5
"""Lenses bend no more; up to here the model is one-to-one inside the picture."""
_FOCAL = (0.3, 20.0)
"""Focal lengths of lenses, in half diagonals of the picture: from 147 degrees across it to 6."""


@dataclass(frozen=True)
class Lens:
    """Radial distortion in one parameter, the division model (Fitzgibbon, CVPR 2001): exact both ways.

    A pixel at `r` (a share of `radius_px`) from the centre belongs at `r / (1 + k1 r^2)`. A negative `k1` is a barrel
    (wide-angle lenses), a positive one a cushion.
    """

    k1: float
    centre_px: tuple[float, float]
    radius_px: float

    def __post_init__(self) -> None:
        if not -MAX_K1 <= self.k1 <= MAX_K1 or not self.radius_px > 0:
            raise CalibrationError(
                f"a lens has k1 between -{MAX_K1} and {MAX_K1} and a radius in pixels, got {self.k1}, {self.radius_px}"
            )

    @classmethod
    def of_picture(cls, k1: float, width_px: int, height_px: int) -> Lens:
        """Centred on a picture, the radius half its diagonal."""
        return cls(k1, (width_px / 2, height_px / 2), float(np.hypot(width_px, height_px)) / 2)

    def straighten(self, points_px: Floats) -> Floats:
        """Where pixels (N, 2) would lie without the lens; NaN where the model ends."""
        offset = (points_px - self.centre_px) / self.radius_px
        scale = 1 + self.k1 * np.sum(offset**2, axis=1, keepdims=True)
        straight: Floats = self.centre_px + self.radius_px * offset / np.where(scale > 0, scale, np.nan)
        return straight

    def bend(self, points_px: Floats) -> Floats:
        """The inverse of `straighten`; NaN for what the lens does not show."""
        offset = (points_px - self.centre_px) / self.radius_px
        root2 = 1 - 4 * self.k1 * np.sum(offset**2, axis=1, keepdims=True)
        bent: Floats = self.centre_px + self.radius_px * offset * 2 / (1 + np.sqrt(np.where(root2 >= 0, root2, np.nan)))
        return bent

    def jacobian(self, points_px: Floats) -> Floats:
        """Derivative of `straighten`, (N, 2, 2)."""
        offset = (points_px - self.centre_px) / self.radius_px
        scale = (1 + self.k1 * np.sum(offset**2, axis=1))[:, None, None]
        outer = offset[:, :, None] * offset[:, None, :]
        result: Floats = np.eye(2) / scale - 2 * self.k1 * outer / scale**2
        return result


@dataclass(frozen=True, eq=False)
class Calibration:
    """The homography from a source's image to its ground plane, and what it was fitted to.

    `image_to_ground` (3, 3) takes pixels that `lens` has straightened. It is scaled so that the homogeneous scale of
    the ground point is positive below the horizon and 1 on average over the control points that were used. `inliers`
    (N,) marks those; `rmse_m` is their root mean square distance from where the calibration puts them.
    `origin_lonlat` is the place of the metric frame's origin; x_m then is east of it and y_m north. A camera that
    `flies` has no fixed view: its telemetry places every frame, and this only names the frame and a typical error.
    """

    image_to_ground: Floats
    points_px: Floats
    points_m: Floats
    inliers: BoolArray
    rmse_m: float
    origin_lonlat: tuple[float, float] | None = None
    lens: Lens | None = None
    flies: bool = False

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
                "lens": self.lens and asdict(self.lens),
                "flies": self.flies,
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
            origin, lens = data["origin_lonlat"], data.get("lens")
            return cls(
                np.array(data["image_to_ground"], dtype=np.float64),
                np.array(data["points_px"], dtype=np.float64).reshape(-1, 2),
                np.array(data["points_m"], dtype=np.float64).reshape(-1, 2),
                np.array(data["inliers"], dtype=np.bool_),
                float(data["rmse_m"]),
                (float(origin[0]), float(origin[1])) if origin else None,
                Lens(lens["k1"], (lens["centre_px"][0], lens["centre_px"][1]), lens["radius_px"]) if lens else None,
                bool(data.get("flies", False)),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CalibrationError(
                f"not a stored calibration ({type(error).__name__}: {error}); calibrate the source again"
            ) from None


def ground_positions(
    calibration: Calibration, points_px: Floats, sigma_px: float | Floats, depth_m: float | Floats = 0.0
) -> tuple[Floats, Floats]:
    """Ground positions under pixels, and how sure they are.

    Args:
        calibration: of the source the pixels come from.
        points_px: (N, 2) pixels of points on the ground.
        sigma_px: standard deviation of the pixels, one for all or (N,).
        depth_m: of what the pixels are the near edges of, one for all or (N,); the positions are its middles.

    Returns:
        (N, 2) metres and (N,) standard deviation in metres along the direction in which it is largest: the pixel's,
        through the Jacobian of lens and homography, the calibration's own error and the depth's. NaN at and beyond the
        horizon.
    """
    points_px = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    straight_px = calibration.lens.straighten(points_px) if calibration.lens else points_px
    matrix = calibration.image_to_ground
    mapped = homogeneous(matrix, straight_px)
    scale = np.where(mapped[:, 2] > NEAREST_HORIZON, mapped[:, 2], np.nan)
    xy_m = mapped[:, :2] / scale[:, None]
    # d(x/w)/du = (dx/du - (x/w) dw/du) / w, for both coordinates and both directions.
    jacobian = (matrix[None, :2, :2] - xy_m[:, :, None] * matrix[None, None, 2, :2]) / scale[:, None, None]
    if calibration.lens:
        jacobian = jacobian @ calibration.lens.jacobian(points_px)
    sigma_m = np.asarray(sigma_px, dtype=np.float64) * largest_singular_value(jacobian)
    return middles(xy_m, np.hypot(sigma_m, calibration.rmse_m), jacobian[:, :, 1], depth_m)


def middles(edges_m: Floats, sigma_m: Floats, nearer: Floats, depth_m: float | Floats) -> tuple[Floats, Floats]:
    """The middles of objects of a depth, one for all or (N,), by their near edges.

    Args:
        edges_m: (N, 2) metres.
        sigma_m: (N,) standard deviations of the edges.
        nearer: (N, 2) where the ground goes downwards in the picture, towards the camera, of any length.
        depth_m: Seen from the camera.

    Returns:
        (N, 2) metres and (N,) standard deviations.
    """
    depth_m = np.asarray(depth_m, dtype=np.float64)
    length = np.linalg.norm(nearer, axis=1, keepdims=True)
    away = np.divide(-nearer, length, out=np.zeros_like(nearer), where=length > 0)
    return edges_m + away * (depth_m / 2)[..., None], np.hypot(sigma_m, DEPTH_SIGMA * depth_m)


def to_pixels(calibration: Calibration, xy_m: Floats) -> Floats:
    """Pixels (N, 2) of ground positions (N, 2); NaN for what lies behind the camera or is bent out of sight."""
    xy_m = np.asarray(xy_m, dtype=np.float64).reshape(-1, 2)
    mapped = homogeneous(np.linalg.inv(calibration.image_to_ground).astype(np.float64), xy_m)
    scale = np.where(mapped[:, 2] > 0, mapped[:, 2], np.nan)
    points_px: Floats = mapped[:, :2] / scale[:, None]
    return calibration.lens.bend(points_px) if calibration.lens else points_px


def nadir_px(calibration: Calibration, size_px: tuple[float, float]) -> Floats | None:
    """Where upright lines meet in pictures of a size, below the camera.

    Of a camera with square pixels, whose axis goes through the middle of its picture, one focal length makes a
    homography the view of a plane (Zhang, PAMI 2000, equations 3 and 4).

    Returns:
        (3,) homogeneous pixels, straightened; None where the camera looks straight down, or nothing real fits.
    """
    centre_px = calibration.lens.centre_px if calibration.lens else (size_px[0] / 2, size_px[1] / 2)
    unit_px = float(np.hypot(*size_px)) / 2
    to_px = np.array([[unit_px, 0, centre_px[0]], [0, unit_px, centre_px[1]], [0, 0, 1]])
    (ax, ay, az), (bx, by, bz), _ = (np.linalg.inv(to_px) @ np.linalg.inv(calibration.image_to_ground)).T
    # With w = 1 / focal^2: both axes of the ground are at right angles, and of one length.
    across = np.array([ax * bx + ay * by, ax**2 + ay**2 - bx**2 - by**2])
    deep = np.array([az * bz, az**2 - bz**2])
    w = -float(across @ deep) / max(float(across @ across), 1e-300)
    if not 1 / _FOCAL[1] ** 2 < w < 1 / _FOCAL[0] ** 2:
        return None
    upright = np.cross([ax * np.sqrt(w), ay * np.sqrt(w), az], [bx * np.sqrt(w), by * np.sqrt(w), bz])
    result: Floats = to_px @ (upright * [1 / np.sqrt(w), 1 / np.sqrt(w), 1])
    return result


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


def from_lonlat(origin_lonlat: tuple[float, float], lonlat: Floats) -> Floats:
    """Metres east and north of an origin, (N, 2), of longitudes and latitudes in degrees (N, 2)."""
    x_m, y_m = _local_projection(origin_lonlat)(lonlat[:, 0], lonlat[:, 1])
    return np.stack([x_m, y_m], axis=1)


def place_lonlat(origin_lonlat: tuple[float, float], lonlat: Floats) -> Floats:
    """The same of longitudes and latitudes that a person wrote.

    Raises:
        CalibrationError: they are no degrees, or so far from the origin that they cannot be meant.
    """
    exchanged = "are longitude and latitude exchanged?"
    if not (np.abs(lonlat) <= (180.0, 90.0)).all():
        raise CalibrationError(f"lon must lie within +-180 and lat within +-90 degrees; {exchanged}")
    xy_m = from_lonlat(origin_lonlat, lonlat)
    if (far_m := float(np.linalg.norm(xy_m, axis=1).max(initial=0.0))) > FARTHEST_M:
        lon, lat = origin_lonlat
        raise CalibrationError(
            f"a place {far_m / 1000:.0f} km from the origin of the source, lon {lon:.5f} lat {lat:.5f}, is in no "
            f"camera's view; {exchanged}"
        )
    return xy_m


def middle_lonlat(lonlat: Floats) -> tuple[float, float]:
    """The mean of longitudes and latitudes (N, 2) of one place, the date line across it or not."""
    lon, lat = lonlat[:, 0], lonlat[:, 1]
    mean = float(lon[0] + np.mean((lon - lon[0] + 180) % 360 - 180))
    return (mean + 180) % 360 - 180, float(lat.mean())


def local_frame(origin_lonlat: Sequence[float]) -> str:
    """The metric frame about an origin (longitude, latitude in degrees, WGS 84) in the words of PROJ.

    Azimuthal equidistant: distances from the origin are exact, others to 1e-7 over a few kilometres.
    """
    lon, lat = origin_lonlat
    return f"+proj=aeqd +lat_0={lat!r} +lon_0={lon!r} +datum=WGS84 +units=m +no_defs"


def _local_projection(origin_lonlat: tuple[float, float]) -> Any:
    from pyproj import Proj

    return Proj(local_frame(origin_lonlat))


def homogeneous(matrix: Floats, points: Floats) -> Floats:
    """Points (N, 2) under a homography (3, 3), before the division: (N, 3)."""
    result: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def largest_singular_value(matrices: Floats) -> Floats:
    """(N,) of matrices (N, 2, 2), in closed form: from the trace and determinant of J J^T."""
    trace = np.sum(matrices**2, axis=(1, 2))
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]
    result: Floats = np.sqrt((trace + np.sqrt(np.maximum(trace**2 - 4 * determinant**2, 0))) / 2)
    return result

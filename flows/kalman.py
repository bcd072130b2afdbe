"""The motion model: constant velocity of a box in pixels and seconds, on filterpy.

State: centre, extent and their velocities, [cx, cy, w, h, vx, vy, vw, vh], in px and px/s. Process noise is
continuous white acceleration (Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and
Navigation", 2001, ch. 6.2.2), its strength proportional to the object's size (the longer side of its box) as in
DeepSORT (Wojke et al. 2017), but per second rather than per frame, so that it means the same at every frame rate.
Measurement noise is a share of the size, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from filterpy.kalman import KalmanFilter
from scipy.linalg import block_diag
from scipy.special import chdtri

from flows.camera_motion import Affine, zoom
from flows.schema import NS, Float64Array, FloatArray

# How much a velocity changes within one second, in object sizes per second (standard deviation): a walking person,
# one size tall, goes 0.8 sizes/s and may stop or turn within that second.
_SPEED_CHANGE = 0.6
# The same of the velocity with which the box grows and shrinks. With true identities (PETS09, TUD-Campus, every 5th
# and 10th frame) boxes between keyframes score 0 to 0.5 HOTA more than at 0.2.
_GROWTH_CHANGE = 0.05
# A newborn's speed is unknown within about this many sizes per second.
_BIRTH_SPEED = 1.0
_BIRTH_GROWTH = 0.2
_LEAST_SIZE_PX = 4.0

_MEASURE = np.hstack([np.eye(4), np.zeros((4, 4))])


def gate_threshold(probability: float, degrees_of_freedom: int = 4) -> float:
    """Squared Mahalanobis distance that a true measurement of so many values stays under with this probability."""
    return float(chdtri(degrees_of_freedom, 1 - probability))


class BoxKalman:
    """Kalman filter of one object's box.

    Args:
        box_xyxy: First box, (4,) pixels.
        pts_ns: Its time.
        sigma: Standard deviation of its edges, as a share of its size.
    """

    def __init__(self, box_xyxy: FloatArray, pts_ns: int, sigma: float) -> None:
        measured = _to_centre(box_xyxy)
        size = _size(measured)
        self._filter = KalmanFilter(dim_x=8, dim_z=4)
        self._filter.H = _MEASURE
        self._filter.x = np.concatenate([measured, np.zeros(4)])
        spread = np.repeat([sigma * size, _BIRTH_SPEED * size, _BIRTH_GROWTH * size], [4, 2, 2])
        self._filter.P = np.diag(spread**2)
        self._pts_ns = pts_ns

    @property
    def box_xyxy(self) -> FloatArray:
        """Current estimate, (4,) pixels."""
        return _to_corners(self._filter.x[:4])

    @property
    def mean(self) -> Float64Array:
        """State, (8,)."""
        return self._filter.x.copy()

    @property
    def covariance(self) -> Float64Array:
        """Covariance of the state, (8, 8)."""
        return self._filter.P.copy()

    @property
    def velocity_px_s(self) -> tuple[float, float]:
        """Velocity of the centre."""
        return float(self._filter.x[4]), float(self._filter.x[5])

    @property
    def spread_px(self) -> float:
        """Standard deviation of the centre, the larger of both axes."""
        return float(np.sqrt(max(self._filter.P[0, 0], self._filter.P[1, 1])))

    def predict(self, pts_ns: int) -> FloatArray:
        """Move to a later time and return the expected box."""
        dt = (pts_ns - self._pts_ns) / NS
        if dt <= 0:
            raise ValueError(f"cannot predict from {self._pts_ns} ns to {pts_ns} ns: time runs forward")
        self._filter.predict(F=_transition(dt), Q=_white_acceleration(dt, _size(self._filter.x)))
        # A box that shrinks at constant speed would turn inside out while it is hidden.
        for extent, speed in ((2, 6), (3, 7)):
            if self._filter.x[extent] < _LEAST_SIZE_PX:
                self._filter.x[extent], self._filter.x[speed] = _LEAST_SIZE_PX, 0.0
        self._pts_ns = pts_ns
        return self.box_xyxy

    def warp(self, affine: Affine) -> None:
        """Follow a camera that moved: a similarity (2, 3) takes the state to where the same things are now."""
        turn, size = affine[:, :2], zoom(affine) * np.eye(2)
        motion = block_diag(turn, size, turn, size)
        self._filter.x = motion @ self._filter.x
        self._filter.x[:2] += affine[:, 2]
        self._filter.P = motion @ self._filter.P @ motion.T

    def distance2(self, box_xyxy: FloatArray, sigma: float) -> float:
        """Squared Mahalanobis distance of a measured box from the prediction."""
        innovation = _to_centre(box_xyxy) - self._filter.x[:4]
        spread = self._filter.P[:4, :4] + self._measurement_noise(box_xyxy, sigma)
        return float(innovation @ np.linalg.solve(spread, innovation))

    def update(self, box_xyxy: FloatArray, sigma: float) -> None:
        """Take a measured box in; `sigma` is the deviation of its edges as a share of its size."""
        self._filter.update(_to_centre(box_xyxy), R=self._measurement_noise(box_xyxy, sigma))

    @staticmethod
    def _measurement_noise(box_xyxy: FloatArray, sigma: float) -> Float64Array:
        return np.diag(np.full(4, (sigma * _size(_to_centre(box_xyxy))) ** 2))


def smooth(
    pts_ns: Sequence[int], measured: Sequence[FloatArray | None], sigmas: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Boxes at every time, each estimated from both sides (Rauch, Tung, Striebel 1965).

    Args:
        pts_ns: N increasing times.
        measured: The box (4,) measured at each, None where there was none; the first one is measured.
        sigmas: Deviation of each measured box's edges as a share of its size.

    Returns:
        (N, 4) float32, xyxy pixels.
    """
    first = measured[0]
    if first is None:
        raise ValueError("smoothing starts at a measured box")
    kalman = BoxKalman(first, pts_ns[0], sigmas[0])
    means, covariances = [kalman.mean], [kalman.covariance]
    transitions, noises = [np.eye(8)], [np.zeros((8, 8))]
    for before, now, box, sigma in zip(pts_ns, pts_ns[1:], measured[1:], sigmas[1:], strict=False):
        dt = (now - before) / NS
        transitions.append(_transition(dt))
        noises.append(_white_acceleration(dt, _size(means[-1])))
        kalman.predict(now)
        if box is not None:
            kalman.update(box, sigma)
        means.append(kalman.mean)
        covariances.append(kalman.covariance)
    states, *_ = KalmanFilter(dim_x=8, dim_z=4).rts_smoother(
        np.stack(means), np.stack(covariances), Fs=transitions, Qs=noises
    )
    return np.stack([_to_corners(state[:4]) for state in states])


def _transition(dt: float) -> Float64Array:
    transition = np.eye(8)
    transition[:4, 4:] = dt * np.eye(4)
    return transition


def _white_acceleration(dt: float, size_px: float) -> Float64Array:
    """Covariance (8, 8) that continuous white acceleration adds over `dt` seconds to an object of this size."""
    density = np.diag((np.repeat([_SPEED_CHANGE, _GROWTH_CHANGE], 2) * size_px) ** 2)
    noise = np.zeros((8, 8))
    noise[:4, :4] = density * dt**3 / 3
    noise[:4, 4:] = noise[4:, :4] = density * dt**2 / 2
    noise[4:, 4:] = density * dt
    return noise


def _size(centre: Float64Array) -> float:
    return max(float(centre[2]), float(centre[3]), _LEAST_SIZE_PX)


def _to_centre(box_xyxy: FloatArray) -> Float64Array:
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def _to_corners(centre: Float64Array) -> FloatArray:
    cx, cy, w, h = centre
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dtype=np.float32)

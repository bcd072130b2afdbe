"""Paths on the ground: where each object is, which way it faces and how fast it goes, at every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from flows.demo.camera import Floats

STRIDE_M = 1.4  # ground covered by one full gait cycle (two steps)
STANDING_M_S = 0.08  # slower than this an object keeps the heading it had


@dataclass(frozen=True)
class Path:
    """One object's motion at the N frames of a scene."""

    xy_m: Floats  # (N, 2)
    heading_rad: Floats  # (N,) anticlockwise from +x
    speed_m_s: Floats  # (N,)


def follow(
    points_m: Floats, waits_s: list[float], speed_m_s: float, start_s: float, times_s: Floats, smooth_s: float
) -> Path:
    """Walk a polyline at constant speed with a wait at each of its points, corners rounded over time."""
    knots_s, knots_m, now_s = [start_s], [points_m[0]], start_s
    for previous, point, wait_s in zip(points_m[:-1], points_m[1:], waits_s[1:], strict=True):
        now_s += max(float(np.linalg.norm(point - previous)) / speed_m_s, 1e-3)
        knots_s.append(now_s)
        knots_m.append(point)
        if wait_s > 0:
            now_s += wait_s
            knots_s.append(now_s)
            knots_m.append(point)
    step_s = float(times_s[1] - times_s[0]) if len(times_s) > 1 else 0.1
    margin = math.ceil(3 * smooth_s / step_s) + 1
    grid_s = times_s[0] + step_s * np.arange(-margin, len(times_s) + margin)
    track = np.stack([np.interp(grid_s, knots_s, np.array(knots_m)[:, axis]) for axis in (0, 1)], axis=1)
    return _path(_smooth(track, smooth_s / step_s)[margin:-margin], step_s, points_m[1] - points_m[0])


def standing(xy_m: Floats, heading_rad: float, count: int) -> Path:
    """An object that does not move."""
    return Path(np.tile(xy_m, (count, 1)), np.full(count, heading_rad), np.zeros(count))


def _smooth(values: Floats, sigma: float) -> Floats:
    if sigma < 0.3:
        return values
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in range(values.shape[1])], axis=1)


def _path(xy_m: Floats, step_s: float, towards_m: Floats) -> Path:
    velocity = np.gradient(xy_m, step_s, axis=0) if len(xy_m) > 1 else np.zeros_like(xy_m)
    speed = np.linalg.norm(velocity, axis=1)
    moving = speed > STANDING_M_S
    known = np.maximum.accumulate(np.where(moving, np.arange(len(xy_m)), -1))
    first = int(np.argmax(moving)) if moving.any() else -1
    known = np.where(known < 0, first, known)
    start_rad = math.atan2(float(towards_m[1]), float(towards_m[0]))
    heading = np.arctan2(velocity[:, 1], velocity[:, 0])[known] if first >= 0 else np.full(len(xy_m), start_rad)
    turned = _smooth(np.unwrap(heading)[:, None], 0.12 / step_s)[:, 0]
    return Path(xy_m, turned, speed)


@dataclass
class Traffic:
    """Keeps bodies from driving or walking through each other: every body is a row of discs."""

    discs: list[tuple[Floats, float]] = field(default_factory=list)  # ((N or 1, D, 2) centres, radius)

    def admit(self, path: Path, length_m: float, width_m: float) -> bool:
        """Add a body if it touches no earlier one; return whether it was added."""
        centres, radius_m = _discs(path, length_m, width_m)
        for others, other_m in self.discs:
            gaps = np.linalg.norm(centres[:, :, None] - others[:, None], axis=-1)
            if float(gaps.min()) < radius_m + other_m:
                return False
        self.discs.append((centres, radius_m))
        return True

    def block(self, xy_m: Floats, radius_m: float) -> None:
        """Add standing discs (D, 2)."""
        self.discs.append((xy_m[None], radius_m))


def _discs(path: Path, length_m: float, width_m: float) -> tuple[Floats, float]:
    count = max(1, round(length_m / max(width_m, 0.1)))
    offsets = (np.arange(count) - (count - 1) / 2) * (length_m / count)
    along = np.stack([np.cos(path.heading_rad), np.sin(path.heading_rad)], axis=1)
    return path.xy_m[:, None] + along[:, None] * offsets[None, :, None], width_m / 2

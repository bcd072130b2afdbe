"""Procedural textures: noise of several octaves and the patterns laid over it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]


def noise(rng: np.random.Generator, height_px: int, width_px: int, cell_px: float, octaves: int = 4) -> Planes:
    """Smooth value noise (height, width) in about [-1, 1], its largest blobs ``cell_px`` wide."""
    total = np.zeros((height_px, width_px), np.float32)
    weight_sum = 0.0
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        rows, columns = int(height_px / cell) + 2, int(width_px / cell) + 2
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        weight = 0.6**octave
        total += weight * cv2.resize(grid, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        weight_sum += weight
    return total * np.float32(1.8 / weight_sum)


def mottled(
    rng: np.random.Generator, size_px: tuple[int, int], colour: npt.ArrayLike, contrast: float, cell_px: float
) -> Planes:
    """A (height, width, 3) float texture of one colour with blotches and fine grain, 0-255."""
    height_px, width_px = size_px
    colours = np.asarray(colour, np.float32).tolist()
    blotches = noise(rng, height_px, width_px, cell_px)
    blotches *= np.float32(contrast)
    grain = rng.standard_normal((512, 512), np.float32) * np.float32(0.35 * contrast)
    level = 1 + blotches + np.tile(grain, (height_px // 512 + 1, width_px // 512 + 1))[:height_px, :width_px]
    tint = rng.normal(0, 0.12, 3).tolist()
    return cv2.merge([level * (1 + blotches * hue) * shade for hue, shade in zip(tint, colours, strict=True)])


def tiles(texture: Planes, pitch_px: float, joint: float, rng: np.random.Generator) -> Planes:
    """Lay square tiles over a texture: each tile slightly lighter or darker, joints darkened by ``joint``."""
    height_px, width_px = texture.shape[:2]
    rows, columns = np.arange(height_px) / pitch_px, np.arange(width_px) / pitch_px
    shade = rng.normal(1, 0.035, (int(rows[-1]) + 1, int(columns[-1]) + 1)).astype(np.float32)
    if rng.random() < 0.35:
        checker = np.indices(shade.shape).sum(axis=0) % 2
        shade *= np.where(checker, 1.0, rng.uniform(0.75, 0.93)).astype(np.float32)
    shaded = texture * shade[rows.astype(int)][:, columns.astype(int)][..., None]
    width = max(1.5 / pitch_px, 0.02)
    lines = ((rows % 1) < width)[:, None] | ((columns % 1) < width)[None, :]
    shaded[lines] *= np.float32(1 - joint)
    return shaded


def facade(rng: np.random.Generator, size_px: tuple[int, int], metres_px: float, indoor: bool) -> Planes:
    """A wall (height, width, 3): panels or bricks, and rows of windows or posters."""
    height_px, width_px = size_px
    colour = rng.uniform(70, 205) + rng.normal(0, 16, 3)
    wall = mottled(rng, size_px, colour, 0.07, metres_px * 2)
    course_px = max(int(metres_px * rng.choice([0.3, 0.6, 1.2])), 4)
    wall[::course_px] *= np.float32(0.88)
    step_m, sill_m, tall_m, wide_m = rng.uniform(2.2, 4.5), 1.0, rng.uniform(1.0, 1.7), rng.uniform(0.9, 1.9)
    storey_px, step_px = int(3.2 * metres_px), int(step_m * metres_px)
    pane = np.array([60, 72, 84]) + rng.uniform(-20, 40)
    for bottom in range(height_px, 0, -storey_px):
        for left in range(int(rng.uniform(0, step_px)), width_px, step_px):
            if rng.random() < (0.7 if indoor else 0.15):
                continue
            y1 = int(bottom - sill_m * metres_px)
            y0, x1 = max(int(y1 - tall_m * metres_px), 0), int(left + wide_m * metres_px)
            glass = rng.uniform(40, 220, 3) if indoor else pane * rng.uniform(0.7, 1.4)
            frame_px = max(int(0.08 * metres_px), 1)
            cv2.rectangle(wall, (left, y0), (x1, y1), (colour * 1.25).tolist(), -1)
            cv2.rectangle(wall, (left + frame_px, y0 + frame_px), (x1 - frame_px, y1 - frame_px), glass.tolist(), -1)
    return wall


def sky(rng: np.random.Generator, size_px: tuple[int, int]) -> Planes:
    """A cloudy sky (height, width, 3), lighter towards the horizon."""
    height_px, width_px = size_px
    top = np.array([120, 150, 190]) + rng.normal(0, 20, 3)
    ramp = np.linspace(0, 1, height_px, dtype=np.float32)[:, None, None]
    clouds = noise(rng, height_px, width_px, width_px / 4)[..., None] * 16
    return np.asarray(top * (1 - ramp) + np.array([205, 210, 214]) * ramp + clouds, np.float32)

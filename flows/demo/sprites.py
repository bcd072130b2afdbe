"""Sprites for training clips: textured shapes, and real objects cut out of masklets, moving over a canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.demo.masklets import MaskletClip

Image = NDArray[np.uint8]

# Side of the square that shapes are drawn on before they are warped into the clip.
SHAPE_PATCH_PX = 96
SMALLEST_PX = 12.0
# The box of what is not there.
NOWHERE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sprite:
    """A moving cutout.

    Attributes:
        patches: (h, w, 4) uint8 RGBA pictures; frame t shows patch `t % len(patches)`.
        centres_px: (T, 2) centres in pixels of the clip.
        scales: (T, 2) clip pixels per patch pixel, in x and y.
        angles_deg: (T,) rotations.
        hidden: (T,) bool: frames where it is not there at all.
    """

    patches: list[Image]
    centres_px: NDArray[np.float64]
    scales: NDArray[np.float64]
    angles_deg: NDArray[np.float64]
    hidden: NDArray[np.bool_]

    def lookalike(self, rng: np.random.Generator, size_px: int) -> Sprite:
        """The same object again nearby, on a path of its own: what a tracker must not jump to."""
        offset = rng.normal(0, 0.15, 2) * size_px
        drift = rng.normal(0, 0.015, 2) * size_px * np.arange(len(self.centres_px))[:, None]
        return replace(self, centres_px=self.centres_px + offset + drift)


def draw_height_px(rng: np.random.Generator, size_px: int) -> float:
    """A height for an object, as many small as large: from a person far away to over half of the frame.

    The smallest is the same at every resolution, so that a 128-px clip is a corner of a 256-px one, not a
    blurred copy of it, and what is learned on the one holds on the other.
    """
    return float(np.exp(rng.uniform(np.log(SMALLEST_PX), np.log(0.6 * size_px))))


def texture(rng: np.random.Generator, size_px: int, cells: int) -> Image:
    """A (size, size, 3) picture of smooth random colour with fine grain."""
    contrast = rng.uniform(10, 120)
    coarse = rng.uniform(-contrast, contrast, (cells, cells, 3 if rng.random() < 0.5 else 1))
    grid = np.broadcast_to(coarse, (cells, cells, 3)) + rng.uniform(20, 235, 3)
    picture = cv2.resize(grid.astype(np.float32), (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        grain = rng.normal(0, rng.uniform(2, 25), (size_px // 2 + 1, size_px // 2 + 1, 1)).astype(np.float32)
        picture += cv2.resize(grain, (size_px, size_px))[..., None]
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)


def shape_sprite(rng: np.random.Generator, size_px: int, times: NDArray[np.int64]) -> Sprite:
    """An object of one to four textured parts (ellipses, boxes, polygons), as people and cars are of several."""
    side = SHAPE_PATCH_PX
    patch = np.zeros((side, side, 4), np.uint8)
    upright = rng.random() < 0.4
    for part in range(int(rng.integers(1, 5))):
        mask = np.zeros((side, side), np.uint8)
        if upright:
            centre = (side // 2 + int(rng.normal(0, 4)), int(side * (0.2 + 0.2 * part)))
            axes = (int(rng.uniform(6, 18)), int(rng.uniform(10, 22)))
        else:
            centre = (int(rng.uniform(0.35, 0.65) * side), int(rng.uniform(0.35, 0.65) * side))
            axes = (int(rng.uniform(8, 32)), int(rng.uniform(8, 32)))
        _draw_part(rng, mask, centre, axes)
        patch[mask > 0, :3] = texture(rng, side, int(rng.integers(2, 8)))[mask > 0]
        patch[mask > 0, 3] = 255
    tall_px = draw_height_px(rng, size_px)
    scale = tall_px / (0.7 * side)
    scales = np.array([scale * rng.uniform(0.6, 1.3), scale])
    spin = rng.normal(0, 2.5) if rng.random() < 0.4 else 0.0
    return _moving(rng, [_cropped(patch)], scales, size_px, times, spin)


def _draw_part(
    rng: np.random.Generator, mask: NDArray[np.uint8], centre: tuple[int, int], axes: tuple[int, int]
) -> None:
    kind = rng.integers(3)
    if kind == 0:
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 30)), 0, 360, 255, -1)
    elif kind == 1:
        (x, y), (a, b) = centre, axes
        cv2.rectangle(mask, (x - a, y - b), (x + a, y + b), 255, -1)
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
        radii = rng.uniform(0.5, 1.2, (len(turns), 1)) * np.array(axes)
        corners = np.array(centre) + radii * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        cv2.fillPoly(mask, [corners.astype(np.int32)], (255,))


def cutout_sprite(
    rng: np.random.Generator, source: MaskletClip, size_px: int, times: NDArray[np.int64]
) -> Sprite | None:
    """A real object cut out over consecutive frames, or None where the drawn one is too small or too large."""
    row = source.boxes[rng.integers(len(source.boxes))]
    rows = source.boxes[source.boxes[:, 1] == row[1]]
    frames = int(times[-1]) + 1
    first = int(np.flatnonzero(rows[:, 0] == row[0])[0])
    rows = rows[first : first + frames * 2 : int(rng.choice([1, 1, 2]))]
    height = int(row[5] - row[3])
    if height < 12 or (row[4] - row[2]) * height > 200_000:
        return None
    tall_px = draw_height_px(rng, size_px)
    tall_px = min(tall_px, 2.0 * height)
    flip = rng.random() < 0.5
    patches = []
    for frame, label, x1, y1, x2, y2 in rows[:frames].tolist():
        alpha = (source.labels(frame)[y1:y2, x1:x2] == label).astype(np.uint8) * 255
        patch = np.dstack([source.frame(frame)[y1:y2, x1:x2], cv2.blur(alpha, (3, 3))])
        shrink = min(1.0, 1.5 * tall_px / height)
        # A sliver must not vanish.
        small = (max(1, round(shrink * patch.shape[1])), max(1, round(shrink * patch.shape[0])))
        patch = cv2.resize(patch, small, interpolation=cv2.INTER_AREA)
        patches.append(np.ascontiguousarray(patch[:, ::-1] if flip else patch))
    scale = tall_px / patches[0].shape[0]
    # There and back again, so that a short masklet fills a long clip without a jump.
    patches += patches[-2:0:-1]
    patches = [patches[time % len(patches)] for time in times]
    return _moving(rng, patches, np.array([scale * rng.uniform(0.5, 1.1), scale]), size_px, times, 0.0)


def _cropped(patch: Image) -> Image:
    ys, xs = np.nonzero(patch[..., 3])
    return np.ascontiguousarray(patch[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])


def _moving(
    rng: np.random.Generator,
    patches: list[Image],
    scales: NDArray[np.float64],
    size_px: int,
    times: NDArray[np.int64],
    spin_deg: float,
) -> Sprite:
    """Give patches a path: still, steady or accelerating; some vanish for a while."""
    t, frames = times[:, None].astype(float), len(times)
    speed = rng.choice([0.0, 0.006, 0.015, 0.03], p=[0.15, 0.35, 0.35, 0.15]) * size_px
    start = rng.uniform(0.05, 0.95, 2) * size_px
    velocity = rng.normal(0, 1, 2) * speed
    bend = rng.normal(0, 0.05, 2) * speed
    tremble = rng.normal(0, 0.001, (frames, 2)) * size_px
    centres = start + velocity * t + bend * t * t / 2 + tremble
    grow = np.exp(rng.normal(0, 0.008) * t)
    hidden = np.zeros(frames, dtype=bool)
    if frames > 3 and rng.random() < 0.08:
        begin = int(rng.integers(1, frames - 1))
        hidden[begin : begin + int(rng.integers(1, frames // 2 + 1))] = True
    return Sprite(patches, centres, scales * grow, spin_deg * t[:, 0], hidden)


def paste(
    rgb: Image, ids: NDArray[np.int32], sprite: Sprite, t: int, object_id: int, offset_px: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Draw a sprite's frame t into a frame and its id map, in place; returns the box of what is drawn, or zeros."""
    if sprite.hidden[t]:
        return NOWHERE
    patch = sprite.patches[t % len(sprite.patches)]
    height, width = patch.shape[:2]
    turn = np.deg2rad(sprite.angles_deg[t])
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * sprite.scales[t]
    centre = sprite.centres_px[t] + offset_px
    reach = np.abs(linear) @ np.array([width, height]) / 2 + 2
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach), (rgb.shape[1], rgb.shape[0])).astype(int)
    if (high <= low).any():
        return NOWHERE
    shift = centre - low - linear @ np.array([width / 2, height / 2])
    warped = cv2.warpAffine(patch, np.column_stack([linear, shift]), (int(high[0] - low[0]), int(high[1] - low[1])))
    alpha = warped[..., 3:].astype(np.float32) / 255
    region = (slice(low[1], high[1]), slice(low[0], high[0]))
    rgb[region] = (rgb[region] * (1 - alpha) + warped[..., :3] * alpha).astype(np.uint8)
    drawn = alpha[..., 0] > 0.5
    ids[region][drawn] = object_id
    return box_xyxy(drawn, *low.tolist())


def box_xyxy(mask: NDArray[np.bool_], x_px: int = 0, y_px: int = 0) -> tuple[float, float, float, float]:
    """The box of a mask that begins at a place, zeros of one that is empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return NOWHERE
    return (float(x_px + columns[0]), float(y_px + rows[0]), float(x_px + columns[-1] + 1), float(y_px + rows[-1] + 1))

"""Seeded CCTV-like scenes: every frame with the exact mask, box and ground position of every object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from flows.demo.camera import Floats
from flows.demo.casting import CLASS_NAMES, Actor, cast
from flows.demo.layout import THEMES, Cover, Stage, build_stage
from flows.demo.solids import Polygon, fill
from flows.demo.textures import noise

__all__ = ["CLASS_NAMES", "DEMO_SEED", "THEMES", "ObjectTruth", "Scene", "demo_scene"]

Image = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]

DEMO_SEED = 73  # chosen by eye: workers, a digger, a truck and two forklifts, two of them hidden for a while
SHAKE_PX = 5  # margin drawn around the view, out of 640, for a shaking camera to move in
GRAIN_PX = 240  # sensor noise is cut from a tile this much larger: drawing it afresh would cost more than the scene


@dataclass(frozen=True)
class ObjectTruth:
    """One object in one frame.

    Attributes:
        id: identity, from 1, the value in the id map.
        class_index: index into ``CLASS_NAMES``.
        box_xyxy: (4,) pixel edges of the visible mask; zeros when nothing is visible.
        amodal_xyxy: (4,) pixel edges of the whole object, as if nothing hid it; may leave the frame.
        visibility: visible pixels over all pixels of the whole object, 0-1.
        ground_xy_m: (2,) ground position in metres.
    """

    id: int
    class_index: int
    box_xyxy: Floats
    amodal_xyxy: Floats
    visibility: float
    ground_xy_m: Floats


@dataclass(frozen=True)
class _Sensor:
    """What the camera's electronics do to the picture."""

    gain: Floats  # (N, 3) per channel
    noise: Image  # (H + GRAIN_PX, W + GRAIN_PX, 3), 128 is none
    corner_px: npt.NDArray[np.int64]  # (N, 2) x, y of the tile cut for each frame
    shift_px: npt.NDArray[np.int64]  # (N, 2) x, y of the view's first pixel on the drawn canvas
    grey: bool


@dataclass(frozen=True)
class Scene:
    """A scene that can draw any of its frames; the same seed gives the same pixels in any process."""

    seed: int
    width_px: int
    height_px: int
    fps: float
    stage: Stage
    actors: tuple[Actor, ...]
    cloth: Image  # grain laid over moving things
    sensor: _Sensor
    shadow: float

    @staticmethod
    def random(
        seed: int,
        theme: str | None = None,
        width: int = 640,
        height: int = 360,
        fps: float = 15.0,
        duration_s: float = 20.0,
        n_objects: int | None = None,
        shake: bool = False,
    ) -> Scene:
        """Make up a scene.

        Args:
            seed: any non-negative number; everything follows from it.
            theme: one of ``THEMES``, or None to let the seed choose.
            width: image width in pixels.
            height: image height in pixels.
            fps: frames per second.
            duration_s: length in seconds.
            n_objects: how many objects to try to place; crowded scenes may hold fewer.
            shake: let the camera tremble.

        Raises:
            ValueError: the theme is unknown, or a size is not positive.
        """
        if theme is not None and theme not in THEMES:
            raise ValueError(f"theme {theme!r} is not one of {', '.join(THEMES)}")
        if min(width, height, fps, duration_s) <= 0:
            raise ValueError(f"sizes must be positive, got {width}x{height}, {fps} fps, {duration_s} s")
        rng = np.random.default_rng([seed, 0x5CE9E])
        theme = theme or THEMES[int(rng.integers(len(THEMES)))]
        margin = math.ceil(SHAKE_PX * width / 640) if shake else 0
        count = max(1, round(duration_s * fps))
        stage = build_stage(np.random.default_rng([seed, 1]), theme, width + 2 * margin, height + 2 * margin)
        wanted = n_objects if n_objects is not None else int(rng.integers(4, 20))
        actors = cast(np.random.default_rng([seed, 2]), stage, np.arange(count) / fps, wanted)
        cloth = np.clip(128 * (1 + 0.09 * noise(rng, 512, 512, 9.0, 3)), 0, 255).astype(np.uint8)
        sensor = _sensor(np.random.default_rng([seed, 3]), (width, height), count, fps, margin)
        return Scene(
            seed, width, height, fps, stage, actors, np.dstack([cloth] * 3), sensor, float(rng.uniform(0.2, 0.5))
        )

    @property
    def theme(self) -> str:
        """The scene's theme."""
        return self.stage.theme

    @property
    def frame_count(self) -> int:
        """How many frames the scene has."""
        return len(self.sensor.gain)

    def image_from_ground(self, index: int) -> Floats:
        """3x3 homography from ground metres to the pixels of frame ``index`` (they differ if the camera shakes)."""
        shift = np.eye(3)
        shift[:2, 2] = -self.sensor.shift_px[index]
        return shift @ self.stage.camera.image_from_ground()

    def render(self, index: int) -> tuple[Image, Ids]:
        """Draw frame ``index``.

        Returns:
            (H, W, 3) uint8 RGB image and (H, W) int32 map of the id visible at each pixel, 0 for none.
        """
        frame = self.stage.background.copy()
        ids = np.zeros(frame.shape[:2], np.int32)
        self._cast_shadows(frame, index)
        self._draw(index, frame, ids)
        view = self._view(index)
        return self._expose(frame[view], index), np.ascontiguousarray(ids[view])

    def truth(self, index: int) -> list[ObjectTruth]:
        """Where every object of the scene is in frame ``index``, hidden and departed ones included."""
        ids = np.zeros(self.stage.background.shape[:2], np.int32)
        whole = self._draw(index, None, ids)
        visible = ids[self._view(index)]
        shift = self.sensor.shift_px[index]
        counts = np.bincount(visible.ravel(), minlength=len(self.actors) + 1)
        truths = []
        for actor in self.actors:
            x0, y0, x1, y1, area = whole[actor.id]
            box = np.zeros(4)
            if counts[actor.id]:
                mask = (visible == actor.id).view(np.uint8)
                x, y, w, h = cv2.boundingRect(mask)
                box = np.array([x, y, x + w, y + h], float)
            amodal = np.array([x0, y0, x1, y1], float) - np.tile(shift, 2)
            visibility = float(counts[actor.id] / area) if area else 0.0
            truths.append(
                ObjectTruth(actor.id, actor.class_index, box, amodal, visibility, actor.path.xy_m[index].copy())
            )
        return truths

    def _view(self, index: int) -> tuple[slice, slice]:
        x, y = self.sensor.shift_px[index].tolist()
        return slice(y, y + self.height_px), slice(x, x + self.width_px)

    def _draw(self, index: int, frame: Image | None, ids: Ids) -> dict[int, tuple[int, int, int, int, int]]:
        """Draw actors and what hides them, far to near; return each actor's whole box and area by id."""
        layers: list[tuple[float, Actor | Cover]] = [(cover.y_m, cover) for cover in self.stage.covers]
        layers += [(float(actor.path.xy_m[index, 1]), actor) for actor in self.actors]
        whole: dict[int, tuple[int, int, int, int, int]] = {}
        drawn: list[tuple[int, int, int, int]] = []
        for _, layer in sorted(layers, key=lambda layer: -layer[0]):
            if isinstance(layer, Cover):
                self._restore(layer, drawn, frame, ids)
                continue
            polygons = layer.polygons(self.stage, index)
            box, mask = _stencil(polygons, ids.shape)
            area = cv2.countNonZero(mask)
            x, y, w, h = cv2.boundingRect(mask) if area else (0, 0, 0, 0)
            x0, y0 = box[0] + x, box[1] + y
            whole[layer.id] = (x0, y0, x0 + w, y0 + h, area)
            if self._paint(layer, polygons, (box, mask), frame, ids):
                drawn.append((x0, y0, x0 + w, y0 + h))
        return whole

    def _paint(
        self,
        actor: Actor,
        polygons: list[Polygon],
        stencil: tuple[tuple[int, int, int, int], Image],
        frame: Image | None,
        ids: Ids,
    ) -> bool:
        (x0, y0, x1, y1), mask = stencil
        height, width = ids.shape
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or top >= bottom:
            return False
        part = mask[top - y0 : bottom - y0, left - x0 : right - x0]
        ids[top:bottom, left:right][part > 0] = actor.id
        if frame is not None:
            roi = frame[top:bottom, left:right]
            corner = np.array([left, top], float)
            patch = roi.copy()
            for polygon, colour in polygons:
                fill(patch, polygon - corner, colour, smooth=True)
            # The grain is cut at the object's own corner, so that it travels with it.
            at = (actor.id * 37 % 200 + top - y0) % 512, (actor.id * 61 % 200 + left - x0) % 512
            grain = self.cloth[at[0] : at[0] + roi.shape[0], at[1] : at[1] + roi.shape[1]]
            if grain.shape == roi.shape:
                cv2.copyTo(cv2.multiply(patch, grain, scale=1 / 128), part, patch)
            roi[:] = patch
        return True

    def _restore(self, cover: Cover, drawn: list[tuple[int, int, int, int]], frame: Image | None, ids: Ids) -> None:
        """Put a piece of background back in front of what has been drawn so far."""
        x, y = cover.corner_px
        h, w = cover.mask.shape
        if not any(a < x + w and x < c and b < y + h and y < d for a, b, c, d in drawn):
            return
        ids[y : y + h, x : x + w][cover.mask > 0] = 0
        if frame is not None:
            roi = frame[y : y + h, x : x + w]
            cv2.copyTo(self.stage.background[y : y + h, x : x + w], cover.mask, roi)

    def _cast_shadows(self, frame: Image, index: int) -> None:
        """Darken the ground where the sun's rays pass an object's upright box."""
        sun = self.stage.light.direction
        height, width = frame.shape[:2]
        layer = np.zeros((height, width), np.uint8)
        for actor in self.actors:
            corners = actor.corners_m(index)
            middle = np.append(actor.path.xy_m[index], 0.0)
            slim = middle + (corners - middle) * [0.75, 0.75, 0.95]
            flat = slim - sun * (slim[:, 2:] / sun[2])
            if float(flat[:, 1].min()) < 0.5:
                continue
            uv_px, _ = self.stage.camera.project(flat)
            hull = cv2.convexHull(uv_px.astype(np.float32))[:, 0]
            fill(layer, hull.astype(float), (255,), smooth=True)
        if not layer.any():
            return
        x, y, w, h = cv2.boundingRect(layer)
        soft = cv2.blur(layer[y : y + h, x : x + w], (5, 5))
        dark = cv2.convertScaleAbs(soft, alpha=-self.shadow, beta=0)
        dark = cv2.subtract(np.full_like(dark, 255), dark)
        roi = frame[y : y + h, x : x + w]
        cv2.multiply(roi, cv2.merge([dark, dark, dark]), roi, scale=1 / 255)

    def _expose(self, view: Image, index: int) -> Image:
        """Apply lighting drift and sensor noise."""
        x, y = self.sensor.corner_px[index].tolist()
        lit = cv2.multiply(view, (*self.sensor.gain[index].tolist(), 0.0))
        if self.sensor.grey:
            lit = cv2.cvtColor(cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        grain = self.sensor.noise[y : y + self.height_px, x : x + self.width_px]
        result: Image = cv2.addWeighted(lit, 1.0, grain, 1.0, -128).astype(np.uint8, copy=False)
        return result


def _stencil(polygons: list[Polygon], frame_shape: tuple[int, ...]) -> tuple[tuple[int, int, int, int], Image]:
    """The mask of a whole object in its own box, up to one frame beyond the frame's edges."""
    height, width = frame_shape[:2]
    points = np.concatenate([polygon for polygon, _ in polygons])
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, [-width, -height])
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, [2 * width, 2 * height])
    size = np.maximum(high - low, 1)
    mask = np.zeros((int(size[1]), int(size[0])), np.uint8)
    for polygon, _ in polygons:
        fill(mask, polygon - low, (255,), smooth=False)
    box = (int(low[0]), int(low[1]), int(low[0] + size[0]), int(low[1] + size[1]))
    return box, mask


def _sensor(rng: np.random.Generator, size_px: tuple[int, int], count: int, fps: float, margin_px: int) -> _Sensor:
    times_s = np.arange(count) / fps
    drift = rng.uniform(0, 0.08) * np.sin(2 * math.pi * times_s / rng.uniform(8, 40) + rng.uniform(0, 6))
    cloud_s, depth = rng.uniform(0, 30), rng.uniform(0, 0.15) if rng.random() < 0.3 else 0.0
    dimmed = depth / (1 + np.exp(-(times_s - cloud_s) * 2))
    level = rng.uniform(0.88, 1.2) if rng.random() > 0.12 else rng.uniform(0.5, 0.75)
    tint = 1 + rng.normal(0, 0.03, 3)
    gain = level * (1 + drift - dimmed)[:, None] * tint
    sigma = rng.uniform(1.5, 6.0) if level > 0.8 else rng.uniform(4, 9)
    tile = (size_px[1] + GRAIN_PX, size_px[0] + GRAIN_PX, 3)
    grain = rng.standard_normal((*tile[:2], 1), np.float32) * 0.8 + rng.standard_normal(tile, np.float32) * 0.5
    noise_tile = np.clip(np.round(128 + sigma * grain), 0, 255).astype(np.uint8)
    corner = rng.integers(0, GRAIN_PX, (count, 2))
    shift = np.zeros((count, 2), np.int64)
    if margin_px:
        waves = [
            np.sin(2 * math.pi * times_s[:, None] * rng.uniform(0.3, 2.5, 2) + rng.uniform(0, 6, 2)) for _ in range(3)
        ]
        shift = np.round(margin_px * (1 + np.mean(waves, axis=0))).astype(np.int64)
    return _Sensor(gain, noise_tile, corner, shift, bool(rng.random() < 0.06))


def demo_scene() -> Scene:
    """The scene of the project's own demonstration: 20 s at 640x360, 15 frames a second."""
    return Scene.random(DEMO_SEED, theme="site", n_objects=11)

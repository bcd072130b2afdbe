"""Training clips for the nano segmenter: short videos with exact or teacher-made masks, made on the fly.

A clip is a base (a texture, a still or moving window of a real clip) with sprites (textured shapes, or real objects
cut out of masklets) moving over it. Everything is drawn from one random generator, so a clip is a function of its
seed and step, and a resumed run sees the clips it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.demo.masklets import MaskletClip
from flows.demo.sprites import NOWHERE, Sprite, box_xyxy, cutout_sprite, draw_height_px, paste, shape_sprite, texture

Image = NDArray[np.uint8]
Ids = NDArray[np.int32]

# Objects with fewer pixels at model resolution are neither prompted nor called visible.
MIN_PROMPT_AREA_PX = 24
MIN_VISIBLE_AREA_PX = 8
# Sprites' ids start here; below are the labels of the base's masklets.
SPRITE_ID0 = 1000


@dataclass(frozen=True)
class ClipSpec:
    """What clips to make.

    Attributes:
        size_px: Side of the square frames.
        frames: Frames a clip.
        objects: Objects tracked in each clip.
        real_share: Share of clips on a base of real footage.
        scene_share: Share of clips on a base of synthetic scenes; the rest has textures.
        every: Frames of the video from one of the clip to the next.
    """

    size_px: int
    frames: int
    objects: int
    real_share: float = 0.0
    scene_share: float = 0.0
    every: int = 1

    @property
    def times(self) -> NDArray[np.int64]:
        """(T,) numbers of the clip's frames in its video."""
        return np.arange(self.frames, dtype=np.int64) * self.every


@dataclass(frozen=True)
class Clip:
    """A clip with what is asked of the segmenter.

    Attributes:
        frames: (T, S, S, 3) uint8 RGB.
        masks: (K, T, S, S) bool, visible parts.
        valid: (K, T) bool: whether the truth is known there.
        boxes_xyxy: (K, T, 4) float32 boxes of the masks in pixels; zeros where the object is hidden.
        whole_xyxy: (K, T, 4) float32 boxes with what is hidden of the objects, cut to the frame; zeros where not known.
    """

    frames: Image
    masks: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float32]
    whole_xyxy: NDArray[np.float32]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(K, T) bool: whether enough of the object is seen."""
        return np.asarray(self.masks.sum((2, 3)) >= MIN_VISIBLE_AREA_PX)


@dataclass
class _Canvas:
    """A clip while it is being drawn."""

    frames: list[Image]
    ids: list[Ids]
    # Where the base's labels are known: (frame, label) pairs.
    known: set[tuple[int, int]] = field(default_factory=set)
    # Boxes of what is drawn, by the same.
    whole_xyxy: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)


class ClipMaker:
    """Makes clips from masklet files and from nothing.

    Args:
        masklet_paths: Files that `masklets.make_masklets` wrote; without any, everything is synthetic.
    """

    def __init__(self, masklet_paths: Sequence[Path] = ()) -> None:
        clips = [clip for clip in map(MaskletClip.load, masklet_paths) if len(clip.boxes)]
        self._real = [clip for clip in clips if not clip.exact]
        self._scenes = [clip for clip in clips if clip.exact]

    def make(self, rng: np.random.Generator, spec: ClipSpec) -> Clip:
        """One clip; drawn again until it has an object to track."""
        while True:
            canvas = self._base(rng, spec)
            self._add_sprites(rng, spec, canvas)
            clip = _choose_objects(rng, spec, canvas)
            if clip is not None:
                return degrade(rng, clip)

    def _base(self, rng: np.random.Generator, spec: ClipSpec) -> _Canvas:
        draw = rng.random()
        if self._real and draw < spec.real_share:
            # A still base is what a fixed camera sees, and makes every pasted object's truth exact.
            return _real_base(rng, spec, _pick(rng, self._real), still=bool(rng.random() < 0.4))
        if self._scenes and draw < spec.real_share + spec.scene_share:
            return _real_base(rng, spec, _pick(rng, self._scenes), still=False)
        return _textured_base(rng, spec)

    def _add_sprites(self, rng: np.random.Generator, spec: ClipSpec, canvas: _Canvas) -> None:
        base_is_real = bool(canvas.known)
        # Enough that no object has to be tracked twice in the same clip, which would be time for nothing.
        count = int(rng.integers(2, 6) if base_is_real else rng.integers(3, 9))
        sprites: list[Sprite] = []
        while len(sprites) < count:
            if self._real and rng.random() < max(spec.real_share, 0.1):
                sprite = cutout_sprite(rng, _pick(rng, self._real), spec.size_px, spec.times)
            else:
                sprite = shape_sprite(rng, spec.size_px, spec.times)
            if sprite is None:
                continue
            sprites.append(sprite)
            if rng.random() < 0.25:
                sprites.append(sprite.lookalike(rng, spec.size_px))
        shake = _camera_shake(rng, spec)
        for index, sprite in enumerate(sprites):
            for t in range(spec.frames):
                label = SPRITE_ID0 + index
                drawn = paste(canvas.frames[t], canvas.ids[t], sprite, t, label, shake[t])
                canvas.whole_xyxy[t, label] = drawn


def _pick(rng: np.random.Generator, clips: list[MaskletClip]) -> MaskletClip:
    """A clip, by the square root of its masks, so that the longest does not crowd out the others."""
    weights = np.sqrt([len(clip.boxes) for clip in clips])
    return clips[rng.choice(len(clips), p=weights / weights.sum())]


def _camera_shake(rng: np.random.Generator, spec: ClipSpec) -> NDArray[np.float64]:
    """(T, 2) offsets in pixels of a camera that pans and trembles, or stands still."""
    if rng.random() < 0.6:
        return np.zeros((spec.frames, 2))
    pan = rng.normal(0, 0.01, 2) * spec.size_px
    tremble = rng.normal(0, 0.003, (spec.frames, 2)) * spec.size_px
    return spec.times[:, None] * pan + tremble


def _textured_base(rng: np.random.Generator, spec: ClipSpec) -> _Canvas:
    size = spec.size_px
    big = texture(rng, int(size * 1.5), int(rng.integers(2, 14)))
    for _ in range(int(rng.integers(0, 8))):
        x0, y0 = rng.integers(0, int(size * 1.4), 2)
        w, h = rng.integers(4, size // 2, 2)
        big[y0 : y0 + h, x0 : x0 + w] = texture(rng, 64, 6)[:1, :1] if rng.random() < 0.5 else rng.integers(0, 255, 3)
    start = rng.uniform(0, size * 0.25, 2)
    velocity = rng.normal(0, 0.01, 2) * size if rng.random() < 0.4 else np.zeros(2)
    frames = []
    for t in spec.times:
        x, y = np.clip(start + t * velocity, 0, size * 0.5).astype(int)
        frames.append(big[y : y + size, x : x + size].copy())
    return _Canvas(frames, [np.zeros((size, size), np.int32) for _ in range(spec.frames)])


def _real_base(rng: np.random.Generator, spec: ClipSpec, source: MaskletClip, still: bool) -> _Canvas:
    """A window of a real clip around one of its objects, scaled to a drawn height."""
    row = source.boxes[rng.integers(len(source.boxes))]
    start, box = int(row[0]), row[2:].astype(float)
    stride = 0 if still else int(rng.choice([1, 1, 2, 3, 4])) * spec.every
    if start + stride * (spec.frames - 1) >= len(source.jpegs):
        stride = -stride  # played backwards
        if start + stride * (spec.frames - 1) < 0:
            stride = 0
    steps = [start + stride * t for t in range(spec.frames)]
    transforms = _window(rng, spec, source, box)
    size = (spec.size_px, spec.size_px)
    canvas = _Canvas([], [])
    flip = rng.random() < 0.5
    labels_there = np.unique(source.boxes[:, 1]).tolist()
    seen = {(row[0], row[1]): whole for row, whole in zip(source.boxes.tolist(), source.whole_xyxy, strict=True)}
    for t, index in enumerate(steps):
        if t and stride == 0 and np.array_equal(transforms[t], transforms[t - 1]):
            canvas.frames.append(canvas.frames[-1].copy())
            canvas.ids.append(canvas.ids[-1].copy())
        else:
            scaled_down = abs(np.linalg.det(transforms[t][:, :2])) < 0.5
            frame = source.frame(index)
            if scaled_down:
                frame = cv2.blur(frame, (2, 2))  # against aliasing, which no resized video has
            rgb = cv2.warpAffine(frame, transforms[t], size, borderMode=cv2.BORDER_REFLECT_101)
            labels = cv2.warpAffine(source.labels(index), transforms[t], size, flags=cv2.INTER_NEAREST)
            canvas.frames.append(np.ascontiguousarray(rgb[:, ::-1] if flip else rgb))
            canvas.ids.append(np.ascontiguousarray(labels[:, ::-1] if flip else labels).astype(np.int32))
        canvas.known |= {(t, label) for label in labels_there if source.exact or (index, label) in seen}
        canvas.whole_xyxy |= {
            (t, label): _warped(seen[index, label], transforms[t], spec.size_px, flip)
            for label in labels_there
            if (index, label) in seen
        }
    return canvas


def _warped(box: NDArray[np.float32], transform: NDArray[np.float64], size_px: int, flip: bool) -> tuple[float, ...]:
    """A box of a source's frame in the clip's, cut to it."""
    # Transforms are of pixels' centres, boxes of their edges.
    (x1, y1), (x2, y2) = (box.reshape(2, 2) - 0.5) @ transform[:, :2].T + transform[:, 2] + 0.5
    if flip:
        x1, x2 = size_px - x2, size_px - x1
    x1, y1, x2, y2 = np.clip((x1, y1, x2, y2), 0, size_px).tolist()
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else NOWHERE


def _window(
    rng: np.random.Generator, spec: ClipSpec, source: MaskletClip, box: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """(2, 3) affine maps from source frames to the clip's, with a slow zoom and a camera that may shake."""
    height, width = source.frame(0).shape[:2]
    tall_px = draw_height_px(rng, spec.size_px)
    scale_y = tall_px / max(box[3] - box[1], 1.0)
    # Never much smaller than the whole frame, never blown up beyond what there is to see. SAM 2 squeezes frames to
    # squares, so wide video is narrowed.
    aspect = rng.uniform(0.5, 1.1)
    scale_y = float(np.clip(scale_y, spec.size_px / height * 0.95, 2.0))
    scale_x = max(scale_y * aspect, spec.size_px / width * 0.8)
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    target = rng.uniform(0.2, 0.8, 2) * spec.size_px
    zoom = rng.normal(0, 0.004) if rng.random() < 0.3 else 0.0
    shake = _camera_shake(rng, spec)
    maps = []
    for t, time in enumerate(spec.times):
        grow = np.exp(zoom * time)
        scales = np.array([scale_x, scale_y]) * grow
        offset = target + shake[t] - scales * centre
        if not shake.any():
            # A still camera shows a whole frame where it can, not a mirrored border.
            offset = np.clip(offset, np.minimum(spec.size_px - scales * (width, height), 0), 0)
        maps.append(np.array([[scales[0], 0, offset[0]], [0, scales[1], offset[1]]]))
    return maps


def _choose_objects(rng: np.random.Generator, spec: ClipSpec, canvas: _Canvas) -> Clip | None:
    """Pick objects that are visible in the first frame, some of them again where there are too few."""
    ids, areas = np.unique(canvas.ids[0], return_counts=True)
    too_large = 0.6 * spec.size_px**2
    eligible = [int(i) for i, area in zip(ids, areas, strict=True) if i and MIN_PROMPT_AREA_PX <= area <= too_large]
    if not eligible:
        return None
    rng.shuffle(eligible)
    chosen = (eligible * spec.objects)[: spec.objects]
    stack = np.stack(canvas.ids)
    masks = np.stack([stack == i for i in chosen])
    valid = np.array([[i >= SPRITE_ID0 or (t, i) in canvas.known for t in range(spec.frames)] for i in chosen])
    boxes = np.array([[box_xyxy(mask) for mask in track] for track in masks], dtype=np.float32)
    whole = [[canvas.whole_xyxy.get((t, i), NOWHERE) for t in range(spec.frames)] for i in chosen]
    return Clip(np.stack(canvas.frames), masks, valid, boxes, np.array(whole, dtype=np.float32))


def degrade(rng: np.random.Generator, clip: Clip) -> Clip:
    """Colour, blur, noise and compression of a real camera, the same over the clip except for the noise."""
    frames = clip.frames.astype(np.float32)
    if rng.random() < 0.8:
        gain = rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
        grey = frames.mean((1, 2, 3), keepdims=True)
        frames = (frames - grey) * rng.uniform(0.6, 1.3) + grey * gain + rng.uniform(-20, 20)
    if rng.random() < 0.15:
        frames = np.repeat(frames.mean(3, keepdims=True), 3, axis=3)
    if rng.random() < 0.35:
        sigma = rng.uniform(0.3, 1.2)
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])
    if rng.random() < 0.5:
        # One noise field, shifted, costs a fraction of a new one a frame.
        noise = rng.normal(0, rng.uniform(1, 10), frames.shape[1:]).astype(np.float32)
        frames += np.stack([np.roll(noise, tuple(rng.integers(0, 64, 2)), (0, 1)) for _ in frames])
    out = np.clip(frames, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        packed = [cv2.imencode(".jpg", frame, quality)[1] for frame in out]
        out = np.stack([np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), dtype=np.uint8) for jpeg in packed])
    return replace(clip, frames=out)

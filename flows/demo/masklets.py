"""Masklets: masks of objects linked over time, from a teacher's segmentations of real clips or from scenes.

A masklet file (`<clip>.npz`, one a clip) holds downscaled frames as JPEG, one label map a frame as PNG (0 is
background, any other value a masklet of this clip) and a table of boxes. It is a cache for training and is never
shipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Objects end up at most about 150 px tall in training, so more than this is never looked at.
LONG_SIDE_PX = 640
MIN_CONFIDENCE = 0.4
# A mask that changes more than this between neighbouring frames is the teacher's wobble, not the object's motion.
MIN_LINK_IOU = 0.5
MAX_AREA_RATIO = 1.5
MIN_AREA_PX = 40
MIN_LENGTH_FRAMES = 6
# Label maps are 8 bit; a short clip never has more objects than this.
MAX_LABEL = 255
# Scenes with smaller seeds are what models are measured on.
FIRST_TRAINING_SEED = 100
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")


@dataclass(frozen=True)
class MaskletClip:
    """Frames of one real clip with the masks that could be linked over time.

    Attributes:
        name: Stem of the video file.
        jpegs: One encoded frame each.
        label_pngs: One encoded uint8 label map each, of the same size as the frames.
        boxes: (N, 6) int32 rows of frame, label, x1, y1, x2, y2 in pixels of the stored frames, sorted by frame.
        whole_xyxy: (N, 4) float32 boxes of the same objects with what is hidden of them; a teacher does not know that,
            nor do files of scenes from before there was this table.
        exact: Whether an object without a mask is known to be hidden; a teacher may only have missed it.
    """

    name: str
    jpegs: list[NDArray[np.uint8]]
    label_pngs: list[NDArray[np.uint8]]
    boxes: NDArray[np.int32]
    whole_xyxy: NDArray[np.float32]
    exact: bool = False

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The (H, W, 3) RGB frame at an index."""
        return np.asarray(cv2.imdecode(self.jpegs[index], cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1]

    def labels(self, index: int) -> NDArray[np.uint8]:
        """The (H, W) label map at an index."""
        return np.asarray(cv2.imdecode(self.label_pngs[index], cv2.IMREAD_UNCHANGED), dtype=np.uint8)

    def save(self, path: Path) -> None:
        """Write the clip to an `.npz` file."""
        arrays: dict[str, Any] = {"boxes": self.boxes, "whole": self.whole_xyxy, "exact": np.array(self.exact)}
        for key, blobs in (("jpeg", self.jpegs), ("png", self.label_pngs)):
            arrays[key] = np.concatenate(blobs)
            arrays[f"{key}_ends"] = np.cumsum([len(blob) for blob in blobs])
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> MaskletClip:
        """Read a clip that `save` wrote."""
        with np.load(path) as arrays:
            blobs = {key: np.split(arrays[key], arrays[f"{key}_ends"][:-1]) for key in ("jpeg", "png")}
            exact = bool(arrays["exact"]) if "exact" in arrays else False
            whole = arrays["whole"] if "whole" in arrays else arrays["boxes"][:, 2:].astype(np.float32)
            return cls(path.stem, blobs["jpeg"], blobs["png"], arrays["boxes"], whole, exact)


@dataclass
class _Link:
    """One object while it is being linked: its last mask and where it has been seen."""

    label_class: int
    mask: NDArray[np.bool_]
    frames: list[int]
    masks: list[NDArray[np.uint8]]  # packed bits: a clip's worth of full masks would not fit in memory


def make_masklets(clip_paths: Sequence[Path], teacher_path: Path, out_dir: Path, stride: int = 1) -> None:
    """Run the teacher over clips and write one masklet file for each.

    Args:
        clip_paths: Video files, or folders of them.
        teacher_path: An ultralytics segmentation model (file or export folder).
        out_dir: Where the `.npz` files go; clips already there are skipped.
        stride: Use every stride-th frame.
    """
    from ultralytics import YOLO

    out_dir.mkdir(parents=True, exist_ok=True)
    teacher = YOLO(str(teacher_path), task="segment")
    for video in _videos(clip_paths):
        target = out_dir / f"{video.stem}.npz"
        if target.exists():
            continue
        clip = segment_clip(video, teacher, stride)
        clip.save(target)
        labels = np.unique(clip.boxes[:, 1])
        logger.info("%s: %d frames, %d masklets, %d masks", clip.name, len(clip.jpegs), len(labels), len(clip.boxes))


def segment_clip(video: Path, teacher: Any, stride: int = 1) -> MaskletClip:
    """Segment every stride-th frame of a video with the teacher and link the masks over time."""
    jpegs: list[NDArray[np.uint8]] = []
    live: list[_Link] = []
    done: list[_Link] = []
    shape = (0, 0)
    for index, bgr in enumerate(_frames(video, stride)):
        shape = bgr.shape[:2]
        jpegs.append(_jpeg(bgr))
        classes, masks = _segment(teacher, bgr)
        live, ended = _link(live, index, classes, masks)
        done += ended
    links = [link for link in done + live if len(link.frames) >= MIN_LENGTH_FRAMES][:MAX_LABEL]
    label_pngs, boxes = _label_maps(links, len(jpegs), (shape[0], shape[1]))
    return MaskletClip(video.stem, jpegs, label_pngs, boxes, boxes[:, 2:].astype(np.float32))


def make_scene_clips(seeds: Sequence[int], out_dir: Path, duration_s: float = 4.0) -> None:
    """Render synthetic scenes into masklet files, because JPEGs are read faster than scenes are drawn.

    Args:
        seeds: Of the scenes; 0-99 are for evaluation and are refused.
        out_dir: Where the `.npz` files go; scenes already there are skipped.
        duration_s: Length of each.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if seed < FIRST_TRAINING_SEED:
            raise ValueError(f"scene {seed} is for evaluation; training scenes start at {FIRST_TRAINING_SEED}")
        target = out_dir / f"scene_{seed:06d}.npz"
        if not target.exists():
            render_scene(seed, duration_s).save(target)


def render_scene(seed: int, duration_s: float) -> MaskletClip:
    """Render a synthetic scene with its exact masks; every fourth has a trembling camera."""
    from flows.demo.scene import Scene

    scene = Scene.random(seed, duration_s=duration_s, shake=seed % 4 == 0)
    pictures = [scene.render(i) for i in range(scene.frame_count)]
    labels = [np.where(ids > MAX_LABEL, 0, ids).astype(np.uint8) for _, ids in pictures]
    pngs, boxes = _encode_labels(labels)
    jpegs = [_jpeg(np.ascontiguousarray(rgb[..., ::-1])) for rgb, _ in pictures]
    whole = {(i, truth.id): truth.amodal_xyxy for i in range(scene.frame_count) for truth in scene.truth(i)}
    whole_xyxy = np.array([whole[frame, label] for frame, label in boxes[:, :2].tolist()], dtype=np.float32)
    return MaskletClip(f"scene_{seed:06d}", jpegs, pngs, boxes, whole_xyxy.reshape(-1, 4), exact=True)


def _jpeg(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].reshape(-1), dtype=np.uint8)


def _videos(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        candidates = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (p for p in candidates if p.suffix.lower() in VIDEO_SUFFIXES)


def _frames(video: Path, stride: int) -> Iterator[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise ValueError(f"{video} cannot be read as a video")
    try:
        index = 0
        while capture.grab():
            if index % stride == 0:
                frame = capture.retrieve()[1]
                scale = min(1.0, LONG_SIDE_PX / max(frame.shape[:2]))
                yield np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            index += 1
    finally:
        capture.release()


def _segment(teacher: Any, bgr: NDArray[np.uint8]) -> tuple[list[int], list[NDArray[np.bool_]]]:
    """Classes and full-size masks of one frame, most confident first."""
    result = teacher.predict(bgr, conf=MIN_CONFIDENCE, retina_masks=True, verbose=False)[0]
    if result.masks is None:
        return [], []
    masks = result.masks.data.cpu().numpy() > 0.5
    classes = [int(c) for c in result.boxes.cls.cpu().numpy()]
    keep = [i for i, mask in enumerate(masks) if mask.sum() >= MIN_AREA_PX]
    return [classes[i] for i in keep], [masks[i] for i in keep]


def _link(
    live: list[_Link], index: int, classes: list[int], masks: list[NDArray[np.bool_]]
) -> tuple[list[_Link], list[_Link]]:
    """Extend links by the masks of the next frame; returns the links that go on and those that ended."""
    free = set(range(len(live)))
    going_on: list[_Link] = []
    for label_class, mask in zip(classes, masks, strict=True):
        best, best_iou = None, MIN_LINK_IOU
        for i in free:
            if live[i].label_class == label_class and (iou := _stable_iou(live[i].mask, mask)) > best_iou:
                best, best_iou = i, iou
        if best is None:
            link = _Link(label_class, mask, [], [])
        else:
            free.remove(best)
            link = live[best]
        link.mask = mask
        link.frames.append(index)
        link.masks.append(np.packbits(mask))
        going_on.append(link)
    return going_on, [live[i] for i in free]


def _stable_iou(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """IoU of two masks, or 0 where the area jumped."""
    area_before, area_after = int(before.sum()), int(after.sum())
    if max(area_before, area_after) > MAX_AREA_RATIO * min(area_before, area_after):
        return 0.0
    intersection = int((before & after).sum())
    return intersection / (area_before + area_after - intersection)


def _label_maps(
    links: list[_Link], frame_count: int, shape: tuple[int, int]
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    maps = [np.zeros(shape, np.uint8) for _ in range(frame_count)]
    for label, link in enumerate(links, start=1):
        for frame, packed in zip(link.frames, link.masks, strict=True):
            mask = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
            maps[frame][mask & (maps[frame] == 0)] = label
    return _encode_labels(maps)


def _encode_labels(maps: list[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    """Label maps as PNGs, and the table of their boxes."""
    boxes = []
    for frame, labels in enumerate(maps):
        for label in np.unique(labels[labels > 0]):
            ys, xs = np.nonzero(labels == label)
            boxes.append((frame, label, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    pngs = [cv2.imencode(".png", labels)[1].reshape(-1) for labels in maps]
    return pngs, np.asarray(boxes, dtype=np.int32).reshape(-1, 6)

"""How far measurements can be trusted: detections by their confidence, masks by the detections matched to them."""

from __future__ import annotations

import numpy as np

from flows.associate import iou
from flows.kalman import BoxKalman
from flows.outcome import Segment
from flows.schema import FloatArray

# Deviation of a detection's edges, as a share of the box's size, at confidence 1 and what is added towards 0:
# YOLO11n's edges are off by 6 to 8 % of the height on the people of PETS09 and TUD-Campus.
DETECTION_SIGMA = 0.06
_DETECTION_SIGMA_UNSURE = 0.07
# The same of a mask's box, until keyframes have shown it ...
_UNKNOWN_SIGMA = 0.1
# ... and how many comparisons that guess is worth.
_UNKNOWN_WEIGHT = 3
_SIGMA_RANGE = (0.03, 0.5)
# From then on the newest comparisons count, whatever came before: a chunk is long, and light changes.
_MEMORY = 0.95
# Masks worse than this say where an object is less well than motion does: they are kept where they agree with it,
# but move nothing, choose no detections unless led by boxes, tell of no drift and find no entries. SAM 2.1's are at
# about 0.05 on people; a segmenter on footage unlike its training may be far above.
_TRUSTED_SIGMA = 0.2
# What of a mask lies outside its prompt by more than this share of the box's size has leaked onto something else ...
_PROMPT_MARGIN = 0.1
# ... and so has what lies outside the expected box by more than this and three deviations of its place.
_REACH_MARGIN = 0.25


class MaskTrust:
    """Learns from keyframe to keyframe how far masks and detections differ.

    Args:
        every: Frames from keyframe to keyframe.
        led: Whether masks start from boxes that flow has carried: they say what an object covers, but not where it is
            until they arrive at a detection of it, for some go onto what covers it.

    Attributes:
        sigma: Deviation of a mask's edges, as a share of the box's size.
    """

    def __init__(self, every: int, *, led: bool = False) -> None:
        self._every = every
        self._led = led
        self._compared = 0
        self.sigma = _UNKNOWN_SIGMA

    @property
    def holds(self) -> bool:
        """Whether masks say where objects are."""
        return not self._led and self.sigma < _TRUSTED_SIGMA

    @property
    def choose(self) -> bool:
        """Whether masks may speak for detections: those led by boxes do, beside what else does."""
        return self._led or self.holds

    @property
    def carried_sigma(self) -> float:
        """Deviation to give one of many masks in a row: their errors are one error, carried on from frame to frame."""
        return self.sigma * float(np.sqrt(self._every))

    def agreement(self, segment: Segment | None, box_xyxy: FloatArray) -> float:
        """IoU of a mask's box and the detection matched to it, (4,) pixels, from which trust is learned."""
        if segment is None:
            return 0.0
        self._compared += 1
        size = max(float((box_xyxy[2:] - box_xyxy[:2]).max()), 1.0)
        error = float(np.sqrt(np.mean((segment.box_xyxy - box_xyxy) ** 2))) / size
        share = max(1 - _MEMORY, 1 / (_UNKNOWN_WEIGHT + self._compared))
        self.sigma = float(np.clip((1 - share) * self.sigma + share * error, *_SIGMA_RANGE))
        return float(iou(segment.box_xyxy, box_xyxy))


def detection_sigma(confidence: float) -> float:
    """Deviation of the edges of a detection, as a share of its box's size."""
    return DETECTION_SIGMA + _DETECTION_SIGMA_UNSURE * (1 - confidence)


def within_prompt(segment: Segment, box_xyxy: FloatArray) -> Segment:
    """What of a mask belongs to the box it was prompted with, (4,) pixels."""
    return segment.within(_expanded(box_xyxy, _PROMPT_MARGIN))


def within_reach(segment: Segment, kalman: BoxKalman) -> Segment:
    """What of a mask lies where its object can be at all, given where motion expects it."""
    return segment.within(_expanded(kalman.box_xyxy, _REACH_MARGIN, 3 * kalman.spread_px))


def _expanded(box_xyxy: FloatArray, margin: float, spread_px: float = 0.0) -> FloatArray:
    """A box with a margin on every side: a share of its size and something in pixels."""
    add = margin * float((box_xyxy[2:] - box_xyxy[:2]).max()) + spread_px
    return box_xyxy + np.array([-add, -add, add, add], dtype=np.float32)

"""Box + optical flow -> box: what box-led segmenters start from, on every frame between two prompts.

Flow follows whatever fills a box, and what passes in front of an object does so as well. Then the step from one frame
to the next leaps, which objects themselves do not, and the box goes on as it went until flow agrees with it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.schema import BoolArray, Float64Array, FloatArray

# A step that differs from those before by more than this share of the box's size (the root of its area) is something
# else's: 19 in 20 differ by less than 0.08 on scenes and in real videos of 7 and 25 frames a second, and what passes in
# front by 0.2 to 0.9. People who turn round between two frames at 7 a second reach 0.15.
_LEAP = 0.15
# After so many frames in a row the object is taken to have changed its course.
_MOST_ASTRAY = 15
# Weight of the newest step in the mean that goes on.
_NEWEST = 0.3
# A side that ends this near to the frame's, as a share of the frame's and of the box's side, is cut by it.
_CUT, _CUT_OF_BOX = 0.003, 0.05
# What ends this near to the frame's edge, as a share of it, may go on beyond.
_EDGE = 0.0125
# How much of the way to where the refiner sees it a side is moved on one frame at most, for what the refiner says
# wrongly of one frame it says of the next as well; and one that was cut, for its end comes into view at once.
_MOST, _MOST_CUT = 0.15, 0.5
# Masks end with the box they were shown, but for this share of its side on each, and this much more with every frame it
# was carried since: what lies beyond has leaked onto something else. Without growth scenes lose 0.003 of J, without any
# margin 0.005; people of PETS09 gain 0.04 to 0.05 of box IoU on the first frames either way.
_REACH, _REACH_A_FRAME = 0.05, 0.02
_STILL = np.zeros(2)


def at_edge(
    boxes_xyxy: npt.NDArray[np.floating],
    sizes_px: npt.NDArray[np.number],
    share: float = _CUT,
    share_of_box: float = _CUT_OF_BOX,
) -> BoolArray:
    """Which sides of boxes (..., 4) end so near to the edges of pictures (..., 2) that these may cut them, (..., 4).

    How near that is, is a share of the picture's side and no more than a share of the box's.
    """
    box_px = np.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 1)
    near_px = np.minimum(share * sizes_px, share_of_box * box_px)
    limits = np.concatenate([np.zeros_like(sizes_px), sizes_px], axis=-1)
    result: BoolArray = np.abs(boxes_xyxy - limits) <= np.concatenate([near_px, near_px], axis=-1)
    return result


def shows_part(
    boxes_xyxy: npt.NDArray[np.floating], size_px: tuple[int, ...], sides: Sequence[int] = range(4)
) -> BoolArray:
    """Whether the edge of a picture of this width and height may cut boxes (..., 4), which may reach beyond, (...).

    `sides`: which of left, upper, right and lower count.
    """
    shown_xyxy = np.clip(boxes_xyxy, 0, np.tile(size_px, 2))
    return np.asarray(np.any(at_edge(shown_xyxy, np.array(size_px), _EDGE, np.inf)[..., list(sides)], axis=-1))


@dataclass
class CarriedBox:
    """Where an object's box is, and how it went.

    Attributes:
        xyxy: (4,) pixels.
        step_px: (2,) its mean step from frame to frame, the picture's own apart; None until it was carried once.
        astray: For how many frames in a row flow has not been followed.
        carried: For how many frames of video it was carried since it was shown.
        refined: Whether a refiner has seen the object here.
        cut: (4,) sides that the frame has cut ever since the object was shown, on all of whose frames it was refined:
            more of it may come into view there.
    """

    xyxy: FloatArray
    step_px: Float64Array | None = None
    astray: int = 0
    carried: int = 0
    refined: bool = False
    cut: BoolArray | None = None

    def show(self, box_xyxy: FloatArray) -> None:
        """It is known to be here, (4,) pixels."""
        self.xyxy, self.carried, self.refined, self.cut = box_xyxy, 0, False, None
        if self.astray:
            self.step_px, self.astray = None, 0

    def carry(
        self,
        flown_xyxy: FloatArray,
        size_px: tuple[int, int],
        shift_px: npt.NDArray[np.floating] = _STILL,
        frames: int = 1,
    ) -> None:
        """Take it to another frame.

        Args:
            flown_xyxy: (4,) where flow says it is there; NaN where it was lost.
            size_px: Width and height of the frames.
            shift_px: (2,) how far the picture as a whole moved meanwhile.
            frames: How many frames of video lie between.
        """
        self.carried += frames
        before, limits = self.xyxy, np.array([0, 0, *size_px], dtype=np.float32)
        box_px = np.maximum(before[2:] - before[:2], 1)
        followed = bool(np.isfinite(flown_xyxy).all())
        if followed:
            step = (_centre(flown_xyxy) - _centre(before) - shift_px) / frames
            if self.step_px is None:
                self.step_px = step
            elif frames * np.hypot(*(step - self.step_px)) > _LEAP * np.sqrt(box_px.prod()):
                followed = self.astray >= _MOST_ASTRAY
                self.step_px = step if followed else self.step_px
            else:
                self.step_px = (1 - _NEWEST) * self.step_px + _NEWEST * step
        if followed:
            self.xyxy, self.astray = flown_xyxy, 0
        else:
            self.astray += 1
            self.xyxy = before + np.tile(shift_px if self.step_px is None else shift_px + frames * self.step_px, 2)
        # Without a refiner that tells where the object ends its side would stay at the edge for ever.
        cut = at_edge(before, np.array(size_px)) & self.refined
        self.cut, self.refined = cut if self.cut is None else cut & self.cut, False
        inside = np.concatenate([self.xyxy[:2] > limits[:2], self.xyxy[2:] < limits[2:]])
        self.xyxy = np.where(self.cut & inside, limits, self.xyxy).astype(np.float32)

    @property
    def most(self) -> FloatArray:
        """(4,) how much of the way each side may be moved to where a refiner sees it, on this frame."""
        cut = np.zeros(4, dtype=bool) if self.cut is None else self.cut
        return np.where(cut, _MOST_CUT, _MOST).astype(np.float32)

    def reach(self, box_xyxy: FloatArray) -> FloatArray:
        """What a mask of the object can cover if its box is here, both (4,) pixels."""
        add = (_REACH + _REACH_A_FRAME * self.carried) * (box_xyxy[2:] - box_xyxy[:2])
        return np.concatenate([box_xyxy[:2] - add, box_xyxy[2:] + add]).astype(np.float32)


def _centre(box_xyxy: FloatArray) -> Float64Array:
    return np.asarray(box_xyxy[:2] + box_xyxy[2:], dtype=np.float64) / 2

"""Coarse mask and picture -> fine mask: a second look at each object, close up.

SAM 2's masks have a cell for every four pixels of its input, and at 256 px a person far away is two cells wide. What
decides is then not what the model knows but what its grid can say. So small segmenters bring a refiner: the region
around an object's box, cut from the full frame and scaled to one size (as RoIAlign does: He et al. 2017, "Mask R-CNN"),
and in it a small U-Net (Ronneberger et al. 2015) that corrects the coarse logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from flows.schema import FloatArray, ImageArray
from flows.soft_mask import SoftMask, sampled_mask

# Side of a close-up in samples.
SIDE = 64
# How far it reaches beyond the box on every side, as a share of the box's: boxes are off by less.
MARGIN = 0.25
# Red, green, blue and the coarse logit.
_INPUTS = 4
_SAMPLED = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
# Logits are cut to this range, or what is sure could not be corrected.
_SURE = 8.0
# Levels, from the coarsest, that compare an object with how it looked.
_MATCHED = 2
# Logarithm of how far sides may be off, as a share of the region: before training, and its range.
_DOUBT, _DOUBTS = -3.0, (-6.0, 1.0)
# The same of boxes that flow carries.
FLOW_DOUBT = -3.0


@dataclass(frozen=True)
class CloseUp:
    """A region of a frame, in whole pixels, seen through SIDE x SIDE samples. It may reach beyond the frame."""

    x1: int
    y1: int
    x2: int
    y2: int

    @classmethod
    def around(cls, box_xyxy: FloatArray) -> CloseUp:
        """Of an object by its box, (4,) pixels."""
        x1, y1, x2, y2 = (float(v) for v in box_xyxy)
        wide, high = MARGIN * (x2 - x1) + 1, MARGIN * (y2 - y1) + 1
        return cls(int(np.floor(x1 - wide)), int(np.floor(y1 - high)), int(np.ceil(x2 + wide)), int(np.ceil(y2 + high)))

    @property
    def size_px(self) -> FloatArray:
        """(4,) its width, height, width and height."""
        return np.array([self.x2 - self.x1, self.y2 - self.y1] * 2, dtype=np.float32)

    @property
    def ys_px(self) -> FloatArray:
        """Rows of the samples, (SIDE,) in coordinates of pixel centres."""
        return _places(self.y1, self.y2)

    @property
    def xs_px(self) -> FloatArray:
        """Columns of the samples, (SIDE,) in coordinates of pixel centres."""
        return _places(self.x1, self.x2)

    def picture(self, image: ImageArray) -> ImageArray:
        """The region of a frame, (height, width) or (height, width, 3), of this many samples.

        The frame's edges are carried on beyond it; a region wholly beyond is black.
        """
        height, width = image.shape[:2]
        x1, x2 = (min(max(x, 0), width) for x in (self.x1, self.x2))
        y1, y2 = (min(max(y, 0), height) for y in (self.y1, self.y2))
        part = image[y1:y2, x1:x2]
        if part.size == 0:
            return np.zeros((SIDE, SIDE, *image.shape[2:]), dtype=image.dtype)
        across, down = (self.x2 - self.x1) / SIDE, (self.y2 - self.y1) / SIDE
        # Shrunk first, by area and no more than what the frame shows, for a region may be any size.
        size = max(round((x2 - x1) / max(across, 1)), 1), max(round((y2 - y1) / max(down, 1)), 1)
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        x, y = size[0] / (x2 - x1), size[1] / (y2 - y1)
        there = _samples(across * x, (self.x1 - x1) * x, down * y, (self.y1 - y1) * y)
        return np.asarray(cv2.warpAffine(part, there, (SIDE, SIDE), flags=_SAMPLED, borderMode=cv2.BORDER_REPLICATE))

    def logits(self, logits: FloatArray, height_px: int, width_px: int) -> FloatArray:
        """The region of the logits, (h, w) float32, of a whole frame of that size, (SIDE, SIDE)."""
        rows, columns = logits.shape
        y, x = rows / height_px, columns / width_px
        across, down = (self.x2 - self.x1) / SIDE, (self.y2 - self.y1) / SIDE
        there = _samples(across * x, self.x1 * x, down * y, self.y1 * y)
        return np.asarray(cv2.warpAffine(logits, there, (SIDE, SIDE), flags=_SAMPLED, borderMode=cv2.BORDER_REPLICATE))


def _samples(across: float, left: float, down: float, above: float) -> npt.NDArray[np.float64]:
    """Where OpenCV finds samples a step across and down from each other, the first cell's corner at (left, above).

    Centres lie half a step, and half a pixel of what is sampled, from corners.
    """
    return np.array([[across, 0, left + across / 2 - 0.5], [0, down, above + down / 2 - 0.5]], dtype=np.float64)


def _places(low_px: int, high_px: int) -> FloatArray:
    return (low_px + (np.arange(SIDE, dtype=np.float32) + 0.5) * ((high_px - low_px) / SIDE) - 0.5).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """How objects looked when they were shown: what the refiner's coarsest levels saw, (N, C, h, w) each, finer first.

    The last channel of each says how much of a cell is the object.
    """

    levels: tuple[torch.Tensor, ...]

    def rows(self, rows: slice) -> Look:
        """Of some of the objects, in the same memory."""
        return Look(tuple(level[rows] for level in self.levels))

    def clone(self) -> Look:
        """The same in memory of its own."""
        return Look(tuple(level.clone() for level in self.levels))

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Look:
        """Of many objects together."""
        return cls(tuple(torch.cat(levels) for levels in zip(*(look.levels for look in looks), strict=True)))


@dataclass(frozen=True)
class Refined:
    """What the refiner says of close-ups.

    Attributes:
        logits: (N, SIDE, SIDE) corrected.
        off: (N, 4) how far the sides x1, y1, x2, y2 of the whole object lie right of and below the box's, as shares of
            the region.
        doubt: (N, 4) logarithms of how far that may be wrong, in the same unit.
        look: What to know the objects by on other frames.
    """

    logits: torch.Tensor
    off: torch.Tensor
    doubt: torch.Tensor
    look: Look


@dataclass(frozen=True)
class Seen:
    """An object close up: its mask, None where nothing is left of it, its whole box, (4,) pixels, and its look."""

    mask: SoftMask | None
    box_xyxy: FloatArray
    look: Look


class MaskRefiner(nn.Module):
    """A U-Net that corrects coarse mask logits and boxes in close-ups, given how the objects looked when last shown.

    Args:
        channels: Of its levels, each half the resolution of the one before, the finest first.
        blocks: Convolutions of each level beside the one that leads there.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128), blocks: Sequence[int] = (1, 1, 2, 3)) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        for (before, after), count in zip(pairwise((_INPUTS, *channels)), blocks, strict=True):
            first = _conv(before, after, stride=1 if before == _INPUTS else 2)
            self.down.append(nn.Sequential(first, *(_conv(after, after) for _ in range(count))))
        self.across = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(channels))
        self.up = nn.ModuleList(_conv(width, width) for width in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)
        sides = [SIDE >> (len(channels) - 1 - level) for level in range(_MATCHED)][::-1]
        self.match = nn.ModuleList(_Match(c, side) for c, side in zip(channels[-_MATCHED:], sides, strict=True))
        self.box = nn.Sequential(
            nn.Conv2d(channels[-1], 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * sides[-1] ** 2, 64), nn.ReLU()
        )
        self.sides = nn.Linear(64, 8)
        nn.init.zeros_(self.sides.weight)
        with torch.no_grad():
            self.sides.bias.copy_(torch.tensor([0.0] * 4 + [_DOUBT] * 4))

    def forward(
        self, pictures: torch.Tensor, logits: torch.Tensor, look: Look | None = None, known: torch.Tensor | None = None
    ) -> Refined:
        """Corrected logits and boxes.

        Args:
            pictures: (N, SIDE, SIDE, 3) uint8 RGB.
            logits: (N, SIDE, SIDE) float32.
            look: Of the same objects when they were last shown, on another frame; None where they never were.
            known: (N,) 1 where the look is to be used, 0 where not; None: of all.
        """
        coarse = logits.clamp(-_SURE, _SURE)[:, None]
        seen = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = torch.cat([seen, coarse / _SURE], dim=1).contiguous(memory_format=torch.channels_last)
        maps = []
        for level in self.down:
            x = level(x)
            maps.append(x)
        told = list(maps)
        if look is not None:
            levels = zip(self.match, maps[-_MATCHED:], look.levels, strict=True)
            told[-_MATCHED:] = [match(level, then, known) for match, level, then in levels]
        x = told[-1]
        off, doubt = self.sides(self.box(x)).chunk(2, dim=1)
        for across, up, finer in zip(reversed(self.across), reversed(self.up), reversed(told[:-1]), strict=True):
            x = up(finer + F.interpolate(across(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        corrected = self.head(x) + coarse
        part = corrected.sigmoid()
        new = tuple(
            torch.cat([level, F.adaptive_avg_pool2d(part, level.shape[-2:])], dim=1) for level in maps[-_MATCHED:]
        )
        return Refined(corrected[:, 0], off, doubt.clamp(*_DOUBTS), Look(new))

    @torch.inference_mode()
    def close_up(
        self,
        image_rgb: ImageArray,
        boxes_xyxy: Sequence[FloatArray],
        logits: FloatArray,
        looks: Sequence[Look | None],
        most: Sequence[FloatArray],
    ) -> list[Seen]:
        """The objects of a frame, close up.

        Args:
            image_rgb: (height, width, 3) uint8.
            boxes_xyxy: (4,) pixels each.
            logits: (N, h, w) float32 coarse mask logits of the whole frame.
            looks: What each looked like when it was last shown, None where it never was.
            most: (4,) each, how much of the way sides are moved at most.
        """
        height, width = image_rgb.shape[:2]
        regions = [CloseUp.around(box) for box in boxes_xyxy]
        pictures = np.stack([region.picture(image_rgb) for region in regions])
        coarse = np.stack([region.logits(one, height, width) for region, one in zip(regions, logits, strict=True)])
        device = self.head.weight.device
        look, known = self._looks(looks)
        said = self(torch.from_numpy(pictures).to(device), torch.from_numpy(coarse).to(device), look, known)
        fine, off, doubt = (x.float().cpu().numpy() for x in (said.logits, said.off, said.doubt))
        return [
            Seen(
                sampled_mask(fine[row], region.ys_px, region.xs_px, height, width),
                box + np.minimum(_trust(doubt[row]), most[row]) * off[row] * region.size_px,
                said.look.rows(slice(row, row + 1)),
            )
            for row, (region, box) in enumerate(zip(regions, boxes_xyxy, strict=True))
        ]

    def _looks(self, looks: Sequence[Look | None]) -> tuple[Look | None, torch.Tensor | None]:
        """Looks in one, blank where there is none, and which are known."""
        there = [look for look in looks if look]
        if not there:
            return None, None
        blank = Look(tuple(torch.zeros_like(level) for level in there[0].levels))
        known = torch.tensor([float(look is not None) for look in looks], device=self.head.weight.device)
        return Look.of([look or blank for look in looks]), known


def _trust(doubt: FloatArray) -> FloatArray:
    """How much of the way sides should be moved: the gain of a Kalman filter, for flow is in doubt too."""
    return np.asarray(1 / (1 + np.exp(2 * (doubt - FLOW_DOUBT))), dtype=np.float32)


class _Match(nn.Module):
    """Attention from every cell of a close-up to those of how its object looked (STM's: Oh et al. 2019)."""

    def __init__(self, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, width, 1), nn.Conv2d(channels + 1, width, 1)
        self.value = nn.Conv2d(channels + 1, channels, 1)
        self.place = nn.Parameter(torch.randn(2, width, side, side) * 0.1)
        self.mix = _conv(2 * channels, channels)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor, look: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        query, key = (self.query(x) + self.place[0]).flatten(2), (self.key(look) + self.place[1]).flatten(2)
        value = self.value(look).flatten(2)
        seen = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (query, key, value)))
        more = self.out(self.mix(torch.cat([x, seen.transpose(1, 2).reshape(x.shape)], dim=1)))
        return x + (more if known is None else more * known[:, None, None, None])


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )

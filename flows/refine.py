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


class MaskRefiner(nn.Module):
    """A U-Net that corrects coarse mask logits in close-ups.

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

    @torch.inference_mode()
    def masks(
        self, image_rgb: ImageArray, boxes_xyxy: Sequence[FloatArray], logits: FloatArray
    ) -> list[SoftMask | None]:
        """Fine masks of the objects of a frame; None where nothing is left of one.

        Args:
            image_rgb: (height, width, 3) uint8.
            boxes_xyxy: (4,) pixels each.
            logits: (N, h, w) float32 coarse mask logits of the whole frame.
        """
        height, width = image_rgb.shape[:2]
        regions = [CloseUp.around(box) for box in boxes_xyxy]
        pictures = np.stack([region.picture(image_rgb) for region in regions])
        coarse = np.stack([region.logits(one, height, width) for region, one in zip(regions, logits, strict=True)])
        device = self.head.weight.device
        fine = self(torch.from_numpy(pictures).to(device), torch.from_numpy(coarse).to(device)).float().cpu().numpy()
        return [
            sampled_mask(one, region.ys_px, region.xs_px, height, width)
            for region, one in zip(regions, fine, strict=True)
        ]

    def forward(self, pictures: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Corrected logits.

        Args:
            pictures: (N, SIDE, SIDE, 3) uint8 RGB.
            logits: (N, SIDE, SIDE) float32.

        Returns:
            (N, SIDE, SIDE) float32.
        """
        coarse = logits.clamp(-_SURE, _SURE)[:, None]
        seen = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = torch.cat([seen, coarse / _SURE], dim=1).contiguous(memory_format=torch.channels_last)
        maps = []
        for level in self.down:
            x = level(x)
            maps.append(x)
        for across, up, finer in zip(reversed(self.across), reversed(self.up), reversed(maps[:-1]), strict=True):
            x = up(finer + F.interpolate(across(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        corrected: torch.Tensor = (self.head(x) + coarse)[:, 0]
        return corrected


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )

"""Which pixels an object covers, and how that is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flows.schema import BoolArray, FloatArray

# A side of a mask that is further off than this share of the box is not the same object's.
_UNLIKE = 0.4


def drawn_to_mask(box_xyxy: FloatArray, mask_xyxy: FloatArray, share: float = 1.0) -> FloatArray:
    """A box (4,) after the extent of its object's mask, (4,), has been seen: part of the way, where sides agree.

    As far as two opposite sides are off in the same direction the box is moved; as far as both lie further out, or
    further in, it grows or shrinks. One side alone says that something covers the object there.
    """
    off = mask_xyxy - box_xyxy
    if (np.abs(off) > _UNLIKE * np.tile(box_xyxy[2:] - box_xyxy[:2], 2)).any():
        return box_xyxy
    least = np.minimum(np.abs(off[:2]), np.abs(off[2:]))
    return np.asarray(box_xyxy + share * np.sign(off) * np.tile(least, 2), dtype=np.float32)


@dataclass(frozen=True)
class Mask:
    """A mask as a crop: `crop` (h, w) bool, its upper left pixel at (x_px, y_px) of the frame."""

    x_px: int
    y_px: int
    crop: BoolArray

    @property
    def area_px(self) -> int:
        """Number of pixels inside."""
        return int(self.crop.sum())

    @property
    def box_xyxy(self) -> FloatArray:
        """Extent, (4,) float32 pixels."""
        height, width = self.crop.shape
        return np.array([self.x_px, self.y_px, self.x_px + width, self.y_px + height], dtype=np.float32)

    @property
    def full_size(self) -> Mask:
        """Itself, for it has the frame's pixels."""
        return self

    def common_px(self, other: Mask) -> int:
        """Number of pixels inside both."""
        x0, y0 = max(self.x_px, other.x_px), max(self.y_px, other.y_px)
        x1 = min(self.x_px + self.crop.shape[1], other.x_px + other.crop.shape[1])
        y1 = min(self.y_px + self.crop.shape[0], other.y_px + other.crop.shape[0])
        if x1 <= x0 or y1 <= y0:
            return 0
        own, others = (m.crop[y0 - m.y_px : y1 - m.y_px, x0 - m.x_px : x1 - m.x_px] for m in (self, other))
        return int((own & others).sum())

    def full(self, height_px: int, width_px: int) -> BoolArray:
        """The mask at the size of the frame, (height, width) bool; what lies outside the frame is cut off."""
        out = np.zeros((height_px, width_px), dtype=np.bool_)
        x0, y0 = max(self.x_px, 0), max(self.y_px, 0)
        x1 = min(self.x_px + self.crop.shape[1], width_px)
        y1 = min(self.y_px + self.crop.shape[0], height_px)
        if x1 > x0 and y1 > y0:
            out[y0:y1, x0:x1] = self.crop[y0 - self.y_px : y1 - self.y_px, x0 - self.x_px : x1 - self.x_px]
        return out

    def within(self, box_xyxy: FloatArray) -> Mask | None:
        """The part inside a box, (4,) pixels; None where nothing is."""
        x1, y1, x2, y2 = (round(float(v)) for v in box_xyxy)
        left, top = max(x1 - self.x_px, 0), max(y1 - self.y_px, 0)
        inside = self.crop[top : max(y2 - self.y_px, 0), left : max(x2 - self.x_px, 0)]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if rows.size == 0:
            return None
        tight = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Mask(self.x_px + left + int(columns[0]), self.y_px + top + int(rows[0]), np.ascontiguousarray(tight))

    def to_bytes(self, form: Literal["rle", "polygon"] = "rle") -> bytes:
        """Stored form: x, y, w, h as little-endian int32, then COCO's compressed run lengths; or its outline."""
        from flows import outlines

        if form == "polygon":
            return outlines.to_bytes(outlines.rings_of(self))
        from pycocotools import mask as coco

        height, width = self.crop.shape
        head = np.array([self.x_px, self.y_px, width, height], dtype="<i4").tobytes()
        return head + bytes(coco.encode(np.asfortranarray(self.crop, dtype=np.uint8))["counts"])

    @classmethod
    def from_bytes(cls, data: bytes) -> Mask:
        """Read what `to_bytes` wrote, in either form."""
        from flows import outlines

        if outlines.is_polygon(data):
            return outlines.filled(outlines.from_bytes(data))
        from pycocotools import mask as coco

        x, y, width, height = (int(v) for v in np.frombuffer(data[:16], dtype="<i4"))
        crop = coco.decode({"size": [height, width], "counts": data[16:]}).astype(np.bool_)
        return cls(x, y, crop)

"""Logits -> masks at full size, as crops."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from flows.schema import BoolArray, Mask

# Pieces smaller than this share of a mask's largest piece are specks, not an object cut in two by a pole.
_SPECK = 0.2


def mask_from_logits(logits: npt.NDArray[np.float32], height_px: int, width_px: int) -> Mask | None:
    """The mask at full size from low-resolution logits (h, w) of the whole frame; None where it is empty.

    Bilinear with half-pixel centres, as SAM 2 upsamples; only where logits can be positive is anything computed.
    """
    rows, columns = np.flatnonzero((logits > 0).any(axis=1)), np.flatnonzero((logits > 0).any(axis=0))
    if rows.size == 0:
        return None
    height, width = logits.shape
    scale_y, scale_x = height / height_px, width / width_px
    # A full-size pixel is positive only within one low-resolution cell of a positive one.
    y0, y1 = max(int((rows[0] - 1) / scale_y), 0), min(int(np.ceil((rows[-1] + 2) / scale_y)), height_px)
    x0, x1 = max(int((columns[0] - 1) / scale_x), 0), min(int(np.ceil((columns[-1] + 2) / scale_x)), width_px)
    to_source = np.array(
        [[scale_x, 0, (x0 + 0.5) * scale_x - 0.5], [0, scale_y, (y0 + 0.5) * scale_y - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(logits, to_source, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = _without_specks(fine > 0)
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if ys.size == 0:
        return None
    crop = inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    return Mask(int(x0 + xs[0]), int(y0 + ys[0]), np.ascontiguousarray(crop))


def _without_specks(inside: BoolArray) -> BoolArray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    if count <= 2:
        return inside
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= _SPECK * areas.max())
    return np.isin(labels, kept)

"""Masks <-> outlines: polygons, stored as Tiny WKB, in half the room of run lengths and less.

A ring goes around one piece of a mask along the edges of its pixels, counterclockwise as RFC 7946 has it, in the
coordinates of boxes: the pixel in column x covers x to x + 1. Holes are filled, since neither COCO nor CVAT knows any.
Stored is a multipolygon of whole pixels without closing points, which PostGIS reads as it is (`ST_GeomFromTWKB`).
Source: https://github.com/TWKB/Specification/blob/master/twkb.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from flows.mask import Mask

Ring = npt.NDArray[np.int32]
"""Corners of a piece, (n, 2) pixels, the first not repeated at the end."""

_TOLERANCE_PX = 1.0
"""How far a ring may lie from the edge of its piece: stairs of pixels are within it."""
_AREA_SHARE = 0.1
"""A ring that changes its piece's area by more than this share keeps all its corners, as those of small things do."""
_TWKB_MULTIPOLYGON = bytes([6, 0])  # kind 6 in whole units; no box, no size, no ids


def is_polygon(data: bytes) -> bool:
    """Whether a stored mask is an outline, and not run lengths.

    Run lengths begin with x as four bytes; those of an outline would be an x of more than 16 million pixels.
    """
    return data[:2] == _TWKB_MULTIPOLYGON and data[3:4] == b"\x01"


def rings_of(mask: Mask) -> list[Ring]:
    """The outline of a mask, a ring a piece, the largest first."""
    import cv2

    # Twice as large, the border pixels of a piece lie in different pixels from the corners they touch.
    twice = np.repeat(np.repeat(mask.crop.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rings = []
    for contour in contours:
        edge = (contour + 1) // 2
        area = cv2.contourArea(edge)
        ring = cv2.approxPolyDP(edge, _TOLERANCE_PX, closed=True)
        if abs(cv2.contourArea(ring) - area) > _AREA_SHARE * area:
            ring = cv2.approxPolyDP(edge, 0.1, closed=True)
        rings.append((area, ring[::-1, 0] + np.array([mask.x_px, mask.y_px])))
    return [ring.astype(np.int32) for _, ring in sorted(rings, key=lambda one: -one[0])]


def filled(rings: Sequence[Ring]) -> Mask:
    """The mask inside an outline."""
    from pycocotools import mask as coco

    corners = np.concatenate(rings)
    low = corners.min(axis=0)
    width, height = (corners.max(axis=0) - low).tolist()
    flat = [(ring - low).astype(np.float64).ravel().tolist() for ring in rings]
    crop = coco.decode(coco.merge(coco.frPyObjects(flat, height, width))).astype(np.bool_)
    return Mask(int(low[0]), int(low[1]), crop)


def to_bytes(rings: Sequence[Ring]) -> bytes:
    """Stored form."""
    corners = np.concatenate(rings).astype(np.int64)
    steps = np.diff(corners, axis=0, prepend=np.zeros((1, 2), dtype=np.int64)).ravel()
    zigzag = iter((steps << 1 ^ steps >> 63).tolist())
    data = bytearray(_TWKB_MULTIPOLYGON)
    data += _varints([len(rings)])
    for ring in rings:
        data += _varints([1, len(ring), *(next(zigzag) for _ in range(2 * len(ring)))])
    return bytes(data)


def from_bytes(data: bytes) -> list[Ring]:
    """The outline of a stored mask, of whichever form it is."""
    if not is_polygon(data):
        return rings_of(Mask.from_bytes(data))
    numbers = _numbers(data[len(_TWKB_MULTIPOLYGON) :])
    at, last, rings = 1, np.zeros(2, dtype=np.int64), []
    for _ in range(numbers[0]):
        end = at + 2 + 2 * numbers[at + 1]
        zigzag = np.array(numbers[at + 2 : end], dtype=np.int64).reshape(-1, 2)
        ring = last + np.cumsum(zigzag >> 1 ^ -(zigzag & 1), axis=0)
        at, last = end, ring[-1]
        rings.append(ring.astype(np.int32))
    return rings


def _varints(numbers: Iterable[int]) -> bytes:
    """Seven bits a byte, the lowest first, the eighth set where more follow."""
    data = bytearray()
    for number in numbers:
        while number > 0x7F:
            data.append(number & 0x7F | 0x80)
            number >>= 7
        data.append(number)
    return bytes(data)


def _numbers(data: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    return numbers

"""What is drawn on one frame: masks, boxes, names, trails, zones and the clock, at any resolution.

Drawn by hand rather than with supervision's annotators: those take masks at the size of the frame, which at 4K and
thirty objects is 250 MB a frame; here a mask touches only its own rectangle. Colours are those of Okabe and Ito
("Color Universal Design", 2008), which people with any colour vision tell apart; lines have a dark edge so that they
show on any ground.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image, ImageDraw

from flows.fonts import font_for
from flows.mask import Mask
from flows.schema import NS, ImageArray, State

Rgb = tuple[int, int, int]
_Place = tuple[int, int, int, int]

PALETTE_RGB: tuple[Rgb, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)

_EDGE_RGB: Rgb = (20, 20, 20)
_ZONE_RGB: Rgb = (255, 255, 255)
_MASK_OPACITY = 0.45
_ZONE_NAME_OPACITY = 0.6  # objects walk behind it

_TRAIL_STEP_NS = NS // 12
"""Trail points closer together than this add drawing time and no shape."""

_TRAIL_GAP_NS = NS // 2
"""A trail is not drawn across a pause longer than this: the way through it is not known."""

_INFERRED = {State.BRIDGED: "hidden", State.INTERPOLATED: "interpolated"}
"""States that are not seen on the frame, and the word that says so."""


@dataclass(frozen=True)
class Sighting:
    """One object on one frame, in pixels; `point_px` is its ground point."""

    short_id: int
    class_name: str
    state: State
    box_xyxy: tuple[float, float, float, float]
    point_px: tuple[float, float]
    confidence: float | None = None
    mask: Mask | None = None


@dataclass(frozen=True)
class Outline:
    """A zone or line of the source, in pixels: `points_px` (n, 2)."""

    name: str
    points_px: np.ndarray
    closed: bool


class Overlay:
    """Draws frame after frame of one video; trails are what it remembers."""

    def __init__(self, width_px: int, height_px: int, outlines: Sequence[Outline] = (), trail_s: float = 2.0) -> None:
        """Prepare for frames of this size; `trail_s` is how far back trails reach, 0 for none."""
        self._width, self._height = width_px, height_px
        self._outlines = outlines
        self._trail_ns = round(trail_s * NS)
        self._trails: dict[int, deque[tuple[int, float, float]]] = {}
        # 1 at 1280x720. From the area, so that portrait and panorama look alike, and slower than the side, because
        # larger pictures are looked at closer.
        scale = (width_px * height_px / (1280 * 720)) ** 0.375
        self._line_px = max(1, round(2.4 * scale))
        self._font_px = max(10, round(17 * scale))
        # Around a line of one pixel an edge would be all there is to see.
        self._edges = (0,) if self._line_px == 1 else (2, 0)

    def follow(self, sightings: Sequence[Sighting], pts_ns: int) -> None:
        """Lengthen the trails without drawing, and forget what is older than they reach."""
        if not self._trail_ns:
            return
        for seen in sightings:
            trail = self._trails.setdefault(seen.short_id, deque())
            if not trail or pts_ns - trail[-1][0] >= _TRAIL_STEP_NS:
                trail.append((pts_ns, *seen.point_px))
        for short_id, trail in list(self._trails.items()):
            while trail and trail[0][0] < pts_ns - self._trail_ns:
                trail.popleft()
            if not trail:
                del self._trails[short_id]

    def draw(
        self,
        image_rgb: ImageArray,
        sightings: Sequence[Sighting],
        pts_ns: int,
        clock: str | None = None,
        counted: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Draw onto the frame (height, width, 3), in place; `counted` is what to write beside names of outlines."""
        self.follow(sightings, pts_ns)
        taken = self._draw_outlines(image_rgb, counted)
        # Lower in the picture is nearer to the camera, so it is drawn last.
        ordered = sorted(sightings, key=lambda seen: seen.point_px[1])
        for seen in ordered:
            if seen.mask is not None:
                self._draw_mask(image_rgb, seen.mask, colour_of(seen.short_id))
        for seen in ordered:
            self._draw_trail(image_rgb, seen, pts_ns)
        for seen in ordered:
            self._draw_box(image_rgb, seen)
        if clock is not None:
            taken.append(self._stamp(image_rgb, label_image(clock, self._font_px, _EDGE_RGB), (0, 0)))
        for seen in reversed(ordered):
            self._draw_name(image_rgb, seen, taken)

    def _draw_outlines(self, image_rgb: ImageArray, counted: Mapping[str, str]) -> list[_Place]:
        """Draw zones and lines; returns where their names stand."""
        taken = []
        for outline in self._outlines:
            points = np.round(outline.points_px).astype(np.int32)
            for extra_px in self._edges:
                colour = _EDGE_RGB if extra_px else _ZONE_RGB
                cv2.polylines(image_rgb, [points], outline.closed, colour, self._line_px + extra_px, cv2.LINE_AA)
            if not outline.closed:
                for point in points:
                    cv2.circle(image_rgb, point.tolist(), 2 * self._line_px, _ZONE_RGB, -1, cv2.LINE_AA)
            x_px, y_px = points[points[:, 1].argmin()]
            said = f"{outline.name}: {counted[outline.name]}" if outline.name in counted else outline.name
            name = label_image(said, self._font_px, _ZONE_RGB)
            taken.append(self._stamp(image_rgb, name, (int(x_px), int(y_px)), _ZONE_NAME_OPACITY))
        return taken

    def _draw_mask(self, image_rgb: ImageArray, mask: Mask, colour: Rgb) -> None:
        left, top = max(mask.x_px, 0), max(mask.y_px, 0)
        right = min(mask.x_px + mask.crop.shape[1], self._width)
        bottom = min(mask.y_px + mask.crop.shape[0], self._height)
        if right <= left or bottom <= top:
            return
        inside = mask.crop[top - mask.y_px : bottom - mask.y_px, left - mask.x_px : right - mask.x_px].astype(np.uint8)
        region = image_rgb[top:bottom, left:right]
        flat = np.full_like(region, colour)
        blended = cv2.addWeighted(region, 1 - _MASK_OPACITY, flat, _MASK_OPACITY, 0)
        image_rgb[top:bottom, left:right] = cv2.copyTo(blended, inside, region.copy())
        contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image_rgb, contours, -1, colour, max(1, self._line_px // 2), cv2.LINE_AA, offset=(left, top))

    def _draw_trail(self, image_rgb: ImageArray, seen: Sighting, pts_ns: int) -> None:
        points = [*self._trails.get(seen.short_id, ()), (pts_ns, *seen.point_px)]
        colour = colour_of(seen.short_id)
        for (then_ns, x0, y0), (now_ns, x1, y1) in pairwise(points):
            if now_ns - then_ns > _TRAIL_GAP_NS:
                continue
            youth = 1 - (pts_ns - now_ns) / max(self._trail_ns, 1)
            thickness = max(1, round(self._line_px * (0.4 + 0.9 * youth)))
            ends = (round(x0), round(y0)), (round(x1), round(y1))
            cv2.line(image_rgb, *ends, colour, thickness, cv2.LINE_AA)
        centre = round(seen.point_px[0]), round(seen.point_px[1])
        for extra_px in self._edges:
            shade = _EDGE_RGB if extra_px else colour
            cv2.circle(image_rgb, centre, self._line_px + 1 + extra_px // 2, shade, -1, cv2.LINE_AA)

    def _draw_box(self, image_rgb: ImageArray, seen: Sighting) -> None:
        x1, y1, x2, y2 = (round(value) for value in seen.box_xyxy)
        colour = colour_of(seen.short_id)
        dash = 3 * self._line_px + 2
        for extra_px in self._edges:
            shade, thickness = (_EDGE_RGB if extra_px else colour), self._line_px + extra_px
            if seen.state not in _INFERRED:
                cv2.rectangle(image_rgb, (x1, y1), (x2, y2), shade, thickness)
                continue
            for x in range(x1, x2, 2 * dash):
                for y in (y1, y2):
                    cv2.line(image_rgb, (x, y), (min(x + dash, x2), y), shade, thickness)
            for y in range(y1, y2, 2 * dash):
                for x in (x1, x2):
                    cv2.line(image_rgb, (x, y), (x, min(y + dash, y2)), shade, thickness)

    def _draw_name(self, image_rgb: ImageArray, seen: Sighting, taken: list[_Place]) -> None:
        """Write the longest name that suits the box where no other name is; the number alone where it is crowded."""
        x1, y1, x2, y2 = (round(value) for value in seen.box_xyxy)
        room_px = max(2 * (x2 - x1), self._width // 8)
        colour = colour_of(seen.short_id)
        for text in _names(seen):
            image = label_image(text, self._font_px, colour)
            height, width = image.shape[:2]
            places = ((x1, y1 - height), (x1, y2), (x1, y1), (x2 - width, y1 - height), (x2, y1))
            if width > room_px:
                continue
            for x, y in places:
                place = self._inside(x, y, width, height)
                if not any(_overlap(place, other) for other in taken):
                    taken.append(self._stamp(image_rgb, image, place[:2]))
                    return
        taken.append(self._stamp(image_rgb, image, (x1, y1 - height)))

    def _inside(self, x: int, y: int, width: int, height: int) -> _Place:
        x, y = max(0, min(x, self._width - width)), max(0, min(y, self._height - height))
        return x, y, x + width, y + height

    def _stamp(self, image_rgb: ImageArray, label: ImageArray, at: tuple[int, int], opacity: float = 1) -> _Place:
        x0, y0, x1, y1 = self._inside(*at, label.shape[1], label.shape[0])
        target = image_rgb[y0:y1, x0:x1]
        target[:] = cv2.addWeighted(target, 1 - opacity, label[: target.shape[0], : target.shape[1]], opacity, 0)
        return x0, y0, x1, y1


def colour_of(short_id: int) -> Rgb:
    """The colour of a track, by its number in the video (from 1)."""
    return PALETTE_RGB[(short_id - 1) % len(PALETTE_RGB)]


def _names(seen: Sighting) -> list[str]:
    """What to call it, the longest first."""
    short, name = str(seen.short_id), f"{seen.short_id} {seen.class_name}"
    if seen.state in _INFERRED:
        return [f"{name} {_INFERRED[seen.state]}", name, short]
    return [name, short] if seen.confidence is None else [f"{name} {seen.confidence:.0%}", name, short]


def _overlap(a: _Place, b: _Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=4096)
def label_image(text: str, font_px: int, ground: Rgb) -> ImageArray:
    """Text on a plate of one colour, (height, width, 3) uint8; black or white, whichever stands out more."""
    font = font_for(text, font_px)
    left, _, right, _ = font.getbbox(text)
    pad = max(2, font_px // 5)
    # As high for every text, so that plates line up: 1.25 of the size holds ascenders and descenders.
    plate = Image.new("RGB", (round(right - left) + 2 * pad, round(1.25 * font_px) + pad), ground)
    luminance = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2]
    ink = (0, 0, 0) if luminance > 110 else (255, 255, 255)
    ImageDraw.Draw(plate).text((pad - left, pad // 2), text, fill=ink, font=font)
    return np.asarray(plate, dtype=np.uint8)

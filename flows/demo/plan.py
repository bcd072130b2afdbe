"""What is where on the ground of a scene: lanes, paint, zones and counting lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flows.demo.camera import Camera, Floats


@dataclass(frozen=True)
class Lane:
    """A straight lane: vehicles drive from minus to plus infinity along ``direction``."""

    middle_m: Floats  # (2,) the point of the lane nearest the middle of the view
    direction: Floats  # (2,) unit
    width_m: float
    speed_m_s: float


@dataclass
class Plan:
    """A ground plan in the making.

    Attributes:
        rng: the stream the plan draws from.
        camera: the camera that will look at it.
        lanes: where vehicles drive.
        zones_m: polygons (K, 2) by name.
        lines_m: counting lines (2, 2) by name.
        paints: ground polygons (K, 2) in metres and their colours, later over earlier.
    """

    rng: np.random.Generator
    camera: Camera
    lanes: list[Lane] = field(default_factory=list)
    zones_m: dict[str, Floats] = field(default_factory=dict)
    lines_m: dict[str, Floats] = field(default_factory=dict)
    paints: list[tuple[Floats, npt.NDArray[np.float64]]] = field(default_factory=list)

    def paint(self, polygon_m: Floats, colour: npt.ArrayLike) -> None:
        """Colour a polygon of the ground."""
        self.paints.append((polygon_m, np.asarray(colour, float)))


def at(plan: Plan, u: tuple[float, float], v: tuple[float, float]) -> Floats:
    """A ground point under a random place of the image, given as fractions of its width and height."""
    camera = plan.camera
    row = max(plan.rng.uniform(*v) * camera.height_px, camera.horizon_px + 0.12 * camera.height_px)
    return camera.to_ground(np.array([plan.rng.uniform(*u) * camera.width_px, row]))


def _strip(start_m: Floats, end_m: Floats, low_m: float, high_m: float) -> Floats:
    """(4, 2) rectangle along a segment between two offsets to its left."""
    along = (end_m - start_m) / np.linalg.norm(end_m - start_m)
    left = np.array([-along[1], along[0]])
    return np.array([start_m + left * low_m, end_m + left * low_m, end_m + left * high_m, start_m + left * high_m])


def _rectangle(centre_m: Floats, wide_m: float, deep_m: float, turn_rad: float) -> Floats:
    half = np.array([math.cos(turn_rad), math.sin(turn_rad)]) * wide_m / 2
    return _strip(centre_m - half, centre_m + half, -deep_m / 2, deep_m / 2)


def _plan_road(plan: Plan) -> None:
    rng = plan.rng
    middle = at(plan, (0.4, 0.6), (0.5, 0.68))
    angle = rng.uniform(-0.45, 0.45) if rng.random() < 0.65 else rng.choice([-1, 1]) * rng.uniform(0.75, 1.2)
    along = np.array([math.cos(angle), math.sin(angle)])
    left = np.array([-along[1], along[0]])
    count, width = int(rng.integers(2, 5)), rng.uniform(3.0, 3.7)
    half, start, end = count * width / 2, middle - along * 160, middle + along * 160
    pavement = rng.uniform(2.5, 4.5)
    asphalt, stone = rng.uniform(78, 128) + rng.normal(0, 4, 3), rng.uniform(120, 176) + rng.normal(0, 7, 3)
    plan.paint(_strip(start, end, -half - pavement, half + pavement), stone)
    plan.paint(_strip(start, end, -half - 0.2, half + 0.2), stone * 0.8)
    plan.paint(_strip(start, end, -half, half), asphalt)
    white, speed = np.array((214, 214, 206)), rng.uniform(5, 11)
    for border in range(1, count):
        offset = -half + border * width
        solid = border == count // 2 and rng.random() < 0.6
        for s in np.arange(-160, 160, 320 if solid else 6):
            dash = _strip(
                middle + along * s, middle + along * (s + (320 if solid else 3)), offset - 0.07, offset + 0.07
            )
            plan.paint(dash, (226, 196, 70) if solid and rng.random() < 0.5 else white)
    crossing = rng.uniform(-5, 5)
    for offset in np.arange(-half + 0.3, half - 0.3, 1.0):
        stripe = _strip(middle + along * crossing, middle + along * (crossing + 3.2), offset, offset + 0.5)
        plan.paint(stripe, white)
    for lane in range(count):
        offset = -half + (lane + 0.5) * width
        onward = 1.0 if lane < count / 2 else -1.0
        centre = middle + left * offset
        plan.lanes.append(Lane(centre, along * onward, width, speed * rng.uniform(0.8, 1.2)))
        plan.zones_m[f"lane {lane + 1}"] = _strip(centre - along * 12, centre + along * 12, -width / 2, width / 2)
    plan.zones_m["crossing"] = _strip(
        middle + along * (crossing - 0.3), middle + along * (crossing + 3.5), -half - 1, half + 1
    )
    gate = middle + along * (crossing + rng.choice([-1, 1]) * rng.uniform(5, 8))
    plan.lines_m["counting line"] = np.array([gate - left * (half + pavement), gate + left * (half + pavement)])


def _plan_site(plan: Plan) -> None:
    rng = plan.rng
    middle, angle = at(plan, (0.4, 0.6), (0.55, 0.75)), rng.uniform(-0.3, 0.3)
    along = np.array([math.cos(angle), math.sin(angle)])
    width = rng.uniform(3.6, 5.0)
    start, end = middle - along * 120, middle + along * 120
    dirt = rng.uniform(105, 165) * np.array([1.05, 0.93, 0.76])
    plan.paint(_strip(start, end, -width / 2, width / 2), dirt)
    for rut in (-0.9, 0.9):
        plan.paint(_strip(start, end, rut - 0.22, rut + 0.22), dirt * 0.82)
    plan.lanes.append(Lane(middle, along * rng.choice([-1.0, 1.0]), width, rng.uniform(3, 6)))
    dig = at(plan, (0.2, 0.8), (0.28, 0.42))
    pit = _rectangle(dig, rng.uniform(9, 13), rng.uniform(7, 10), rng.uniform(-0.3, 0.3))
    plan.paint(pit, dirt * rng.uniform(0.66, 0.85))
    plan.zones_m["dig area"] = pit
    for _ in range(int(rng.integers(2, 6))):
        spot = at(plan, (0.0, 1.0), (0.3, 1.0))
        plan.paint(
            _rectangle(spot, rng.uniform(2, 8), rng.uniform(1, 4), rng.uniform(-1, 1)), dirt * rng.uniform(0.75, 1.25)
        )
    plan.zones_m["haul road"] = _strip(middle - along * 9, middle + along * 9, -width / 2, width / 2)
    gate = middle + along * rng.uniform(-4, 4)
    left = np.array([-along[1], along[0]])
    plan.lines_m["site gate"] = np.array([gate - left * width, gate + left * width])
    plan.zones_m["entrance"] = _rectangle(at(plan, (0.15, 0.85), (0.75, 0.9)), 6.0, 3.0, angle)


def _plan_shop(plan: Plan) -> None:
    rng = plan.rng
    line = np.array([(236, 196, 40), (225, 225, 220), (60, 110, 180)][int(rng.integers(3))])
    checkout = at(plan, (0.25, 0.75), (0.5, 0.66))
    entrance = at(plan, (0.2, 0.8), (0.78, 0.92))
    plan.zones_m["checkout"] = _rectangle(checkout, rng.uniform(3, 4.5), rng.uniform(2, 3), rng.uniform(-0.2, 0.2))
    plan.zones_m["entrance"] = _rectangle(entrance, rng.uniform(2.5, 4), rng.uniform(1.2, 2), rng.uniform(-0.2, 0.2))
    mat = rng.uniform(50, 130) + rng.normal(0, 22, 3)
    plan.paint(plan.zones_m["entrance"], mat)
    for polygon in (plan.zones_m["checkout"],):
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            plan.paint(_strip(a, b, -0.05, 0.05), line)
    for row in rng.choice([0.3, 0.5, 0.75], int(rng.integers(0, 3)), replace=False):
        a, b = at(plan, (-0.3, -0.2), (row, row)), at(plan, (1.2, 1.3), (row, row))
        plan.paint(_strip(a, b, -0.05, 0.05), line)
        plan.paint(_strip(a, b, 1.75, 1.85), line)
    plan.lines_m["door line"] = plan.zones_m["entrance"][[3, 2]]
    a, b = at(plan, (0.1, 0.3), (0.4, 0.6)), at(plan, (0.7, 0.9), (0.4, 0.6))
    plan.lines_m["aisle line"] = np.array([a, b])


PLANNERS: dict[str, Callable[[Plan], None]] = {"site": _plan_site, "shop": _plan_shop, "road": _plan_road}

"""Cars, trucks, forklifts and excavators, built from flat-faced solids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.demo.camera import Camera, Floats
from flows.demo.solids import Builder, Light, Polygon, Solid, beam, painted

GLASS = (52, 62, 74)
RUBBER = (34, 33, 34)
PAINTS = (
    (228, 228, 226), (30, 31, 34), (120, 124, 130), (170, 24, 28), (28, 58, 130), (70, 96, 74),
    (196, 176, 140), (90, 30, 34), (236, 190, 30), (40, 120, 150), (200, 92, 30), (176, 182, 190),
)  # fmt: skip
MACHINE_PAINTS = ((238, 176, 24), (232, 120, 22), (214, 60, 36), (72, 128, 60), (56, 104, 168))


@dataclass(frozen=True)
class Machine:
    """A vehicle in its own axes (x forward, origin on the ground below its middle)."""

    kind: str  # "car", "truck", "forklift" or "excavator"
    body: Solid
    front: Solid | None  # the mast of a forklift: drawn before or after the body, by depth
    paint: tuple[float, float, float]
    length_m: float
    width_m: float
    height_m: float
    arm_m: float = 0.0  # length of an excavator's boom

    def polygons(
        self, camera: Camera, xy_m: Floats, heading_rad: float, swing_rad: float, dig_rad: float, light: Light
    ) -> list[Polygon]:
        """Faces from far to near; ``swing_rad`` and ``dig_rad`` pose an excavator's house and arm."""
        place = (xy_m[0], xy_m[1], 0.0)
        parts = self.body.placed(place, heading_rad).polygons(camera, light)
        facing = heading_rad + swing_rad
        forward = np.array([math.cos(facing), math.sin(facing)])
        toward_camera = float(forward @ xy_m) < 0
        if self.kind == "excavator" and self.front is not None:
            house = self.front.placed(place, facing).polygons(camera, light)
            arm = _arm(self, np.array(place), facing, dig_rad)
            reach = [polygon for part in arm for polygon in part.polygons(camera, light)]
            return parts + (house + reach if toward_camera else reach + house)
        if self.front is None:
            return parts
        front = self.front.placed(place, heading_rad).polygons(camera, light)
        return parts + front if toward_camera else front + parts

    def corners_m(self, xy_m: Floats, heading_rad: float) -> Floats:
        """(8, 3) corners of the upright box around the body, for shadows and for leaving the frame."""
        reach = max(self.length_m / 2, self.arm_m)
        x, y = (self.length_m / 2, self.width_m / 2) if not self.arm_m else (reach, reach)
        along = np.array([math.cos(heading_rad), math.sin(heading_rad)])
        across = np.array([-along[1], along[0]])
        ground = np.array([xy_m + along * a * x + across * b * y for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        flat = np.column_stack([ground, np.zeros(4)])
        return np.concatenate([flat, flat + np.array([0, 0, self.height_m])])


def random_machine(rng: np.random.Generator, kind: str) -> Machine:
    """Build a machine of a kind with random shape and paint."""
    builders = {"car": _car, "truck": _truck, "forklift": _forklift, "excavator": _excavator}
    return builders[kind](rng)


def _paint(rng: np.random.Generator, paints: tuple[tuple[int, int, int], ...]) -> npt.NDArray[np.float64]:
    return np.clip(np.array(paints[rng.integers(len(paints))]) + rng.normal(0, 12, 3), 12, 250)


def _finish(
    kind: str,
    body: Builder,
    front: Builder | None,
    paint: Floats,
    size_m: tuple[float, float, float],
    arm_m: float = 0.0,
) -> Machine:
    red, green, blue = paint.tolist()
    return Machine(kind, body.build(), front.build() if front else None, (red, green, blue), *size_m, arm_m)


def _windows(builder: Builder, pillars: bool) -> None:
    """Glass on the four sides of the frustum added last (five faces ago)."""
    first = len(builder.faces) - 5
    for side in range(4):
        across = side in (1, 3)
        builder.marking(first + side, (0.06, 0.94), (0.14, 0.88), GLASS)
        if pillars and not across:
            body = builder.colours[first]
            builder.marking(first + side, (0.48, 0.54), (0.1, 0.9), body)


def _car(rng: np.random.Generator) -> Machine:
    length, width = rng.uniform(3.6, 4.9), rng.uniform(1.65, 1.95)
    tall = rng.uniform(1.38, 1.8)
    paint = _paint(rng, PAINTS)
    half, side = length / 2, width / 2
    belt, floor = tall * 0.56, 0.24
    builder = Builder()
    builder.box((-half * 0.98, half * 0.98, -side * 0.94, side * 0.94), (0.12, 0.4), (24, 24, 26))
    builder.frustum(
        (-half, half, -side, side), (-half * 0.97, half * 0.95, -side * 0.95, side * 0.95), (floor, belt), paint
    )
    lower = len(builder.faces) - 5
    for u in ((0.04, 0.24), (0.76, 0.96)):
        builder.marking(lower + 1, u, (0.5, 0.8), (250, 246, 220))
        builder.marking(lower + 3, u, (0.5, 0.85), (190, 24, 24))
    builder.marking(lower + 1, (0.3, 0.7), (0.15, 0.5), (30, 30, 32))
    builder.marking(lower + 3, (0.36, 0.64), (0.3, 0.55), (220, 220, 214))
    for flank in (0, 2):
        builder.marking(lower + flank, (0.0, 1.0), (0.0, 0.16), paint * 0.45)
        builder.marking(lower + flank, (0.5, 0.508), (0.15, 0.95), paint * 0.6)
    rear = -half * rng.choice([0.55, 0.88, 0.95])
    nose = half * rng.uniform(0.35, 0.5)
    builder.frustum(
        (rear, nose, -side * 0.93, side * 0.93),
        (rear + 0.25 * half, nose - 0.32 * half, -side * 0.74, side * 0.74),
        (belt, tall),
        paint,
    )
    _windows(builder, pillars=True)
    builder.wheels([-half * 0.62, half * 0.63], side * 1.005, rng.uniform(0.3, 0.37))
    return _finish("car", builder, None, paint, (length, width, tall))


def _truck(rng: np.random.Generator) -> Machine:
    style = rng.choice(["box", "tipper", "van"])
    van = style == "van"
    length, width = (rng.uniform(5.2, 6.2), 2.0) if van else (rng.uniform(6.5, 9.0), rng.uniform(2.25, 2.5))
    tall = rng.uniform(2.3, 2.7) if van else rng.uniform(2.9, 3.5)
    paint, cargo = _paint(rng, PAINTS), _paint(rng, PAINTS if style != "tipper" else MACHINE_PAINTS)
    half, side = length / 2, width / 2
    cab_rear = half - (1.5 if van else 2.0)
    builder = Builder()
    builder.box((-half, half * 0.98, -side * 0.8, side * 0.8), (0.35, 0.75), (38, 38, 42))
    if van:
        builder.box((-half, cab_rear, -side, side), (0.4, tall), paint)
        builder.marking(-5, (0.1, 0.7), (0.35, 0.6), cargo)
        builder.marking(-4, (0.3, 0.9), (0.35, 0.6), cargo)
    elif style == "box":
        builder.box((-half, cab_rear - 0.25, -side, side), (0.8, tall), cargo)
        builder.marking(-5, (0.12, 0.88), (0.3, 0.62), paint)
        builder.marking(-4, (0.12, 0.88), (0.3, 0.62), paint)
    else:
        builder.frustum(
            (-half, cab_rear - 0.3, -side * 0.9, side * 0.9),
            (-half, cab_rear - 0.2, -side, side),
            (0.8, tall * 0.72),
            cargo,
        )
        load = (-half * 0.85, cab_rear - 0.6, -side * 0.8, side * 0.8)
        crown = (-half * 0.5, cab_rear - 1.6, -side * 0.3, side * 0.3)
        builder.frustum(load, crown, (tall * 0.7, tall * 0.84), (124, 98, 70))
    cab_top = tall if van else tall * rng.uniform(0.75, 0.9)
    slope = 0.75 if van else 0.15
    hood = tall * 0.5 if van else 1.45
    builder.box((cab_rear, half, -side, side), (0.35, hood), paint)
    grille = len(builder.faces) - 5
    builder.marking(grille + 1, (0.25, 0.75), (0.1, 0.55), (44, 44, 46))
    for u in ((0.04, 0.2), (0.8, 0.96)):
        builder.marking(grille + 1, u, (0.2, 0.45), (252, 248, 222))
    builder.frustum(
        (cab_rear, half, -side, side), (cab_rear, half - slope, -side * 0.94, side * 0.94), (hood, cab_top), paint
    )
    _windows(builder, pillars=False)
    builder.wheels([-half * 0.62, half * 0.68] + ([] if van else [-half * 0.35]), side * 1.005, 0.36 if van else 0.5)
    return _finish("truck", builder, None, paint, (length, width, tall))


def _forklift(rng: np.random.Generator) -> Machine:
    paint = _paint(rng, MACHINE_PAINTS)
    length, width, tall = 2.4, rng.uniform(1.1, 1.3), rng.uniform(2.05, 2.25)
    side = width / 2
    body = Builder()
    body.frustum((-1.2, 0.75, -side, side), (-1.1, 0.7, -side * 0.9, side * 0.9), (0.18, 0.85), paint)
    body.marking(-5, (0.0, 1.0), (0.0, 0.25), (40, 40, 42))
    body.marking(-4, (0.0, 1.0), (0.0, 0.25), (40, 40, 42))
    body.frustum(
        (-1.2, -0.55, -side * 0.9, side * 0.9), (-1.1, -0.6, -side * 0.8, side * 0.8), (0.85, 1.15), (44, 44, 48)
    )
    body.frustum((-0.5, -0.1, -0.22, 0.22), (-0.42, -0.12, -0.18, 0.18), (0.85, 1.55), _paint(rng, PAINTS))
    body.box((-0.38, -0.16, -0.1, 0.1), (1.58, 1.8), (222, 176, 140))
    post = 0.05
    for x in (-0.75, 0.55):
        for y in (-side * 0.85, side * 0.85):
            body.box((x - post, x + post, y - post, y + post), (0.85, tall), (46, 46, 50))
    body.box((-0.85, 0.65, -side * 0.9, side * 0.9), (tall - 0.08, tall), paint * 0.8)
    body.wheels([-0.85, 0.45], side * 1.01, 0.27)
    front = Builder()
    for y in (-0.38, 0.28):
        front.box((0.8, 0.95, y, y + 0.1), (0.08, tall - 0.05), (58, 58, 62))
        front.box((0.9, 1.85, y, y + 0.1), (0.14, 0.2), (70, 70, 74))
    if rng.random() < 0.7:
        lift = 0.2
        front.box((0.98, 1.9, -0.55, 0.55), (lift, lift + 0.13), (150, 116, 76))
        tint = rng.uniform(90, 200) * np.array([1.0, 0.86, 0.66])
        front.box((1.0, 1.88, -0.5, 0.5), (lift + 0.13, lift + rng.uniform(0.6, 1.1)), tint)
        front.marking(-5, (0.1, 0.5), (0.3, 0.7), tint * 0.7)
        front.marking(-4, (0.2, 0.6), (0.4, 0.8), (230, 228, 220))
    return _finish("forklift", body, front, paint, (length + 1.4, width, tall))


def _excavator(rng: np.random.Generator) -> Machine:
    paint = _paint(rng, MACHINE_PAINTS)
    size = rng.uniform(0.8, 1.15)
    half, side, tall = 1.9 * size, 1.35 * size, 2.9 * size
    tracks = Builder()
    for y0 in (-side, side - 0.55 * size):
        rect = np.array([-half * 0.85, half * 0.85, y0, y0 + 0.55 * size])
        top = rect + np.array([-half * 0.12, half * 0.12, 0, 0])
        tracks.frustum(rect, top, (0.0, 0.45 * size), RUBBER)
        tracks.marking(-5, (0.08, 0.92), (0.25, 0.7), (86, 82, 76))
        tracks.marking(-4, (0.1, 0.9), (0.3, 0.6), (60, 58, 56))
        tracks.frustum(top, rect, (0.45 * size, 0.8 * size), RUBBER)
    tracks.box((-0.6 * size, 0.6 * size, -0.6 * size, 0.6 * size), (0.3 * size, 0.95 * size), (58, 56, 54))
    house = Builder()
    house.frustum(
        (-half, half * 0.72, -side * 0.9, side * 0.9), (-half * 0.96, half * 0.7, -side * 0.88, side * 0.88),
        (0.95 * size, 1.75 * size), paint,
    )  # fmt: skip
    for flank in (-5, -4):
        house.marking(flank, (0.1, 0.55), (0.3, 0.75), paint * 0.72)
    house.box((-half * 0.95, -half * 0.35, -side * 0.85, side * 0.85), (1.75 * size, 2.1 * size), (52, 50, 50))
    house.frustum(
        (-half * 0.25, half * 0.78, side * 0.1, side * 0.9), (-half * 0.2, half * 0.6, side * 0.15, side * 0.85),
        (1.75 * size, tall), paint,
    )  # fmt: skip
    _windows(house, pillars=False)
    return _finish("excavator", tracks, house, paint, (half * 2, side * 2, tall), 5.6 * size)


def _arm(machine: Machine, place_m: Floats, facing_rad: float, dig_rad: float) -> list[Solid]:
    """Boom, stick and bucket; ``dig_rad`` runs one dig per turn."""
    size = machine.arm_m / 5.6
    forward = np.array([math.cos(facing_rad), math.sin(facing_rad), 0.0])
    across = np.array([-forward[1], forward[0], 0.0])
    up = np.array([0.0, 0.0, 1.0])
    lift = 0.95 + 0.25 * math.sin(dig_rad)
    fold = -0.85 - 0.35 * math.cos(dig_rad)
    curl = fold - 0.7 + 0.5 * math.sin(dig_rad + 0.8)

    def step(start: Floats, angle: float, length: float) -> Floats:
        end: Floats = start + length * size * (math.cos(angle) * forward + math.sin(angle) * up)
        return end

    foot = place_m + forward * 0.9 * size + up * 1.5 * size - across * 0.35 * size
    knee = step(foot, lift, 2.1)
    elbow = step(knee, lift - 0.75, 2.2)
    wrist = step(elbow, fold - 0.2, 2.0)
    tip = step(wrist, curl, 0.85)
    paint = np.array(machine.paint)
    return [
        painted(beam(foot, knee, across, 0.42 * size, (0.5 * size, 0.62 * size)), paint * 0.95),
        painted(beam(knee, elbow, across, 0.4 * size, (0.62 * size, 0.36 * size)), paint),
        painted(beam(elbow, wrist, across, 0.32 * size, (0.46 * size, 0.28 * size)), paint * 0.88),
        painted(beam(wrist, tip, across, 0.95 * size, (0.55 * size, 0.7 * size)), (58, 54, 52)),
    ]

"""Walking people: an articulated stick figure in metres, dressed in tapering limbs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flows.demo.camera import Camera, Floats
from flows.demo.solids import Light, Polygon

SKINS = ((244, 210, 180), (224, 176, 140), (190, 134, 96), (140, 92, 62), (92, 60, 42))
HAIRS = ((28, 22, 20), (70, 46, 28), (130, 92, 50), (196, 160, 100), (150, 148, 146))
VESTS = ((236, 120, 20), (198, 226, 40), (240, 90, 50))
HELMETS = ((240, 200, 30), (236, 236, 232), (40, 90, 190), (220, 60, 40))

_CAP = np.linspace(0, math.pi, 5)
_CAP_COS, _CAP_SIN = np.cos(_CAP), np.sin(_CAP)


@dataclass(frozen=True)
class Outfit:
    """What one person looks like; colours are RGB 0-255."""

    height_m: float
    girth: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    top: tuple[int, int, int]
    legs: tuple[int, int, int]
    shoes: tuple[int, int, int]
    stripe: tuple[int, int, int] | None
    helmet: tuple[int, int, int] | None
    coat: bool
    backpack: tuple[int, int, int] | None
    stride: float

    @staticmethod
    def random(rng: np.random.Generator, worker: float) -> Outfit:
        """Dress a person; ``worker`` is the chance of a vest and a helmet."""
        at_work = rng.random() < worker
        top = VESTS[rng.integers(len(VESTS))] if at_work else _colour(rng, 20, 235)
        stripe = (225, 228, 220) if at_work else (_colour(rng, 20, 235) if rng.random() < 0.35 else None)
        return Outfit(
            height_m=float(rng.uniform(1.5, 1.95) if rng.random() > 0.06 else rng.uniform(1.1, 1.4)),
            girth=float(rng.uniform(0.85, 1.3)),
            skin=SKINS[rng.integers(len(SKINS))],
            hair=HAIRS[rng.integers(len(HAIRS))],
            top=top,
            legs=_colour(rng, 18, 130) if rng.random() < 0.75 else _colour(rng, 60, 220),
            shoes=_colour(rng, 15, 90) if rng.random() < 0.7 else (225, 225, 222),
            stripe=stripe,
            helmet=HELMETS[rng.integers(len(HELMETS))] if rng.random() < worker else None,
            coat=bool(not at_work and rng.random() < 0.25),
            backpack=_colour(rng, 20, 200) if not at_work and rng.random() < 0.25 else None,
            stride=float(rng.uniform(0.34, 0.5)),
        )

    def twin(self, rng: np.random.Generator) -> Outfit:
        """Another person in the same clothes: a lookalike."""
        return replace(self, height_m=self.height_m * float(rng.uniform(0.97, 1.03)), backpack=self.backpack)


def person_polygons(
    camera: Camera, outfit: Outfit, xy_m: Floats, heading_rad: float, phase_rad: float, pace: float, light: Light
) -> list[Polygon]:
    """Draw a person.

    Args:
        camera: the camera.
        outfit: the looks.
        xy_m: (2,) ground point between the feet.
        heading_rad: direction of walking, anticlockwise from +x.
        phase_rad: phase of the gait.
        pace: 0 standing, 1 walking, more is running.
        light: the light.

    Returns:
        Polygons from the farthest to the nearest part.
    """
    joints = _joints(outfit, xy_m, heading_rad, phase_rad, pace)
    uv_px, depth_m = camera.project(joints)
    scale = camera.focal_px / float(depth_m[0]) * outfit.height_m
    turn = heading_rad - math.atan2(float(xy_m[1]), float(xy_m[0]))
    away, right_is_near = math.cos(turn), math.sin(turn) > 0
    girth = outfit.girth
    half_width = math.hypot(0.12 * away, 0.08 * math.sin(turn)) * girth
    shade = light.ambient + (1 - light.ambient) * 0.62
    near, far = (1, 0) if right_is_near else (0, 1)

    def limb(
        a: int, b: int, radius_a: float, radius_b: float, colour: tuple[int, int, int], gain: float = 1.0
    ) -> Polygon:
        tone = shade * gain
        points = _capsule(uv_px[a], uv_px[b], radius_a * scale, radius_b * scale)
        return points, (min(colour[0] * tone, 255), min(colour[1] * tone, 255), min(colour[2] * tone, 255))

    def leg(side: int, gain: float) -> list[Polygon]:
        hip, knee, ankle, toe = 4 + side, 6 + side, 8 + side, 10 + side
        return [
            limb(ankle, toe, 0.026, 0.02, outfit.shoes, gain),
            limb(knee, ankle, 0.036 * girth, 0.026, outfit.legs, gain),
            limb(hip, knee, 0.055 * girth, 0.038 * girth, outfit.legs, gain),
        ]

    def arm(side: int, gain: float) -> list[Polygon]:
        shoulder, elbow, wrist = 12 + side, 14 + side, 16 + side
        return [
            limb(elbow, wrist, 0.025, 0.02, outfit.skin if not outfit.coat else outfit.top, gain),
            limb(shoulder, elbow, 0.034 * girth, 0.028, outfit.top, gain),
            limb(wrist, wrist, 0.023, 0.023, outfit.skin, gain),
        ]

    pack = [limb(18, 19, 0.06, 0.07, outfit.backpack)] if outfit.backpack else []
    torso = [limb(0, 1, half_width * 0.85, half_width, outfit.top)]
    if outfit.coat:
        torso.insert(0, limb(20, 0, half_width * 1.1, half_width * 0.9, outfit.top, 0.95))
    if outfit.stripe:
        torso += _stripes(uv_px, half_width * scale, outfit.stripe, shade)
    head = [limb(2, 2, 0.062, 0.062, outfit.skin), *_headgear(uv_px[2], 0.066 * scale, outfit, away, shade)]
    body = [*pack, *torso] if away < 0 else [*torso, *pack]
    return [*arm(far, 0.78), *leg(far, 0.78), *leg(near, 1.0), *body, *head, *arm(near, 0.94)]


def _joints(outfit: Outfit, xy_m: Floats, heading_rad: float, phase_rad: float, pace: float) -> Floats:
    """(21, 3) joints: hip, chest, head, feet, then left/right pairs down the legs and the arms, pack, hem."""
    tall, reach = outfit.height_m, outfit.stride * min(pace, 1.3)
    forward = np.array([math.cos(heading_rad), math.sin(heading_rad), 0.0])
    left = np.array([-forward[1], forward[0], 0.0])
    up = np.array([0.0, 0.0, 1.0])
    root = np.array([xy_m[0], xy_m[1], 0.0])
    joints = np.zeros((21, 3))
    sides = (1.0, -1.0)
    for side, sign in enumerate(sides):
        phase = phase_rad + math.pi * side
        thigh = reach * math.sin(phase)
        shin = thigh - min(pace, 1.4) * 0.75 * max(0.0, math.cos(phase)) - 0.06
        hip = up * 0.5 * tall + left * sign * 0.05 * tall
        knee = hip + 0.245 * tall * (math.sin(thigh) * forward - math.cos(thigh) * up)
        ankle = knee + 0.23 * tall * (math.sin(shin) * forward - math.cos(shin) * up)
        swing = -0.8 * thigh
        shoulder = up * 0.8 * tall + left * sign * 0.105 * tall * outfit.girth
        elbow = shoulder + 0.17 * tall * (math.sin(swing) * forward - math.cos(swing) * up + 0.15 * sign * left)
        bend = swing + 0.25 + 0.5 * max(pace - 1, 0)
        joints[4 + side], joints[6 + side], joints[8 + side] = hip, knee, ankle
        joints[10 + side] = ankle + 0.085 * tall * forward - 0.012 * tall * up
        joints[12 + side], joints[14 + side] = shoulder, elbow
        joints[16 + side] = elbow + 0.15 * tall * (math.sin(bend) * forward - math.cos(bend) * up)
    lean = 0.03 * pace * tall * forward
    joints[0], joints[1], joints[2] = up * 0.5 * tall, up * 0.755 * tall + lean, up * 0.925 * tall + lean * 1.3
    joints[18], joints[19] = (up * z * tall - 0.1 * tall * forward for z in (0.76, 0.62))
    joints[20] = up * 0.34 * tall
    # The lower foot carries the body: without this the walker would float or sink with every step.
    sink = float(joints[8:12, 2].min()) - 0.022 * tall
    joints[:, 2] -= sink
    return joints + root


def _capsule(start_px: Floats, end_px: Floats, radius_start: float, radius_end: float) -> Floats:
    """Outline of a limb: two half discs and the straight sides between them."""
    dx, dy = float(end_px[0] - start_px[0]), float(end_px[1] - start_px[1])
    length = math.hypot(dx, dy)
    dx, dy = (dx / length, dy / length) if length > 1e-6 else (0.0, 1.0)
    points = np.empty((10, 2))
    points[:5, 0] = start_px[0] + radius_start * (-_CAP_COS * dy - _CAP_SIN * dx)
    points[:5, 1] = start_px[1] + radius_start * (_CAP_COS * dx - _CAP_SIN * dy)
    points[5:, 0] = end_px[0] + radius_end * (_CAP_COS * dy + _CAP_SIN * dx)
    points[5:, 1] = end_px[1] + radius_end * (-_CAP_COS * dx + _CAP_SIN * dy)
    return points


def _stripes(uv_px: Floats, half_width_px: float, colour: tuple[int, int, int], shade: float) -> list[Polygon]:
    """Two bands across the torso."""
    hip, chest = uv_px[0], uv_px[1]
    axis = chest - hip
    across = np.array([-axis[1], axis[0]]) / (np.linalg.norm(axis) + 1e-9) * half_width_px * 0.93
    tone = (colour[0] * shade, colour[1] * shade, colour[2] * shade)
    return [
        (np.array([p - across, p + across, q + across, q - across]), tone)
        for low, high in ((0.12, 0.3), (0.62, 0.8))
        for p, q in [(hip + axis * low, hip + axis * high)]
    ]


def _headgear(head_px: Floats, radius_px: float, outfit: Outfit, away: float, shade: float) -> list[Polygon]:
    """A helmet, or hair: more of it the more the person looks away."""
    colour = outfit.helmet or outfit.hair
    low = 0.05 if outfit.helmet else -0.15 - 0.75 * max(away, 0.0)
    angles = np.linspace(math.asin(low), math.pi - math.asin(low), 9)
    dome = np.stack([np.cos(angles), -np.sin(angles)], axis=1) * radius_px * (1.12 if outfit.helmet else 1.02)
    return [(head_px + dome, (colour[0] * shade, colour[1] * shade, colour[2] * shade))]


def _colour(rng: np.random.Generator, low: float, high: float) -> tuple[int, int, int]:
    base = rng.uniform(low, high) + rng.normal(0, 38, 3)
    red, green, blue = np.clip(base, 8, 245).astype(int).tolist()
    return red, green, blue


def hull_points(xy_m: Floats, height_m: float, radius_m: float) -> Floats:
    """(8, 3) corners of the upright box around a person, for shadows."""
    offsets: npt.NDArray[np.float64] = radius_m * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    ground = np.column_stack([xy_m + offsets, np.zeros(4)])
    return np.concatenate([ground, ground + np.array([0, 0, height_m])])

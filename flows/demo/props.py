"""What stands still in a scene and hides what passes behind it: shelves, pillars, barriers, trees, fences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.demo.camera import Camera, Floats
from flows.demo.solids import Builder, Light, Polygon, Solid, beam, painted

STEEL = (150, 152, 156)


@dataclass(frozen=True)
class Prop:
    """A standing thing: its polygons in the image, its distance for the drawing order, its footprint."""

    polygons: list[Polygon]
    y_m: float
    discs_m: Floats  # (D, 2) centres of the footprint
    radius_m: float
    hides: bool  # tall and wide enough to step out from behind


Maker = Callable[[np.random.Generator, Camera, Light, Floats], Prop]


def _row(xy_m: Floats, length_m: float, heading_rad: float, radius_m: float) -> Floats:
    count = max(1, math.ceil(length_m / (2 * radius_m)))
    offsets = (np.arange(count) - (count - 1) / 2) * (length_m / count)
    return xy_m + np.outer(offsets, [math.cos(heading_rad), math.sin(heading_rad)])


def _solid_prop(
    solid: Solid,
    camera: Camera,
    light: Light,
    xy_m: Floats,
    size_m: tuple[float, float],
    heading_rad: float,
    hides: bool,
) -> Prop:
    polygons = solid.placed((xy_m[0], xy_m[1], 0.0), heading_rad).polygons(camera, light)
    radius_m = size_m[1] / 2 + 0.05
    return Prop(polygons, float(xy_m[1]), _row(xy_m, size_m[0], heading_rad, radius_m), radius_m, hides)


def shelf(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A store shelf or pallet rack full of coloured goods."""
    length, depth, tall = rng.uniform(2.0, 5.5), rng.uniform(0.6, 1.0), rng.uniform(1.3, 2.3)
    builder = Builder()
    frame = rng.uniform(60, 220) + rng.normal(0, 15, 3)
    builder.box((-length / 2, length / 2, -depth / 2, depth / 2), (0, tall), frame)
    first, levels = len(builder.faces) - 5, int(rng.integers(3, 6))
    for face in (0, 2):
        for level in range(levels):
            low, high = (level + 0.1) / levels, (level + 0.94) / levels
            builder.marking(first + face, (0.01, 0.99), (low, high), frame * 0.35)
            u = 0.015
            while u < 0.95:
                wide = min(rng.uniform(0.15, 0.5) / length, 0.985 - u)
                top = low + (high - low) * rng.uniform(0.55, 0.92)
                builder.marking(first + face, (u, u + wide * 0.94), (low, top), rng.uniform(30, 235, 3))
                u += wide
    heading = rng.normal(0, 0.04)
    return _solid_prop(builder.build(), camera, light, xy_m, (length, depth), heading, tall > 1.7)


def pillar(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A column with a hazard band."""
    half, tall = rng.uniform(0.18, 0.4), rng.uniform(2.6, 6)
    colour = rng.uniform(90, 225) + rng.normal(0, 8, 3)
    builder = Builder()
    builder.box((-half, half, -half, half), (0, tall), colour)
    if rng.random() < 0.6:
        band = np.array((236, 190, 30)) if rng.random() < 0.5 else np.array((200, 50, 40))
        for face in range(3):
            for step in range(3):
                low = (0.3 + 0.4 * step) / tall
                builder.marking(face, (0, 1), (low, low + 0.2 / tall), band)
    return _solid_prop(builder.build(), camera, light, xy_m, (2 * half, 2 * half), rng.uniform(-0.3, 0.3), False)


def barrier(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A low concrete or plastic barrier, striped or plain."""
    length, tall = rng.uniform(2.0, 6.0), rng.uniform(0.7, 1.1)
    colour = np.array((196, 194, 188)) if rng.random() < 0.5 else np.array((226, 224, 220))
    builder = Builder()
    builder.frustum((-length / 2, length / 2, -0.3, 0.3), (-length / 2, length / 2, -0.1, 0.1), (0, tall), colour)
    stripe, steps = rng.choice([(206, 52, 40), (230, 126, 30), (60, 60, 64)]), int(length / 0.5)
    if rng.random() < 0.75:
        for step in range(0, steps, 2):
            for face in (0, 2):
                builder.marking(face, (step / steps, (step + 1) / steps), (0.25, 0.85), stripe)
    return _solid_prop(builder.build(), camera, light, xy_m, (length, 0.6), rng.uniform(-0.4, 0.4), False)


def container(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A shipping container, site hut or kiosk."""
    length, depth, tall = rng.uniform(2.4, 6.1), rng.uniform(1.6, 2.4), rng.uniform(2.3, 2.7)
    colour = rng.uniform(50, 210) + rng.normal(0, 35, 3)
    builder = Builder()
    builder.box((-length / 2, length / 2, -depth / 2, depth / 2), (0, tall), np.clip(colour, 20, 240))
    ribs = int(length / 0.35)
    for face in range(3):
        for rib in range(ribs):
            builder.marking(
                face, ((rib + 0.1) / ribs, (rib + 0.5) / ribs), (0.04, 0.96), np.clip(colour, 20, 240) * 0.82
            )
    if rng.random() < 0.5:
        builder.marking(0, (0.2, 0.5), (0.45, 0.8), (66, 78, 92))
    return _solid_prop(builder.build(), camera, light, xy_m, (length, depth), rng.normal(0, 0.15), True)


def scaffold(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """Scaffolding or a fence of tubes: one sees through it."""
    length, bays = rng.uniform(3.0, 7.0), int(rng.integers(3, 7))
    tall = rng.uniform(1.1, 2.0) if rng.random() < 0.5 else rng.uniform(3.0, 5.5)
    heading = rng.uniform(-0.35, 0.35)
    along = np.array([math.cos(heading), math.sin(heading), 0.0])
    across = np.array([-along[1], along[0], 0.0])
    base, up = np.array([xy_m[0], xy_m[1], 0.0]) - along * length / 2, np.array([0.0, 0.0, 1.0])
    colour = STEEL if rng.random() < 0.6 else (206, 160, 40)
    polygons: list[Polygon] = []
    for level in np.linspace(0.12, 1, max(2, int(tall / 0.9))) * tall:
        thick = 0.16 if tall > 2.5 and rng.random() < 0.5 else 0.06
        rail = beam(base + up * level, base + along * length + up * level, across, 0.06, (thick, thick))
        polygons += painted(rail, colour if thick < 0.1 else (150, 118, 76)).polygons(camera, light)
    for bay in np.linspace(0, length, bays + 1):
        foot = base + along * bay
        polygons += painted(beam(foot, foot + up * tall, across, 0.07, (0.07, 0.07)), colour).polygons(camera, light)
    return Prop(polygons, float(xy_m[1]), _row(xy_m, length, heading, 0.3), 0.3, False)


def tree(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A tree: trunk and many overlapping leaf clumps."""
    tall, spread = rng.uniform(3.0, 6.5), rng.uniform(0.9, 2.0)
    root = np.array([xy_m[0], xy_m[1], 0.0])
    top = root + np.array([0, 0, tall * 0.7])
    trunk = painted(beam(root, top, np.array([1.0, 0, 0]), 0.24, (0.3, 0.16)), (84, 66, 50))
    polygons = trunk.polygons(camera, light)
    hue = np.array([70, 104, 52]) * rng.uniform(0.6, 1.3) + rng.normal(0, 10, 3)
    angles = np.linspace(0, 2 * math.pi, 11, endpoint=False)
    for step in range(34):
        offset = rng.normal(0, 0.45, 3) * np.array([spread, spread, spread * 0.8])
        centre_px, depth_m = camera.project(top + offset + [0, 0, 0.1 * tall])
        radius = rng.uniform(0.25, 0.6) * spread * camera.focal_px / float(depth_m)
        ring = radius * rng.uniform(0.75, 1.2, angles.shape)
        blob = centre_px + np.stack([ring * np.cos(angles), ring * np.sin(angles) * 0.85], axis=1)
        red, green, blue = np.clip(hue * (0.6 + 0.022 * step) * rng.uniform(0.85, 1.15), 0, 255).tolist()
        polygons.append((blob, (red, green, blue)))
    return Prop(polygons, float(xy_m[1]), xy_m[None], 0.3, False)


def post(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A lamp post or a sign on a pole."""
    tall = rng.uniform(2.4, 7.0)
    builder = Builder()
    builder.box((-0.07, 0.07, -0.07, 0.07), (0, tall), rng.uniform(60, 180) * np.ones(3))
    if rng.random() < 0.6:
        half = rng.uniform(0.25, 0.6)
        builder.box((-half, half, -0.1, 0.1), (tall - 2 * half, tall), rng.uniform(30, 230, 3))
        builder.marking(-5, (0.12, 0.88), (0.12, 0.88), rng.uniform(30, 240, 3))
    return _solid_prop(builder.build(), camera, light, xy_m, (0.3, 0.3), 0.0, False)


def hoarding(rng: np.random.Generator, camera: Camera, light: Light, xy_m: Floats) -> Prop:
    """A free-standing panel: an advertisement, a bus shelter wall, a site board."""
    length, tall = rng.uniform(1.6, 3.6), rng.uniform(1.8, 2.4)
    builder = Builder()
    builder.box((-length / 2, length / 2, -0.12, 0.12), (0, tall), rng.uniform(60, 200) + rng.normal(0, 20, 3))
    for _ in range(int(rng.integers(2, 6))):
        u, v = rng.uniform(0.05, 0.6), rng.uniform(0.3, 0.7)
        for face in (0, 2):
            builder.marking(
                face, (u, u + rng.uniform(0.1, 0.35)), (v, v + rng.uniform(0.08, 0.25)), rng.uniform(20, 240, 3)
            )
    return _solid_prop(builder.build(), camera, light, xy_m, (length, 0.3), rng.normal(0, 0.15), True)


MAKERS: dict[str, tuple[Maker, ...]] = {
    "site": (barrier, container, scaffold, scaffold, pillar, hoarding, post),
    "shop": (shelf, shelf, shelf, pillar, hoarding),
    "road": (tree, tree, post, barrier, hoarding, pillar),
}

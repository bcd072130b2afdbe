"""Who appears in a scene, what they look like and how they move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flows.demo.camera import Camera, Floats
from flows.demo.layout import Stage
from flows.demo.machines import Machine, random_machine
from flows.demo.motion import STRIDE_M, Path, Traffic, follow, standing
from flows.demo.people import Outfit, hull_points, person_polygons
from flows.demo.plan import Lane
from flows.demo.solids import Polygon

CLASS_NAMES = ("person", "car", "truck", "excavator", "forklift")
TRIES = 40  # attempts to find a path free of collisions before giving an object up


@dataclass(frozen=True)
class Actor:
    """One moving object of a scene; ids count from 1."""

    id: int
    class_index: int
    looks: Outfit | Machine
    path: Path
    gait_rad: Floats  # (N,) phase of walking or digging
    swing_rad: Floats  # (N,) how far an excavator's house is turned

    def polygons(self, stage: Stage, index: int) -> list[Polygon]:
        """What the object looks like at frame ``index``, far parts first."""
        xy_m, heading = self.path.xy_m[index], float(self.path.heading_rad[index])
        if isinstance(self.looks, Outfit):
            pace = min(float(self.path.speed_m_s[index]) / 1.2, 1.8)
            return person_polygons(
                stage.camera, self.looks, xy_m, heading, float(self.gait_rad[index]), pace, stage.light
            )
        pose = (float(self.swing_rad[index]), float(self.gait_rad[index]))
        return self.looks.polygons(stage.camera, xy_m, heading, *pose, stage.light)

    def corners_m(self, index: int) -> Floats:
        """(8, 3) corners of the upright box around the object."""
        return corners_m(self.looks, self.path.xy_m[index], float(self.path.heading_rad[index]))


def corners_m(looks: Outfit | Machine, xy_m: Floats, heading_rad: float) -> Floats:
    """(8, 3) corners of the upright box around someone or something standing at ``xy_m``."""
    if isinstance(looks, Outfit):
        return hull_points(xy_m, looks.height_m * 1.04, 0.24 * looks.height_m)
    return looks.corners_m(xy_m, heading_rad)


def cast(rng: np.random.Generator, stage: Stage, times_s: Floats, count: int) -> tuple[Actor, ...]:
    """Fill a stage with up to ``count`` objects that never collide."""
    traffic, actors = Traffic(), list[Actor]()
    for prop in stage.props:
        traffic.block(prop.discs_m, prop.radius_m)
    outfits: list[Outfit] = []
    kinds = [_kind(rng, stage.theme, position) for position in range(count)]
    # The big ones first: they have the fewest places to go.
    for kind in sorted(kinds, key=lambda kind: -("person", "car", "forklift", "truck", "excavator").index(kind)):
        looks: Outfit | Machine
        if kind == "person":
            lookalike = bool(outfits) and rng.random() < 0.2
            worker = {"site": 0.75, "shop": 0.12, "road": 0.05}[stage.theme]
            looks = outfits[rng.integers(len(outfits))].twin(rng) if lookalike else Outfit.random(rng, worker)
            outfits.append(looks)
        else:
            looks = random_machine(rng, kind)
        path = _find_path(rng, stage, looks, kind, times_s, traffic)
        if path is not None:
            actors.append(_actor(rng, len(actors) + 1, kind, looks, path, times_s))
    return tuple(actors)


def _kind(rng: np.random.Generator, theme: str, position: int) -> str:
    chances = {
        "site": (0.56, 0.1, 0.15, 0.07, 0.12),
        "shop": (0.82, 0.0, 0.0, 0.0, 0.18),
        "road": (0.4, 0.4, 0.19, 0.0, 0.01),
    }[theme]
    if position == 0:  # a shop without people or a site without a digger would not look like one
        return {"site": "excavator", "shop": "person", "road": "car"}[theme]
    return str(rng.choice(CLASS_NAMES, p=chances))


def _actor(
    rng: np.random.Generator, number: int, kind: str, looks: Outfit | Machine, path: Path, times_s: Floats
) -> Actor:
    steps_s = np.diff(times_s, prepend=times_s[0])
    travelled = np.cumsum(path.speed_m_s * steps_s)
    start = rng.uniform(0, 2 * math.pi)
    swing = np.zeros(len(times_s))
    if kind == "excavator":
        # It digs and swings while it stands, and holds still while it drives.
        work_s = np.cumsum(np.where(path.speed_m_s < 0.15, steps_s, 0.0))
        gait = start + work_s * 2 * math.pi / rng.uniform(4, 8)
        swing = rng.uniform(-1.2, 1.2) + rng.uniform(0.3, 0.9) * np.sin(work_s * 2 * math.pi / rng.uniform(8, 16))
    else:
        gait = start + travelled * 2 * math.pi / STRIDE_M
    return Actor(number, CLASS_NAMES.index(kind), looks, path, gait, swing)


def _find_path(
    rng: np.random.Generator, stage: Stage, looks: Outfit | Machine, kind: str, times_s: Floats, traffic: Traffic
) -> Path | None:
    for _ in range(TRIES):
        if kind in ("car", "truck") and stage.lanes:
            path = _drive(rng, stage, looks, stage.lanes[rng.integers(len(stage.lanes))], times_s)
        elif kind == "excavator":
            path = _dig(rng, stage, times_s)
        else:
            path = _roam(rng, stage, looks, times_s)
        length_m, width_m = (0.7, 0.7) if isinstance(looks, Outfit) else _footprint_m(looks)
        if path is not None and traffic.admit(path, length_m, width_m):
            return path
    return None


def _footprint_m(machine: Machine) -> tuple[float, float]:
    if machine.arm_m:  # the arm sweeps round: keep a full circle free
        return machine.arm_m * 1.5, machine.arm_m * 1.5
    return machine.length_m + 0.6, machine.width_m + 0.4


def _is_outside(camera: Camera, corners: Floats, wall_y_m: float) -> bool:
    """Whether an upright box cannot be seen: beside, below or above the image, or behind the wall."""
    if float(corners[:, 1].min()) > wall_y_m:
        return True
    uv_px, depth_m = camera.project(corners)
    if float(depth_m.min()) < 1.0:
        return False
    low, high = uv_px.min(axis=0), uv_px.max(axis=0)
    return bool(high[0] < 0 or low[0] > camera.width_px or low[1] > camera.height_px or high[1] < 0)


def _drive(rng: np.random.Generator, stage: Stage, looks: Outfit | Machine, lane: Lane, times_s: Floats) -> Path | None:
    heading = math.atan2(lane.direction[1], lane.direction[0])
    ends: list[float] = []
    for sign in (-1.0, 1.0):
        reach = 2.0
        while not _is_outside(
            stage.camera, corners_m(looks, lane.middle_m + lane.direction * sign * reach, heading), stage.wall_y_m
        ):
            reach += 1.5
            if reach > 150 or lane.middle_m[1] + lane.direction[1] * sign * reach < 1:
                return None
        ends.append(sign * (reach + 1.0))
    offset = np.array([-lane.direction[1], lane.direction[0]]) * rng.normal(0, 0.15)
    line = [lane.middle_m + lane.direction * s + offset for s in ends]
    travel_s = (ends[1] - ends[0]) / lane.speed_m_s
    start_s = rng.uniform(-0.7 * travel_s, 0.75 * float(times_s[-1]))
    points, waits = [line[0], line[1]], [0.0, 0.0]
    if rng.random() < 0.35:
        points.insert(1, line[0] + (line[1] - line[0]) * rng.uniform(0.35, 0.65))
        waits.insert(1, rng.uniform(1.0, 5.0))
    return follow(np.array(points), waits, lane.speed_m_s, start_s, times_s, 0.5)


def _dig(rng: np.random.Generator, stage: Stage, times_s: Floats) -> Path:
    zone = stage.zones_m.get("dig area")
    centre = zone.mean(axis=0) + rng.normal(0, 1.2, 2) if zone is not None else _spot(rng, stage)
    heading = rng.uniform(-math.pi, math.pi)
    if rng.random() < 0.5:
        return standing(centre, heading, len(times_s))
    goal = centre + rng.uniform(2, 5) * np.array([math.cos(heading), math.sin(heading)])
    start_s = rng.uniform(0.1, 0.6) * float(times_s[-1])
    return follow(np.array([centre, goal]), [0.0, 0.0], rng.uniform(0.6, 1.1), start_s, times_s, 0.4)


def _spot(rng: np.random.Generator, stage: Stage) -> Floats:
    """A ground point seen in the image, in front of the wall."""
    camera = stage.camera
    top = max(camera.horizon_px, 0.0) + 0.1 * camera.height_px
    for _ in range(20):
        u, v = rng.uniform(0.06, 0.94) * camera.width_px, rng.uniform(top, 0.96 * camera.height_px)
        spot = camera.to_ground(np.array([u, v]))
        # People keep to the pavement, mostly; whoever steps off it crosses the road.
        astray = stage.theme == "road" and _is_on_lane(stage, spot) and rng.random() < 0.8
        if spot[1] < stage.wall_y_m - 1.5 and not astray:
            break
    return spot


def _is_on_lane(stage: Stage, spot_m: Floats) -> bool:
    return any(
        abs(float(np.cross(np.append(lane.direction, 0), np.append(spot_m - lane.middle_m, 0))[2])) < lane.width_m / 2
        for lane in stage.lanes
    )


def _border(rng: np.random.Generator, stage: Stage, looks: Outfit | Machine) -> Floats | None:
    """A ground point just outside the image, or hidden behind a tall prop."""
    camera = stage.camera
    hiding = [prop for prop in stage.props if prop.hides]
    if hiding and isinstance(looks, Outfit) and rng.random() < 0.3:
        prop = hiding[rng.integers(len(hiding))]
        centre = prop.discs_m.mean(axis=0)
        back: Floats = centre + centre / np.linalg.norm(centre) * (prop.radius_m + 0.7)
        return back if back[1] < stage.wall_y_m - 0.8 else None
    spot = _spot(rng, stage)
    side = rng.choice([-1.0, 0.0, 1.0], p=[0.42, 0.16, 0.42])
    step = np.array([side, 0.0]) if side else np.array([0.0, -0.7])
    for _ in range(120):
        if _is_outside(camera, corners_m(looks, spot, 0.0), stage.wall_y_m):
            return spot + step * 0.3
        spot = spot + step * 0.5
        if spot[1] < 0.8:
            return None
    return None


def _roam(rng: np.random.Generator, stage: Stage, looks: Outfit | Machine, times_s: Floats) -> Path | None:
    """Walk or drive from somewhere to somewhere over a few points, with stops."""
    end_s = float(times_s[-1])
    on_foot = isinstance(looks, Outfit)
    inside_at_start = rng.random() < 0.45
    start = _spot(rng, stage) if inside_at_start else _border(rng, stage, looks)
    final = _border(rng, stage, looks) if rng.random() < 0.6 else _spot(rng, stage)
    if start is None or final is None:
        return None
    points = [start, *(_spot(rng, stage) for _ in range(int(rng.integers(0, 4)))), final]
    waits = [0.0, *(float(rng.uniform(1, 5)) if rng.random() < 0.35 else 0.0 for _ in points[1:])]
    if on_foot:
        speed = rng.uniform(0.8, 1.9) if rng.random() > 0.08 else rng.uniform(2.4, 3.4)
    else:
        speed = rng.uniform(1.5, 3.5)
    start_s = rng.uniform(-3, 0.25 * end_s) if inside_at_start else rng.uniform(-0.1 * end_s, 0.6 * end_s)
    return follow(np.array(points), waits, speed, start_s, times_s, 0.35 if on_foot else 0.7)

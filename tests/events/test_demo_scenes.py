"""Events of synthetic scenes, from where things truly are: what is wrong here is the events' own error."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely

from flows.config import EventSettings
from flows.demo.casting import CLASS_NAMES, Actor
from flows.demo.scene import Scene
from flows.demo.writer import line_crossings, zone_visits
from flows.events import compute_events
from flows.events.work import MASK_COLUMNS, mask_changes
from flows.mask import Mask
from flows.store import Zone
from tests.walks import START_US, make_observations

SETTINGS = EventSettings()
SIGMA_M = 0.001
"""Of true positions, of which nothing is wrong: an object is clear of an edge as soon as it is over it."""
FINE = 20
"""Steps between frames in the truth, whose visits are whole steps."""


def _make_scene_observations(scene: Scene) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    """Every object on the ground from the first frame that shows it to the last; and those frames."""
    truths = [scene.truth(i) for i in range(scene.frame_count)]
    shown = {
        str(actor.id): [i for i, frame in enumerate(truths) if frame[actor.id - 1].visibility > 0]
        for actor in scene.actors
    }
    spans = {name: (frames[0], frames[-1]) for name, frames in shown.items() if frames}
    paths = {
        name: [(i / scene.fps, *scene.actors[int(name) - 1].path.xy_m[i]) for i in range(first, last + 1)]
        for name, (first, last) in spans.items()
    }
    observations = make_observations(paths)
    column = observations.schema.get_field_index("sigma_m")
    sigma_m = pa.array(np.full(observations.num_rows, SIGMA_M)).cast(observations.schema.field(column).type)
    return observations.set_column(column, "sigma_m", sigma_m), spans


def _true_visits(scene: Scene, spans: dict[str, tuple[int, int]]) -> list[tuple[str, str, float, float]]:
    """(zone, track, enter, exit) by the plain definition of a visit, on paths cut fine."""
    found = []
    for name, (first, last) in spans.items():
        frames = np.linspace(first, last, (last - first) * FINE + 1)
        xy_m = np.stack([np.interp(frames, np.arange(scene.frame_count), c) for c in _path(scene, name).xy_m.T], axis=1)
        for zone, polygon_m in scene.stage.zones_m.items():
            stays: list[list[float]] = []
            for a, b in zone_visits(xy_m, polygon_m):
                enter, leave = frames[a] / scene.fps, frames[b] / scene.fps
                if stays and enter - stays[-1][1] < SETTINGS.debounce_seconds:
                    stays[-1][1] = leave
                else:
                    stays.append([enter, leave])
            edge = shapely.boundary(shapely.polygons(polygon_m))
            clear = shapely.distance(edge, shapely.points(xy_m)) > SETTINGS.clear_sigmas * SIGMA_M
            clear &= np.arange(len(frames)) % FINE == 0  # seen on frames alone
            for enter, leave in stays:
                within = clear[(frames >= enter * scene.fps) & (frames <= leave * scene.fps)]
                passes = enter * scene.fps > first or leave * scene.fps < last
                if leave - enter >= SETTINGS.debounce_seconds or (within.any() and passes):
                    found.append((zone, name, enter, leave))
    return sorted(found)


def _true_crossings(scene: Scene, spans: dict[str, tuple[int, int]]) -> set[tuple[str, str, str]]:
    return {
        (line, name, {"right": "forward", "left": "backward"}[side])
        for name, (first, last) in spans.items()
        for line, line_m in scene.stage.lines_m.items()
        for _, side in line_crossings(_path(scene, name).xy_m[first : last + 1], line_m)
    }


def _path(scene: Scene, name: str) -> Any:
    return scene.actors[int(name) - 1].path


def _zones(scene: Scene) -> list[Zone]:
    shapes = [("zone", scene.stage.zones_m), ("line", scene.stage.lines_m)]
    return [Zone(n, kind, tuple(map(tuple, xy.tolist())), "m") for kind, group in shapes for n, xy in group.items()]


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 43), marks=pytest.mark.slow)], ids=["few", "many"])
def test_visits_crossings_dwell_and_speed_are_those_of_the_scene(seeds):
    exact, dwell_s, speed = 0, [], []
    for seed in seeds:
        scene = Scene.random(seed, width=96, height=54)
        observations, spans = _make_scene_observations(scene)
        rows = compute_events(observations, _zones(scene), SETTINGS).to_pylist()
        visits = sorted(
            (e["zone"], e["track_id"], e["ts"].timestamp() - START_US / 1e6, e["duration_s"])
            for e in rows
            if e["kind"] == "visit"
        )
        true = _true_visits(scene, spans)
        crossings = {(e["zone"], e["track_id"], e["direction"]) for e in rows if e["kind"] == "crossing"}
        same = [v[:2] for v in visits] == [v[:2] for v in true]
        exact += same and crossings == _true_crossings(scene, spans)
        if same:
            dwell_s += [abs(v[3] - (t[3] - t[2])) for v, t in zip(visits, true, strict=True)]
        for e in (e for e in rows if e["kind"] == "presence" and e["duration_s"] >= 1):
            first, last = spans[e["track_id"]]
            p85 = np.percentile(_path(scene, e["track_id"]).speed_m_s[first : last + 1], 85)
            if p85 > SETTINGS.standing_m_s:
                speed.append(abs(e["speed_p85_m_s"] / p85 - 1))
    assert exact >= 0.95 * len(seeds)
    assert np.median(dwell_s) <= 0.3
    assert np.percentile(speed, 85) <= 0.05


MASKS_EVERY = 3
"""Frames between those whose masks are drawn: five a second."""


def _pausing(actor: Actor, fps: float, from_s: float, until_s: float) -> Actor:
    """A digger that holds still for a while, and then goes on where it stopped."""
    first, last = int(from_s * fps), int(until_s * fps)

    def held(pose: np.ndarray) -> np.ndarray:
        pose = pose.copy()
        pose[last:] -= pose[last] - pose[first]
        pose[first:last] = pose[first]
        return pose

    return replace(actor, gait_rad=held(actor.gait_rad), swing_rad=held(actor.swing_rad))


@pytest.mark.slow
def test_active_and_idle_hours_of_machines_that_dig_and_pause():
    active, true_active, total = 0.0, 0.0, 0.0
    for seed in range(11, 18):
        scene = Scene.random(seed, theme="site", duration_s=30)
        random = np.random.default_rng(seed)
        pauses, actors = {}, []
        for actor in scene.actors:
            if CLASS_NAMES[actor.class_index] == "excavator":
                begin = random.uniform(5, 10)
                pauses[actor.id] = (begin, begin + random.uniform(4, 12))
                actor = _pausing(actor, scene.fps, *pauses[actor.id])
            actors.append(actor)
        scene = replace(scene, actors=tuple(actors))
        observations, masks = _observed_diggers(scene, list(pauses))
        changes = mask_changes(observations.append_column("mask", masks).select(MASK_COLUMNS).to_batches(), 2_000_000)
        for e in compute_events(observations, [], SETTINGS, changes).to_pylist():
            active += e["duration_s"] if e["kind"] == "active" else 0
            total += e["duration_s"] if e["kind"] == "presence" else 0
        for name, (begin, end) in pauses.items():
            frames = np.array([round(t * scene.fps) for t in _times_s(observations, str(name))])
            rests = (frames / scene.fps >= begin) & (frames / scene.fps < end)
            drives = scene.actors[name - 1].path.speed_m_s[frames] > SETTINGS.standing_m_s
            true_active += float(np.sum(np.diff(frames / scene.fps)[(~rests | drives)[:-1]]))
    assert true_active < 0.9 * total
    assert abs(active - true_active) <= 0.05 * true_active
    # What is not active is idle: together they are the time on site.
    assert abs(active - true_active) <= 0.05 * (total - true_active)


def _observed_diggers(scene: Scene, names: list[int]) -> tuple[pa.Table, pa.Array]:
    paths: dict[str, list[tuple[float, float, float]]] = {str(name): [] for name in names}
    masks: dict[str, list[bytes | None]] = {str(name): [] for name in names}
    view_xyxy = np.array([0, 0, scene.width_px, scene.height_px], dtype=np.float32)
    for i in range(scene.frame_count):
        ids = scene.render(i)[1] if i % MASKS_EVERY == 0 else None
        for name in names:
            mask = None if ids is None else Mask(0, 0, ids == name).within(view_xyxy)
            paths[str(name)].append((i / scene.fps, *_path(scene, str(name)).xy_m[i]))
            masks[str(name)].append(mask.to_bytes() if mask else None)
    n = sum(map(len, masks.values()))
    observations = make_observations(paths, class_name=["excavator"] * n)
    return observations, pa.array([data for group in masks.values() for data in group], pa.binary())


def _times_s(observations: pa.Table, name: str) -> list[float]:
    rows = observations.filter(pa.compute.equal(observations["track_id"], name))
    return [(t - START_US) / 1e6 for t in rows["ts"].cast(pa.int64()).to_pylist()]

"""Hand-made paths as observations, for tests of what is made of them."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.config import EventSettings
from flows.demo.camera import Camera
from flows.events import compute_events
from flows.schema import OBSERVATIONS, TIMESTAMP
from flows.store import Zone

START_US = round(datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp() * 1e6)
SQUARE = Zone("yard", "zone", ((0, 0), (10, 0), (10, 10), (0, 10)))


def make_observations(paths: dict[str, list[tuple[float, float, float]]], **columns: Any) -> pa.Table:
    """Observations of tracks given as (second, x, y), the same in pixels and metres."""
    rows = [(track, *point) for track, points in paths.items() for point in points]
    n = len(rows)
    x, y = np.array([row[2] for row in rows], dtype=float), np.array([row[3] for row in rows], dtype=float)
    given = {
        "source_id": ["cam"] * n,
        "video_id": ["video"] * n,
        "pts_ns": [round(row[1] * 1e9) for row in rows],
        "track_id": [row[0] for row in rows],
        "class_name": ["person"] * n,
        "ts": pa.array([START_US + round(row[1] * 1e6) for row in rows], pa.int64()).cast(TIMESTAMP),
        "state": ["propagated"] * n,
        "x_px": x,
        "y_px": y,
        "x1_px": x - 2,
        "x2_px": x + 2,
        "y1_px": y - 10,
        "y2_px": y,
        "x_m": x,
        "y_m": y,
        "sigma_m": np.full(n, 0.1),
        **columns,
    }
    types = {field.name: field.type for field in OBSERVATIONS} | {"track_id": pa.string()}
    return pa.table({name: pa.array(values).cast(types[name]) for name, values in given.items()})


def events_of(observations: pa.Table, zones: list[Zone], *kinds: str, **settings: Any) -> pa.Table:
    """Events of some kinds; visits and crossings if none is named."""
    events = compute_events(observations, zones, EventSettings(**settings))
    return events.filter(pc.is_in(events["kind"], pa.array(kinds or ("visit", "crossing"))))


def walk(*corners: tuple[float, float], speed: float = 1.0, hz: float = 10.0) -> list[tuple[float, float, float]]:
    """A path along the corners at constant speed, sampled from second 0."""
    xy = np.array(corners, dtype=float)
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    s = np.arange(0, way[-1] + 1e-9, speed / hz)
    return [(a / speed, np.interp(a, way, xy[:, 0]), np.interp(a, way, xy[:, 1])) for a in s]


def seconds(events: pa.Table) -> list[float]:
    return [(t - START_US) / 1e6 for t in events["ts"].cast(pa.int64()).to_pylist()]


def box_of(camera: Camera, centre_m: np.ndarray, heading_rad: float, size_m: tuple[float, ...]) -> np.ndarray:
    """The box (4,) of a cuboid of length, width and height that stands on the ground."""
    length_m, width_m, height_m = size_m
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)])
    turn = np.array([[np.cos(heading_rad), -np.sin(heading_rad)], [np.sin(heading_rad), np.cos(heading_rad)]])
    ground_m = centre_m + (signs[:, :2] * [length_m / 2, width_m / 2]) @ turn.T
    corners_px = camera.project(np.column_stack([ground_m, signs[:, 2] * height_m]))[0]
    return np.concatenate([corners_px.min(axis=0), corners_px.max(axis=0)])

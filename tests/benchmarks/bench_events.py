"""Events of 8 million observations in 20 zones and lines, on one core, against a plain loop over a part of them.

Run by `make bench`; fewer observations in SIGHTFLOW_BENCH_ROWS.
"""

import os
import time

import numpy as np
import pyarrow as pa

from flows.config import EventSettings
from flows.events import compute_events
from flows.schema import TIMESTAMP
from flows.store import Zone
from tests.benchmarks.record import record

N = int(os.environ.get("SIGHTFLOW_BENCH_ROWS", 8_000_000))
LONG, HZ, ZONES, LINES = 1000, 25, 14, 6
PART = 100_000


def _make_observations(n: int) -> pa.Table:
    """Tracks of 40 s at 25 Hz that wander over 100 m by 60 m, as they come from a store: by time."""
    random = np.random.default_rng(0)
    tracks = n // LONG
    heading = np.cumsum(random.normal(0, 0.05, (tracks, LONG)), axis=1) + random.uniform(0, 6.28, (tracks, 1))
    speed = random.uniform(0, 1.6, (tracks, 1)) * (random.random((tracks, LONG // 100)).repeat(100, axis=1) > 0.2)
    start = random.uniform([0, 0], [100, 60], (tracks, 2))
    x, y = (
        s[:, None] + np.cumsum(speed * f(heading) / HZ, axis=1) for s, f in zip(start.T, (np.cos, np.sin), strict=True)
    )
    begin_us = np.sort(random.integers(0, 3600 * 10**6, tracks))[:, None]
    t_us = (begin_us + np.arange(LONG) * 10**6 // HZ).ravel()
    order = np.argsort(t_us, kind="stable")
    track = np.repeat(np.arange(tracks), LONG)[order]
    x, y = (10 * values.ravel()[order] + random.normal(0, 0.3, n) for values in (x, y))
    names = pa.array([f"track-{i:06d}" for i in range(tracks)])
    classes = pa.array(np.where(np.arange(tracks) % 8, "person", "forklift"))
    columns = {
        "source_id": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["cam"]).cast(pa.string()),
        "video_id": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["video"]).cast(pa.string()),
        "track_id": names.take(pa.array(track)),
        "class_name": classes.take(pa.array(track)),
        "ts": pa.array(t_us[order]).cast(TIMESTAMP),
        "pts_ns": t_us[order] * 1000,
        "state": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["propagated"]).cast(pa.string()),
        **{
            name: pa.array(v, pa.float32())
            for name, v in (("x_px", x), ("y_px", y), ("x1_px", x - 5), ("x2_px", x + 5))
        },
        **{name: pa.array(v, pa.float32()) for name, v in (("y1_px", y - 25), ("y2_px", y))},
        "x_m": x / 10,
        "y_m": y / 10,
        "sigma_m": pa.array(np.full(n, 0.1), pa.float32()),
    }
    return pa.table(columns)


def _make_zones() -> list[Zone]:
    random = np.random.default_rng(1)
    zones = []
    for i in range(ZONES + LINES):
        x, y = random.uniform([5, 5], [80, 45])
        w, h = random.uniform(4, 15, 2)
        points = ((x, y), (x + w, y + 1), (x + w - 1, y + h), (x + w / 2, y + h + 1), (x, y + h))
        zones.append(Zone(f"z{i}", "zone", points, "m") if i < ZONES else Zone(f"l{i}", "line", points[:3], "m"))
    return zones


def _row_by_row(observations: pa.Table, zones: list[Zone]) -> int:
    """What a script would do: each observation, each zone, shapely; only stays and steps over a line, no debounce."""
    import shapely

    shapes = [
        (zone.kind, shapely.Polygon(zone.points) if zone.kind == "zone" else shapely.LineString(zone.points))
        for zone in zones
    ]
    inside: dict[tuple[str, int], bool] = {}
    before: dict[str, tuple[float, float]] = {}
    events = 0
    for track, x, y in zip(*(observations[name].to_pylist() for name in ("track_id", "x_m", "y_m")), strict=True):
        point, step = shapely.Point(x, y), None
        if track in before:
            step = shapely.LineString([before[track], (x, y)])
        for i, (kind, shape) in enumerate(shapes):
            if kind == "zone":
                now = shape.contains(point)
                events += now and not inside.get((track, i), False)
                inside[track, i] = now
            elif step is not None:
                events += step.intersects(shape)
        before[track] = (x, y)
    return events


def bench_events_of_millions_of_observations() -> None:
    observations, zones = _make_observations(N), _make_zones()
    walls, cpus = [], []
    for _ in range(2):
        started, began = time.monotonic(), time.process_time()
        events = compute_events(observations, zones, EventSettings())
        walls.append(time.monotonic() - started)
        cpus.append(time.process_time() - began)
    part = observations.slice(0, PART)
    began = time.process_time()
    _row_by_row(part, zones)
    plain_s = (time.process_time() - began) / PART * N
    kinds = {entry["values"]: entry["counts"] for entry in events["kind"].value_counts().to_pylist()}
    figures = {
        "observations": N,
        "zones": ZONES,
        "lines": LINES,
        "events": kinds,
        "wall_s": round(min(walls), 2),
        "cpu_s": round(min(cpus), 2),
        "plain_cpu_s_scaled_from_part": round(plain_s, 1),
        "ratio": round(plain_s / min(cpus), 1),
    }
    record("events", "millions", figures)

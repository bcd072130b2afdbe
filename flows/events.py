"""Tracks + zones and lines -> visits and crossings.

A `visit` is a stay in a zone: it begins and ends where the path crosses the zone's edge, interpolated between
observations. Absences shorter than the debounce time do not end it, stays shorter than it are none.

A `crossing` is counted once per track and direction, when the object has been seen clear of the line before and
after, by a multiple of its own ground point's standard deviation: who stands on the line and sways crosses nothing.
Its time is interpolated to the line itself. `forward` is from the left of the line to its right, as one walks it
from its first point to its last:

    left              in the picture (y down) and on the plan (y up) alike: draw the line
    A ---------> B    from A to B; what starts above it and ends below it crosses
    right             it forward, what comes back up crosses it backward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely
import yaml

from flows.errors import CalibrationError, ConfigError
from flows.georeference import GROUND_POINT_SIGMA, MIN_SIGMA_PX, Calibration, Floats, locate
from flows.schema import EVENTS, BoolArray, State, make_id
from flows.store.base import Filter, Store, Zone

Ints = npt.NDArray[np.int64]

DEBOUNCE_S = 0.5
"""Shorter stays and absences are jitter of the ground point on the zone's edge, or someone cutting its corner."""
CLEAR_SIGMAS = 2.0
"""How far from a line an object must have been on both sides, in standard deviations of its ground point."""

COLUMNS = (
    *("source_id", "track_id", "class_name", "ts", "state", "x_px", "y_px", "y1_px", "y2_px"),
    *("x_m", "y_m", "sigma_m"),
)
"""The columns of `track_observations` that events are made from."""


@dataclass(frozen=True, eq=False)
class _Paths:
    """Observations by track and time, in one unit: (N,) arrays, `row` the observation's row in the table."""

    row: Ints
    track: npt.NDArray[np.int32]
    t_us: Ints
    x: Floats
    y: Floats
    sigma: Floats

    def xy(self, at: Ints) -> Floats:
        """Positions (M, 2) of some of them."""
        return np.stack([self.x[at], self.y[at]], axis=1)


@dataclass(frozen=True, eq=False)
class _Found:
    """Events of one zone, (M,) arrays: the row of the observation that made each, its time and what it is."""

    zone: Zone
    row: Ints
    t_us: Ints
    duration_us: Ints | None = None
    direction: npt.NDArray[np.str_] | None = None


def compute_events(
    observations: pa.Table,
    zones: Sequence[Zone],
    *,
    debounce_s: float = DEBOUNCE_S,
    clear_sigmas: float = CLEAR_SIGMAS,
) -> pa.Table:
    """Visits of zones and crossings of lines.

    Args:
        observations: at least `COLUMNS` of `track_observations`, in any order.
        zones: in pixels or metres; their names are different.
        debounce_s: see the module.
        clear_sigmas: see the module.

    Returns:
        `schema.EVENTS`, by time; the same observations and zones give the same ids.

    Raises:
        CalibrationError: a zone in metres where no observation has a ground position.
    """
    by_unit = {unit: _paths(observations, unit) for unit in {zone.unit for zone in zones}}
    found = []
    for zone in zones:
        paths = by_unit[zone.unit]
        if observations.num_rows and not len(paths.row):
            raise CalibrationError(
                f"{zone.kind} {zone.name!r} is in metres, but no observation has a ground position: calibrate the "
                "source, or give the zone in pixels (unit: px)"
            )
        if zone.kind == "zone":
            found.append(_visits(paths, zone, round(debounce_s * 1e6)))
        else:
            found.append(_crossings(paths, zone, clear_sigmas))
    tables = [_table(observations, events) for events in found if len(events.row)]
    if not tables:
        return EVENTS.empty_table()
    return pa.concat_tables(tables).sort_by([("ts", "ascending"), ("event_id", "ascending")])


def recompute_events(store: Store, source_id: str, **parameters: float) -> pa.Table:
    """Compute the events of a source from its stored observations, zones and calibration, and store them.

    Args:
        store: read and written; no video is touched.
        source_id: of the source.
        **parameters: of `compute_events`.

    Returns:
        The events as stored.
    """
    zones = store.zones(source_id)
    batches = list(store.observations(Filter(source_id=source_id), COLUMNS, ordered=False)) if zones else []
    events = EVENTS.empty_table()
    if batches:
        observations = pa.Table.from_batches(batches)
        if (text := store.calibration(source_id)) is not None:
            observations = locate(observations, Calibration.from_json(text))
        events = compute_events(observations, zones, **parameters)
    store.write_events(source_id, events)
    return events


def read_zones(path: Path) -> list[Zone]:
    """Read zones and lines from YAML or GeoJSON (see `docs/zones.md`).

    Raises:
        ConfigError: naming the file, the zone and what was expected.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML or GeoJSON file: {error}") from None
    entries = None
    if isinstance(content, dict):
        entries = content.get("features", content.get("zones"))
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: expected a list under `zones:` (or GeoJSON `features`)")
    zones = [_zone(path, number, entry) for number, entry in enumerate(entries, start=1)]
    names = [zone.name for zone in zones]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: every zone needs a name of its own, {', '.join(twice)} is used more than once")
    return zones


def _zone(path: Path, number: int, entry: Any) -> Zone:
    where = f"{path}: zone {number}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with name, kind and points, got {entry!r}")
    fields = _from_geojson(where, entry) if entry.get("type") == "Feature" else dict(entry)
    if unknown := fields.keys() - {"name", "kind", "unit", "points"}:
        raise ConfigError(
            f"{where}: unknown field {', '.join(sorted(map(str, unknown)))}; expected name, kind, unit, points"
        )
    if missing := {"name", "kind", "points"} - fields.keys():
        raise ConfigError(f"{where}: {', '.join(sorted(missing))} is missing")
    try:
        points = np.array(fields["points"], dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ConfigError(f"{where}: points must be [[x, y], ...], got {fields['points']!r}")
    if fields["kind"] == "zone" and len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    try:
        zone = Zone(str(fields["name"]), str(fields["kind"]), _pairs(points), str(fields.get("unit", "px")))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if zone.kind == "zone" and not shapely.is_valid(polygon := shapely.polygons(points)):
        raise ConfigError(f"{where} ({zone.name}): its edge crosses itself ({shapely.is_valid_reason(polygon)})")
    return zone


def _pairs(points: Floats) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


def _from_geojson(where: str, feature: dict[str, Any]) -> dict[str, Any]:
    geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
    kind = {"Polygon": "zone", "LineString": "line"}.get(str(geometry.get("type")))
    points = geometry.get("coordinates")
    if kind is None or not isinstance(points, list):
        raise ConfigError(f"{where}: expected a Polygon (a zone) or LineString (a line), got {geometry.get('type')!r}")
    if kind == "zone":
        if len(points) != 1:
            raise ConfigError(f"{where}: a zone has one ring and no holes, got {len(points)} rings")
        points = points[0]
    return {"kind": kind, "points": points} | {key: properties[key] for key in ("name", "unit") if key in properties}


def _paths(observations: pa.Table, unit: str) -> _Paths:
    def column(name: str) -> Floats:
        return pc.cast(observations[name], pa.float64()).to_numpy()

    x, y = column(f"x_{unit}"), column(f"y_{unit}")
    if unit == "m":
        sigma = column("sigma_m")
    else:
        sigma = np.maximum(GROUND_POINT_SIGMA * (column("y2_px") - column("y1_px")), MIN_SIGMA_PX)
    encoded = observations["track_id"].combine_chunks().dictionary_encode()
    track, t_us = encoded.indices.to_numpy(), observations["ts"].cast(pa.int64()).to_numpy()
    # Stored observations come by time, which the stable sort is quick to see; few tracks then sort by counting.
    row = np.argsort(t_us, kind="stable")
    row = row[np.argsort(track[row].astype(np.min_scalar_type(len(encoded.dictionary))), kind="stable")]
    row = row[np.isfinite(x[row]) & np.isfinite(y[row])]
    return _Paths(row, track[row], t_us[row], x[row], y[row], np.nan_to_num(sigma[row]))


def _visits(paths: _Paths, zone: Zone, debounce_us: int) -> _Found:
    polygon = shapely.polygons(np.array(zone.points))
    shapely.prepare(polygon)
    inside = _around(paths, np.array(zone.points), 0.0)
    inside = inside[shapely.contains_xy(polygon, paths.x[inside], paths.y[inside])]
    goes_on = (np.diff(inside) == 1) & (np.diff(paths.track[inside]) == 0)
    begins = inside[np.concatenate([[True], ~goes_on])] if len(inside) else inside
    ends = inside[np.concatenate([~goes_on, [True]])] if len(inside) else inside
    enter_us = _edge_time(paths, polygon, begins, -1)
    exit_us = _edge_time(paths, polygon, ends, 1)
    # Stays of one track with only a short absence between are one visit: the first's begin, the last's end.
    again = (np.diff(paths.track[begins]) == 0) & (enter_us[1:] - exit_us[:-1] < debounce_us)
    first = np.flatnonzero(np.concatenate([[True], ~again])[: len(begins)])
    last = np.concatenate([first[1:], [len(begins)]])[: len(first)] - 1
    duration_us = exit_us[last] - enter_us[first]
    long = duration_us >= debounce_us
    return _Found(zone, paths.row[begins[first]][long], enter_us[first][long], duration_us=duration_us[long])


def _edge_time(paths: _Paths, polygon: Any, at: Ints, step: int) -> Ints:
    """When the path between the observation `at`, inside, and its neighbour outside crosses the polygon's edge.

    Where a track begins or ends inside there is no such neighbour: the observation's own time.
    """
    beside = np.clip(at + step, 0, max(len(paths.row) - 1, 0))
    beside = np.where(paths.track[beside] == paths.track[at], beside, at)
    way = shapely.linestrings(np.stack([paths.xy(at), paths.xy(beside)], axis=1))
    length = shapely.length(way)
    share = shapely.length(shapely.intersection(way, polygon)) / np.where(length > 0, length, 1)
    return _between(paths, at, beside, share)


def _between(paths: _Paths, start: Ints, end: Ints, share: Floats) -> Ints:
    """Times a share of the way from one observation to another."""
    result: Ints = paths.t_us[start] + np.round(share * (paths.t_us[end] - paths.t_us[start])).astype(np.int64)
    return result


def _crossings(paths: _Paths, zone: Zone, clear_sigmas: float) -> _Found:
    points = np.array(zone.points)
    at, sign, share = _steps_over(paths, points)
    if zone.unit == "px":
        sign = -sign  # y runs down in the picture, so left and right are exchanged
    before, after = _clear_around(paths, points, clear_sigmas, at)
    settled = (before >= 0) & (after < len(paths.row))
    settled[settled] &= paths.track[before[settled]] == paths.track[at[settled]]
    settled[settled] &= paths.track[after[settled]] == paths.track[at[settled]]
    at, sign, share, before = at[settled], sign[settled], share[settled], before[settled]
    # Steps over the line between the same two observations clear of it: what counts is their sum.
    _, group = np.unique(before, return_inverse=True)
    net = np.sign(np.bincount(group, weights=sign, minlength=0)).astype(np.int64)
    that_way = np.flatnonzero((net[group] != 0) & (np.sign(sign) == net[group]))
    # Of them the last in the direction of the sum is the crossing, and of a track's crossings the first.
    last = that_way[np.append(np.diff(group[that_way]) != 0, True)[: len(that_way)]]
    direction = net[group[last]]
    _, first = np.unique(np.stack([paths.track[at[last]], direction], axis=1), axis=0, return_index=True)
    made, direction = last[first], direction[first]
    t_us = _between(paths, at[made] - 1, at[made], share[made])
    return _Found(zone, paths.row[at[made]], t_us, direction=np.where(direction > 0, "forward", "backward"))


def _steps_over(paths: _Paths, points: Floats) -> tuple[Ints, Ints, Floats]:
    """The steps of the paths that cross a polyline; step i leads from observation i - 1 to i.

    Returns:
        (M,) steps, ascending; (M,) their net crossings, positive from the left (y up) to the right; (M,) where in
        the step the line lies, as a share of it.
    """
    (low_x, low_y), (high_x, high_y) = points.min(axis=0), points.max(axis=0)
    # A step can only cross the line if the boxes around both overlap.
    near = (np.minimum(paths.x[1:], paths.x[:-1]) <= high_x) & (np.maximum(paths.x[1:], paths.x[:-1]) >= low_x)
    at = np.flatnonzero(near & (paths.track[1:] == paths.track[:-1])) + 1
    y0, y1 = paths.y[at - 1], paths.y[at]
    at = at[(np.minimum(y0, y1) <= high_y) & (np.maximum(y0, y1) >= low_y)]
    sign, share = np.zeros(len(at), dtype=np.int64), np.zeros(len(at))
    a, b = paths.xy(at - 1), paths.xy(at)
    for p, q in pairwise(points):
        side_a, side_b = _cross(q - p, a - p), _cross(q - p, b - p)
        # The half-open comparison counts a point on the line, or a corner of it, exactly once.
        over = ((side_a >= 0) != (side_b >= 0)) & ((_cross(b - a, p - a) >= 0) != (_cross(b - a, q - a) >= 0))
        sign[over] += np.where(side_a[over] >= 0, 1, -1)
        share[over] = side_a[over] / (side_a[over] - side_b[over])
    crossed = sign != 0
    return at[crossed], sign[crossed], share[crossed]


def _cross(a: Floats, b: Floats) -> Floats:
    result: Floats = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return result


def _clear_around(paths: _Paths, points: Floats, clear_sigmas: float, at: Ints) -> tuple[Ints, Ints]:
    """For each step, the last observation before and the first after it that are clear of the polyline.

    They may belong to another track, or be -1 or the number of observations where there is none.
    """
    margin = clear_sigmas * paths.sigma
    close = _around(paths, points, margin)
    line = shapely.linestrings(points)
    shapely.prepare(line)
    close = close[shapely.distance(line, shapely.points(paths.xy(close))) <= margin[close]]
    apart = np.diff(close) != 1
    begins = close[np.append(True, apart)[: len(close)]]
    ends = close[np.append(apart, True)[: len(close)]]
    if not len(close):
        return at - 1, at

    def run(i: Ints) -> tuple[Ints, BoolArray]:
        index = np.maximum(np.searchsorted(begins, i, side="right") - 1, 0)
        return index, (begins[index] <= i) & (i <= ends[index])

    before, hidden_before = run(at - 1)
    after, hidden_after = run(at)
    return np.where(hidden_before, begins[before] - 1, at - 1), np.where(hidden_after, ends[after] + 1, at)


def _around(paths: _Paths, points: Floats, margin: float | Floats) -> Ints:
    """Observations in the box around the points, grown by a margin (one for all, or (N,))."""
    (low_x, low_y), (high_x, high_y) = points.min(axis=0), points.max(axis=0)
    at = np.flatnonzero((paths.x + margin >= low_x) & (paths.x - margin <= high_x))
    y, margin_y = paths.y[at], margin[at] if isinstance(margin, np.ndarray) else margin
    return at[(y + margin_y >= low_y) & (y - margin_y <= high_y)]


def _table(observations: pa.Table, found: _Found) -> pa.Table:
    made_by = observations.take(pa.array(found.row))
    kind = "visit" if found.zone.kind == "zone" else "crossing"
    n = made_by.num_rows
    direction = found.direction.tolist() if found.direction is not None else [None] * n
    seconds = found.duration_us / 1e6 if found.duration_us is not None else None
    keys = zip(made_by["source_id"].to_pylist(), made_by["track_id"].to_pylist(), direction, strict=True)
    columns = {
        "event_id": [
            # A visit is told from another of the same track by its time, a crossing by its direction.
            make_id("event", source_id, track_id, kind, found.zone.name, way or int(t_us))
            for (source_id, track_id, way), t_us in zip(keys, found.t_us, strict=True)
        ],
        **{name: made_by[name] for name in ("source_id", "track_id", "class_name")},
        "kind": [kind] * n,
        "zone": [found.zone.name] * n,
        "ts": pa.array(found.t_us).cast(EVENTS.field("ts").type),
        "duration_s": pa.nulls(n, pa.float64()) if seconds is None else seconds,
        "direction": pa.array(direction, pa.string()),
        "inferred": pc.is_in(made_by["state"], pa.array([State.BRIDGED.value, State.INTERPOLATED.value])),
    }
    return pa.table(columns, schema=EVENTS)

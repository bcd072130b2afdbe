"""Observations + zones and lines -> all events; the store's own recomputed from what it holds."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.config import EventSettings, GeoreferenceSettings
from flows.events.activity import activity, changes_at, standing, stops, waits
from flows.events.crossings import crossings
from flows.events.cycles import cycles
from flows.events.paths import COLUMNS, INFERRED_STATES, US, Found, Paths, paths
from flows.events.proximity import proximity
from flows.events.steady import steady
from flows.events.summary import presence, speeds
from flows.events.visits import visits
from flows.events.ways import ways
from flows.events.work import CHANGES, MASK_COLUMNS, mask_changes
from flows.georeference import Floats
from flows.locate import Sizes, calibrations, depths_m, locate, locate_stored, off_the_ground, sizes_px
from flows.schema import EVENTS, BoolArray, make_id
from flows.store.base import Filter, Store, Zone

_log = logging.getLogger(__name__)

_SPANS = ("presence", "stop", "wait", "active", "idle")
"""Kinds that many observations make: inferred where most of them are."""
_WITH_SPEEDS = ("presence", "visit", "crossing")
_SPEEDS = ("speed_mean_m_s", "speed_p85_m_s", "speed_max_m_s")


def compute_events(
    observations: pa.Table,
    zones: Sequence[Zone],
    settings: EventSettings | None = None,
    changes: pa.Table | None = None,
    sizes_px: Sizes = MappingProxyType({}),
) -> pa.Table:
    """All events of some observations.

    Args:
        observations: of one source, at least `COLUMNS` of `track_observations`, in any order.
        zones: in pixels or metres; their names are different. One in metres counts nothing, with a line in the log,
            where no observation has a ground position.
        settings: what counts; the defaults if None.
        changes: of masks (schema `work.CHANGES`), where machines that stand shall be seen working.
        sizes_px: width and height of the pictures by video; where they are not known, their edges cut nothing.

    Returns:
        `schema.EVENTS`, by time; the same observations and zones give the same ids.
    """
    if not observations.num_rows:
        return EVENTS.empty_table()
    settings = settings or EventSettings()
    scene = _Scene.of(observations, settings)
    cut = off_the_ground(observations, sizes_px)
    tables = [_table(scene, view, found) for view, found in _of_tracks(scene, settings, changes)]
    visited = []
    for zone in zones:
        view = scene.views[zone.unit]
        if not len(view.paths.row):
            # No error: the calibration may come later, and the other zones and sources of a run are well.
            _log.warning(
                "%s %r is in metres, but no observation has a ground position, so it counts nothing: calibrate the "
                "source, or give it in pixels (unit: px)",
                zone.kind,
                zone.name,
            )
            continue
        if zone.kind == "line":
            tables.append(_table(scene, view, crossings(view.paths, zone, settings.clear_sigmas)))
            continue
        debounce_us = round(settings.debounce_seconds * US)
        least_us = round(settings.min_visit_seconds * US)
        stays_in = visits(view.paths, zone, cut[view.paths.row], debounce_us, settings.clear_sigmas, least_us)
        visited.append(_table(scene, view, stays_in))
        waiting = waits(view.paths, scene.stands[view.paths.row], zone, round(settings.idle_seconds * US))
        tables.append(_table(scene, view, waiting))
    if visited:
        stays = pa.concat_tables(visited)
        names = [zone.name for zone in zones if zone.kind == "zone"]
        tables += [stays, *(_table(scene, None, found, stays) for found in cycles(stays, names))]
    return pa.concat_tables(tables).sort_by([("ts", "ascending"), ("event_id", "ascending")])


def recompute_events(
    store: Store,
    source_id: str,
    settings: EventSettings | None = None,
    georeference: GeoreferenceSettings | None = None,
) -> pa.Table:
    """Compute the events of a source from its stored observations, zones and calibrations, and store them.

    Args:
        store: read and written; no video is touched.
        source_id: of the source.
        settings, georeference: the defaults if None.

    Returns:
        The events as stored.
    """
    settings = settings or EventSettings()
    batches = list(store.observations(Filter(source_id=source_id), COLUMNS, ordered=False))
    events = EVENTS.empty_table()
    if batches:
        observations = pa.Table.from_batches(batches)
        versions = calibrations(store, source_id)
        fixed = not any(calibration.flies for _, calibration in versions)
        sizes = sizes_px(store, source_id)
        if fixed:
            observations = steady(observations, sizes, settings)
        observations = locate_stored(store, source_id, observations, georeference or GeoreferenceSettings())
        if fixed and versions and np.isfinite(headings_rad := ways(observations)).any():
            observations = locate(observations, versions, sizes, headings_rad)
        changes = _changes(store, source_id, settings)
        events = compute_events(observations, store.zones(source_id), settings, changes, sizes)
    store.write_events(source_id, events)
    return events


def _changes(store: Store, source_id: str, settings: EventSettings) -> pa.Table:
    """How the masks of a source's machines change; nothing where masks cannot be read."""
    where = Filter(source_id=source_id, class_names=settings.working_classes)
    if not settings.working_classes:
        return CHANGES.empty_table()
    if importlib.util.find_spec("pycocotools") is None:
        _log.warning("without sightflow[video] masks cannot be read: machines that work on the spot count as idle")
        return CHANGES.empty_table()
    return mask_changes(store.observations(where, MASK_COLUMNS), round(settings.work_seconds * US))


@dataclass(frozen=True, eq=False)
class _View:
    """Paths in one unit, with what is known of every observation on them: (N,) speeds in m/s, and the inferred."""

    paths: Paths
    speed_m_s: Floats
    inferred: BoolArray


@dataclass(frozen=True, eq=False)
class _Scene:
    """Observations of one source in both units; `stands` and speeds by row of the table."""

    observations: pa.Table
    views: dict[str, _View]
    stands: BoolArray

    @classmethod
    def of(cls, observations: pa.Table, settings: EventSettings) -> _Scene:
        window_us = round(settings.speed_window_seconds * US)
        by_unit = paths(observations)
        speed_m_s, sizes_s = (np.full(observations.num_rows, np.nan) for _ in range(2))
        in_px, in_m = by_unit["px"], by_unit["m"]
        window = in_px.window(window_us)
        size_px = np.sqrt(_extent(observations, "x") * _extent(observations, "y"))
        sizes_s[in_px.row] = in_px.speed(*window) / size_px[in_px.row]
        everywhere = len(in_m.row) == len(in_px.row)
        speed_m_s[in_m.row] = in_m.speed(*(window if everywhere else in_m.window(window_us)))
        # In units of what counts as standing, the lesser of both: far away, a trembling box moves by metres.
        pace = np.fmin(speed_m_s / settings.standing_m_s, sizes_s / settings.standing_sizes_s)
        stands = np.zeros(observations.num_rows, dtype=np.bool_)
        stands[in_px.row] = standing(in_px, pace[in_px.row], window_us, round(settings.idle_seconds * US))
        inferred = pc.is_in(observations["state"], pa.array(INFERRED_STATES)).to_numpy()
        views = {u: _View(p, speed_m_s[p.row], inferred[p.row]) for u, p in by_unit.items()}
        return cls(observations, views, stands)

    def of_classes(self, view: _View, names: Sequence[str]) -> BoolArray:
        """(N,) which observations of a view are of these classes."""
        flags: BoolArray = pc.is_in(self.observations["class_name"], pa.array(names, pa.string())).to_numpy()
        return flags[view.paths.row]


def _extent(observations: pa.Table, axis: str) -> Floats:
    result: Floats = observations[f"{axis}2_px"].to_numpy().astype(np.float64) - observations[f"{axis}1_px"].to_numpy()
    return np.maximum(result, 1.0)


def _of_tracks(scene: _Scene, settings: EventSettings, changes: pa.Table | None) -> Iterator[tuple[_View, Found]]:
    """What needs no zone."""
    in_px, in_m = scene.views["px"], scene.views["m"]
    yield in_px, presence(in_px.paths, in_px.speed_m_s)
    stands = scene.stands[in_px.paths.row]
    yield in_px, stops(in_px.paths, stands, round(settings.idle_seconds * US))
    known = changes if changes is not None else CHANGES.empty_table()
    change = changes_at(scene.observations, in_px.paths, known, round(settings.work_seconds * US))
    for found in activity(in_px.paths, stands, change, settings):
        yield in_px, found
    people, machines = (scene.of_classes(in_m, c) for c in (settings.person_classes, settings.machine_classes))
    if people.any() and machines.any():
        names = scene.observations["track_id"].combine_chunks().dictionary_encode().dictionary.to_pylist()
        debounce_us = round(settings.debounce_seconds * US)
        reach_m = depths_m(scene.observations)[in_m.paths.row] / 2
        yield in_m, proximity(in_m.paths, people, machines, reach_m, settings.near_m, debounce_us, names)


def _table(scene: _Scene, view: _View | None, found: Found, made_of: pa.Table | None = None) -> pa.Table:
    """Found events as rows of EVENTS, made of observations or, where they are given, of other events."""
    if not len(found.row):
        return EVENTS.empty_table()
    made_by = (scene.observations if made_of is None else made_of).take(pa.array(found.row))
    n = made_by.num_rows
    direction, other = ([None] * n if c is None else c.tolist() for c in (found.direction, found.other))
    keys = zip(made_by["source_id"].to_pylist(), made_by["track_id"].to_pylist(), direction, other, strict=True)
    columns = {
        "event_id": [
            # A crossing is told from another of the same track by its direction, all else by its time.
            make_id("event", source_id, track_id, found.kind, found.zone, way or int(t_us), *([who] if who else []))
            for (source_id, track_id, way, who), t_us in zip(keys, found.t_us, strict=True)
        ],
        **{name: made_by[name] for name in ("source_id", "track_id", "class_name")},
        "kind": [found.kind] * n,
        "zone": [found.zone] * n,
        "ts": pa.array(found.t_us).cast(EVENTS.field("ts").type),
        "duration_s": pa.nulls(n, pa.float64()) if found.duration_us is None else found.duration_us / US,
        "direction": pa.array(direction, pa.string()),
        "inferred": made_by["inferred"] if made_of is not None else _inferred(view, found, made_by),
        "other": pa.array(other, pa.string()),
        **{name: _or_null(values, n) for name, values in _speeds(view, found).items()},
        "distance_m": _or_null(found.distance_m, n),
    }
    return pa.table(columns, schema=EVENTS)


def _inferred(view: _View | None, found: Found, made_by: pa.Table) -> pa.Array | pa.ChunkedArray:
    if found.kind not in _SPANS or view is None or found.begin is None or found.end is None:
        return pc.is_in(made_by["state"], pa.array(INFERRED_STATES))
    until = np.concatenate([[0], np.cumsum(view.inferred)])
    return pa.array(2 * (until[found.end + 1] - until[found.begin]) > found.end - found.begin + 1)


def _speeds(view: _View | None, found: Found) -> dict[str, Floats | None]:
    if found.kind not in _WITH_SPEEDS or view is None or found.begin is None or found.end is None:
        return dict.fromkeys(_SPEEDS)
    return dict(zip(_SPEEDS, speeds(view.speed_m_s, found.begin, found.end), strict=True))


def _or_null(values: Floats | None, n: int) -> pa.Array:
    return pa.nulls(n, pa.float64()) if values is None else pa.array(values, mask=np.isnan(values))

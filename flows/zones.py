"""Zones and counting lines, read from YAML or GeoJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml

from flows.errors import ConfigError
from flows.georeference import Floats, from_lonlat
from flows.store.base import Zone

_FIELDS = ("name", "kind", "unit", "points")


def read_zones(path: Path, origin_lonlat: tuple[float, float] | None = None) -> list[Zone]:
    """Read zones and lines from YAML or GeoJSON (see `docs/zones.md`).

    Args:
        path: of the file.
        origin_lonlat: of the source's metric frame, into which longitudes and latitudes (unit `lonlat`) are turned.

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
    zones = [_zone(path, number, entry, origin_lonlat) for number, entry in enumerate(entries, start=1)]
    names = [zone.name for zone in zones]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: every zone needs a name of its own, {', '.join(twice)} is used more than once")
    return zones


def _zone(path: Path, number: int, entry: Any, origin_lonlat: tuple[float, float] | None) -> Zone:
    where = f"{path}: zone {number}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with name, kind and points, got {entry!r}")
    fields = _from_geojson(where, entry) if entry.get("type") == "Feature" else dict(entry)
    if unknown := fields.keys() - set(_FIELDS):
        raise ConfigError(
            f"{where}: unknown field {', '.join(sorted(map(str, unknown)))}; expected {', '.join(_FIELDS)}"
        )
    if missing := {"name", "kind", "points"} - fields.keys():
        raise ConfigError(f"{where}: {', '.join(sorted(missing))} is missing")
    points, unit = _points(where, fields["points"]), str(fields.get("unit", "px"))
    if fields["kind"] == "zone" and len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if unit == "lonlat":
        points, unit = _in_metres(where, points, origin_lonlat), "m"
    try:
        zone = Zone(str(fields["name"]), str(fields["kind"]), _pairs(points), unit)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if zone.kind == "zone" and not shapely.is_valid(polygon := shapely.polygons(points)):
        raise ConfigError(f"{where} ({zone.name}): its edge crosses itself ({shapely.is_valid_reason(polygon)})")
    return zone


def _points(where: str, given: Any) -> Floats:
    try:
        points = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ConfigError(f"{where}: points must be [[x, y], ...], got {given!r}")
    return points


def _in_metres(where: str, lonlat: Floats, origin_lonlat: tuple[float, float] | None) -> Floats:
    if origin_lonlat is None:
        raise ConfigError(
            f"{where}: longitude and latitude need a source whose place is known: calibrate it from points with the "
            "columns lon and lat first"
        )
    if not (np.abs(lonlat) <= (180.0, 90.0)).all():
        raise ConfigError(f"{where}: points must be [[lon, lat], ...] in degrees; are they exchanged?")
    return from_lonlat(origin_lonlat, lonlat)


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

"""Zones and counting lines, read from YAML or GeoJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml

from flows.errors import CalibrationError, ConfigError
from flows.georeference import Floats, place_lonlat
from flows.store.base import Zone

_FIELDS = ("name", "kind", "unit", "points")
_LEAST = {"px": 1.0, "m": 0.01}
"""A zone or line of less extent is a mistake: degrees taken for pixels or metres, or all its points in one place."""
_MOST = 1e9
"""A coordinate beyond this is no place in a picture or on a site."""


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
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
    name, points, unit = _name(where, fields["name"]), _points(where, fields["points"]), str(fields.get("unit", "px"))
    if fields["kind"] == "zone" and len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if unit == "lonlat":
        points, unit = _in_metres(where, points, origin_lonlat), "m"
    try:
        zone = Zone(name, str(fields["kind"]), _pairs(points), unit)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if np.ptp(points, axis=0).max() < _LEAST[unit]:
        raise ConfigError(
            f"{where} ({name}): it is smaller than {_LEAST[unit]:g} {unit}; are its points of unit: lonlat?"
        )
    if zone.kind == "zone" and not shapely.is_valid(polygon := shapely.polygons(points)):
        flat = shapely.area(shapely.convex_hull(polygon)) == 0
        reason = (
            "its points lie on one line" if flat else f"its edge crosses itself ({shapely.is_valid_reason(polygon)})"
        )
        raise ConfigError(f"{where} ({name}): {reason}")
    return zone


def _name(where: str, given: Any) -> str:
    """A name as text; what YAML makes of `yes`, of nothing, or of a list is none."""
    name = str(given).strip()
    if isinstance(given, bool | list | dict | None) or not name.isprintable() or not name:
        raise ConfigError(
            f"{where}: a name must be printable text (in quotes if YAML reads it otherwise), got {given!r}"
        )
    return name


def _points(where: str, given: Any) -> Floats:
    try:
        points = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) <= _MOST).all():
        raise ConfigError(f"{where}: points must be [[x, y], ...] up to {_MOST:g}, got {str(given)[:200]}")
    return points


def _in_metres(where: str, lonlat: Floats, origin_lonlat: tuple[float, float] | None) -> Floats:
    if origin_lonlat is None:
        raise ConfigError(
            f"{where}: longitude and latitude need a source whose place is known: calibrate it from points with the "
            "columns lon and lat first"
        )
    try:
        return place_lonlat(origin_lonlat, lonlat)
    except CalibrationError as error:
        raise ConfigError(f"{where}: {error}") from None


def _pairs(points: Floats) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


def _from_geojson(where: str, feature: dict[str, Any]) -> dict[str, Any]:
    geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
    if not isinstance(geometry, dict) or not isinstance(properties, dict):
        raise ConfigError(f"{where}: expected objects as geometry and properties, got {geometry!r} and {properties!r}")
    kind = {"Polygon": "zone", "LineString": "line"}.get(str(geometry.get("type")))
    points = geometry.get("coordinates")
    if kind is None or not isinstance(points, list):
        raise ConfigError(f"{where}: expected a Polygon (a zone) or LineString (a line), got {geometry.get('type')!r}")
    if kind == "zone":
        if len(points) != 1:
            raise ConfigError(f"{where}: a zone has one ring and no holes, got {len(points)} rings")
        points = points[0]
    return {"kind": kind, "points": points} | {key: properties[key] for key in ("name", "unit") if key in properties}

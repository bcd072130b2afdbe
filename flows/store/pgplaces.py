"""Zones and calibrations in a PostGIS store: places on the ground, and the frames they are in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from psycopg import Connection

from flows.store.base import Zone
from flows.store.geometry import LOCAL_SRID, frame_of
from flows.store.tables import zone_rows

_FIRST_SRID = 900_001
"""Numbers up to 998999 are for users of PostGIS; below this one are those of registers."""

_LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
_PLACE_ZONES = """
    update zones z set geom = st_setsrid(z.geom, coalesce((select srid from calibrations c
        where c.source_id = z.source_id), 0)) where z.source_id = %s and z.geom is not null
"""

_ADD_ZONE_VERSION = """
    insert into zone_versions (source_id, version, zones)
    select %(source_id)s, coalesce(max(version), 0) + 1, %(zones)s from zone_versions where source_id = %(source_id)s
"""
_ADD_CALIBRATION = """
    insert into calibration_versions values (%s, %s, %s)
    on conflict (source_id, valid_from) do update set calibration = excluded.calibration
"""
_SHOW_CALIBRATION = """
    insert into calibrations values (%(source_id)s, %(calibration)s, %(srid)s)
    on conflict (source_id) do update set calibration = excluded.calibration, srid = excluded.srid
"""


def write_zones(connection: Connection, source_id: str, zones: Sequence[Zone]) -> None:
    """Replace the zones and lines of a source, in the caller's transaction."""
    rows = [(source_id, z.name, z.kind, z.unit, json.dumps(z.points), _well_known_text(z)) for z in zones]
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, (f"zones {source_id}",))
        cursor.execute("delete from zones where source_id = %s", (source_id,))
        cursor.executemany("insert into zones values (%s, %s, %s, %s, %s, st_geomfromtext(%s))", rows)
        cursor.execute(_PLACE_ZONES, (source_id,))
        cursor.execute(_ADD_ZONE_VERSION, {"source_id": source_id, "zones": json.dumps(zone_rows(zones))})


def write_calibration(connection: Connection, source_id: str, calibration: str, valid_from: datetime) -> None:
    """Add a calibration of a source, in the caller's transaction; its zones move to the newest one's frame."""
    connection.execute(_LOCK, (f"calibrations {source_id}",))
    connection.execute(_ADD_CALIBRATION, (source_id, valid_from, calibration))
    (newest,) = connection.execute(
        "select calibration from calibration_versions where source_id = %s order by valid_from desc limit 1",
        (source_id,),
    ).fetchone() or (calibration,)
    srid = register_frame(connection, newest)
    connection.execute(_SHOW_CALIBRATION, {"source_id": source_id, "calibration": newest, "srid": srid})
    connection.execute(_PLACE_ZONES, (source_id,))


def srid_of(connection: Connection, source_id: str) -> int:
    """The frame of a source's calibration; 0 where it has none, or one without a place on earth."""
    found = connection.execute("select srid from calibrations where source_id = %s", (source_id,)).fetchone()
    return int(found[0]) if found else LOCAL_SRID


def register_frame(connection: Connection, calibration: str) -> int:
    """The SRID of a calibration's frame, entered in spatial_ref_sys where it is new; 0 where it has no place on earth.

    Geometries in it can be put on any map: `st_transform(geom, 4326)`.
    """
    frame = frame_of(calibration)
    if frame is None:
        return LOCAL_SRID
    from pyproj import CRS

    connection.execute(_LOCK, ("sightflow frames",))
    found = connection.execute(
        "select srid from spatial_ref_sys where auth_name = 'sightflow' and proj4text = %s", (frame,)
    ).fetchone()
    if found is None:
        found = connection.execute(
            "insert into spatial_ref_sys (srid, auth_name, auth_srid, srtext, proj4text)"
            " select srid, 'sightflow', srid, %s, %s from ("
            " select coalesce(max(srid) + 1, %s) as srid from spatial_ref_sys where srid between %s and 998999"
            ") next returning srid",
            (CRS(frame).to_wkt("WKT1_GDAL"), frame, _FIRST_SRID, _FIRST_SRID),
        ).fetchone()
    (srid,) = found or (LOCAL_SRID,)
    return int(srid)


def _well_known_text(zone: Zone) -> str | None:
    """A zone in metres as a geometry; pixels are no place on the ground."""
    if zone.unit != "m":
        return None
    closed = [*zone.points, zone.points[0]] if zone.kind == "zone" else zone.points
    ring = ", ".join(f"{x!r} {y!r}" for x, y in closed)
    return f"polygon(({ring}))" if zone.kind == "zone" else f"linestring({ring})"

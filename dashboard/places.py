"""What the pages ask about places: pictures' sizes, zones and lines, calibrations."""

from __future__ import annotations

import json

import pandas as pd

from dashboard.data import fresh_rows, rows
from dashboard.filters import Selection


def picture_size(source_id: str) -> tuple[float, float] | None:
    """Width and height in pixels of the source's largest video."""
    found = rows(
        "select max(width_px) as width, max(height_px) as height from videos where source_id = $source_id",
        {"source_id": source_id},
    )
    return None if pd.isna(found["width"].iloc[0]) else (float(found["width"].iloc[0]), float(found["height"].iloc[0]))


def has_metres(source_id: str) -> bool:
    """Whether the source's observations have ground positions, or a calibration gives them some."""
    if len(rows("select 1 as found from calibrations where source_id = $source_id", {"source_id": source_id})):
        return True
    sql = "select 1 as found from samples where source_id = $source_id and x_m is not null limit 1"
    return not rows(sql, {"source_id": source_id}).empty


def zones(source_id: str) -> pd.DataFrame:
    """A source's zones and lines: name, kind, unit, points (JSON)."""
    sql = "select name, kind, unit, points from zones where source_id = $source_id order by name"
    return rows(sql, {"source_id": source_id})


def zone_versions(source_id: str) -> pd.DataFrame:
    """Every set of zones a source was given, newest first: version, written_at, names."""
    sql = "select version, written_at, zones from zone_versions where source_id = $source_id order by version desc"
    found = rows(sql, {"source_id": source_id})
    names = [", ".join(zone["name"] for zone in json.loads(text)) for text in found.pop("zones")]
    return found.assign(names=names)


def event_counts(source_id: str) -> pd.DataFrame:
    """Events of a source now: kind, n."""
    sql = "select kind, count(*) as n from events where source_id = $source_id group by kind order by kind"
    return fresh_rows(sql, {"source_id": source_id})


def shapes(source_id: str, unit: str) -> pd.DataFrame:
    """Outlines of a source's zones and lines in one unit: name, kind, order, x, y; zones closed."""
    found = zones(source_id)
    points = [
        (row.name, row.kind, x, y)
        for row in found[found["unit"] == unit].itertuples()
        for x, y in json.loads(row.points)
    ]
    return closed(pd.DataFrame(points, columns=["name", "kind", "x", "y"]))


def closed(points: pd.DataFrame) -> pd.DataFrame:
    """Points of zones and lines by name with their `order`, zones closed by their first point."""
    ordered = points.assign(order=points.groupby("name").cumcount())
    ends = ordered[(ordered["order"] == 0) & (ordered["kind"] == "zone")]
    return pd.concat([ordered, ends.assign(order=len(points))], ignore_index=True)


def calibrations(selection: Selection) -> pd.DataFrame:
    """Calibrated sources: control points used and set aside, and their root mean square error in metres."""
    where, parameters = Selection(selection.source_id).where("", "")
    found = rows(f"select source_id, calibration from calibrations where {where} order by source_id", parameters)
    details = [json.loads(text) for text in found["calibration"]]
    return pd.DataFrame(
        {
            "source_id": found["source_id"],
            "rmse_m": [detail["rmse_m"] for detail in details],
            "points_used": [sum(detail["inliers"]) for detail in details],
            "points_set_aside": [len(detail["inliers"]) - sum(detail["inliers"]) for detail in details],
        }
    )

"""What the pages ask the store: the named reports, and SELECTs in the SQL both stores share where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboard.data import report, rows
from dashboard.filters import Selection

T0_S, T1_S, TS_S = "extract(epoch from t0)", "extract(epoch from t1)", "extract(epoch from ts)"
MAX_PATHS, MAX_POINTS = 200, 20_000

# World time of a chunk. A video that could not be read has a chunk without extent, and no row in `videos`.
_CHUNKS = """
select c.*, extract(epoch from v.start_time) + c.start_ns / 1e9 as begin_s,
    extract(epoch from v.start_time) + c.end_ns / 1e9 as until_s, v.uri
from chunks c left join videos v on v.video_id = c.video_id and v.source_id = c.source_id
"""


def class_names() -> list[str]:
    """All classes the store knows."""
    return rows("select distinct class_name from tracks order by class_name")["class_name"].tolist()


def chunks(selection: Selection) -> pd.DataFrame:
    """Ledger rows, newest first, with world times `begin_s`, `until_s` and the video's `uri`."""
    where, parameters = selection.where("coalesce(begin_s, $t0_s)", "coalesce(until_s, $t0_s)", classes=False)
    frame = rows(f"select * from ({_CHUNKS}) as placed where {where} order by updated_at desc", parameters)
    return frame.assign(video_s=(frame["end_ns"] - frame["start_ns"]) / 1e9)


def videos(selection: Selection) -> pd.DataFrame:
    """Videos of the sources."""
    where, parameters = selection.where(
        "extract(epoch from start_time)", "extract(epoch from start_time) + duration_s", classes=False
    )
    columns = "source_id, uri, start_time, duration_s, width_px, height_px, fps, codec"
    return rows(f"select {columns} from videos where {where} order by source_id, start_time, uri", parameters)


def tracks(selection: Selection) -> pd.DataFrame:
    """Tracks in view during the selection, by begin."""
    return _of_classes(selection, report("tracks", **_report_filters(selection)))


def objects_by_class(selection: Selection) -> pd.DataFrame:
    """Per class: tracks, observations, total_s, first_seen, last_seen."""
    return _of_classes(selection, report("counts", **_report_filters(selection)))


def new_objects(selection: Selection, bin_seconds: int) -> pd.DataFrame:
    """Tracks begun per time bin and class: bin_start, class_name, tracks."""
    return _of_classes(selection, report("counts_by_hour", bin_seconds=bin_seconds, **_report_filters(selection)))


def observations_by_state(selection: Selection) -> pd.DataFrame:
    """Observations per class and state, and the state's share of its class."""
    return _of_classes(selection, report("quality", **_report_filters(selection)))


def _report_filters(selection: Selection) -> dict[str, Any]:
    return {"source": selection.source_id, "t0": selection.t0, "t1": selection.t1}


def _of_classes(selection: Selection, frame: pd.DataFrame) -> pd.DataFrame:
    # Reports take one class; the filter bar may name several.
    if not selection.class_names:
        return frame
    return frame[frame["class_name"].isin(selection.class_names)].reset_index(drop=True)


def paths(selection: Selection, unit: str, track_ids: Sequence[str] = ()) -> pd.DataFrame:
    """Ground points of the longest tracks, thinned to what a picture can show: track_id, class_name, s, x, y."""
    where, parameters = selection.where(T0_S, T1_S)
    if track_ids:
        parameters |= {f"track_{i}": track_id for i, track_id in enumerate(track_ids)}
        where += " and track_id in (" + ", ".join(f"$track_{i}" for i in range(len(track_ids))) + ")"
    longest = (
        f"select track_id, n_observations from tracks where {where} order by n_observations desc limit {MAX_PATHS}"
    )
    chosen = rows(longest, parameters)
    step = max(1, int(chosen["n_observations"].sum()) // MAX_POINTS)
    seen, seen_parameters = selection.where(TS_S, TS_S)
    return rows(
        f"select o.track_id, o.class_name, {TS_S} as s, o.x_{unit} as x, o.y_{unit} as y "
        f"from track_observations o join ({longest}) as chosen on chosen.track_id = o.track_id "
        f"where {seen} and o.x_{unit} is not null and o.frame % $step = 0 order by o.track_id, s",
        {**parameters, **seen_parameters, "step": step},
    )


def picture_size(source_id: str) -> tuple[float, float] | None:
    """Width and height in pixels of the source's largest video."""
    found = rows(
        "select max(width_px) as width, max(height_px) as height from videos where source_id = $source_id",
        {"source_id": source_id},
    )
    return None if pd.isna(found["width"].iloc[0]) else (float(found["width"].iloc[0]), float(found["height"].iloc[0]))


def has_metres(source_id: str) -> bool:
    """Whether any observation of the source has a ground position."""
    sql = "select count(x_m) as n from track_observations where source_id = $source_id"
    return bool(rows(sql, {"source_id": source_id})["n"].iloc[0])


def track_observations(source_id: str, track_id: str) -> pd.DataFrame:
    """Everything observed of one track, without masks."""
    return rows(
        f"select ts, {TS_S} as s, frame, class_name, state, confidence, object_score, x1_px, y1_px, x2_px, y2_px, "
        "x_px, y_px, x_m, y_m, sigma_m, area_px, tracklet_id, track_id from track_observations "
        "where source_id = $source_id and track_id = $track_id order by ts",
        {"source_id": source_id, "track_id": track_id},
    )


def track_links(source_id: str, track_id: str) -> pd.DataFrame:
    """The tracklets of one track and why they were joined, by time."""
    return rows(
        "select t.t0, t.t1, t.class_name, k.reason, k.score, t.n_observations, t.n_detected, t.n_bridged, "
        "t.tracklet_id from track_links k "
        "join tracklets t on t.tracklet_id = k.tracklet_id and t.source_id = k.source_id "
        "where k.source_id = $source_id and k.track_id = $track_id and k.version = "
        "(select max(version) from track_links where source_id = $source_id) order by t.t0",
        {"source_id": source_id, "track_id": track_id},
    )


def shapes(source_id: str, unit: str) -> pd.DataFrame:
    """Outlines of a source's zones and lines in one unit: name, kind, order, x, y; zones closed."""
    found = rows("select name, kind, unit, points from zones where source_id = $source_id", {"source_id": source_id})
    outlines = []
    for row in found[found["unit"] == unit].itertuples():
        points = json.loads(str(row.points))
        points += points[:1] if row.kind == "zone" else []
        outlines += [(row.name, row.kind, i, x, y) for i, (x, y) in enumerate(points)]
    return pd.DataFrame(outlines, columns=["name", "kind", "order", "x", "y"])


def zone_count(selection: Selection) -> int:
    """How many zones and lines the selected sources have."""
    where, parameters = Selection(selection.source_id, None, None, ()).where("", "")
    return int(rows(f"select count(*) as n from zones where {where}", parameters)["n"].iloc[0])


def events(selection: Selection) -> pd.DataFrame:
    """Visits and crossings by time."""
    where, parameters = selection.where(TS_S, f"{TS_S} + coalesce(duration_s, 0)")
    return rows(
        f"select * from events where kind in ('visit', 'crossing') and {where} order by ts, event_id", parameters
    )


def links_by_reason(selection: Selection) -> pd.DataFrame:
    """Newest links per reason, with their scores."""
    where, parameters = Selection(selection.source_id, None, None, ()).where("", "")
    return rows(
        "select k.reason, count(*) as n, avg(k.score) as mean_score, min(k.score) as least_score from track_links k "
        "join (select source_id as latest_source, max(version) as latest from track_links group by source_id) "
        "as newest on latest_source = k.source_id and latest = k.version "
        f"where {where} group by k.reason order by n desc",
        parameters,
    )


def calibrations(selection: Selection) -> pd.DataFrame:
    """Calibrated sources: control points used and set aside, and their root mean square error in metres."""
    where, parameters = Selection(selection.source_id, None, None, ()).where("", "")
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

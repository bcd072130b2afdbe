"""What the pages ask the store: the named reports, and SELECTs in the SQL both stores share where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from dashboard.data import fresh_rows, reading, report, rows
from dashboard.filters import Selection, one_of
from flows.config import GeoreferenceSettings
from flows.events.paths import COLUMNS as PLACING
from flows.locate import POSITION, locate_stored
from flows.store import Store

T0_S, T1_S, TS_S = "extract(epoch from t0)", "extract(epoch from t1)", "extract(epoch from ts)"
MAX_PATHS, MAX_POINTS = 200, 20_000

REASONS = (
    "start: the first piece. overlap: both were seen on the frames two chunks share. motion: the later began where the "
    "earlier was heading. merged, split, wrong: somebody said so."
)
"""What the reasons of links mean."""

# World time of a chunk. A video that could not be read has a chunk without extent, and no row in `videos`.
_CHUNKS = """
select c.*, extract(epoch from v.start_time) + c.start_ns / 1e9 as begin_s,
    extract(epoch from v.start_time) + c.end_ns / 1e9 as until_s, v.uri
from chunks c left join videos v on v.video_id = c.video_id and v.source_id = c.source_id
"""


def class_names() -> list[str]:
    """All classes the store knows."""
    return rows("select distinct class_name from tracklets order by class_name")["class_name"].tolist()


def sources() -> list[str]:
    """All sources the ledger knows."""
    return rows("select distinct source_id from chunks order by source_id")["source_id"].tolist()


def chunks(selection: Selection) -> pd.DataFrame:
    """Ledger rows, newest first, with world times `begin_s`, `until_s` and the video's `uri`."""
    where, parameters = selection.where("coalesce(begin_s, $t0_s)", "coalesce(until_s, $t0_s)", classes=False)
    frame = rows(f"select * from ({_CHUNKS}) as placed where {where} order by updated_at desc", parameters)
    return frame.assign(video_s=(frame["end_ns"] - frame["start_ns"]) / 1e9)


def processed_seconds(ledger: pd.DataFrame) -> float:
    """Seconds of video in the chunks that are done."""
    return float(ledger.loc[ledger["state"] == "done", "video_s"].sum())


@dataclass(frozen=True)
class Progress:
    """Chunks of a job by their state, and the frames done."""

    all: int
    ended: int
    running: int
    frames: int

    @property
    def open(self) -> int:
        """Chunks that have not ended."""
        return self.all - self.ended


def progress(selection: Selection) -> Progress:
    """How far the chunks of the sources are, asked anew each time."""
    where, parameters = Selection(selection.source_id).where("", "")
    now = fresh_rows(
        f"select state, count(*) as n, cast(sum(frames) as bigint) as frames from chunks where {where} group by state",
        parameters,
    )
    count = dict(zip(now["state"], now["n"].astype(int), strict=True))
    ended = count.get("done", 0) + count.get("failed", 0)
    return Progress(sum(count.values()), ended, count.get("running", 0), int(now["frames"].sum()))


def videos(selection: Selection) -> pd.DataFrame:
    """Videos of the sources."""
    where, parameters = selection.where(
        "extract(epoch from start_time)", "extract(epoch from start_time) + duration_s", classes=False
    )
    columns = "source_id, uri, start_time, duration_s, width_px, height_px, fps, codec"
    return rows(f"select {columns} from videos where {where} order by source_id, start_time, uri", parameters)


def tracks(selection: Selection) -> pd.DataFrame:
    """Tracks in view during the selection, by begin."""
    found = [report("tracks", zone=zone, **of_interval(selection)) for zone in selection.zones or (None,)]
    frame = pd.concat(found).drop_duplicates(["source_id", "track_id"]) if len(found) > 1 else found[0]
    return of_classes(selection, frame)


def objects_by_class(selection: Selection) -> pd.DataFrame:
    """Per class: tracks, observations, total_s, first_seen, last_seen."""
    where, parameters = selection.where(T0_S, T1_S, zones="of tracks")
    return rows(
        "select class_name, count(*) as tracks, cast(sum(n_observations) as bigint) as observations, "
        "sum(duration_s) as total_s, min(t0) as first_seen, max(t1) as last_seen "
        f"from tracks where {where} group by class_name order by tracks desc, class_name",
        parameters,
    )


def new_objects(selection: Selection, bin_s: int) -> pd.DataFrame:
    """Tracks begun per time bin and class: at, class_name, n."""
    where, parameters = selection.where(T0_S, T0_S, zones="of tracks")
    binned = "to_timestamp(floor(extract(epoch from t0) / $bin_s) * $bin_s)"
    return rows(
        f"select {binned} as at, class_name, count(*) as n from tracks where {where} group by 1, 2 order by 1, 2",
        {**parameters, "bin_s": float(bin_s)},
    )


def observations_by_state(selection: Selection) -> pd.DataFrame:
    """Observations per class and state, and the state's share of its class."""
    return of_classes(selection, report("quality", **of_interval(selection)))


def of_interval(selection: Selection) -> dict[str, Any]:
    """The parameters every report takes."""
    return {"source": selection.source_id, "t0": selection.t0, "t1": selection.t1}


def of_classes(selection: Selection, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the chosen classes: reports take one, the filter bar may name several."""
    if not selection.class_names:
        return frame
    return frame[frame["class_name"].isin(selection.class_names)].reset_index(drop=True)


def paths(selection: Selection, unit: str, track_ids: Sequence[str] = ()) -> pd.DataFrame:
    """Ground points of one source's longest tracks, thinned to what a picture can show.

    Args:
        selection: of one source.
        unit: `px`, or `m` by the calibrations there are now.
        track_ids: only these; empty takes all.

    Returns:
        track_id, class_name, s (seconds since 1970), x, y, sigma_m, by track and time.
    """
    where, parameters = selection.where(T0_S, T1_S, zones="of tracks")
    if track_ids:
        where += f" and track_id in ({one_of('track', track_ids, parameters)})"
    longest = (
        f"select track_id, n_observations from tracks where {where} order by n_observations desc limit {MAX_PATHS}"
    )
    chosen = rows(longest, parameters)
    step = max(1, int(chosen["n_observations"].sum()) // MAX_POINTS)
    seen, seen_parameters = selection.where(TS_S, TS_S, classes=False)
    columns = ", ".join(f"o.{name}" for name in PLACING)
    found = rows(
        f"select {columns}, o.x_px as x, o.y_px as y, {TS_S} as s "
        f"from track_observations o join ({longest}) as chosen on chosen.track_id = o.track_id "
        f"where {seen} and o.frame % $step = 0 order by o.track_id, s",
        {**parameters, **seen_parameters, "step": step},
    )
    if unit == "m":
        with reading() as store:
            placed = on_the_ground(store, str(selection.source_id), found)
        found = placed.dropna(subset=["x_m", "y_m"]).assign(x=lambda way: way["x_m"], y=lambda way: way["y_m"])
    return found[["track_id", "class_name", "s", "x", "y", "sigma_m"]].reset_index(drop=True)


def on_the_ground(store: Store, source_id: str, observations: pd.DataFrame) -> pd.DataFrame:
    """Observations with the positions their source's calibrations of today give them."""
    if observations.empty:
        return observations
    table = pa.Table.from_pandas(observations, preserve_index=False)
    for name in POSITION:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.float64()))
    return locate_stored(store, source_id, table, GeoreferenceSettings()).to_pandas()


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
        "t.tracklet_id, t.video_id from track_links k "
        "join tracklets t on t.tracklet_id = k.tracklet_id and t.source_id = k.source_id "
        "where k.source_id = $source_id and k.track_id = $track_id and k.version = "
        "(select max(version) from track_links where source_id = $source_id) order by t.t0",
        {"source_id": source_id, "track_id": track_id},
    )


def track(track_id: str) -> pd.Series | None:
    """A row of `tracks`, None where the newest links have no such track."""
    sql = "select source_id, track_id, class_name, t0, t1, duration_s from tracks where track_id = $track_id"
    found = rows(sql, {"track_id": track_id}) if track_id else pd.DataFrame()
    return None if found.empty else found.iloc[0]


def best_views(track_ids: Sequence[str]) -> pd.DataFrame:
    """Where each track is best seen, its surest detection: track_id, video_id, pts_ns, box x1, y1, x2, y2."""
    parameters = dict[str, Any]()
    chosen = one_of("track", track_ids, parameters) or "null"
    return rows(
        "select track_id, video_id, pts_ns, x1, y1, x2, y2 from (select o.track_id, o.video_id, o.pts_ns, "
        "o.x1_px as x1, o.y1_px as y1, o.x2_px as x2, o.y2_px as y2, row_number() over (partition by o.track_id "
        "order by o.confidence desc nulls last, o.pts_ns) as place from track_observations o "
        f"where o.track_id in ({chosen})) as views where place = 1",
        parameters,
    )


def link_versions(source_id: str) -> pd.DataFrame:
    """Versions of a source's links, newest first: version, tracks, corrected (links a person decided)."""
    return rows(
        "select version, count(distinct track_id) as tracks, cast(sum(case when reason in "
        "('wrong', 'merged', 'split') then 1 else 0 end) as bigint) as corrected from track_links "
        "where source_id = $source_id group by version order by version desc",
        {"source_id": source_id},
    )


def links_by_reason(selection: Selection) -> pd.DataFrame:
    """Newest links per reason, with their scores."""
    where, parameters = Selection(selection.source_id).where("", "")
    return rows(
        "select k.reason, count(*) as n, avg(k.score) as mean_score, min(k.score) as least_score from track_links k "
        "join (select source_id as latest_source, max(version) as latest from track_links group by source_id) "
        "as newest on latest_source = k.source_id and latest = k.version "
        f"where {where} group by k.reason order by n desc",
        parameters,
    )

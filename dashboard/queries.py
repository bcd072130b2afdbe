"""What the pages ask the store: the named reports, and SELECTs in the SQL both stores share where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.data import fresh_rows, report, rows
from dashboard.filters import Selection

T0_S, T1_S, TS_S = "extract(epoch from t0)", "extract(epoch from t1)", "extract(epoch from ts)"

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

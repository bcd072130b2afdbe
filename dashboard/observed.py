"""Observations of chosen tracks. Stores find them by source and time, so both are asked for: a store holds a year."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pandas as pd
import pyarrow as pa

from dashboard.data import reading, rows
from dashboard.filters import Selection, one_of
from dashboard.queries import T0_S, T1_S
from flows.config import GeoreferenceSettings
from flows.events.paths import COLUMNS as PLACING
from flows.locate import POSITION, locate_stored
from flows.store import Store

MAX_PATHS, MAX_POINTS = 200, 20_000
MAX_SPANS = 64
"""Spans of time one question asks for; planning more takes longer than reading what lies between."""

_PIECES = """
select k.source_id, k.track_id, t.tracklet_id, t.t0, t.t1, t.n_observations
from newest_links k join tracklets t on t.source_id = k.source_id and t.tracklet_id = k.tracklet_id
where t.n_observations > 0 and k.reason <> 'wrong'
"""
_PIECES_OF = """
join (
    select unnest(cast($tracklets as text[])) as piece, unnest(cast($tracks as text[])) as track_id
) as pieces on piece = o.tracklet_id
"""


def paths(selection: Selection, unit: str) -> pd.DataFrame:
    """Ground points of one source's longest tracks, thinned to what a picture can show.

    Args:
        selection: of one source.
        unit: `px`, or `m` by the calibrations there are now.

    Returns:
        track_id, class_name, s (seconds since 1970), x, y, sigma_m, by track and time.
    """
    where, parameters = selection.where(T0_S, T1_S, zones="of tracks")
    longest = f"select track_id from tracks where {where} order by n_observations desc limit {MAX_PATHS}"
    pieces = rows(f"{_PIECES} and k.source_id = $source_id and k.track_id in ({longest})", parameters)
    if selection.t0 is not None and selection.t1 is not None:
        # The interval's end is not part of it, and times are whole microseconds.
        first, last = selection.t0, selection.t1 - timedelta(microseconds=1)
        pieces = pieces[(pieces["t1"] >= first) & (pieces["t0"] <= last)]
        pieces = pieces.assign(t0=pieces["t0"].clip(lower=first), t1=pieces["t1"].clip(upper=last))
    step = max(1, int(pieces["n_observations"].sum()) // MAX_POINTS)
    columns = [name for name in PLACING if name != "track_id"]
    found = _observed(pieces, [*columns, "x_px as x", "y_px as y"], "o.frame % $step = 0", step=step)
    if unit == "m":
        with reading() as store:
            placed = _on_the_ground(store, str(selection.source_id), found)
        found = placed.dropna(subset=["x_m", "y_m"]).assign(x=lambda way: way["x_m"], y=lambda way: way["y_m"])
    return found[["track_id", "class_name", "s", "x", "y", "sigma_m"]].reset_index(drop=True)


def track_observations(source_id: str, track_id: str) -> pd.DataFrame:
    """Everything observed of one track, without masks, by time."""
    parameters = {"source_id": source_id, "track_id": track_id}
    pieces = rows(f"{_PIECES} and k.source_id = $source_id and k.track_id = $track_id", parameters)
    columns = ("frame", "class_name", "state", "confidence", "object_score", "x1_px", "y1_px", "x2_px", "y2_px")
    return _observed(pieces, ["ts", *columns, "x_px", "y_px", "x_m", "y_m", "sigma_m", "area_px", "tracklet_id"])


def best_views(track_ids: Sequence[str]) -> pd.DataFrame:
    """Where each track is best seen, its surest detection: track_id, video_id, pts_ns, box x1, y1, x2, y2."""
    parameters = dict[str, Any]()
    chosen = one_of("track", track_ids, parameters) or "null"
    pieces = rows(f"{_PIECES} and k.track_id in ({chosen})", parameters)
    box = [f"{side}_px as {side}" for side in ("x1", "y1", "x2", "y2")]
    found = _observed(pieces, ["video_id", "pts_ns", "confidence", *box])
    surest = found.sort_values(["confidence", "pts_ns"], ascending=[False, True], na_position="last")
    return surest.drop_duplicates("track_id").drop(columns=["confidence", "s"])


def _observed(pieces: pd.DataFrame, columns: Sequence[str], where: str = "1 = 1", **parameters: Any) -> pd.DataFrame:
    """Observations of some tracklets, by track and time.

    Args:
        pieces: source_id, track_id, tracklet_id and from when (t0) to when (t1).
        columns: of the observations.
        where: a condition on observations `o`.
        parameters: of `where`.

    Returns:
        The columns, s (seconds since 1970) and track_id.
    """
    named = ", ".join(f"o.{column}" for column in columns)
    at, values = _at_times(pieces)
    return rows(
        f"select {named}, extract(epoch from o.ts) as s, track_id from observations o {_PIECES_OF} "
        f"where {at} and {where} order by track_id, s",
        {"tracklets": pieces["tracklet_id"].tolist(), "tracks": pieces["track_id"].tolist(), **values, **parameters},
    )


def _at_times(pieces: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """A condition on the sources and times of observations `o` that all of these tracklets meet, and its parameters.

    Written out span by span, each with its source: planners know how many rows lie in each, and read those alone from
    the index.
    """
    conditions, parameters = list[str](), dict[str, Any]()
    for number, span in enumerate(_united(pieces).itertuples()):
        source, first, last = (f"{name}_{number}" for name in ("source", "first", "last"))
        parameters |= {source: span.source_id, first: span.t0.to_pydatetime(), last: span.t1.to_pydatetime()}
        conditions.append(f"(o.source_id = ${source} and o.ts between ${first} and ${last})")
    return f"({' or '.join(conditions) or '1 = 0'})", parameters


def _united(pieces: pd.DataFrame) -> pd.DataFrame:
    """The times of tracklets as few spans of each source, of which none overlaps another: source_id, t0, t1."""
    ordered = pieces.sort_values(["source_id", "t0"], kind="stable")
    reached = ordered.groupby("source_id")["t1"].cummax().groupby(ordered["source_id"]).shift()
    gap_s = (ordered["t0"] - reached).dt.total_seconds()
    begins = ~(gap_s <= 0)
    if begins.sum() > MAX_SPANS:
        begins = ~(gap_s <= gap_s.nlargest(MAX_SPANS).min())
    united = ordered.groupby(begins.cumsum()).agg(source_id=("source_id", "first"), t0=("t0", "min"), t1=("t1", "max"))
    return united.reset_index(drop=True)


def _on_the_ground(store: Store, source_id: str, observations: pd.DataFrame) -> pd.DataFrame:
    """Observations with the positions their source's calibrations of today give them."""
    if observations.empty:
        return observations
    table = pa.Table.from_pandas(observations, preserve_index=False)
    for name in POSITION:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.float64()))
    return locate_stored(store, source_id, table, GeoreferenceSettings()).to_pandas()

"""What the event pages ask the store: crossings, visits, work, encounters, cycles; each filtered as the bar says."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dashboard import geography
from dashboard.data import report, rows
from dashboard.filters import Selection
from dashboard.queries import TS_S, of_classes, of_interval
from flows.config import EventSettings
from flows.georeference import ground_positions

QUARTER_S = 900
FINE_PX = 6.0
"""Cells of the picture that are put on the ground: far away, larger ones would leave holes."""
KMH = 3.6
"""Kilometres an hour in a metre a second."""


def zone_names(selection: Selection, kind: str) -> list[str]:
    """Zones (`zone`) or lines (`line`) of the selected sources."""
    where, parameters = Selection(selection.source_id).where("", "")
    sql = f"select distinct name from zones where kind = $kind and {where} order by name"
    return rows(sql, {**parameters, "kind": kind})["name"].tolist()


def events(selection: Selection, *kinds: str) -> pd.DataFrame:
    """Events of some kinds, by time, with `place`: the zone, and its source where several are shown."""
    where, parameters = selection.where(TS_S, f"{TS_S} + coalesce(duration_s, 0)", zones="of rows")
    named = {f"kind_{i}": kind for i, kind in enumerate(kinds)}
    chosen = ", ".join(f"${name}" for name in named)
    found = rows(
        "select event_id, source_id, track_id, class_name, kind, zone, ts, duration_s, direction, inferred, other, "
        f"speed_mean_m_s, distance_m from events where kind in ({chosen}) and {where} order by ts, event_id",
        {**parameters, **named},
    )
    return found.assign(place=_place(selection, found["source_id"], found["zone"]))


def _place(selection: Selection, source: pd.Series, zone: pd.Series) -> pd.Series:
    return zone if selection.source_id is not None or source.nunique() < 2 else source + ": " + zone


def flow(selection: Selection, bin_s: int = QUARTER_S) -> pd.DataFrame:
    """Crossings per bin: at, place, class_name, direction, n."""
    found = of_classes(selection, report("lines_by_hour", bin_seconds=bin_s, **of_interval(selection)))
    if selection.zones:
        found = found[found["line"].isin(selection.zones)]
    found = found.rename(columns={"bin_start": "at", "crossings": "n"})
    return found.assign(place=_place(selection, found["source_id"], found["line"]))


def trips(selection: Selection) -> pd.DataFrame:
    """Tracks from their first zone to their last: origin, destination, class_name, tracks."""
    found = of_classes(selection, report("od", **of_interval(selection)))
    if selection.zones:
        found = found[found["origin"].isin(selection.zones) | found["destination"].isin(selection.zones)]
    ends = {end: _place(selection, found["source_id"], found[end]) for end in ("origin", "destination")}
    return found.assign(**ends)


def occupancy(selection: Selection, bin_s: int) -> pd.DataFrame:
    """Objects at once per place and time bin: place, at, mean, most.

    `most` is null for several classes (it is no sum of theirs), and bins in which nobody was there are 0.
    """
    parts = [
        report("occupancy", bin_seconds=bin_s, **{"class": name}, **of_interval(selection))
        for name in selection.class_names or (None,)
    ]
    found = pd.concat(parts)
    if selection.zones:
        found = found[found["zone"].isin(selection.zones)]
    found = found.assign(place=_place(selection, found["source_id"], found["zone"]))
    counted = found.groupby(["place", "bin_start"], as_index=False).agg(
        mean=("mean_objects", "sum"), most=("most_objects", "max")
    )
    bins = pd.date_range(counted["bin_start"].min(), counted["bin_start"].max(), freq=f"{bin_s}s", unit="us")
    every = pd.MultiIndex.from_product([counted["place"].unique(), bins], names=["place", "at"])
    filled = counted.set_index(["place", "bin_start"]).reindex(every, fill_value=0).reset_index()
    return filled.assign(most=np.nan) if len(parts) > 1 else filled


def heat(selection: Selection, unit: str, cell: float) -> pd.DataFrame:
    """Seconds of presence per cell of one source: x, y (its corner), seconds, tracks."""
    found = _heat(selection, unit, cell)
    if unit == "px" or len(found):
        return found
    # Calibrated after the video was processed: the picture's cells are put on the ground.
    placed = geography.calibration(str(selection.source_id))
    if placed is None or placed.flies:
        return found
    fine = _heat(selection, "px", FINE_PX)
    xy_m, _ = ground_positions(placed, fine[["x", "y"]].to_numpy() + FINE_PX / 2, 1.0)
    on_ground = fine.assign(**{axis: np.floor(xy_m[:, i] / cell) * cell for i, axis in enumerate("xy")}).dropna()
    return on_ground.groupby(["x", "y"], as_index=False).agg({"seconds": "sum", "tracks": "max"})


def _heat(selection: Selection, unit: str, cell: float) -> pd.DataFrame:
    parts = [
        report("heatmap", unit=unit, cell=cell, **{"class": name}, **of_interval(selection))
        for name in selection.class_names or (None,)
    ]
    return pd.concat(parts).groupby(["x", "y"], as_index=False)[["seconds", "tracks"]].sum()


def work(selection: Selection) -> pd.DataFrame:
    """Spans of `active` and `idle`, cut to the selection: source_id, track_id, class_name, kind, ts, until, hours."""
    found = events(selection, "active", "idle")
    begin, end = found["ts"], found["ts"] + pd.to_timedelta(found["duration_s"], unit="s")
    if selection.t0 is not None and selection.t1 is not None:
        begin, end = begin.clip(lower=pd.Timestamp(selection.t0)), end.clip(upper=pd.Timestamp(selection.t1))
    hours = (end - begin).dt.total_seconds().to_numpy() / 3600
    return found.assign(ts=begin, until=end, hours=hours)[hours > 0]


def totals(spans: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Hours present, active and idle, and the share active, per `by`."""
    hours = spans.pivot_table(index=by, columns="kind", values="hours", aggfunc="sum", fill_value=0.0)
    hours = hours.reindex(columns=["active", "idle"], fill_value=0.0).reset_index()
    present = hours["active"] + hours["idle"]
    return hours.assign(present=present, utilisation=np.where(present > 0, hours["active"] / present, 0.0))


def machine_classes() -> set[str]:
    """Classes that are machines, as events take them."""
    settings = EventSettings()
    return {*settings.machine_classes, *settings.working_classes}

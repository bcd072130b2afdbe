"""Occupancy and dwell: how many are where, for how long, and on which ways."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import clock, measures, observed, places, stills
from dashboard.filters import Selection, selection
from dashboard.parts import (
    bin_seconds,
    boxes,
    chart,
    coloured,
    duration,
    histogram,
    nothing,
    span_seconds,
    table,
    time_axis,
)
from dashboard.planes import Plane, one_source, plane_choice

CELLS = 48  # of the heatmap along the picture's longer side
CELL_M = 0.5
NOBODY = "Nobody was seen in this selection: widen the time range or the classes."

chosen = selection()
st.title("Occupancy & dwell")


def show_occupancy(visits: pd.DataFrame) -> None:
    """How many were inside at once."""
    st.subheader("Occupancy over time")
    bin_s = bin_seconds(span_seconds(visits["ts"]), 120)
    counted = measures.occupancy(chosen, bin_s)
    zones = sorted(counted["place"].unique())
    drawn = counted.assign(at=clock.local(counted["at"]))
    lines = (
        alt.Chart(drawn)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=time_axis(),
            y=alt.Y("mean:Q", title=f"Objects inside, mean of {bin_s} s"),
            color=coloured("place", "Zone", zones),
            tooltip=["place:N", alt.Tooltip("mean:Q", format=".2f"), alt.Tooltip("most:Q", title="most at once")],
        )
    )
    chart(lines.properties(height=260), "occupancy", "Objects in each zone over time", counted)


def show_dwell(visits: pd.DataFrame) -> None:
    """How long they stayed."""
    st.subheader("Dwell")
    dwell = visits.groupby("place")["duration_s"]
    summary = dwell.agg(
        visits="size", median="median", p90=lambda seconds: seconds.quantile(0.9), longest="max", total="sum"
    ).reset_index()
    summary.insert(2, "tracks", visits.groupby("place")["track_id"].nunique().to_numpy())
    left, right = st.columns([3, 2], gap="large")
    with left:
        titles = {"median": "Median", "p90": "p90", "longest": "Longest", "total": "Total"}
        seconds = {n: st.column_config.NumberColumn(f"{t} (s)", format="%.1f") for n, t in titles.items()}
        table(summary, "dwell", {"place": "Zone", "visits": "Visits", "tracks": "Tracks", **seconds})
    with right:
        places = summary["place"].tolist()
        place = st.selectbox("Histogram of", ["All zones", *places], key="dwell_of", bind="query-params")
        shown = visits if place == "All zones" else visits[visits["place"] == place]
        histogram(shown, "duration_s", coloured("place", "Zone", places), "Dwell (s)", "Visits", "dwell-histogram")


def show_heat(of_source: Selection, unit: str) -> None:
    """Where how much time was spent."""
    size_px = places.picture_size(str(of_source.source_id))
    cell = CELL_M if unit == "m" else max(size_px or (960.0, 540.0)) / CELLS
    cells = measures.heat(of_source, unit, cell)
    if cells.empty:
        nothing(NOBODY)
        return
    ends = cells.assign(x=cells["x"] + cell, y=cells["y"] + cell)
    plane = Plane(str(of_source.source_id), unit, cells, ends).heat(cells, cell)
    plane.show("heatmap", "Seconds of presence per place", cells)
    st.caption(f"Seconds of presence per cell of {cell:.3g} {unit}; ground points of all objects.")


def show_paths(of_source: Selection, unit: str) -> None:
    """Which ways were taken."""
    paths = observed.paths(of_source, unit)
    if paths.empty:
        nothing(NOBODY)
        return
    Plane(str(of_source.source_id), unit, paths).paths(paths).show("paths", "Ways of objects by class", paths)
    st.caption(f"The longest {observed.MAX_PATHS} at most.")


def show_places() -> None:
    """Heat and ways, on one camera's picture or its ground."""
    st.subheader("Where they were")
    of_source = one_source("heat and paths are drawn on")
    if of_source is None or of_source.source_id is None:
        return
    unit = plane_choice(of_source.source_id)
    # Of the two only the one that is looked at is asked for.
    heat, ways = st.tabs(["Heatmap", "Paths"], on_change="rerun", key="places", bind="query-params")
    with heat:
        if heat.open:
            show_heat(of_source, unit)
    with ways:
        if ways.open:
            show_paths(of_source, unit)
    if unit == "px":
        stills.no_picture_note(of_source.source_id)


visits = measures.events(chosen, "visit")
if not measures.zone_names(chosen, "zone"):
    nothing(
        "No zones are known for this selection. Draw one on the page Zones, or from a file:",
        "sightflow zones SOURCE zones.yaml",
    )
elif visits.empty:
    nothing("Nobody visited a zone in this selection: widen the time range, the classes or the zones.")
else:
    boxes(
        {
            "Visits": f"{len(visits):,}",
            "Objects": f"{visits['track_id'].nunique():,}",
            "Dwell, median": duration(visits["duration_s"].median()),
            "Dwell, p90": duration(visits["duration_s"].quantile(0.9)),
            "Inferred": f"{100 * visits['inferred'].mean():.0f} %",
        },
        {"Inferred": "Visits begun by a bridged or interpolated observation"},
    )
    show_occupancy(visits)
    show_dwell(visits)
show_places()

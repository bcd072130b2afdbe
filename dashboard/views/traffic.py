"""Traffic: who crossed which line, when, how fast, and from where to where."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import measures, queries
from dashboard.filters import selection
from dashboard.parts import bars_over_time, bars_per, boxes, chart, coloured, histogram, nothing, table

DIRECTIONS = ("forward", "backward")
SPEEDS = {"km/h": measures.KMH, "m/s": 1.0}

chosen = selection()
st.title("Traffic")


def show_lines(flow: pd.DataFrame) -> None:
    """In and out per line, per quarter of an hour, and by class."""
    left, right = st.columns([2, 3], gap="large")
    by_line = flow.pivot_table(
        index=["place", "class_name"], columns="direction", values="n", aggfunc="sum", fill_value=0
    )
    by_line = by_line.reindex(columns=list(DIRECTIONS), fill_value=0).reset_index()
    with left:
        st.subheader("In and out per line")
        columns = {"place": "Line", "class_name": "Class", "forward": "Forward", "backward": "Backward"}
        table(by_line, "crossings", columns)
        st.caption("Forward is from the left of the line to its right, as it was drawn from first to last point.")
    with right:
        st.subheader("Flow in 15 minutes")
        per_bin = flow.groupby(["at", "direction"], as_index=False)["n"].sum()
        colour = coloured("direction", "Direction", DIRECTIONS)
        bars_over_time(per_bin, measures.QUARTER_S, colour, "Crossings per 15 min", "flow")
    st.subheader("Classes")
    split = flow.groupby(["place", "class_name"], as_index=False)["n"].sum()
    colour = coloured("class_name", "Class", queries.class_names())
    bars_per(split, "place", "n", "Crossings", colour, "class-split")


def show_speeds(crossings: pd.DataFrame) -> None:
    """How fast lines were crossed."""
    st.subheader("Speed at the lines")
    known = crossings.dropna(subset=["speed_mean_m_s"])
    if known.empty:
        nothing("No speeds: they need a calibration of the source.", "sightflow calibrate SOURCE --points points.csv")
        return
    unit = st.segmented_control(
        "Speed in", list(SPEEDS), default="km/h", key="speed", bind="query-params", required=True
    )
    known = known.assign(speed=known["speed_mean_m_s"] * SPEEDS[str(unit)])
    p85 = float(known["speed"].quantile(0.85, interpolation="higher"))
    colour = coloured("class_name", "Class", queries.class_names())
    histogram(known, "speed", colour, f"Speed ({unit})", "Crossings", "speeds", [(p85, f"p85 {p85:.1f} {unit}")])
    grouped = known.groupby(["place", "class_name"])["speed"]
    summary = grouped.agg(
        crossings="size",
        mean="mean",
        p85=lambda speed: speed.quantile(0.85, interpolation="higher"),
        highest="max",
    ).reset_index()
    numbers = {
        name: st.column_config.NumberColumn(f"{title} ({unit})", format="%.1f")
        for name, title in {"mean": "Mean", "p85": "p85", "highest": "Highest"}.items()
    }
    table(summary, "speed", {"place": "Line", "class_name": "Class", "crossings": "Crossings", **numbers})
    st.caption("85 of 100 are no faster than p85.")


def show_trips(trips: pd.DataFrame) -> None:
    """The matrix of origins and destinations."""
    st.subheader("From where to where")
    if trips.empty:
        nothing("No track visited two zones: draw zones where traffic enters and leaves, and choose a longer time.")
        return
    summed = trips.groupby(["origin", "destination"], as_index=False)["tracks"].sum()
    cells = alt.Chart(summed).encode(
        x=alt.X("destination:N", title="Last zone", axis=alt.Axis(orient="top", labelAngle=-30)),
        y=alt.Y("origin:N", title="First zone"),
    )
    heat = cells.mark_rect().encode(
        # The numbers stand in the cells.
        color=alt.Color("tracks:Q", legend=None, scale=alt.Scale(scheme="blues", domainMin=0)),
        tooltip=["origin:N", "destination:N", "tracks:Q"],
    )
    dark = alt.datum.tracks > summed["tracks"].max() / 2
    text = cells.mark_text(fontWeight="bold").encode(
        text="tracks:Q", color=alt.condition(dark, alt.value("white"), alt.value("#222222"))
    )
    chart((heat + text).properties(height=alt.Step(34)), "origin-destination", "Tracks from zone to zone", summed)


if not measures.zone_names(chosen, "line"):
    nothing(
        "No counting lines are known for this selection. Draw one on the page Zones, or from a file:",
        "sightflow zones SOURCE zones.yaml",
    )
else:
    flow = measures.flow(chosen)
    if flow.empty:
        nothing("Nobody crossed a line in this selection: widen the time range, the classes or the zones.")
    else:
        crossings = measures.events(chosen, "crossing")
        ways = flow.groupby("direction")["n"].sum()
        busiest = flow.groupby("at")["n"].sum()
        boxes(
            {
                "Crossings": f"{int(flow['n'].sum()):,}",
                "Forward": f"{int(ways.get('forward', 0)):,}",
                "Backward": f"{int(ways.get('backward', 0)):,}",
                "Busiest 15 min": f"{int(busiest.max()):,}",
                "Inferred": f"{100 * crossings['inferred'].mean():.0f} %" if len(crossings) else "–",
            },
            {"Inferred": "Crossings made by a bridged or interpolated observation"},
        )
        show_lines(flow)
        show_speeds(crossings)
show_trips(measures.trips(chosen))

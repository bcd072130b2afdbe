"""Zones & lines: visits, dwell and crossings."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.filters import selection
from dashboard.parts import PALETTE, bars_over_time, bin_seconds, class_colours, histogram, plane, table

chosen = selection()
st.title("Zones & lines")
if queries.zone_count(chosen) == 0:
    st.info("No zones or lines are known for this selection.", icon=":material/fence:")
    st.markdown("Describe them in a file, then compute events from what is stored already; no video is touched:")
    st.code("sightflow zones SOURCE zones.yaml", language="bash")
    st.code(
        "zones:\n"
        "  - {name: entrance, kind: zone, points: [[40, 300], [220, 300], [220, 460], [40, 460]]}\n"
        "  - {name: gate, kind: line, points: [[0, 240], [640, 240]]}",
        language="yaml",
    )
    st.stop()

found = queries.events(chosen)
visits, crossings = found[found["kind"] == "visit"], found[found["kind"] == "crossing"]
colours = class_colours(queries.class_names())
boxes = st.columns(4)
boxes[0].metric("Visits", f"{len(visits):,}", border=True)
boxes[1].metric("Dwell, median", f"{visits['duration_s'].median():.1f} s" if len(visits) else "–", border=True)
boxes[2].metric("Crossings", f"{len(crossings):,}", border=True)
share = f"{100 * found['inferred'].mean():.0f} %" if len(found) else "–"
boxes[3].metric("Inferred", share, border=True, help="Events made by a bridged or interpolated observation")


def show_visits() -> None:
    """Dwell per zone, as a table and a histogram."""
    st.subheader("Visits and dwell")
    dwell = visits.groupby("zone")["duration_s"]
    summary = pd.DataFrame(
        {
            "visits": dwell.size(),
            "tracks": visits.groupby("zone")["track_id"].nunique(),
            "dwell_median_s": dwell.median(),
            "dwell_p90_s": dwell.quantile(0.9),
            "dwell_total_s": dwell.sum(),
        }
    ).reset_index()
    left, right = st.columns([3, 2], gap="large")
    with left:
        table(
            summary,
            "dwell",
            {
                "zone": "Zone",
                "visits": "Visits",
                "tracks": "Tracks",
                "dwell_median_s": st.column_config.NumberColumn("Dwell, median (s)", format="%.1f"),
                "dwell_p90_s": st.column_config.NumberColumn("Dwell, p90 (s)", format="%.1f"),
                "dwell_total_s": st.column_config.NumberColumn("Dwell, total (s)", format="%.1f"),
            },
        )
    with right:
        st.altair_chart(histogram(visits, "duration_s", colours, "Dwell (s)", "Visits"), alt="Histogram of dwell")


def show_crossings() -> None:
    """Counts per line, direction and class, and over time."""
    st.subheader("Crossings")
    summary = crossings.pivot_table(
        index=["zone", "class_name"], columns="direction", values="event_id", aggfunc="count", fill_value=0
    ).reset_index()
    left, right = st.columns([2, 3], gap="large")
    with left:
        table(
            summary,
            "crossings",
            {"zone": "Line", "class_name": "Class", "forward": "Forward", "backward": "Backward"},
        )
        st.caption("Forward is from the left of the line to its right, as it was drawn from first to last point.")
    bin_s = bin_seconds((crossings["ts"].max() - crossings["ts"].min()).total_seconds())
    counts = crossings.assign(at=crossings["ts"].dt.floor(f"{bin_s}s")).groupby(["at", "direction"]).size()
    scale = alt.Scale(domain=["forward", "backward"], range=list(PALETTE[:2]))
    colour = alt.Color("direction:N", title="Direction", scale=scale, legend=alt.Legend(orient="top"))
    with right:
        bars_over_time(counts.rename("n").reset_index(), bin_s, colour, f"Crossings per {bin_s} s")


if found.empty:
    st.info("No events in this selection: widen it, or compute them again after a change of zones.")
if len(visits):
    show_visits()
if len(crossings):
    show_crossings()
if len(found):
    st.subheader("Events")
    table(
        found,
        "events",
        {
            "ts": st.column_config.DatetimeColumn("Time (UTC)", timezone="UTC", format="YYYY-MM-DD HH:mm:ss.SSS"),
            "kind": "Event",
            "zone": "Zone or line",
            "class_name": "Class",
            "direction": "Direction",
            "duration_s": st.column_config.NumberColumn("Dwell (s)", format="%.2f"),
            "inferred": st.column_config.CheckboxColumn("Inferred"),
            "source_id": "Source",
            "track_id": "Track",
        },
        column_order=[
            "ts",
            "kind",
            "zone",
            "class_name",
            "direction",
            "duration_s",
            "inferred",
            "source_id",
            "track_id",
        ],
    )
st.subheader("Where they lie")
if chosen.source_id is None and found["source_id"].nunique() != 1:
    st.info("Choose a source in the filter: zones are drawn on one camera's picture.", icon=":material/filter_alt:")
else:
    source_id = chosen.source_id or str(found["source_id"].iloc[0])
    colour = alt.Color("class_name:N", title="Class", scale=colours)
    for unit, size_px in (("px", queries.picture_size(source_id)), ("m", None)):
        shapes = queries.shapes(source_id, unit)
        if len(shapes):
            of_source = type(chosen)(source_id, chosen.t0, chosen.t1, chosen.class_names)
            chart = plane(queries.paths(of_source, unit), unit, colour, size_px=size_px, shapes=shapes)
            st.altair_chart(chart, width="content", alt="Zones, lines and paths")

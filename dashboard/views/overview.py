"""Overview: what was processed, and what was seen in it."""

from __future__ import annotations

import altair as alt
import streamlit as st

from dashboard import queries
from dashboard.filters import selection
from dashboard.parts import bars_over_time, bin_seconds, class_colours, table

chosen = selection()
st.title("Overview")

ledger = queries.chunks(chosen)
by_state = ledger.groupby("state")
done_s = float(ledger.loc[ledger["state"] == "done", "video_s"].sum())
objects = queries.objects_by_class(chosen)
boxes = st.columns(4)
boxes[0].metric("Video processed", f"{done_s / 3600:.2f} h" if done_s >= 360 else f"{done_s:.0f} s", border=True)
boxes[1].metric("Objects tracked", f"{int(objects['n'].sum()):,}", border=True)
boxes[2].metric("Chunks done", f"{(ledger['state'] == 'done').sum()} of {len(ledger)}", border=True)
boxes[3].metric("Chunks failed", f"{(ledger['state'] == 'failed').sum()}", border=True)
if (ledger["state"] == "failed").any():
    st.warning("Some chunks failed: **Quality** shows why, and how to run them again.", icon=":material/warning:")
if ledger["state"].isin(["planned", "running"]).any():
    st.info("Some chunks are not done yet: a run is under way, or was stopped. Start it again to go on.")

if objects.empty:
    st.info("No objects in this selection: widen the time range or the classes.", icon=":material/filter_alt:")
    st.stop()

colours = class_colours(queries.class_names())
left, right = st.columns([2, 3], gap="large")
with left:
    st.subheader("Objects per class")
    bars = (
        alt.Chart(objects)
        .mark_bar()
        .encode(
            x=alt.X("n:Q", title="Tracks", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("class_name:N", title=None, sort="-x"),
            color=alt.Color("class_name:N", scale=colours, legend=None),
        )
    )
    st.altair_chart(bars.properties(height=max(80, 44 * len(objects))), alt="Tracks per class")
with right:
    st.subheader("New objects over time")
    bin_s = bin_seconds(queries.span_s(chosen))
    counts = queries.counts_over_time(chosen, "tracks", "t0", "class_name", bin_s)
    colour = alt.Color("class_name:N", title="Class", scale=colours, legend=alt.Legend(orient="top"))
    bars_over_time(counts, bin_s, colour, f"Tracks begun per {bin_s} s")

table(
    objects,
    "objects-per-class",
    {
        "class_name": "Class",
        "n": st.column_config.NumberColumn("Tracks"),
        "total_s": st.column_config.NumberColumn("Time in view, total (s)", format="%.1f"),
        "median_s": st.column_config.NumberColumn("Time in view, median (s)", format="%.1f"),
    },
)
st.subheader("Videos")
table(
    queries.videos(chosen),
    "videos",
    {
        "source_id": "Source",
        "uri": "Video",
        "start_time": st.column_config.DatetimeColumn("Begins (UTC)", timezone="UTC"),
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.1f"),
        "width_px": "Width (px)",
        "height_px": "Height (px)",
        "fps": st.column_config.NumberColumn("Frames per second", format="%.3g"),
        "codec": "Codec",
    },
)

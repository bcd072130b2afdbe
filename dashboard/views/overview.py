"""Overview: what was processed, and what was seen in it."""

from __future__ import annotations

import altair as alt
import streamlit as st

from dashboard import queries
from dashboard.filters import selection
from dashboard.parts import WHEN, bars_over_time, bin_seconds, class_colours, table

chosen = selection()
st.title("Overview")

ledger = queries.chunks(chosen)
by_state = ledger.groupby("state")
done_s = float(ledger.loc[ledger["state"] == "done", "video_s"].sum())
objects = queries.objects_by_class(chosen)
boxes = st.columns(4)
boxes[0].metric("Video processed", f"{done_s / 3600:.2f} h" if done_s >= 360 else f"{done_s:.0f} s", border=True)
boxes[1].metric("Objects tracked", f"{int(objects['tracks'].sum()):,}", border=True)
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
            x=alt.X("tracks:Q", title="Tracks", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("class_name:N", title=None, sort="-x"),
            color=alt.Color("class_name:N", scale=colours, legend=None),
        )
    )
    st.altair_chart(bars.properties(height=alt.Step(36)), alt="Tracks per class")
with right:
    st.subheader("New objects over time")
    bin_s = bin_seconds((objects["last_seen"].max() - objects["first_seen"].min()).total_seconds())
    counts = queries.new_objects(chosen, bin_s).rename(columns={"bin_start": "at", "tracks": "n"})
    colour = alt.Color("class_name:N", title="Class", scale=colours, legend=alt.Legend(orient="top"))
    bars_over_time(counts, bin_s, colour, f"Tracks begun per {bin_s} s")

table(
    objects.assign(mean_s=objects["total_s"] / objects["tracks"]),
    "objects-per-class",
    {
        "class_name": "Class",
        "tracks": "Tracks",
        "observations": "Observations",
        "total_s": st.column_config.NumberColumn("Time in view, total (s)", format="%.1f"),
        "mean_s": st.column_config.NumberColumn("Time in view, mean (s)", format="%.1f"),
        "first_seen": st.column_config.DatetimeColumn("First seen (UTC)", timezone="UTC", format=WHEN),
        "last_seen": st.column_config.DatetimeColumn("Last seen (UTC)", timezone="UTC", format=WHEN),
    },
)
st.subheader("Videos")
table(
    queries.videos(chosen),
    "videos",
    {
        "source_id": "Source",
        "uri": "Video",
        "start_time": st.column_config.DatetimeColumn("Begins (UTC)", timezone="UTC", format=WHEN),
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.1f"),
        "width_px": "Width (px)",
        "height_px": "Height (px)",
        "fps": st.column_config.NumberColumn("Frames per second", format="%.3g"),
        "codec": "Codec",
    },
)

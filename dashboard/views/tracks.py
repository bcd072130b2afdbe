"""Tracks: a table of them, their paths, and one of them in detail."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.filters import selection
from dashboard.parts import STATE_COLOURS, class_colours, plane, table

SHOWN = 5000

chosen = selection()
st.title("Tracks")
found = queries.tracks(chosen)
if found.empty:
    st.info("No tracks in this selection: widen the time range or the classes.", icon=":material/filter_alt:")
    st.stop()

least_s = st.number_input("Shortest track (s)", 0.0, step=0.5, key="least_s", bind="query-params", width=200)
found = found[found["duration_s"] >= least_s]
found = found.assign(detected_share=100 * found["n_detected"] / found["n_observations"])
st.caption(f"{len(found):,} tracks" + (f", the first {SHOWN:,} shown" if len(found) > SHOWN else ""))
order = ["class_name", "t0", "duration_s", "n_observations", "detected_share", "n_bridged", "source_id"]
picked = table(
    found.head(SHOWN),
    "tracks",
    {
        "class_name": "Class",
        "t0": st.column_config.DatetimeColumn("Begins (UTC)", timezone="UTC", format="YYYY-MM-DD HH:mm:ss.SSS"),
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.2f"),
        "n_observations": "Observations",
        "detected_share": st.column_config.ProgressColumn("Detected (%)", format="%.0f", min_value=0, max_value=100),
        "n_bridged": "Bridged",
        "source_id": "Source",
        "track_id": "Track",
    },
    column_order=[*order, "track_id"],
    on_select="rerun",
    selection_mode="single-row",
)
if picked.selection.rows:
    st.query_params["track"] = str(found["track_id"].iloc[picked.selection.rows[0]])
track_id = st.query_params.get("track")
track = found[found["track_id"] == track_id]
source_id = str(track["source_id"].iloc[0]) if len(track) else chosen.source_id
sources = sorted(found["source_id"].unique())
if source_id is None and len(sources) == 1:
    source_id = sources[0]


def draw_paths(source: str) -> None:
    """The paths of the selection, the chosen one before the others."""
    unit = "px"
    if queries.has_metres(source):
        units = {"px": "Picture (px)", "m": "Ground (m)"}
        unit = st.segmented_control(
            "Plane", list(units), default="px", format_func=units.get, key="plane", bind="query-params", required=True
        )
    of_source = type(chosen)(source, chosen.t0, chosen.t1, chosen.class_names)
    everything = queries.paths(of_source, unit)
    size_px = queries.picture_size(source) if unit == "px" else None
    shapes = queries.shapes(source, unit)
    colour = alt.Color("class_name:N", title="Class", scale=class_colours(queries.class_names()))
    if len(track):
        one = queries.paths(of_source, unit, [str(track_id)])
        others = everything[everything["track_id"] != track_id]
        st.altair_chart(
            plane(one, unit, colour, size_px=size_px, shapes=shapes, faint=others), width="content", alt="Path"
        )
    elif len(everything):
        st.altair_chart(plane(everything, unit, colour, size_px=size_px, shapes=shapes), width="content", alt="Paths")
    if len(found) > queries.MAX_PATHS:
        st.caption(f"The {queries.MAX_PATHS} longest of {len(found):,} paths.")


def draw_detail(source: str, of_track: pd.Series) -> None:
    """One track: how each of its observations is known, and what it was stitched from."""
    seen = queries.track_observations(source, str(of_track["track_id"]))
    links = queries.track_links(source, str(of_track["track_id"]))
    inferred = seen["state"].isin(["bridged", "interpolated"]).mean()
    boxes = st.columns(4)
    boxes[0].metric("Class", str(of_track["class_name"]), border=True)
    boxes[1].metric("Duration", f"{of_track['duration_s']:.2f} s", border=True)
    boxes[2].metric("Inferred", f"{100 * inferred:.0f} %", border=True, help="Bridged or interpolated observations")
    boxes[3].metric("Tracklets", len(links), border=True)
    seen = seen.assign(second=seen["s"] - seen["s"].iloc[0])
    states = alt.Scale(domain=list(STATE_COLOURS), range=list(STATE_COLOURS.values()))
    strip = (
        alt.Chart(seen)
        .mark_tick(thickness=2, bandSize=18)
        .encode(
            x=alt.X("second:Q", title="Seconds since the track began"),
            y=alt.Y("state:N", title=None, sort=list(STATE_COLOURS)),
            color=alt.Color("state:N", scale=states, legend=None),
            tooltip=[
                "state:N",
                alt.Tooltip("second:Q", format=".2f"),
                "frame:Q",
                alt.Tooltip("confidence:Q", format=".2f"),
            ],
        )
    )
    st.altair_chart(strip.properties(height=150), alt="How each observation of the track is known, over time")
    table(
        links,
        "tracklets",
        {
            "t0": st.column_config.DatetimeColumn("Begins (UTC)", timezone="UTC", format="HH:mm:ss.SSS"),
            "t1": st.column_config.DatetimeColumn("Ends (UTC)", timezone="UTC", format="HH:mm:ss.SSS"),
            "class_name": "Class",
            "reason": "Joined by",
            "score": st.column_config.NumberColumn("Score", format="%.2f"),
            "n_observations": "Observations",
            "n_detected": "Detected",
            "n_bridged": "Bridged",
            "tracklet_id": "Tracklet",
        },
    )
    with st.expander(f"All {len(seen)} observations"):
        table(seen.drop(columns=["s"]), f"track-{of_track['track_id']}")


if len(track):
    st.subheader(f"Track {track_id}")
    draw_detail(str(source_id), track.iloc[0])
else:
    st.caption("Choose a row to see one track: how it is known over time, and what it was stitched from.")
st.subheader("Paths")
if source_id is None:
    st.info("Choose a source in the filter: paths are drawn on one camera's picture.", icon=":material/filter_alt:")
else:
    draw_paths(source_id)

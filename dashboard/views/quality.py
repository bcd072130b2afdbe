"""Quality: how much is inferred, how tracks were joined, and what failed."""

from __future__ import annotations

import altair as alt
import streamlit as st

from dashboard import clock, places, queries
from dashboard.filters import selection
from dashboard.parts import STATE_COLOURS, boxes, chart, coloured, histogram, table

chosen = selection()
st.title("Quality")
states = queries.observations_by_state(chosen)
ledger = queries.chunks(chosen)
tracks = queries.tracks(chosen)
total = int(states["observations"].sum())


def share(*names: str) -> str:
    """Percentage of observations in these states."""
    return f"{100 * states.loc[states['state'].isin(names), 'observations'].sum() / total:.1f} %" if total else "–"


boxes(
    {
        "Observations": f"{total:,}",
        "Detected or propagated": share("detected", "propagated"),
        "Inferred": share("bridged", "interpolated"),
        "Failed chunks": int((ledger["state"] == "failed").sum()),
    },
    {"Inferred": "Bridged or interpolated"},
)

if total and len(tracks):
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("How observations are known")
        scale = alt.Scale(domain=list(STATE_COLOURS), range=list(STATE_COLOURS.values()))
        bars = (
            alt.Chart(states)
            .mark_bar()
            .encode(
                x=alt.X("observations:Q", stack="normalize", title="Share of observations", axis=alt.Axis(format="%")),
                y=alt.Y("class_name:N", title=None),
                color=alt.Color("state:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=2)),
                order=alt.Order("rank:Q"),
                tooltip=["class_name:N", "state:N", "observations:Q"],
            )
        )
        ranked = states.assign(rank=states["state"].map(list(STATE_COLOURS).index))
        drawing = bars.properties(data=ranked, height=alt.Step(36))
        chart(drawing, "states", "Share of observations by state and class")
    with right:
        st.subheader("Length of tracks")
        colour = coloured("class_name", "Class", queries.class_names())
        histogram(tracks, "duration_s", colour, "Duration (s)", "Tracks", "track-lengths")
    table(
        states,
        "observations-by-state",
        {
            "class_name": "Class",
            "state": "State",
            "observations": "Observations",
            "share": st.column_config.NumberColumn("Share of its class", format="percent"),
        },
    )

st.subheader("How tracklets were joined")
table(
    queries.links_by_reason(chosen),
    "links",
    {
        "reason": "Joined by",
        "n": "Tracklets",
        "mean_score": st.column_config.NumberColumn("Mean score", format="%.2f"),
        "least_score": st.column_config.NumberColumn("Least score", format="%.2f"),
    },
)

st.caption("How far to trust this: `sightflow audit SOURCE` cuts tracks apart, joins them again and counts mistakes.")

calibrations = places.calibrations(chosen)
if len(calibrations):
    st.subheader("Calibration")
    table(
        calibrations,
        "calibrations",
        {
            "source_id": "Source",
            "rmse_m": st.column_config.NumberColumn("RMS error at control points (m)", format="%.3f"),
            "points_used": "Control points used",
            "points_set_aside": "Set aside as wrong",
        },
    )

st.subheader("Ledger")
if (ledger["state"] == "failed").any():
    st.warning("Failed chunks are left alone until you ask for them: `sightflow run … --retry-failed`.")
ledger = ledger.sort_values("state", key=lambda state: state != "failed", kind="stable")
table(
    ledger.drop(columns=["begin_s", "until_s", "start_ns", "end_ns", "overlap_ns"]),
    "ledger",
    {
        "state": "State",
        "error": st.column_config.TextColumn("Error", width="large"),
        "source_id": "Source",
        "uri": "Video",
        "index": "Chunk",
        "video_s": st.column_config.NumberColumn("Length (s)", format="%.1f"),
        "frames": "Frames",
        "rows": "Rows",
        "attempts": "Attempts",
        "updated_at": clock.when("Updated"),
    },
    column_order=["state", "error", "source_id", "uri", "index", "video_s", "frames", "rows", "attempts", "updated_at"],
)

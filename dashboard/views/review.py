"""Review: tracks and events with what they looked like, their clip, how they are known, and corrections."""

from __future__ import annotations

import math
from datetime import timedelta

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import clock, corrections, measures, observed, queries, stills
from dashboard.clips import show_clip, video_at
from dashboard.data import may_edit
from dashboard.filters import selection
from dashboard.parts import STATE_COLOURS, boxes, chart, nothing, table

PAGE_ROWS = 12  # with thumbnails, each of which costs the decoding of a frame
KINDS = ("visit", "crossing", "proximity", "stop", "wait", "cycle", "active", "idle", "presence")
PRECISE = "YYYY-MM-DD HH:mm:ss.SSS"

chosen = selection()
st.title("Review")


def with_thumbnails(frame: pd.DataFrame) -> pd.DataFrame:
    """One page of rows, with a picture of each track."""
    pages = max(1, -(-len(frame) // PAGE_ROWS))
    page = st.number_input(f"Page of {pages:,}", 1, pages, key="page", width=160)
    shown = frame.iloc[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    seen = observed.best_views(shown["track_id"].unique().tolist())
    pictures = {
        row.track_id: stills.thumbnail_url(str(row.video_id), int(row.pts_ns), (row.x1, row.y1, row.x2, row.y2))
        for row in seen.itertuples()
    }
    return shown.assign(picture=shown["track_id"].map(pictures))


def choose(frame: pd.DataFrame, name: str, columns: dict[str, object], time: str) -> None:
    """A table of which a row can be chosen; the choice lives in the URL."""
    if st.toggle("Thumbnails", key="thumbs", bind="query-params", disabled=not stills.can_decode()):
        frame = with_thumbnails(frame)
    picked = table(
        frame,
        name,
        {"picture": st.column_config.ImageColumn(" "), **columns},
        column_order=[*(["picture"] if "picture" in frame else []), *columns],
        on_select="rerun",
        selection_mode="single-row",
        row_height=72 if "picture" in frame else None,
    )
    if picked.selection.rows:
        row = frame.iloc[picked.selection.rows[0]]
        st.query_params["track"] = str(row["track_id"])
        st.query_params["at"] = f"{row[time].timestamp():.3f}"


def list_tracks() -> None:
    """The tracks of the selection."""
    found = queries.tracks(chosen)
    if found.empty:
        nothing("No tracks in this selection: widen the time range, the classes or the zones.")
        return
    least_s = st.number_input("Shortest track (s)", 0.0, step=0.5, key="least_s", bind="query-params", width=200)
    found = found[found["duration_s"] >= least_s]
    found = found.assign(seen=found["n_detected"] / found["n_observations"])
    st.caption(f"{len(found):,} tracks")
    columns = {
        "class_name": "Class",
        "t0": clock.when("Begins", PRECISE),
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.2f"),
        "n_observations": "Observations",
        "seen": st.column_config.ProgressColumn("Detected", format="percent", min_value=0, max_value=1),
        "n_bridged": "Bridged",
        "source_id": "Source",
        "track_id": "Track",
    }
    choose(found, "tracks", columns, "t0")


def list_events() -> None:
    """The events of the selection."""
    kinds = st.multiselect("Kinds", KINDS, ["visit", "crossing"], key="kind", bind="query-params")
    found = measures.events(chosen, *(kinds or KINDS))
    if found.empty:
        nothing("No events of these kinds in this selection: widen it.", "sightflow events recompute")
        return
    st.caption(f"{len(found):,} events")
    columns = {
        "kind": "Event",
        "ts": clock.when("Time", PRECISE),
        "place": "Zone or line",
        "class_name": "Class",
        "direction": "Direction",
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.2f"),
        "inferred": st.column_config.CheckboxColumn("Inferred"),
        "source_id": "Source",
        "track_id": "Track",
    }
    choose(found, "events", columns, "ts")


def show_states(seen: pd.DataFrame) -> None:
    """How each observation is known, over time."""
    drawn = seen[["state", "frame", "confidence"]].assign(second=seen["s"] - seen["s"].iloc[0])
    states = alt.Scale(domain=list(STATE_COLOURS), range=list(STATE_COLOURS.values()))
    strip = (
        alt.Chart(drawn)
        .mark_tick(thickness=2, bandSize=18)
        .encode(
            x=alt.X("second:Q", title="Seconds since the track began"),
            y=alt.Y("state:N", title=None, sort=list(STATE_COLOURS)),
            color=alt.Color("state:N", scale=states, legend=None),
            tooltip=["state:N", alt.Tooltip("second:Q", format=".2f"), "frame:Q", "confidence:Q"],
        )
    )
    chart(strip.properties(height=150), "track-states", "How each observation of the track is known, over time")


def show_pieces(links: pd.DataFrame) -> None:
    """What the track was stitched from, and why."""
    st.markdown("**Pieces** and why each was joined to the one before")
    table(
        links,
        "tracklets",
        {
            "t0": clock.when("Begins", PRECISE),
            "t1": clock.when("Ends", PRECISE),
            "class_name": "Class",
            "reason": st.column_config.TextColumn("Joined by", help=queries.REASONS),
            "score": st.column_config.NumberColumn("Score", format="%.2f"),
            "n_observations": "Observations",
            "n_detected": "Detected",
            "n_bridged": "Bridged",
            "tracklet_id": "Tracklet",
        },
        column_order=["t0", "t1", "class_name", "reason", "score", "n_observations", "n_detected", "tracklet_id"],
    )


def asked_s() -> float:
    """The time in the URL at which a track is to be shown, in seconds since 1970; 0 where there is none."""
    try:
        asked = float(st.query_params.get("at", ""))
    except ValueError:
        return 0.0
    return asked if math.isfinite(asked) else 0.0


def show_track(track: pd.Series) -> None:
    """One track: its clip, how it is known, and what it was stitched from."""
    source_id, track_id = str(track["source_id"]), str(track["track_id"])
    st.subheader(f"Track {track_id}")
    seen, links = observed.track_observations(source_id, track_id), queries.track_links(source_id, track_id)
    if seen.empty or links.empty:
        nothing("The observations of this track were pruned; its place in reports stays.")
        return
    boxes(
        {
            "Class": str(track["class_name"]),
            "Duration": f"{track['duration_s']:.2f} s",
            "Inferred": f"{100 * seen['state'].isin(['bridged', 'interpolated']).mean():.0f} %",
            "Tracklets": len(links),
        },
        {"Inferred": "Bridged or interpolated observations"},
    )
    start = seen["ts"].iloc[0].to_pydatetime()
    at = start + timedelta(seconds=min(max(asked_s() - start.timestamp(), 0.0), float(track["duration_s"])))
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_clip(video_at(links, at), at)
        st.caption(f"From {at.astimezone(clock.zone()):%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" {clock.time_zone()}")
    with right:
        show_states(seen)
    show_pieces(links)
    with st.expander(f"All {len(seen)} observations"):
        table(seen.drop(columns=["s"]), f"track-{track_id}")
    if may_edit():
        corrections.form(source_id, track_id, links)


what = st.segmented_control(
    "Show", ["Tracks", "Events"], default="Tracks", key="list", bind="query-params", required=True
)
if what == "Tracks":
    list_tracks()
else:
    list_events()
track = queries.track(st.query_params.get("track", ""))
if track is None:
    st.caption("Choose a row to see its clip, how it is known over time, and what it was stitched from.")
else:
    show_track(track)
if may_edit():
    corrections.history()
else:
    st.caption("To correct tracks here, start the dashboard with `--edit`.")

"""Overview: what was processed, what was seen in it, and how a running job gets on."""

from __future__ import annotations

import time

import streamlit as st

from dashboard import clock, queries
from dashboard.data import explained, forget_answers
from dashboard.filters import selection
from dashboard.parts import bars_over_time, bars_per, bin_seconds, boxes, coloured, duration, nothing, table

LIVE_S = 3  # between two looks at the ledger while a job runs

chosen = selection()
before = chosen.before()
st.title("Overview")


@st.fragment(run_every=LIVE_S)
def show_job() -> None:
    """How far the chunks are that were planned; drawn anew by itself until all have ended."""
    # Drawn by itself it is outside of what explains errors to the page.
    with explained():
        show_progress(queries.progress(chosen))


def show_progress(now: queries.Progress) -> None:
    """A bar of the chunks that have ended, and how fast frames are done."""
    if not now.open:
        # The rest of the page is older than the job's end.
        forget_answers()
        st.rerun()
    first_frames, first_s = st.session_state.setdefault("job", (now.frames, time.monotonic()))
    per_s = (now.frames - first_frames) / max(time.monotonic() - first_s, 1e-9)
    rate = f", {per_s:.1f} frames/s" if now.frames > first_frames else ""
    st.progress(now.ended / now.all, f"{now.ended} of {now.all} chunks have ended, {now.running} are running{rate}")
    if not now.running:
        st.caption("Nothing is running: the job was stopped, or has not begun. Start it again to go on.")


def compared(value: float, earlier: float | None, shown: str) -> tuple[str, str | None]:
    """A figure, and its change against the period before."""
    if earlier is None:
        return shown, None
    return shown, f"{100 * (value - earlier) / earlier:+.0f} %" if earlier else "none before"


ledger = queries.chunks(chosen)
done = ledger["state"] == "done"
objects = queries.objects_by_class(chosen)
earlier = queries.objects_by_class(before)["tracks"].sum() if before else None
earlier_s = queries.processed_seconds(queries.chunks(before)) if before else None
done_s = queries.processed_seconds(ledger)
tracked = int(objects["tracks"].sum())
boxes(
    {
        "Video processed": compared(done_s, earlier_s, duration(done_s)),
        "Objects tracked": compared(tracked, earlier, f"{tracked:,}"),
        "Chunks done": f"{done.sum()} of {len(ledger)}",
        "Chunks failed": f"{(ledger['state'] == 'failed').sum()}",
    },
    {
        "Objects tracked": "Against the period of the same length just before"
        if before
        else "Choose a time range to compare it with the period before"
    },
)
if (ledger["state"] == "failed").any():
    st.warning("Some chunks failed: **Quality** shows why, and how to run them again.", icon=":material/warning:")
if ledger["state"].isin(["planned", "running"]).any():
    show_job()

if objects.empty:
    nothing("No objects in this selection: widen the time range, the classes or the zones.")
    st.stop()

colour = coloured("class_name", "Class", queries.class_names())
left, right = st.columns([2, 3], gap="large")
with left:
    st.subheader("Objects per class")
    bars_per(objects[["class_name", "tracks"]], "class_name", "tracks", "Tracks", colour, "objects")
with right:
    st.subheader("New objects over time")
    bin_s = bin_seconds((objects["last_seen"].max() - objects["first_seen"].min()).total_seconds())
    counts = queries.new_objects(chosen, bin_s)
    bars_over_time(counts, bin_s, colour, f"Tracks begun per {duration(bin_s)}", "new-objects")

busiest = queries.new_objects(chosen, 3600).groupby("at", as_index=False)["n"].sum().nlargest(5, "n")
table(
    objects.assign(mean_s=objects["total_s"] / objects["tracks"]),
    "objects-per-class",
    {
        "class_name": "Class",
        "tracks": "Tracks",
        "observations": "Observations",
        "total_s": st.column_config.NumberColumn("Time in view, total (s)", format="%.1f"),
        "mean_s": st.column_config.NumberColumn("Time in view, mean (s)", format="%.1f"),
        "first_seen": clock.when("First seen"),
        "last_seen": clock.when("Last seen"),
    },
)
st.subheader("Busiest hours")
table(busiest, "busiest-hours", {"at": clock.when("Hour from", "YYYY-MM-DD HH:mm"), "n": "Tracks begun"})
st.subheader("Videos")
table(
    queries.videos(chosen),
    "videos",
    {
        "source_id": "Source",
        "uri": "Video",
        "start_time": clock.when("Begins"),
        "duration_s": st.column_config.NumberColumn("Duration (s)", format="%.1f"),
        "width_px": "Width (px)",
        "height_px": "Height (px)",
        "fps": st.column_config.NumberColumn("Frames per second", format="%.3g"),
        "codec": "Codec",
    },
)

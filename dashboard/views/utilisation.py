"""Utilisation: how long machines were there, worked and stood, their cycles, and people near them."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import clock, measures, queries
from dashboard.filters import selection
from dashboard.parts import (
    bars_over_time,
    bars_per,
    bin_seconds,
    boxes,
    chart,
    coloured,
    duration,
    nothing,
    span_seconds,
    table,
    time_axis,
)

ROWS = 30  # machines in the timeline, those longest present; more cannot be read

chosen = selection()
st.title("Utilisation")
spans = measures.work(chosen)
machines = measures.machine_classes()
if not chosen.class_names and spans["class_name"].isin(machines).any():
    # Who wants to see people as machines chooses them in the filter.
    spans = spans[spans["class_name"].isin(machines)]


def show_totals() -> None:
    """Time per class and per machine, in the unit that suits the longest."""
    by_class = measures.totals(spans, ["class_name"])
    unit, per_hour = next(
        ((unit, per) for unit, per in (("h", 1), ("min", 60)) if by_class["present"].max() * per >= 2), ("s", 3600)
    )
    st.subheader("Per class")
    parts = by_class.melt("class_name", ["active", "idle"], "kind", "time")
    parts = parts.assign(time=parts["time"] * per_hour)
    bars_per(parts, "class_name", "time", f"Time ({unit})", coloured("kind", "", ("active", "idle")), "per-class")
    st.subheader("Per machine")
    by_track = measures.totals(spans, ["source_id", "class_name", "track_id"])
    by_track[["present", "active", "idle"]] *= per_hour
    hours = {
        name: st.column_config.NumberColumn(f"{name.capitalize()} ({unit})", format="%.2f")
        for name in ("present", "active", "idle")
    }
    share = st.column_config.ProgressColumn("Utilisation", format="percent", min_value=0, max_value=1)
    table(
        by_track.sort_values("present", ascending=False),
        "utilisation",
        {"source_id": "Source", "class_name": "Class", "track_id": "Machine", "utilisation": share, **hours},
        column_order=["class_name", "present", "active", "idle", "utilisation", "source_id", "track_id"],
    )


def show_timeline() -> None:
    """When each machine was active and idle."""
    st.subheader("Timeline")
    present = spans.groupby("track_id")["hours"].sum().nlargest(ROWS).index
    shown = spans[spans["track_id"].isin(present)]
    shown = shown.assign(
        at=clock.local(shown["ts"]),
        end=clock.local(shown["until"]),
        machine=shown["class_name"] + " " + shown["track_id"].str[:8],
        seconds=shown["hours"] * 3600,
    )
    bars = (
        alt.Chart(shown)
        .mark_bar()
        .encode(
            x=time_axis(),
            x2="end:T",
            y=alt.Y(
                "machine:N", title=None, axis=alt.Axis(labelOverlap=False), sort=alt.EncodingSortField("at", "min")
            ),
            color=coloured("kind", "", ("active", "idle")),
            tooltip=["machine:N", "kind:N", alt.Tooltip("seconds:Q", title="for (s)", format=".1f")],
        )
    )
    data = shown.drop(columns=["at", "end"])
    chart(bars.properties(height=alt.Step(18)), "work-spans", "When machines were active and idle", data)
    if spans["track_id"].nunique() > ROWS:
        st.caption(f"The {ROWS} longest present of {spans['track_id'].nunique():,}; gaps are absence.")


def show_cycles(cycles: pd.DataFrame) -> None:
    """Trips from a zone to another and back."""
    st.subheader("Cycles")
    if cycles.empty:
        nothing("No cycles: they need two zones that a machine goes back and forth between.")
        return
    grouped = cycles.groupby(["place", "other", "class_name"])["duration_s"]
    summary = grouped.agg(cycles="size", median="median", total="sum").reset_index()
    seconds = {
        "median": st.column_config.NumberColumn("Median (s)", format="%.1f"),
        "total": st.column_config.NumberColumn("Total (s)", format="%.1f"),
    }
    titles = {"place": "Home", "other": "By way of", "class_name": "Class", "cycles": "Cycles"}
    table(summary, "cycles", {**titles, **seconds})


def show_proximity(near: pd.DataFrame) -> None:
    """People near machines."""
    st.subheader("People near machines")
    if near.empty:
        nothing("No encounters: they need a calibrated source with people and machines.")
        return
    bin_s = max(60, bin_seconds(span_seconds(near["ts"])))
    counts = near.groupby([near["ts"].dt.floor(f"{bin_s}s").rename("at"), "class_name"]).size()
    colour = coloured("class_name", "Class", queries.class_names())
    bars_over_time(counts.rename("n").reset_index(), bin_s, colour, f"Encounters per {duration(bin_s)}", "encounters")
    table(
        near.sort_values("distance_m"),
        "proximity",
        {
            "ts": clock.when("Time"),
            "class_name": "Who",
            "distance_m": st.column_config.NumberColumn("Nearest (m)", format="%.2f"),
            "duration_s": st.column_config.NumberColumn("For (s)", format="%.1f"),
            "source_id": "Source",
            "track_id": "Person's track",
            "other": "Machine's track",
        },
        column_order=["ts", "distance_m", "duration_s", "class_name", "source_id", "track_id", "other"],
    )


if spans.empty:
    nothing(
        "No active or idle spans in this selection: widen it, or compute events from what is stored:",
        "sightflow events recompute",
    )
else:
    total = measures.totals(spans.assign(all="all"), ["all"]).iloc[0]
    boxes(
        {
            "Machines": f"{spans['track_id'].nunique():,}",
            "Present": duration(3600 * total["present"]),
            "Active": duration(3600 * total["active"]),
            "Idle": duration(3600 * total["idle"]),
            "Utilisation": f"{100 * total['utilisation']:.0f} %",
        },
        {"Utilisation": "Active share of the time present", "Present": "All machines together"},
    )
    show_totals()
    show_timeline()
show_cycles(measures.events(chosen, "cycle"))
show_proximity(measures.events(chosen, "proximity"))

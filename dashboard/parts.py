"""Pieces that several pages show: colours, tables with a download, charts over time, the plane seen by a camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800")
"""Okabe and Ito's colours, told apart with any colour vision; yellow darkened to be read on white."""

STATE_COLOURS = {"detected": "#0072B2", "propagated": "#56B4E9", "interpolated": "#E69F00", "bridged": "#D55E00"}
"""Cold is seen, warm is inferred."""

BINS_S = (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)
PLOT_WIDTH_PX = 760
WHEN = "YYYY-MM-DD HH:mm:ss"


def class_colours(class_names: Sequence[str]) -> alt.Scale:
    """The colour of every class; the same on every page as long as `class_names` is all the store knows."""
    names = list(class_names)
    return alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in range(len(names))])


def bin_seconds(span_s: float, at_most: int = 60) -> int:
    """The narrowest round bin that cuts a time span into no more than so many."""
    return next((bin_s for bin_s in BINS_S if span_s / bin_s <= at_most), BINS_S[-1])


def table(frame: pd.DataFrame, name: str, columns: dict[str, Any] | None = None, **options: Any) -> Any:
    """A table with a CSV download under it; the download keeps the column names of the store."""
    shown = st.dataframe(frame, hide_index=True, placeholder="–", column_config=columns, key=f"table-{name}", **options)
    st.download_button(
        f"Download {name}.csv",
        frame.to_csv(index=False).encode(),
        f"{name}.csv",
        "text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        on_click="ignore",
        type="tertiary",
    )
    return shown


def bars_over_time(frame: pd.DataFrame, bin_s: int, colour: alt.Color, title: str) -> None:
    """Stacked bars of column `n` at the times `at`, which are the begins of bins."""
    frame = frame.assign(until=frame["at"] + pd.Timedelta(seconds=bin_s))
    chart = (
        alt.Chart(frame)
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("at:T", title="Time (UTC)", scale=alt.Scale(type="utc"), bin="binned"),
            x2="until:T",
            y=alt.Y("n:Q", title=title, stack="zero", axis=alt.Axis(tickMinStep=1)),
            color=colour,
            tooltip=[alt.Tooltip("at:T", title="From (UTC)", format="%Y-%m-%d %H:%M:%S"), str(colour.shorthand), "n:Q"],
        )
        .properties(height=260)
    )
    st.altair_chart(chart, alt=title)


def histogram(frame: pd.DataFrame, column: str, colours: alt.Scale, title: str, count: str) -> alt.Chart:
    """Stacked histogram of a column by class; binned here, so that the browser gets bins and not rows."""
    edges = np.histogram_bin_edges(frame[column], bins=min(25, max(5, len(frame) // 4)))
    place = np.clip(np.digitize(frame[column], edges) - 1, 0, len(edges) - 2)
    bins = pd.DataFrame({"low": edges[place], "high": edges[place + 1], "class_name": frame["class_name"]})
    bins = bins.groupby(["low", "high", "class_name"], as_index=False).size()
    return (
        alt.Chart(bins)
        .mark_bar()
        .encode(
            x=alt.X("low:Q", bin="binned", title=title),
            x2="high:Q",
            y=alt.Y("size:Q", stack="zero", title=count, axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("class_name:N", title="Class", scale=colours, legend=alt.Legend(orient="top")),
            tooltip=["class_name:N", alt.Tooltip("size:Q", title=count)],
        )
        .properties(height=240)
    )


def plane(
    paths: pd.DataFrame,
    unit: str,
    colour: alt.Color,
    *,
    size_px: tuple[float, float] | None = None,
    shapes: pd.DataFrame | None = None,
    faint: pd.DataFrame | None = None,
) -> alt.LayerChart:
    """Paths as the camera sees them (`unit` px, y down) or on the ground (m, y up), to scale.

    Args:
        paths: columns track_id, s (order), x, y and what `colour` names.
        unit: `px` or `m`.
        colour: encoding of the paths.
        size_px: width and height of the picture, where it bounds the plane.
        shapes: outlines of zones and lines: name, kind, order, x, y; zones are closed.
        faint: further paths drawn in grey behind.
    """
    everything = pd.concat([frame[["x", "y"]] for frame in (paths, shapes, faint) if frame is not None])
    low, high = everything.min(), everything.max()
    if size_px is not None:
        low, high = low.clip(upper=0), pd.Series({"x": size_px[0], "y": size_px[1]}).combine(high, max)
    extent = (high - low).clip(lower=1e-6)
    height = float(min(max(PLOT_WIDTH_PX * extent["y"] / extent["x"], 120), 900))
    x = alt.X("x:Q", title=f"x ({unit})", scale=alt.Scale(domain=[low["x"], high["x"]], nice=False))
    y_scale = alt.Scale(domain=[low["y"], high["y"]], nice=False, reverse=unit == "px")
    y = alt.Y("y:Q", title=f"y ({unit})", scale=y_scale)
    layers = []
    if faint is not None and len(faint):
        behind = alt.Chart(faint).mark_line(strokeWidth=1, opacity=0.35, color="#888888", clip=True)
        layers.append(behind.encode(x=x, y=y, detail="track_id:N", order="s:Q"))
    if shapes is not None and len(shapes):
        outline = alt.Chart(shapes).mark_line(strokeWidth=2, strokeDash=[6, 4], color="#D55E00", clip=True)
        layers.append(outline.encode(x=x, y=y, detail="name:N", order="order:Q", tooltip=["name:N", "kind:N"]))
        labels = alt.Chart(shapes[shapes["order"] == 0])
        layers.append(
            labels.mark_text(align="left", dx=5, dy=-7, fontWeight="bold", color="#D55E00").encode(
                x=x, y=y, text="name:N"
            )
        )
    line = alt.Chart(paths).mark_line(strokeWidth=2, opacity=0.85, clip=True)
    tooltip = [alt.Tooltip("track_id:N", title="track"), alt.Tooltip("class_name:N", title="class")]
    layers.append(line.encode(x=x, y=y, detail="track_id:N", order="s:Q", color=colour, tooltip=tooltip))
    return alt.layer(*layers).properties(width=PLOT_WIDTH_PX, height=height)

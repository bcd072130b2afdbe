"""Pieces that several pages show: colours, tables and charts with downloads, charts over time, empty states."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from dashboard import clock

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800")
"""Okabe and Ito's colours, told apart with any colour vision; yellow darkened to be read on white."""

STATE_COLOURS = {"detected": "#0072B2", "propagated": "#56B4E9", "interpolated": "#E69F00", "bridged": "#D55E00"}
"""Cold is seen, warm is inferred."""

BINS_S = (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)
HEIGHT_PX = 260
TABLE_ROWS = 5000
"""Rows a table is sent; downloads hold all."""


def scale_of(names: Sequence[str]) -> alt.Scale:
    """A colour for every name, in the palette's order."""
    return alt.Scale(domain=list(names), range=[PALETTE[i % len(PALETTE)] for i in range(len(names))])


def coloured(column: str, title: str, names: Sequence[str]) -> alt.Color:
    """A column of names as colours with their legend above; the same everywhere as long as `names` are the same."""
    return alt.Color(f"{column}:N", title=title, scale=scale_of(names), legend=alt.Legend(orient="top", columns=3))


def bin_seconds(span_s: float, at_most: int = 60) -> int:
    """The narrowest round bin that cuts a time span into no more than so many."""
    return next((bin_s for bin_s in BINS_S if span_s / bin_s <= at_most), BINS_S[-1])


def span_seconds(times: pd.Series) -> float:
    """From the first time to the last."""
    return (times.max() - times.min()).total_seconds()


def duration(seconds: float) -> str:
    """A span for people: seconds, minutes or hours."""
    if not np.isfinite(seconds):
        return "–"
    number, unit = (
        (seconds, "s") if seconds < 120 else (seconds / 60, "min") if seconds < 7200 else (seconds / 3600, "h")
    )
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def boxes(values: dict[str, Any], helps: dict[str, str] | None = None) -> None:
    """Figures side by side; on a phone they stand below each other."""
    for column, (label, value) in zip(st.columns(len(values)), values.items(), strict=True):
        shown, delta = value if isinstance(value, tuple) else (value, None)
        column.metric(label, shown, delta, border=True, help=(helps or {}).get(label))


def nothing(what: str, command: str | None = None) -> None:
    """An empty state: what is missing, and what to do."""
    st.info(what, icon=":material/filter_alt:")
    if command:
        # In a shell's colours options are too faint to be read by all.
        st.code(command, language=None)


def downloads(frame: pd.DataFrame, name: str, **more: Callable[[], bytes]) -> None:
    """Buttons that give the rows as CSV and Parquet, with the column names of the store, and as what else is made.

    Nothing is written before a button is pressed.
    """
    formats: dict[str, Callable[[], bytes]] = {
        "csv": lambda: frame.to_csv(index=False).encode(),
        "parquet": lambda: _parquet(frame),
        **more,
    }
    with st.container(horizontal=True, gap="small"):
        for ending, made in formats.items():
            label, key = f"{name}.{ending}", f"{ending}-{name}"
            st.download_button(
                label, made, label, key=key, icon=":material/download:", on_click="ignore", type="tertiary"
            )


def _parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def table(frame: pd.DataFrame, name: str, columns: dict[str, Any] | None = None, **options: Any) -> Any:
    """A table with its downloads under it."""
    shown = st.dataframe(
        frame.head(TABLE_ROWS), hide_index=True, placeholder="–", column_config=columns, key=f"table-{name}", **options
    )
    if len(frame) > TABLE_ROWS:
        st.caption(f"The first {TABLE_ROWS:,} of {len(frame):,} rows; downloads hold all.")
    downloads(frame, name)
    return shown


def chart(drawing: Any, name: str, said: str, frame: pd.DataFrame | None = None, width: Any = "stretch") -> None:
    """A chart that says what it shows; its own menu gives PNG and SVG, and the buttons the numbers drawn.

    Args:
        drawing: of Altair.
        name: of the downloads.
        said: what is read out instead of the picture.
        frame: the numbers, where no table beside it offers them.
        width: of `st.altair_chart`.
    """
    # No "open in Vega editor": it would send the data to another host.
    menu = {"embedOptions": {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}}
    st.altair_chart(drawing.properties(usermeta=menu), alt=said, key=f"chart-{name}", width=width)
    if frame is not None:
        downloads(frame, name)


TIME_LABELS = (
    "utcseconds(datum.value) ? utcFormat(datum.value, '%H:%M:%S') : utchours(datum.value) || utcminutes(datum.value)"
    " ? utcFormat(datum.value, '%H:%M') : utcFormat(datum.value, '%b %d')"
)
"""As tables write times; Vega's own labels are of twelve hours."""


def time_axis(**options: Any) -> alt.X:
    """The axis of `at`, a column made by `clock.local`."""
    axis = alt.Axis(labelExpr=TIME_LABELS, labelOverlap=True)
    return alt.X("at:T", title=clock.titled("Time"), scale=alt.Scale(type="utc"), axis=axis, **options)


def bars_over_time(frame: pd.DataFrame, bin_s: int, colour: alt.Color, title: str, name: str) -> None:
    """Stacked bars of column `n` at the times `at` (UTC), which are the begins of bins."""
    at = clock.local(frame["at"])
    drawn = frame.assign(at=at, until=at + pd.Timedelta(seconds=bin_s), shown=at.dt.strftime("%Y-%m-%d %H:%M:%S"))
    bars = (
        alt.Chart(drawn)
        .mark_bar(binSpacing=1)
        .encode(
            x=time_axis(bin="binned"),
            x2="until:T",
            y=alt.Y("n:Q", title=title, stack="zero", axis=alt.Axis(tickMinStep=1)),
            color=colour,
            tooltip=[alt.Tooltip("shown:N", title=clock.titled("From")), str(colour.shorthand), "n:Q"],
        )
        .properties(height=HEIGHT_PX)
    )
    chart(bars, name, title, frame)


def bars_per(frame: pd.DataFrame, column: str, value: str, title: str, colour: alt.Color, name: str) -> None:
    """Horizontal bars of a value per name, stacked by colour."""
    bars = alt.Chart(frame).mark_bar()
    # Halves of what is counted are no places on an axis.
    axis = alt.Axis(tickMinStep=1) if pd.api.types.is_integer_dtype(frame[value]) else alt.Axis()
    encoded = bars.encode(
        x=alt.X(f"{value}:Q", title=title, stack="zero", axis=axis),
        y=alt.Y(f"{column}:N", title=None, sort="-x"),
        color=colour,
        tooltip=[f"{column}:N", str(colour.shorthand), alt.Tooltip(f"{value}:Q", title=title, format=",.4~g")],
    )
    chart(encoded.properties(height=alt.Step(32)), name, f"{title} per {column}", frame)


def histogram(
    frame: pd.DataFrame, column: str, colour: alt.Color, title: str, count: str, name: str, marks: Sequence[Any] = ()
) -> None:
    """Stacked histogram of a column; binned here, so that the browser gets bins and not rows.

    Args:
        frame: rows with `column` and what `colour` names.
        column: of numbers.
        colour: by what bars are stacked.
        title: of the numbers, with their unit.
        count: what is counted.
        name: of the downloads.
        marks: numbers to mark with a dashed line, with their labels.
    """
    by = str(colour.shorthand).split(":")[0]
    edges = np.histogram_bin_edges(frame[column], bins=min(25, max(5, len(frame) // 4)))
    place = np.clip(np.digitize(frame[column], edges) - 1, 0, len(edges) - 2)
    bins = pd.DataFrame({"low": edges[place], "high": edges[place + 1], by: frame[by].to_numpy()})
    bins = bins.groupby(["low", "high", by], as_index=False).size()
    bars = (
        alt.Chart(bins)
        .mark_bar()
        .encode(
            x=alt.X("low:Q", bin="binned", title=title),
            x2="high:Q",
            y=alt.Y("size:Q", stack="zero", title=count, axis=alt.Axis(tickMinStep=1)),
            color=colour,
            tooltip=[f"{by}:N", alt.Tooltip("size:Q", title=count)],
        )
    )
    layers = [bars]
    if marks:
        lines = alt.Chart(pd.DataFrame(marks, columns=["at", "label"]))
        layers.append(lines.mark_rule(strokeDash=[4, 4], strokeWidth=2, color="#888888").encode(x="at:Q"))
        # Towards the middle, where there is room.
        is_right = max(at for at, _ in marks) > (edges[0] + edges[-1]) / 2
        side = {"align": "right", "dx": -4} if is_right else {"align": "left", "dx": 4}
        text = lines.mark_text(y=8, color="#888888", fontWeight="bold", **side)
        layers.append(text.encode(x="at:Q", text="label:N"))
    chart(alt.layer(*layers).properties(height=HEIGHT_PX), name, f"{count} by {title}", bins)

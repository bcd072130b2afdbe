"""The filter bar every page shares; it lives in the URL, so that a link shows the same view."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.data import rows

ALL = "All sources"


@dataclass(frozen=True)
class Selection:
    """What the filter bar says. None and empty filter nothing."""

    source_id: str | None
    t0: datetime | None
    t1: datetime | None
    class_names: tuple[str, ...]

    def where(self, first: str, last: str, *, classes: bool = True) -> tuple[str, dict[str, Any]]:
        """A SQL condition on source_id, class_name and an interval, and its parameters.

        Args:
            first: the column or expression of the interval's begin, in seconds since 1970.
            last: that of its end.
            classes: whether the rows have a class_name.
        """
        conditions, parameters = ["1 = 1"], dict[str, Any]()
        if self.source_id is not None:
            conditions.append("source_id = $source_id")
            parameters["source_id"] = self.source_id
        if self.t0 is not None and self.t1 is not None:
            conditions.append(f"{last} >= $t0_s and {first} < $t1_s")
            parameters |= {"t0_s": self.t0.timestamp(), "t1_s": self.t1.timestamp()}
        if classes and self.class_names:
            names = {f"class_{i}": name for i, name in enumerate(self.class_names)}
            conditions.append("class_name in (" + ", ".join(f"${name}" for name in names) + ")")
            parameters |= names
        return " and ".join(conditions), parameters


def selection() -> Selection:
    """The filter bar's state, for pages."""
    state: Selection = st.session_state["selection"]
    return state


def filter_bar() -> None:
    """Draw the filter bar in the sidebar."""
    sources = rows("select distinct source_id from chunks order by source_id")["source_id"].tolist()
    with st.sidebar:
        st.subheader("Filter")
        choice = st.selectbox("Source", [ALL, *sources], key="source", bind="query-params")
        source_id = None if choice == ALL else choice
        t0, t1 = _time_range(source_id)
        known = rows("select distinct class_name from tracks order by class_name")["class_name"].tolist()
        chosen = st.multiselect("Classes", known, key="class", bind="query-params", placeholder="All classes")
    st.session_state["selection"] = Selection(source_id, t0, t1, tuple(chosen))


def _time_range(source_id: str | None) -> tuple[datetime | None, datetime | None]:
    """The chosen interval; None where everything is chosen, or nothing is there to choose from."""
    condition, parameters = Selection(source_id, None, None, ()).where("", "")
    span = rows(f"select min(t0) as t0, max(t1) as t1 from tracks where {condition}", parameters)
    if pd.isna(span["t0"].iloc[0]):
        return None, None
    low = span["t0"].iloc[0].floor("s").to_pydatetime().replace(tzinfo=None)
    high = (span["t1"].iloc[0].ceil("s") + timedelta(seconds=1)).to_pydatetime().replace(tzinfo=None)
    long = high - low > timedelta(days=1)
    step, written = (timedelta(minutes=1), "MM-DD HH:mm") if long else (timedelta(seconds=1), "HH:mm:ss")
    begin, end = st.slider("Time (UTC)", low, high, (low, high), step, written, key="time", bind="query-params")
    st.caption(f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}")
    if low.year == 1970:
        st.caption("No start time is known for some videos: they count from 1970-01-01 00:00 (see `--start-time`).")
    if (begin, end) == (low, high):
        return None, None
    # A report's interval is never empty.
    return begin.replace(tzinfo=UTC), max(end, begin + step).replace(tzinfo=UTC)

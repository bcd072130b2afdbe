"""The filter bar every page shares; it lives in the URL, so that a link shows the same view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from dashboard import clock
from dashboard.data import rows

ALL = "All sources"


@dataclass(frozen=True)
class Selection:
    """What the filter bar says. None and empty filter nothing."""

    source_id: str | None = None
    t0: datetime | None = None
    t1: datetime | None = None
    class_names: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()

    def where(
        self, first: str, last: str, *, classes: bool = True, zones: Literal["", "of rows", "of tracks"] = ""
    ) -> tuple[str, dict[str, Any]]:
        """A SQL condition on source_id, class_name, zone and an interval, and its parameters.

        Args:
            first: the column or expression of the interval's begin, in seconds since 1970.
            last: that of its end.
            classes: whether the rows have a class_name.
            zones: whether the rows have a `zone`, or a track_id of which some event must lie in one of the zones.
        """
        conditions, parameters = ["1 = 1"], dict[str, Any]()
        if self.source_id is not None:
            conditions.append("source_id = $source_id")
            parameters["source_id"] = self.source_id
        if self.t0 is not None and self.t1 is not None:
            conditions.append(f"{last} >= $t0_s and {first} < $t1_s")
            parameters |= {"t0_s": self.t0.timestamp(), "t1_s": self.t1.timestamp()}
        if classes and self.class_names:
            conditions.append(f"class_name in ({one_of('class', self.class_names, parameters)})")
        if zones and self.zones:
            inside = f"zone in ({one_of('zone', self.zones, parameters)})"
            conditions.append(
                inside if zones == "of rows" else f"track_id in (select track_id from events where {inside})"
            )
        return " and ".join(conditions), parameters

    def of_source(self, source_id: str) -> Selection:
        """The same of one source."""
        return replace(self, source_id=source_id)

    def before(self) -> Selection | None:
        """The interval of the same length just before; None where all times are chosen."""
        if self.t0 is None or self.t1 is None:
            return None
        return replace(self, t0=self.t0 - (self.t1 - self.t0), t1=self.t0)


def one_of(prefix: str, values: Iterable[str], parameters: dict[str, Any]) -> str:
    """Names of SQL parameters for some values, with commas between; the values are added to `parameters`."""
    named = {f"{prefix}_{i}": value for i, value in enumerate(values)}
    parameters |= named
    return ", ".join(f"${name}" for name in named)


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
        chosen = Selection(None if choice == ALL else choice)
        st.session_state["time_zone"] = _time_zone(chosen)
        t0, t1 = _time_range(chosen)
        known = rows("select distinct class_name from tracklets order by class_name")["class_name"].tolist()
        classes = st.multiselect("Classes", known, key="class", bind="query-params", placeholder="All classes")
        where, parameters = chosen.where("", "")
        known = rows(f"select distinct name from zones where {where} order by name", parameters)["name"].tolist()
        zones = st.multiselect(
            "Zones and lines",
            known,
            key="zone",
            bind="query-params",
            placeholder="All zones" if known else "None yet",
            help="Events there, and tracks with an event there",
            disabled=not known,
        )
    st.session_state["selection"] = replace(chosen, t0=t0, t1=t1, class_names=tuple(classes), zones=tuple(zones))


def _time_zone(chosen: Selection) -> str:
    """The zone times are shown in: the site's where it has one, the viewer's, or UTC."""
    where, parameters = chosen.where("", "")
    of_sites = rows(f"select distinct time_zone from sources where {where} order by time_zone", parameters)
    names = of_sites["time_zone"].tolist() if len(of_sites) == 1 else []
    choices = list(dict.fromkeys(n for n in [*names, clock.UTC_NAME, clock.of_viewer()] if clock.known(n)))
    return str(st.selectbox("Times in", choices, key="tz", bind="query-params", on_change=_keep_time))


def _keep_time() -> None:
    """The slider holds what clocks show: the same moments, as those of the new zone show them."""
    old, new = clock.zone(), ZoneInfo(st.session_state["tz"])
    if "time" in st.session_state:
        walls = (wall.replace(tzinfo=old).astimezone(new) for wall in st.session_state["time"])
        st.session_state["time"] = tuple(wall.replace(tzinfo=None) for wall in walls)


def _time_range(chosen: Selection) -> tuple[datetime | None, datetime | None]:
    """The chosen interval; None where everything is chosen, or nothing is there to choose from."""
    condition, parameters = chosen.where("", "")
    span = rows(f"select min(t0) as t0, max(t1) as t1 from tracklets where {condition}", parameters)
    if pd.isna(span["t0"].iloc[0]):
        return None, None
    zone = clock.zone()
    low = span["t0"].iloc[0].tz_convert(zone).tz_localize(None).floor("s").to_pydatetime()
    high = (span["t1"].iloc[0].tz_convert(zone).tz_localize(None).ceil("s") + timedelta(seconds=1)).to_pydatetime()
    long = high - low > timedelta(days=1)
    step, written = (timedelta(minutes=1), "MM-DD HH:mm") if long else (timedelta(seconds=1), "HH:mm:ss")
    begin, end = st.slider(clock.titled("Time"), low, high, (low, high), step, written, key="time", bind="query-params")
    st.caption(f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}")
    if low.year == 1970:
        st.caption("No start time is known for some videos: they count from 1970-01-01 00:00 (see `--start-time`).")
    if (begin, end) == (low, high):
        return None, None
    # A report's interval is never empty.
    return _utc(begin, zone), _utc(max(end, begin + step), zone)


def _utc(wall: datetime, zone: ZoneInfo) -> datetime:
    return wall.replace(tzinfo=zone).astimezone(UTC)

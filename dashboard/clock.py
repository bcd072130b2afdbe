"""Times as people at the site read them; the store keeps UTC."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st

WHEN = "YYYY-MM-DD HH:mm:ss"
UTC_NAME = "UTC"


def known(name: str | None) -> bool:
    """Whether this machine knows a time zone of that name."""
    try:
        return bool(name) and bool(ZoneInfo(str(name)))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


def time_zone() -> str:
    """The zone the filter bar settled on, for pages."""
    return str(st.session_state.get("time_zone", UTC_NAME))


def of_viewer() -> str | None:
    """The zone of the browser that looks, None where it does not say."""
    return st.context.timezone


def zone() -> ZoneInfo:
    """The same as an object."""
    return ZoneInfo(time_zone())


def local(times: pd.Series) -> pd.Series:
    """The same times as the site's clocks show them, but called UTC: charts then draw them as they are."""
    return times.dt.tz_convert(time_zone()).dt.tz_localize(None).dt.tz_localize("UTC")


def titled(what: str) -> str:
    """A label of times: what they are, and in which zone."""
    return f"{what} ({time_zone()})"


def when(what: str, written: str = WHEN) -> Any:
    """The column of a table that holds times."""
    return st.column_config.DatetimeColumn(titled(what), timezone=time_zone(), format=written)

"""Named reports: SQL and parameters, the same text on both stores with the same result.

The statements keep to what DuckDB and PostgreSQL share and agree on to the last bit: every parameter is cast (it may
be null), sums are of whole numbers (a sum of real numbers depends on their order), seconds are summed as milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from flows.errors import ReportError
from flows.store import Store

MAX_BIN_SECONDS = 366 * 86_400


@dataclass(frozen=True)
class Report:
    """One question to a store. `parameters` maps the names the SQL binds to their defaults; None does not filter."""

    name: str
    title: str
    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ReportError(f"{name} must be a name, got {value!r}")
    return value


def _time(name: str, value: object) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ReportError(f"{name} must be a time such as 2026-03-01T08:00 or ...T08:00+01:00, got {value!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _bin(name: str, value: object) -> int:
    try:
        seconds = int(str(value))
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= MAX_BIN_SECONDS:
        raise ReportError(f"{name} must be a whole number of seconds from 1 to {MAX_BIN_SECONDS}, got {value!r}")
    return seconds


_READERS: dict[str, Callable[[str, object], Any]] = {
    "source": _text,
    "class": _text,
    "t0": _time,
    "t1": _time,
    "bin_seconds": _bin,
}

_SOURCE = "(cast($source as text) is null or source_id = cast($source as text))"
_CLASS = "(cast($class as text) is null or class_name = cast($class as text))"


def _from(time: str) -> str:
    return f"(cast($t0 as timestamptz) is null or {time} >= cast($t0 as timestamptz))"


def _until(time: str) -> str:
    return f"(cast($t1 as timestamptz) is null or {time} < cast($t1 as timestamptz))"


def _seconds(column: str) -> str:
    """The sum of a column of seconds, to the millisecond and independent of the rows' order."""
    return f"cast(sum(cast(floor({column} * 1000 + 0.5) as bigint)) as double precision) / 1000"


_FILTERS: dict[str, Any] = {"source": None, "t0": None, "t1": None, "class": None}

_ALL = (
    Report(
        "counts",
        "Tracks per class",
        f"""
        select class_name, count(*) as tracks, cast(sum(n_observations) as bigint) as observations,
            {_seconds("duration_s")} as total_s, min(t0) as first_seen, max(t1) as last_seen
        from tracks
        where {_SOURCE} and {_CLASS} and {_from("t1")} and {_until("t0")}
        group by class_name order by tracks desc, class_name
        """,
        _FILTERS,
    ),
    Report(
        "counts_by_hour",
        "Tracks per class and time bin, by when each was first seen",
        f"""
        select to_timestamp(
                floor(cast(extract(epoch from t0) as double precision) / cast($bin_seconds as double precision))
                * cast($bin_seconds as double precision)
            ) as bin_start,
            class_name, count(*) as tracks
        from tracks
        where {_SOURCE} and {_CLASS} and {_from("t0")} and {_until("t0")}
        group by 1, 2 order by 1, 2
        """,
        {**_FILTERS, "bin_seconds": 3600},
    ),
    Report(
        "tracks",
        "Tracks in view at any time between t0 and t1",
        f"""
        select track_id, source_id, class_name, t0, t1, duration_s, n_observations, n_detected, n_bridged
        from tracks
        where {_SOURCE} and {_CLASS} and {_from("t1")} and {_until("t0")}
        order by t0, source_id, track_id
        """,
        _FILTERS,
    ),
    Report(
        "zones",
        "Visits and dwell per zone and class",
        f"""
        select source_id, zone, class_name, count(*) as visits, count(distinct track_id) as tracks,
            {_seconds("duration_s")} as total_s,
            {_seconds("duration_s")} / cast(count(duration_s) as double precision) as mean_s,
            max(duration_s) as longest_s
        from events
        where kind = 'visit' and {_SOURCE} and {_CLASS} and {_from("ts")} and {_until("ts")}
        group by source_id, zone, class_name order by source_id, zone, class_name
        """,
        _FILTERS,
    ),
    Report(
        "lines",
        "Crossings per line, direction and class",
        f"""
        select source_id, zone as line, class_name, direction, count(*) as crossings,
            count(distinct track_id) as tracks, cast(sum(case when inferred then 1 else 0 end) as bigint) as inferred
        from events
        where kind = 'crossing' and {_SOURCE} and {_CLASS} and {_from("ts")} and {_until("ts")}
        group by source_id, zone, class_name, direction order by source_id, zone, class_name, direction
        """,
        _FILTERS,
    ),
    Report(
        "quality",
        "How observations are known: share of each state, per class",
        f"""
        select class_name, state, count(*) as observations,
            cast(count(*) as double precision)
                / cast(sum(count(*)) over (partition by class_name) as double precision) as share
        from track_observations
        where {_SOURCE} and {_CLASS} and {_from("ts")} and {_until("ts")}
        group by class_name, state order by class_name, state
        """,
        _FILTERS,
    ),
    Report(
        "ledger",
        "Chunks per source and state, with what went wrong",
        f"""
        select source_id, state, error, count(*) as chunks, cast(sum(attempts) as bigint) as attempts,
            cast(sum(rows) as bigint) as observations, cast(sum(frames) as bigint) as frames,
            cast(sum(end_ns - start_ns) as double precision) / 1e9 as video_s
        from chunks where {_SOURCE}
        group by source_id, state, error order by source_id, state, error
        """,
        {"source": None},
    ),
)

REPORTS: dict[str, Report] = {report.name: report for report in _ALL}
"""Every report by name."""


def run_report(store: Store, name: str, **parameters: Any) -> pa.Table:
    """Run a report; parameters that are left out or None keep their default.

    Args:
        store: The store to ask.
        name: A key of REPORTS.
        **parameters: `source` and `class` are names; `t0` (inclusive) and `t1` (exclusive) are datetimes or ISO text,
            UTC where they carry no offset; `bin_seconds` is a whole number. `class` is a keyword of Python: pass
            `**{"class": "person"}`.

    Raises:
        ReportError: An unknown report or source, or parameters that do not fit; the message names those that do.
        StoreError: The store cannot be read.
    """
    report = REPORTS.get(name)
    if report is None:
        raise ReportError(f"no report {name!r}; there are {', '.join(REPORTS)}")
    values = _checked(report, parameters)
    if values["source"] is not None:
        known = store.query("select distinct source_id from chunks order by 1")["source_id"].to_pylist()
        if values["source"] not in known:
            raise ReportError(f"no source {values['source']!r}; the store has {', '.join(known) or 'none yet'}")
    return store.query(report.sql, values)


def _checked(report: Report, given: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(report.parameters)
    for name, value in given.items():
        if name not in values:
            raise ReportError(f"report {report.name} has no parameter {name!r}; it has {', '.join(values)}")
        if value is not None:
            values[name] = _READERS[name](name, value)
    t0, t1 = values.get("t0"), values.get("t1")
    if t0 is not None and t1 is not None and not t0 < t1:
        raise ReportError(f"t0 must be before t1, got {t0.isoformat()} and {t1.isoformat()}")
    return values

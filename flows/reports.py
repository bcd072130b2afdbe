"""Named reports: SQL of `statements` with parameters that are checked and bound; the same result on both stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from flows.errors import ReportError
from flows.statements import ALL, Report
from flows.store import Store

__all__ = ["REPORTS", "Report", "run_report"]

MAX_BIN_SECONDS = 366 * 86_400


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


def _whole(least: int, most: int, what: str) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ReportError(f"{name} must be a whole number of {what} from {least} to {most}, got {value!r}")
        return number

    return read


def _number(least: float, what: str) -> Callable[[str, object], float]:
    def read(name: str, value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise ReportError(f"{name} must be a number of {what}, at least {least:g}, got {value!r}")
        return number

    return read


def _unit(name: str, value: object) -> str:
    if value not in ("px", "m"):
        raise ReportError(f"{name} must be px or m, got {value!r}")
    return str(value)


_READERS: dict[str, Callable[[str, object], Any]] = {
    "source": _text,
    "class": _text,
    "zone": _text,
    "t0": _time,
    "t1": _time,
    "bin_seconds": _whole(1, MAX_BIN_SECONDS, "seconds"),
    "limit": _whole(1, 2**31, "rows"),
    "min_seconds": _number(0, "seconds"),
    "min_motion": _number(0, "box sizes a second"),
    # Smaller cells than this are more than a table can show.
    "cell": _number(0.01, "pixels or metres"),
    "unit": _unit,
}

_KNOWN = {
    "source": "select distinct source_id as name from chunks order by 1",
    "zone": "select distinct name from zones order by 1",
}
"""Parameters that name something in the store -> what there is."""

REPORTS: dict[str, Report] = {report.name: report for report in ALL}
"""Every report by name."""


def run_report(store: Store, name: str, **parameters: Any) -> pa.Table:
    """Run a report; parameters that are left out or None keep their default.

    Args:
        store: The store to ask.
        name: A key of REPORTS.
        **parameters: `source` and `class` are names; `t0` (inclusive) and `t1` (exclusive) are datetimes or ISO text,
            UTC where they carry no offset; docs/store.md has the others. `class` is a keyword of Python: pass
            `**{"class": "person"}`.

    Raises:
        ReportError: An unknown report, source or zone, or parameters that do not fit; the message names those that do.
        StoreError: The store cannot be read.
    """
    report = REPORTS.get(name)
    if report is None:
        raise ReportError(f"no report {name!r}; there are {', '.join(REPORTS)}")
    values = _checked(report, parameters)
    table = store.query(report.sql, values)
    if not table.num_rows:
        # An answer is one; that there is none may have this reason.
        _check_names(store, values)
    return table


def _check_names(store: Store, values: Mapping[str, Any]) -> None:
    for what, sql in _KNOWN.items():
        if values.get(what) is not None:
            known = store.query(sql)["name"].to_pylist()
            if values[what] not in known:
                raise ReportError(f"no {what} {values[what]!r}; the store has {', '.join(known) or 'none yet'}")


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

"""The reports of one source and period as one HTML file that needs nothing else: to be mailed, printed, kept as PDF."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.output import written_whole
from flows.reports import REPORTS, run_report
from flows.store import Store

_SECTIONS = (
    "counts",
    "counts_by_hour",
    "lines",
    "lines_by_hour",
    "od",
    "zones",
    "speed",
    "activity",
    "inferred",
    "ledger",
)
_BARS = {"counts_by_hour": "tracks", "lines_by_hour": "crossings"}
"""Reports over time that are drawn, and what is counted."""
_ROWS = 60
"""Rows of a table on paper; `sightflow report NAME --format csv` gives all."""
_MAX_BARS = 72
_UNITS = {"_m_s": "m/s", "_s": "s", "_h": "h", "_m": "m"}
_BAR_PX, _HEIGHT_PX = 9, 120

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2rem 0 .5rem; break-after: avoid; } p { margin: .3rem 0; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8886; white-space: nowrap; }
td.number, th.number { text-align: right; } tr { break-inside: avoid; } rect { fill: #0072B2; }
@media (prefers-color-scheme: dark) { rect { fill: #56B4E9; } }
@media print { body { max-width: none; margin: 0; font-size: 11px; } .scroll { overflow: visible; } }
"""


def write_page(store: Store, path: Path, **parameters: Any) -> int:
    """Write the printable page; it appears under its name only when it is complete.

    Args:
        store: asked.
        path: of the HTML file.
        **parameters: what every report takes, see `run_report`; None does not filter.

    Returns:
        Number of sections that have rows.

    Raises:
        ReportError: parameters that do not fit; UsageError: a file that cannot be written.
    """
    sections = []
    for name in _SECTIONS:
        fitting = {key: value for key, value in parameters.items() if key in REPORTS[name].parameters}
        table = run_report(store, name, **fitting)
        if table.num_rows:
            sections.append(_section(name, table))
    said = [f"{key} {value}" for key, value in parameters.items() if value is not None]
    body = "\n".join(sections) or "<p>Nothing was found: choose another source or a longer period.</p>"
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sightflow report</title><style>{_STYLE}</style></head><body><main>
<h1>Sightflow report</h1>
<p>{escape(", ".join(said) or "all sources, all times")}; written {datetime.now(UTC):%Y-%m-%d %H:%M}; times are UTC</p>
{body}
</main></body></html>
"""
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(sections)


def _section(name: str, table: pa.Table) -> str:
    drawn = _bars(table, _BARS[name]) if name in _BARS else ""
    return f"<section><h2>{escape(REPORTS[name].title)}</h2>\n{drawn}{_table(table)}</section>"


def _table(table: pa.Table) -> str:
    numbers = [not pa.types.is_string(field.type) for field in table.schema]
    kinds = [' class="number"' if number else "" for number in numbers]
    head = "".join(f"<th scope=col{k}>{_titled(n)}</th>" for n, k in zip(table.column_names, kinds, strict=True))
    rows = [
        "<tr>" + "".join(f"<td{k}>{_text(v)}</td>" for v, k in zip(row.values(), kinds, strict=True)) + "</tr>"
        for row in table.slice(0, _ROWS).to_pylist()
    ]
    left_out = f"<p>The first {_ROWS} of {table.num_rows} rows.</p>" if table.num_rows > _ROWS else ""
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>{left_out}'


def _titled(column: str) -> str:
    for ending, unit in _UNITS.items():
        if column.endswith(ending):
            return escape(f"{column.removesuffix(ending)} ({unit})".replace("_", " "))
    return escape(column.replace("_", " "))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return escape(f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value)


def _bars(table: pa.Table, column: str) -> str:
    """Bars of a count per time bin, all rows of a bin together."""
    counts: dict[datetime, int] = {}
    for row in table.select(["bin_start", column]).to_pylist():
        counts[row["bin_start"]] = counts.get(row["bin_start"], 0) + row[column]
    shown: Mapping[datetime, int] = dict(sorted(counts.items())[-_MAX_BARS:])
    most = max(shown.values())
    bars = []
    for number, (start, count) in enumerate(shown.items()):
        height = count / most * _HEIGHT_PX
        place = f'x="{number * _BAR_PX}" y="{_HEIGHT_PX - height:.1f}" width="{_BAR_PX - 1}" height="{height:.1f}"'
        bars.append(f"<rect {place}><title>{start:%Y-%m-%d %H:%M}: {count}</title></rect>")
    width = max(len(shown) * _BAR_PX, 1)
    span = f"{min(shown):%Y-%m-%d %H:%M} to {max(shown):%Y-%m-%d %H:%M}"
    said = f"{column.capitalize()} per time bin, {span}, {most} at most"
    size = f'viewBox="0 0 {width} {_HEIGHT_PX}" width="{width}"'
    return f'<svg role="img" aria-label="{said}" {size}>{"".join(bars)}</svg><p>{said}.</p>'

"""How much a store in a folder holds, and letting old observations go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.store.files import write_durably
from flows.store.ledger import Ledger, files_of
from flows.store.tables import STATS


def prune(folder: Path, ledger: Ledger, before: date) -> list[date]:
    """Unlist the observations of days before a date; see `Store.prune`.

    Files are removed by the first prune, or commit of their chunk, after readers that listed them are done.
    """
    days: set[date] = set()

    def kept(files: list[str]) -> list[str]:
        gone = {path: day for path in files if (day := _day(path)) is not None and day < before}
        days.update(gone.values())
        return [path for path in files if path not in gone]

    for row in ledger.rows():
        ledger.replace_files(row["chunk_id"], kept)
    if days and before > (pruned_until(folder) or date.min):
        write_durably(folder / "pruned_until", f"{before.isoformat()}\n".encode())
    return sorted(days)


def pruned_until(folder: Path) -> date | None:
    """The day before which observations were pruned, None where none were."""
    try:
        return date.fromisoformat((folder / "pruned_until").read_text().strip())
    except FileNotFoundError:
        return None


def stats(folder: Path, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """What the store holds, schema STATS; `rows` are the ledger's."""
    listed = {table: files_of(rows, table) for table in ("observations", "samples", "tracklets")}
    for table in ("links", "events"):
        listed[table] = [str(path.relative_to(folder)) for path in (folder / table).glob("**/[!.]*.parquet")]
    listed["chunks"] = [f"ledger/{row['chunk_id']}.json" for row in rows]
    found = []
    for table, names in sorted(listed.items()):
        days = [day for name in names if (day := _day(name)) is not None]
        files = [folder / name for name in names]
        found.append(
            {
                "table": table,
                "rows": len(rows) if table == "chunks" else sum(pq.read_metadata(path).num_rows for path in files),
                "bytes": sum(path.stat().st_size for path in files),
                "parts": len(files),
                "first_day": min(days, default=None),
                "last_day": max(days, default=None),
            }
        )
    return pa.Table.from_pylist(found, STATS)


def _day(path: str) -> date | None:
    """The day a file is of, None where its table is not kept by day."""
    found = re.search(r"/day=(\d{4}-\d\d-\d\d)/", path)
    return date.fromisoformat(found[1]) if found else None

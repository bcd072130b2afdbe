"""Observations as a table: CSV."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from flows.export.selection import Selection
from flows.store.tables import TRACK_OBSERVATIONS

COLUMNS = ("track_id", *(name for name in TRACK_OBSERVATIONS.names if name not in ("track_id", "mask")))
"""All columns of the observations but the mask."""


def write_csv(selection: Selection, path: Path) -> int:
    """A line an observation."""
    schema = pa.schema([TRACK_OBSERVATIONS.field(name).with_nullable(True) for name in COLUMNS])
    n_rows = 0
    with pacsv.CSVWriter(str(path), schema) as writer:
        for batch in selection.batches(COLUMNS):
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            n_rows += batch.num_rows
    return n_rows

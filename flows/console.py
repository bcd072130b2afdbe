"""What the commands share: finding the store, naming a video, printing tables."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.csv
import typer
from rich.console import Console
from rich.table import Table

from flows.config import Settings, StoreSettings
from flows.errors import StoreError, UsageError
from flows.reports import run_report
from flows.schema import EPOCH, NS, as_text
from flows.store import Store, open_store

_CHOICES = 20
"""Videos listed in a message: enough to see what their names look like, however long the archive."""

# Where nobody's window sets a width, tables get room for their names.
_WIDTH = 160

# Names of sources and files are no markup: "[gate]" is printed as it is.
out = Console(soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else _WIDTH)
err = Console(stderr=True, soft_wrap=True)


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help=f"A folder or postgresql://...; default $SIGHTFLOW_STORE__URL or {StoreSettings().url}."
    ),
]


def warn_of_password(store: str | None) -> None:
    """Say so where the command line holds a store's password: every user of the machine can read it there."""
    if store is not None and "://" in store and urlsplit(store).password:
        err.print(
            "[yellow]warning:[/] others on this machine can read the password in --store; "
            "leave it to PGPASSWORD, ~/.pgpass or SIGHTFLOW_STORE__URL",
            highlight=False,
        )


def named_values(pairs: Iterable[str], option: str = "--set") -> dict[str, str]:
    """Values given to an option as name=value.

    Raises:
        UsageError: Something else.
    """
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} takes name=value, got {pair!r}")
        values[name] = value
    return values


def store_url(given: str | None) -> str:
    """The store's address: the flag, else the environment, else the default folder."""
    warn_of_password(given)
    return given or Settings.load().store.url


def source_name(value: Any) -> Any:
    """Sources as the store has them, given in any encoding: one, several or None."""
    return [as_text(name) for name in value] if isinstance(value, list) else value and as_text(value)


def existing_store(given: str | None) -> Store:
    """The store a reading command asks; reading never creates a folder.

    Raises:
        StoreError: There is none yet.
    """
    url = store_url(given)
    if "://" not in url and not Path(url).expanduser().is_dir():
        raise StoreError(f"{url}: no store there yet; `sightflow run` makes one, or name another with --store")
    return open_store(url)


def video_id(store: Store, wanted: str | None) -> str:
    """The id of the video meant by an id, a source, a path, or nothing where there is only one.

    Raises:
        UsageError: None or several fit; the message lists the choices.
    """
    rows = store.query("select video_id, source_id, uri from videos order by source_id, uri").to_pylist()
    names = set() if wanted is None else {wanted, str(Path(wanted).expanduser().absolute())}
    fits = [row for row in rows if wanted is None or names & {row["video_id"], row["source_id"], row["uri"]}]
    if len(fits) == 1:
        return str(fits[0]["video_id"])
    listed = [f"  {row['video_id']}  {row['source_id']}  {row['uri']}" for row in fits or rows]
    more = [f"  ... and {len(listed) - _CHOICES} more"] if len(listed) > _CHOICES else []
    choices = "\n".join(listed[:_CHOICES] + more)
    said = f"--video {wanted} fits {len(fits)}" if wanted else f"the store has {len(rows)}"
    raise UsageError(f"{said} videos; name one with --video:\n{choices or '  (none yet)'}")


def utc(time: datetime | None) -> datetime | None:
    """A time from the command line: UTC where it names no zone."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def command_line(given: str, without_password: str) -> str:
    """How this process was called, for the record; a store's password is left out."""
    return as_text(shlex.join(["sightflow", *(argument.replace(given, without_password) for argument in sys.argv[1:])]))


def print_undated(store: Store, sources: Iterable[str]) -> None:
    """Say where several videos of a source know no start time: their tracks would seem to overlap in time."""
    counted = store.query(
        "select source_id, count(*) as n from videos where start_time = $epoch group by source_id order by source_id",
        {"epoch": EPOCH},
    )
    for row in counted.to_pylist():
        if row["n"] > 1 and row["source_id"] in sources:
            err.print(
                f"{row['n']} videos of {row['source_id']} know no start time and are all filed at {EPOCH:%Y-%m-%d}: "
                "run each with its --start-time, or reports by time and tracks across videos mean nothing",
                markup=False,
                highlight=False,
            )


def print_missing(store: Store, sources: Iterable[str]) -> None:
    """Say where chunks are missing: objects seen on both sides of one are counted as two."""
    from flows.finished import missing_chunks

    for source in sorted(sources):
        missing = missing_chunks(store, source)
        if not missing:
            continue
        states = ", ".join(f"{n} {state}" for state, n in sorted(Counter(row["state"] for row in missing).items()))
        seconds = sum(row["end_ns"] - row["start_ns"] for row in missing) / NS
        err.print(
            f"{source}: {len(missing)} chunks are missing ({states}), {seconds:.0f} s of video: tracks end where they "
            "begin, and who is seen on both sides counts twice; `sightflow status` says why",
            markup=False,
            highlight=False,
        )


def print_counts(store: Store, sources: Iterable[str]) -> None:
    """Tracks per class of each source."""
    for source in sorted(sources):
        rows = run_report(store, "counts", source=source).to_pylist()
        counted = ", ".join(f"{row['tracks']} {row['class_name']}" for row in rows)
        out.print(f"{source}: {counted or 'no tracks'}", highlight=False)


def print_table(table: pa.Table, title: str, output: str) -> None:
    """Print a report as a table, CSV or JSON lines.

    Raises:
        UsageError: Another format is asked for.
    """
    if output == "csv":
        text = io.BytesIO()
        pyarrow.csv.write_csv(table, text)
        sys.stdout.write(text.getvalue().decode())
    elif output == "json":
        sys.stdout.writelines(json.dumps(row, default=_json) + "\n" for row in table.to_pylist())
    elif output == "table":
        shown = Table(*table.column_names, title=title)
        for row in table.to_pylist():
            shown.add_row(*(_text(value) for value in row.values()))
        out.print(shown)
    else:
        raise UsageError(f"--format is table, csv or json, got {output!r}")


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return value.strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else str(value)

"""`sightflow db`: make a store, upgrade it, check it, look at it, and let old observations go."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import available_timezones

import typer

from flows.console import StoreOption, existing_store, out, print_table, source_name, store_url
from flows.errors import StoreError, UsageError
from flows.store import open_store

app = typer.Typer(no_args_is_help=True, help="The store itself: schema, roles, size, retention.")

_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}

_INCOMPLETE = """
    select c.source_id, c.chunk_id, c.rows as promised, coalesce(s.n, 0) as stored
    from chunks c left join (
        select chunk_id, cast(sum(n_observations) as bigint) as n from samples group by chunk_id
    ) s on s.chunk_id = c.chunk_id
    where c.rows <> coalesce(s.n, 0) order by 1, 2
"""


@app.command()
def init(
    store: StoreOption = None,
    reader: Annotated[
        str | None, typer.Option(help="Role that may read and nothing else, for the dashboard; made if it is new.")
    ] = None,
) -> None:
    """Make the store where there is none; in PostgreSQL, the extension, the schema and its tables."""
    with open_store(store_url(store)) as opened:
        out.print(f"{opened.url}: ready", highlight=False)
        if reader is None:
            return
        made = opened.grant_reader(reader)
    out.print(f"{reader} may read" + (f"; give it a password: \\password {reader} in psql" if made else ""))


@app.command()
def upgrade(store: StoreOption = None) -> None:
    """Lead a store an older Sightflow wrote to this version's schema; all of it or nothing."""
    opened = existing_store(store)
    try:
        steps = opened.upgrade()
    finally:
        opened.close()
    out.print(f"{opened.url}: " + (f"upgraded to version {steps[-1]}" if steps else "up to date"), highlight=False)


@app.command()
def check(store: StoreOption = None) -> None:
    """Check the schema's version, and that every finished chunk has the rows its ledger promises; changes nothing."""
    opened = existing_store(store)
    try:
        opened.check()
        wrong = opened.query(_INCOMPLETE)
    finally:
        opened.close()
    if wrong.num_rows:
        print_table(wrong, "Chunks with other rows than the ledger says", "table")
        raise StoreError(f"store {opened.url}: {wrong.num_rows} chunks are not as the ledger says")
    out.print(f"{opened.url}: of this version, every chunk as the ledger says", highlight=False)


@app.command("time-zone")
def time_zone(
    source: Annotated[str, typer.Argument(callback=source_name, help="The source whose times are shown in it.")],
    name: Annotated[str, typer.Argument(help="Of the zone, such as Europe/Berlin.")],
    store: StoreOption = None,
) -> None:
    """Set the time zone in which the dashboard and clips show a source's times; what is stored stays in UTC."""
    if name not in available_timezones():
        raise UsageError(f"no time zone {name!r}: expected a name such as Europe/Berlin or UTC")
    with existing_store(store) as opened:
        known = opened.query("select source_id from sources order by 1")["source_id"].to_pylist()
        if source not in known:
            raise UsageError(f"no source {source!r} in {opened.url}; it has {', '.join(known) or 'none yet'}")
        opened.write_time_zone(source, name)
    out.print(f"times of {source} are shown in {name}", highlight=False)


@app.command()
def stats(
    store: StoreOption = None,
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Say how much lies in the store: rows, bytes, and the days there are."""
    with existing_store(store) as opened:
        table = opened.stats()
    print_table(table, f"What {opened.url} holds", output)


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="An age (90d, 12w, 6m, 2y) or a day (2026-03-01); whole days in UTC.")
    ],
    store: StoreOption = None,
) -> None:
    """Remove old observations, with their masks; tracks, samples and events stay, and so do the reports on them."""
    before = day_before(older_than, datetime.now(UTC).date())
    with existing_store(store) as opened:
        days = opened.prune(before)
    span = f" ({days[0]} to {days[-1]})" if days else ""
    out.print(f"observations of {len(days)} days before {before} removed{span}", highlight=False)


def day_before(age: str, today: date) -> date:
    """The first day to keep.

    Raises:
        UsageError: Neither an age nor a day, or a day to come.
    """
    found = re.fullmatch(r"(\d{1,5})([dwmy])", age)
    try:
        day = today - timedelta(days=int(found[1]) * _DAYS[found[2]]) if found else date.fromisoformat(age)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--older-than is an age such as 90d or 12w, or a day such as 2026-03-01, got {age!r}"
        ) from None
    if day > today:
        raise UsageError(f"--older-than {age} lies in the future: that would remove everything")
    return day

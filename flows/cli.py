"""The `sightflow` command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows import db, exchange, places, run
from flows.config import Settings
from flows.console import (
    StoreOption,
    err,
    existing_store,
    named_values,
    out,
    print_missing,
    print_table,
    source_name,
    store_url,
    video_id,
)
from flows.errors import MissingExtraError, SightflowError
from flows.exchange import VideoOption
from flows.journal import Journal
from flows.known import must_know, same_video

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Hours of CCTV or drone video in, structured and queryable tracks out.",
)
models_app = typer.Typer(no_args_is_help=True, help="Named models: what there is, and where.")
app.add_typer(models_app, name="models")
app.add_typer(db.app, name="db")
app.add_typer(places.events_app, name="events")
app.command()(places.zones)
app.command()(places.calibrate)
app.command()(run.run)
app.command()(exchange.render)
app.command()(exchange.export)
app.command()(exchange.privacy)
app.command("import")(exchange.import_file)


@app.command()
def status(store: StoreOption = None) -> None:
    """Show the ledger: chunks by source and state, rows, errors."""
    report("ledger", store=store)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of the report; `list` names them all.")] = "counts",
    store: StoreOption = None,
    source: Annotated[str | None, typer.Option(callback=source_name, help="Only this source.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Only this class.")] = None,
    t0: Annotated[str | None, typer.Option(help="From this time on (ISO, UTC).")] = None,
    t1: Annotated[str | None, typer.Option(help="Before this time (ISO, UTC).")] = None,
    bin_seconds: Annotated[int | None, typer.Option(help="Width of a time bin.")] = None,
    others: Annotated[
        list[str] | None, typer.Option("--set", help="Another parameter of the report: name=value, see docs/store.md.")
    ] = None,
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    html: Annotated[Path | None, typer.Option(help="Write all reports of the period as one printable page.")] = None,
) -> None:
    """Answer a question from the store, e.g. `sightflow report counts --class person`."""
    from flows.printed import write_page
    from flows.reports import REPORTS, run_report

    if name == "list":
        for known in REPORTS.values():
            out.print(f"{known.name:18} {known.title}", highlight=False)
        return
    given = {"source": source, "class": class_name, "t0": t0, "t1": t1, "bin_seconds": bin_seconds}
    given |= named_values(others or ())
    with existing_store(store) as opened:
        if html is not None:
            write_page(opened, html, **given)
            return
        table = run_report(opened, name, **{k: v for k, v in given.items() if v is not None})
    print_table(table, REPORTS[name].title, output)


@app.command()
def evaluate(
    truth: Annotated[str, typer.Option(help="Ground truth in MOT format, or an imported source of the same video.")],
    result: Annotated[Path | None, typer.Option(help="Tracks in MOT format; default: those in the store.")] = None,
    store: StoreOption = None,
    video: VideoOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Score tracks against ground truth: HOTA, IDF1, MOTA and what they are made of."""
    from flows.annotations import from_store, read_mot
    from flows.evaluate import evaluate as score
    from flows.finished import border_frames

    borders = None
    if result is not None:
        scores = score(read_mot(Path(truth), ground_truth=True), read_mot(result))
    else:
        with existing_store(store) as opened:
            which = video_id(opened, video)
            if Path(truth).exists():
                true = read_mot(Path(truth), ground_truth=True)
            else:
                known = same_video(opened, which, truth, f"--truth {truth}: no such file, and")
                true = from_store(opened, known["video_id"])
            scores, borders = score(true, from_store(opened, which)), border_frames(opened, which)
    values = {k: v for k, v in vars(scores).items() if isinstance(v, int | float)}
    if borders is not None:  # a file knows of no chunks
        values["border_switches"] = sum(scores.switches_at(borders).values())
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    for key, value in values.items():
        out.print(f"{key:16} {value:.1f}" if isinstance(value, float) else f"{key:16} {value}", highlight=False)


@app.command()
def stitch(
    source: Annotated[str, typer.Argument(callback=source_name, help="The source whose tracklets are joined anew.")],
    store: StoreOption = None,
    version: Annotated[int, typer.Option(min=1, help="Version the links are written as; the newest is shown.")] = 1,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Join a source's tracklets into tracks again, without touching video."""
    from flows.events import recompute_events
    from flows.stitch import stitch_source

    settings = Settings.load(config)
    with existing_store(store) as opened:
        must_know(opened, source)
        tracks = stitch_source(opened, source, settings.stitch, version)
        print_missing(opened, [source])
        recompute_events(opened, source, settings.events, settings.georeference)
    out.print(f"{tracks} tracks in version {version}")


@app.command()
def audit(
    source: Annotated[str, typer.Argument(callback=source_name, help="The source whose stitching is put to the test.")],
    store: StoreOption = None,
    cuts: Annotated[int, typer.Option(min=1, help="How often an unbroken tracklet is cut in two.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the places; the same seed cuts at the same ones.")] = 0,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Cut unbroken tracklets in two and see whether stitching finds the pieces: trust without ground truth."""
    from flows.audit import audit_source

    settings = Settings.load(config)
    with existing_store(store) as opened:
        must_know(opened, source)
        table = audit_source(opened, source, settings.stitch, cuts=cuts, seed=seed)
    print_table(table, f"Stitching of {source}, by length of the gap in seconds", output)


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the scene, the store and the video.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int | None, typer.Option(min=0, help="Another scene than the bundled one.")] = None,
    store: Annotated[
        str | None, typer.Option(help="A folder or postgresql://...; default: `store` in the --out folder.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON with the scores, nothing else.")
    ] = False,
    score: Annotated[bool, typer.Option("--evaluate", help="Score the tracks against the scene's truth.")] = False,
) -> None:
    """Render a synthetic scene with known truth, run the whole flow on it and say what came out."""
    from flows.demo.run import run_demo

    run_demo(out_dir, seed=seed, store_url=store, score=score or as_json, as_json=as_json)


@models_app.command("list")
def models_list() -> None:
    """All models there are names for."""
    from flows.models import list_models

    table = Table("name", "kind", "size", "licence", "where", "what")
    for entry in list_models():
        size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "?"
        table.add_row(entry.name, entry.kind, size, entry.licence, entry.where, entry.description)
    out.print(table)


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A name from `sightflow models list`.")]) -> None:
    """Download a model into the cache, checked against its SHA-256."""
    from flows.models import pull

    for model in pull(name):
        out.print(f"{model.kind} {model.name}: {model.path}")


@app.command()
def doctor(store: StoreOption = None) -> None:
    """Check the installation, the GPU, the models and the store: each line OK, or how to fix it."""
    from flows.doctor import run_checks

    checks = run_checks(store_url(store))
    for check in checks:
        mark = {True: "[green]OK[/]  ", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        out.print(f"{mark} {check.name}: {escape(check.detail)}", highlight=False, markup=True)
        if check.ok is not True and check.fix:
            out.print(f"     -> {check.fix}", highlight=False)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command()
def dashboard(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = 8501,
    edit: Annotated[bool, typer.Option("--edit", help="Let pages write: correct tracks, draw zones.")] = False,
) -> None:
    """Open the dashboard on a store."""
    import dashboard as pages

    command = pages.command(store_url(store), port, edit)
    os.execv(command[0], command)


@app.command()
def serve(
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = 8000,
) -> None:
    """Answer short clips over HTTP."""
    import serve as endpoint

    command = endpoint.command(store_url(store), host, port)
    os.execv(command[0], command)


def main() -> None:
    """Entry point: errors of ours end in one clear line and their exit code."""
    try:
        Journal.from_environment().open()
        app(prog_name="sightflow")
    except SightflowError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("flows", "serve", "dashboard"):
            raise
        missing = MissingExtraError(f"this needs {error.name}, which is not installed: pip install 'sightflow[video]'")
        _fail(str(missing), missing.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, exit_code: int) -> None:
    err.print(f"[red]error:[/] {escape(message)}", highlight=False)
    raise SystemExit(exit_code)

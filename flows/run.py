"""The command `sightflow run`: from the command line to the flow, and what came of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.config import Settings
from flows.console import (
    StoreOption,
    command_line,
    err,
    out,
    print_counts,
    print_missing,
    print_undated,
    source_name,
    utc,
    warn_of_password,
)
from flows.errors import UsageError
from flows.store import open_store

if TYPE_CHECKING:
    from flows.plan import RunSummary

# What shells give to a command that Ctrl-C ended.
_STOPPED = 130


def run(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or s3://, gs://, https:// addresses.")],
    store: StoreOption = None,
    source: Annotated[
        str | None, typer.Option(callback=source_name, help="Camera the videos come from; default: each file's name.")
    ] = None,
    start_time: Annotated[
        datetime | None, typer.Option(help="World time of the first frame, UTC; default: what the file says.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="YOLO model: a name or a path.")] = None,
    segmenter: Annotated[str | None, typer.Option(help="SAM 2 model: a name or a path.")] = None,
    segmenter_size: Annotated[int | None, typer.Option(help="Input size of the segmenter in pixels.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to track, with commas between; default: all.")] = None,
    detect_every_seconds: Annotated[
        float | None, typer.Option(help="Run the detector once in so many seconds of video; default: 0.5.")
    ] = None,
    detect_every: Annotated[int | None, typer.Option(help="The same in frames: on every n-th frame.")] = None,
    chunk_seconds: Annotated[float | None, typer.Option(help="Length of a chunk in seconds of video.")] = None,
    masks: Annotated[str | None, typer.Option(help="What is stored of masks: none, polygon or rle.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; see docs/settings.md.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try chunks again that failed before.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on for ever with the videos that come.")] = False,
) -> None:
    """Turn videos into stored tracks. What is done already is skipped; a killed run goes on where it was.

    Several runs may share a store: each chunk is done by one of them.
    """
    # Whoever stops a run, or closes its terminal, gets what Ctrl-C gets, while it loads what it is made of, too.
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is signal.SIG_DFL:  # `nohup` has it ignored
            signal.signal(end, signal.default_int_handler)
    warn_of_password(store)
    settings = Settings.load(
        config,
        {
            "store": {"url": store, "masks": masks},
            "detect": {
                "detector": detector,
                "detect_every_seconds": detect_every_seconds,
                "detect_every": detect_every,
                "classes": tuple(c.strip() for c in classes.split(",")) if classes else None,
            },
            "segment": {"segmenter": segmenter, "image_size": segmenter_size},
            "plan": {"chunk_seconds": chunk_seconds},
        },
    )
    try:
        done = run_flow(paths, settings, source=source, start_time=start_time, retry_failed=retry_failed, watch=watch)
    except KeyboardInterrupt:
        err.print("Stopped. What is finished is stored; the same command does the rest.")
        raise typer.Exit(_STOPPED) from None
    if not done:
        raise typer.Exit(1)


def run_flow(
    paths: Sequence[str],
    settings: Settings,
    *,
    source: str | None = None,
    start_time: datetime | None = None,
    retry_failed: bool = False,
    watch: bool = False,
    quiet: bool = False,
) -> bool:
    """Run the flow with progress and a closing summary; False where something failed."""
    # Read when Ray is imported, and documented: else it writes pages about every dead worker to standard output.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    from flows import pipeline
    from flows.media import find_videos
    from flows.plan import plan_run, watch_videos
    from flows.progress import LedgerProgress

    if watch:
        if start_time is not None:
            raise UsageError("--start-time is the first frame of one video, but --watch takes all that come")
        uris: Iterable[str] = watch_videos(paths, settings.run.watch_seconds)
    else:
        uris = found = find_videos(paths)
        if source is not None and start_time is not None and len(found) > 1:
            raise UsageError(
                f"--start-time is the first frame of one video, got {len(found)} videos of {source}: they would all "
                "lie at the same time; run each with its own"
            )
    with open_store(settings.store.url) as opened:
        summary, todo = plan_run(
            uris,
            settings,
            opened,
            source_id=source,
            start_time=utc(start_time),
            command=command_line(settings.store.url, opened.url),
            retry_failed=retry_failed,
        )
        with LedgerProgress(opened, summary, err):
            pipeline.run(todo, summary, settings, opened)
        _print_errors(summary)
        if quiet:
            return not summary.failed and not summary.rejected
        if summary.planned and summary.skipped == summary.planned:
            err.print(f"Nothing to do: all {summary.planned} chunks were processed before.")
        out.print(
            f"{summary.done} chunks processed, {summary.skipped} done before, {summary.failed} failed, "
            f"{summary.rejected} videos rejected; store: {opened.url}"
        )
        print_counts(opened, summary.sources)
        print_missing(opened, summary.sources)
        print_undated(opened, summary.sources)
    return not summary.failed and not summary.rejected


def _print_errors(summary: RunSummary) -> None:
    for end, name, error in summary.errors:
        said = error if error.startswith(name) else f"{name}: {error}"
        err.print(f"[red]{end}[/] {escape(said)}", highlight=False)
    more = summary.failed + summary.rejected - len(summary.errors)
    if more > 0:
        err.print(f"... and {more} more: `sightflow status` lists them", highlight=False)

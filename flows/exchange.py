"""`sightflow export` and `render`: what leaves a store as files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.console import StoreOption, err, existing_store, out, utc, video_id
from flows.errors import UsageError
from flows.store import Filter, Store

VideoOption = Annotated[
    str | None, typer.Option("--video", help="Video id, source with one video, or path; needed if there are several.")
]
T0Option = Annotated[datetime | None, typer.Option(help="From this world time on (UTC).")]
T1Option = Annotated[datetime | None, typer.Option(help="Before this world time (UTC).")]


def export(
    file: Annotated[Path, typer.Argument(help="The file to write; for yolo a folder.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="mot, mot-gt, mot-det, coco, csv, geojson, geojson-points, geoparquet, geoparquet-points, mf-json, "
            "cvat or yolo; see docs/exports.md.",
        ),
    ],
    store: StoreOption = None,
    video: VideoOption = None,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    t0: T0Option = None,
    t1: T1Option = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Only this class; may be repeated.")] = None,
    tracks: Annotated[
        list[str] | None,
        typer.Option("--track", help="Only this track: its id, or with --video its number; may be repeated."),
    ] = None,
) -> None:
    """Write tracks in a format other tools read."""
    from flows.export import export as write
    from flows.export.selection import tracklet_rows

    with existing_store(store) as opened:
        chosen = video_id(opened, video) if video else None
        track_ids = tuple(_track_id(opened, chosen, track) for track in tracks or ())
        where = Filter(source, chosen, utc(t0), utc(t1), tuple(classes or ()), track_ids)
        with _progress() as bar:
            task = bar.add_task("exporting", total=tracklet_rows(opened, where))
            rows = write(opened, format_name, file, where, lambda n_rows: bar.advance(task, n_rows))
    out.print(f"{rows} rows written to {file}")


def render(
    file: Annotated[Path, typer.Argument(help="The mp4 to write.")],
    store: StoreOption = None,
    video: VideoOption = None,
    t0: T0Option = None,
    t1: T1Option = None,
) -> None:
    """Draw what was found on the video: masks, ids, classes, trails, states."""
    from flows.render import render_video

    with existing_store(store) as opened:
        frames = render_video(opened, video_id(opened, video), file, t0=utc(t0), t1=utc(t1))
    out.print(f"{frames} frames written to {file}")


def _track_id(store: Store, video: str | None, wanted: str) -> str:
    """The id of a track named by its id, or by the number it has in pictures of a video."""
    from flows.tracks import short_ids

    if not wanted.isdecimal():
        return wanted
    if video is None:
        raise UsageError(f"--track {wanted} is a number in one video: name it with --video, or give the track's id")
    for track_id, number in short_ids(store, video).items():
        if number == int(wanted):
            return track_id
    raise UsageError(f"--track {wanted}: no track has this number in the video")


def _progress() -> Progress:
    """A bar on the terminal; nothing where there is none."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )

"""`sightflow export`, `render` and `import`: what leaves a store as files, and comes from other programs' files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.console import (
    StoreOption,
    command_line,
    err,
    existing_store,
    named_values,
    out,
    source_name,
    store_url,
    utc,
    video_id,
)
from flows.errors import UsageError
from flows.store import Filter, Store, open_store

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
            help="mot, mot-gt, mot-det, coco, csv, geojson, geojson-points, geojson-outlines, geoparquet, "
            "geoparquet-points, mf-json, cvat, cvat-polygons or yolo; see docs/exports.md.",
        ),
    ],
    store: StoreOption = None,
    video: VideoOption = None,
    source: Annotated[str | None, typer.Option(callback=source_name, help="Only this source.")] = None,
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
    if not rows:
        err.print("[yellow]nothing fits[/]: these filters leave no observation of a track")


def import_file(
    file: Annotated[Path, typer.Argument(help="Ground truth or another tracker's results.")],
    video: Annotated[str, typer.Option(help="Path or address of the video they lie on.")],
    source: Annotated[
        str, typer.Option(callback=source_name, help="Name the tracks get in the store, for example gate-3-truth.")
    ],
    store: StoreOption = None,
    format_name: Annotated[str, typer.Option("--format", help="mot or coco.")] = "mot",
    class_name: Annotated[
        str, typer.Option("--class", help="Class of MOT files that have no column for it.")
    ] = "person",
    names: Annotated[
        list[str] | None, typer.Option("--name", help="What a class number of MOT means, as in 14=forklift.")
    ] = None,
    first_frame: Annotated[
        int | None, typer.Option(help="Number of the first frame; default: 1 in MOT, 0 in COCO.")
    ] = None,
    start_time: Annotated[
        datetime | None, typer.Option(help="World time of the first frame, UTC; default: what the file says.")
    ] = None,
) -> None:
    """Put ground truth or another tracker's results into a store, as a source beside one's own."""
    from flows.decode import find_videos, probe
    from flows.ingest import import_tracks, read_coco_boxes, read_mot_boxes

    (uri,) = find_videos([video])
    if format_name == "mot":
        numbers = {int(number): name for number, name in named_values(names or (), "--name").items()}
        given = read_mot_boxes(
            file, first_frame=1 if first_frame is None else first_frame, class_name=class_name, names=numbers
        )
    elif format_name == "coco":
        given = read_coco_boxes(file, first_frame=first_frame or 0, stem=Path(uri).stem)
    else:
        raise UsageError(f"--format is mot or coco, got {format_name!r}")
    with open_store(store_url(store)) as opened:
        tracks = import_tracks(opened, probe(uri, source, utc(start_time)), given)
    out.print(f"{tracks} tracks, {len(given)} boxes imported as {source}")


def render(
    file: Annotated[Path, typer.Argument(help="The mp4 to write; with --track a .png, for a sheet of its crops.")],
    store: StoreOption = None,
    video: VideoOption = None,
    t0: T0Option = None,
    t1: T1Option = None,
    track: Annotated[
        str | None, typer.Option(help="Only while this track lasts: its id, or with --video its number.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="Only around the event with this id.")] = None,
    around: Annotated[float, typer.Option(min=0, help="Seconds shown before and after a track or an event.")] = 3.0,
    blur: Annotated[
        list[str] | None, typer.Option("--blur", help="Pixelate objects of this class; may be repeated.")
    ] = None,
    masks: Annotated[bool, typer.Option(help="Draw masks.")] = True,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Show this source's tracks of the same video on a picture beside; may be repeated."),
    ] = None,
    counters: Annotated[bool, typer.Option(help="Count what is in view, in zones and over lines.")] = True,
    trail_seconds: Annotated[float, typer.Option(min=0, help="How far back trails reach; 0 for none.")] = 2.0,
    sound: Annotated[bool, typer.Option(help="Keep the video's sound.")] = True,
) -> None:
    """Draw what was found on the video: masks, ids, classes, trails, states, zones, counters."""
    from flows.contact_sheet import write_contact_sheet
    from flows.render import RenderOptions, expected_frames, render_video, track_span

    with existing_store(store) as opened:
        chosen = video_id(opened, video) if video else None
        track_id = _track_id(opened, chosen, track) if track else None
        if file.suffix.lower() == ".png":
            if track_id is None or beside:
                raise UsageError(f"{file}: a .png is the sheet of one track; name it with --track, without --beside")
            out.print(f"{write_contact_sheet(opened, track_id, file, blur=tuple(blur or ()))} crops written to {file}")
            return
        start, end = utc(t0), utc(t1)
        if track_id or event:
            chosen, start, end = track_span(opened, around, track_id=track_id, event_id=event, video_id=chosen)
        options = RenderOptions(
            masks=masks, counters=counters, trail_s=trail_seconds, sound=sound, blur=tuple(blur or ())
        )
        chosen = chosen or video_id(opened, None)
        with _progress() as bar:
            task = bar.add_task("rendering", total=expected_frames(opened, chosen, start, end))
            frames = render_video(
                opened, chosen, file, t0=start, t1=end, beside=beside or (), options=options,
                tell=lambda n_frames: bar.advance(task, n_frames),
            )  # fmt: skip
    out.print(f"{frames} frames written to {file}")


def privacy(
    classes: Annotated[
        list[str] | None, typer.Argument(help="Classes to hide; without any, say what is hidden.")
    ] = None,
    store: StoreOption = None,
    off: Annotated[bool, typer.Option("--off", help="Hide nothing any more.")] = False,
) -> None:
    """Pixelate objects of some classes on every picture made from the store, whoever makes it."""
    from flows.known import unknown_classes
    from flows.privacy import hidden_classes, hide_classes

    if off and classes:
        raise UsageError("name classes to hide, or --off to hide none, not both")
    with existing_store(store) as opened:
        if off or classes:
            hide_classes(opened, classes or (), command_line(store_url(store), opened.url))
        hidden = hidden_classes(opened)
        for name in unknown_classes(opened, hidden):
            err.print(f"[yellow]nothing here is a {escape(name)} so far[/]: is it spelt as the detector spells it?")
    out.print(f"hidden on every picture: {', '.join(hidden) or 'nothing'}")


def _track_id(store: Store, video: str | None, wanted: str) -> str:
    """The id of a track named by its id, or by the number it has in pictures of a video."""
    from flows.tracks import short_ids

    if not wanted.isdecimal():
        return wanted
    if video is None:
        raise UsageError(f"--track {wanted} is a number in one video: name it with --video, or give the track's id")
    numbers = short_ids(store, video)
    for track_id, number in numbers.items():
        if number == int(wanted):
            return track_id
    known = f"they go from 1 to {len(numbers)}" if numbers else "it has no tracks"
    raise UsageError(f"--track {wanted}: no track has this number in the video, {known}")


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

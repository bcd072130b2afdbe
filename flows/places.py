"""`sightflow calibrate`, `zones` and `events`: where things are, and what happened there."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flows.config import Settings
from flows.console import StoreOption, err, existing_store, out, source_name, utc
from flows.errors import CalibrationError, UsageError
from flows.georeference import Calibration
from flows.known import known_sources, must_know
from flows.schema import EPOCH, ImageArray
from flows.store import Store, Zone

events_app = typer.Typer(no_args_is_help=True, help="Events: visits, crossings, speeds, stops, work, encounters.")
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings; see docs/settings.md.")]


def calibrate(
    source: Annotated[str, typer.Argument(callback=source_name, help="The source whose ground plane is fitted.")],
    points: Annotated[Path | None, typer.Option(help="CSV of control points; see docs/calibration.md.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", help="World time from which it holds, UTC; default: from ever on.")
    ] = None,
    k1: Annotated[float | None, typer.Option(help="Lens distortion, where it is known.")] = None,
    fit_lens: Annotated[bool, typer.Option("--fit-lens", help="Fit the lens distortion as well.")] = False,
    check: Annotated[Path | None, typer.Option(help="Picture to write: the metre grid on a still.")] = None,
    still: Annotated[
        str | None, typer.Option(help="Picture or video to draw on; default: the source's newest video.")
    ] = None,
    grid_m: Annotated[float | None, typer.Option(help="Metres between the grid's lines; default: what fits.")] = None,
    config: ConfigOption = None,
    store: StoreOption = None,
) -> None:
    """Fit a source's ground plane from control points, place what is stored and recompute its events; or check it."""
    from flows.locate import relocate

    settings = Settings.load(config)
    if points is None and (since is not None or k1 is not None or fit_lens):
        raise UsageError("--from, --k1 and --fit-lens belong to a fit: give control points with --points")
    if check is None and grid_m is not None:
        raise UsageError("--grid-m belongs to a picture: name one with --check")
    with existing_store(store) as opened:
        if points is not None:
            calibration = _fitted(opened, source, points, k1, fit_lens, still)
            opened.write_calibration(source, calibration.to_json(), utc(since) or EPOCH)
            relocate(opened, source)
            _recompute(opened, source, settings)
            _note_if_unknown(opened, source)
        elif (text := opened.calibration(source)) is not None:
            calibration = Calibration.from_json(text)
        else:
            raise CalibrationError(f"source {source!r} has no calibration yet: give control points with --points")
        _describe(calibration)
        if check is not None:
            from flows.metre_grid import first_picture, write_check

            if not len(calibration.points_m):
                raise CalibrationError(f"source {source!r} flies: no one grid fits all its frames")
            picture = _first_of_newest(opened, source) if still is None else first_picture(still)
            step_m = write_check(check, picture, calibration, grid_m)
            out.print(f"grid of {step_m:g} m drawn on {check}")


def _fitted(
    store: Store, source: str, points: Path, k1: float | None, fit_lens: bool, still: str | None
) -> Calibration:
    from flows.calibrate import fit_homography, fit_with_lens, read_points
    from flows.georeference import Lens

    before = store.calibration(source)
    control = read_points(points, Calibration.from_json(before).origin_lonlat if before else None)
    if k1 is None and not fit_lens:
        return fit_homography(control.points_px, control.points_m, control.origin_lonlat)
    if k1 is not None and fit_lens:
        raise UsageError("--k1 gives the lens and --fit-lens looks for it: use one of them")
    if still is not None:
        from flows.metre_grid import first_picture

        height_px, width_px = first_picture(still).shape[:2]
    else:
        _, width_px, height_px = _newest_video(store, source)
    if k1 is None:
        return fit_with_lens(control, width_px, height_px)
    lens = Lens.of_picture(k1, width_px, height_px)
    return fit_homography(control.points_px, control.points_m, control.origin_lonlat, lens)


def _first_of_newest(store: Store, source: str) -> ImageArray:
    """The first frame of a source's newest video; what the store hides is pixelated."""
    from flows.render import picked_frames

    video_id, _, _ = _newest_video(store, source)
    return next(picked_frames(store, video_id, lambda number, pts_ns: True)).image_rgb


def _newest_video(store: Store, source: str) -> tuple[str, int, int]:
    """Id, width and height of a source's newest video."""
    rows = store.query(
        "select video_id, width_px, height_px from videos where source_id = $source"
        " order by start_time desc, uri limit 1",
        {"source": source},
    ).to_pylist()
    if not rows:
        raise UsageError(f"the store has no video of source {source!r}: name a picture of its view with --still")
    return rows[0]["video_id"], rows[0]["width_px"], rows[0]["height_px"]


def _describe(calibration: Calibration) -> None:
    if calibration.flies:
        out.print(f"it flies: placed by telemetry, to {calibration.rmse_m:.1f} m in the first picture's middle")
        return
    used, given = int(calibration.inliers.sum()), len(calibration.points_px)
    # Eight numbers are fitted, and four points are eight: whatever they are, no error is left.
    error = f"{calibration.rmse_m:.3f} m (root mean square)" if used > 4 else "unknown: four points always fit"
    out.print(f"{used} of {given} points fit, error {error}")
    if calibration.lens:
        out.print(f"lens distortion k1 {calibration.lens.k1:+.4f}")
    for row, inlier in enumerate(calibration.inliers.tolist()):
        if not inlier:
            out.print(f"set aside: point {row + 1} at {calibration.points_px[row].tolist()} px; is it mistyped?")


def zones(
    source: Annotated[str, typer.Argument(callback=source_name, help="The source the zones belong to.")],
    file: Annotated[Path | None, typer.Argument(help="YAML or GeoJSON; see docs/zones.md.")] = None,
    restore: Annotated[int | None, typer.Option(help="Version to take up again, as a new one.")] = None,
    config: ConfigOption = None,
    store: StoreOption = None,
) -> None:
    """Set a source's zones and counting lines and recompute its events; without a file, list what it had."""
    from flows.zones import read_zones

    settings = Settings.load(config)
    if file is not None and restore is not None:
        raise UsageError("a file gives zones and --restore takes up old ones: use one of them")
    with existing_store(store) as opened:
        if file is None and restore is None:
            _note_if_unknown(opened, source)
            for version in opened.zone_versions(source):
                names = ", ".join(zone.name for zone in version.zones) or "none"
                out.print(f"version {version.version}  {version.written_at:%Y-%m-%d %H:%M:%S}  {names}")
            return
        if file is not None:
            text = opened.calibration(source)
            chosen = read_zones(file, Calibration.from_json(text).origin_lonlat if text else None)
        else:
            known = {version.version: version.zones for version in opened.zone_versions(source)}
            if restore not in known:
                raise UsageError(f"source {source!r} has no zones of version {restore}; it has {list(known) or 'none'}")
            chosen = list(known[restore])
        opened.write_zones(source, chosen)
        events = _recompute(opened, source, settings)
        _note_if_unknown(opened, source)
        _note_if_unseen(opened, source, chosen)
    out.print(f"{len(chosen)} zones and lines, {events} events")


@events_app.command()
def recompute(
    sources: Annotated[
        list[str] | None, typer.Argument(callback=source_name, help="The sources; default: all.")
    ] = None,
    config: ConfigOption = None,
    store: StoreOption = None,
) -> None:
    """Compute events anew from stored observations, zones and calibrations; no video is touched."""
    settings = Settings.load(config)
    with existing_store(store) as opened:
        for source in sources or []:
            must_know(opened, source)
        for source in sources or known_sources(opened):
            out.print(f"{source}: {_recompute(opened, source, settings)} events", highlight=False)


def _note_if_unknown(store: Store, source: str) -> None:
    """Zones and a calibration may come before the first video; a misspelt source looks the same."""
    if source not in (known := known_sources(store)):
        note = f"note: no video of source {source!r} yet; the store has {', '.join(known) or 'none'}"
        err.print(note, markup=False, highlight=False)


def _note_if_unseen(store: Store, source: str, zones: list[Zone]) -> None:
    """Points measured on a picture of another size, or metres taken for pixels, lie outside it."""
    with suppress(UsageError):  # there is no video yet
        _, width_px, height_px = _newest_video(store, source)
        for zone in zones:
            (x0, y0), (x1, y1) = np.min(zone.points, axis=0), np.max(zone.points, axis=0)
            if zone.unit == "px" and (x1 < 0 or y1 < 0 or x0 > width_px or y0 > height_px):
                note = f"note: {zone.kind} {zone.name!r} lies outside the picture, which is {width_px}x{height_px} px"
                err.print(note, markup=False, highlight=False)


def _recompute(store: Store, source: str, settings: Settings) -> int:
    from flows.events import recompute_events

    return int(recompute_events(store, source, settings.events, settings.georeference).num_rows)

"""What the store holds: reports, tracks, and cuts of archived videos with what was found drawn on them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from flows.georeference import Calibration, ground_positions, to_lonlat
from flows.locate import DEPTHS_M
from flows.reports import REPORTS, run_report
from flows.store import Store, open_store
from serve.jobs import command_environment
from serve.problems import BusyError, NotFoundError, documented, problem
from serve.settings import ServeSettings
from serve.streams import NAME

GEOJSON = "application/geo+json"

# A cut is for looking at one object: longer ones are `sightflow render`'s.
_MAX_CUT_S = 60
_CUT_MARGIN_S = 1.0
# Rendering takes a core; of more at once none gets ahead.
_CUTS_AT_ONCE = 2


class _Where(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    source: str | None = Field(None, pattern=NAME, examples=["gate-3"])
    """Only this source."""
    class_name: str | None = Field(None, alias="class", pattern=NAME, examples=["person"])
    """Only this class."""
    t0: datetime | None = Field(None, examples=["2026-05-01T08:00:00Z"])
    """From this time on, UTC where it names no zone."""
    t1: datetime | None = Field(None, examples=["2026-05-01T09:00:00Z"])
    """Before this time."""

    def parameters(self) -> dict[str, Any]:
        """As `run_report` takes them."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"offset"})


class ReportQuery(_Where):
    """Parameters of reports; each report has some of them, see docs/store.md."""

    zone: str | None = Field(None, pattern=NAME)
    """Only tracks with events in this zone or on this line."""
    bin_seconds: int | None = Field(None, ge=1, le=366 * 86_400)
    """Width of a time bin."""
    limit: int | None = Field(None, ge=1, le=10_000)
    """Most rows."""
    min_seconds: float | None = Field(None, ge=0)
    """Shortest track."""
    min_motion: float | None = Field(None, ge=0)
    """Box sizes a second from which on an object is active."""
    cell: float | None = Field(None, ge=0.01)
    """Side of a cell of a heatmap."""
    unit: str | None = Field(None, pattern="^(px|m)$")
    """Pixels or metres."""


class TrackQuery(_Where):
    """Which tracks, and which page of them."""

    zone: str | None = Field(None, pattern=NAME)
    """Only tracks with events in this zone or on this line."""
    min_seconds: float | None = Field(None, ge=0)
    """Only tracks at least this long."""
    limit: int = Field(100, ge=1, le=10_000)
    """Most tracks of a page."""
    offset: int = Field(0, ge=0, le=10**9)
    """Tracks to skip: `next_offset` of the page before."""


class ReportAnswer(BaseModel):
    """A report's rows."""

    report: str = Field(examples=["counts"])
    title: str = Field(examples=["Tracks per class"])
    rows: list[dict[str, Any]] = Field(examples=[[{"class_name": "person", "tracks": 12}]])


class TrackPage(BaseModel):
    """A page of tracks, by begin."""

    tracks: list[dict[str, Any]]
    next_offset: int | None = Field(description="Of the next page; null on the last one.")


def routes(settings: ServeSettings) -> APIRouter:
    """The routes that read."""
    router = APIRouter(tags=["archive"])
    cuts = asyncio.Semaphore(_CUTS_AT_ONCE)

    @router.get("/v1/reports/{name}", responses=documented(404))
    def report(name: str, where: Annotated[ReportQuery, Query()]) -> ReportAnswer:
        """A named report over the store."""
        if name not in REPORTS:
            raise NotFoundError(f"no report {name!r}; there are {', '.join(REPORTS)}")
        with open_store(settings.store) as store:
            found = run_report(store, name, **where.parameters())
        return ReportAnswer(report=name, title=REPORTS[name].title, rows=jsonable_encoder(found.to_pylist()))

    @router.get("/v1/tracks")
    def tracks(where: Annotated[TrackQuery, Query()]) -> TrackPage:
        """Tracks in view between two times, by begin, a page at a time."""
        end = where.offset + where.limit
        with open_store(settings.store) as store:
            # One more than is shown says whether there is another page.
            found = run_report(store, "tracks", **where.parameters() | {"limit": end + 1})
        shown = jsonable_encoder(found.slice(where.offset, where.limit).to_pylist())
        return TrackPage(tracks=shown, next_offset=end if found.num_rows > end else None)

    @router.get(
        "/v1/tracks/{track_id}",
        response_class=JSONResponse,
        responses={200: {"content": {GEOJSON: {"schema": {"type": "object"}}}}, **documented(404, 406)},
    )
    def track(track_id: str, accept: Annotated[str, Header()] = "*/*") -> Response:
        """A track and its path, a point a second.

        With `Accept: application/geo+json` a GeoJSON feature in longitude and latitude, of sources whose place on
        earth is known.
        """
        with open_store(settings.store) as store:
            found = _track(store, track_id)
            if GEOJSON not in accept:
                return JSONResponse(jsonable_encoder(found))
            feature = _feature(store, found)
        if feature is None:
            detail = f"nobody knows where on earth {found['source_id']} is: calibrate it, or ask for application/json"
            return problem(406, "Not placed on earth", detail)
        return JSONResponse(feature, media_type=GEOJSON)

    @router.get(
        "/v1/videos/{video_id}/clip",
        response_class=Response,
        responses={
            200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}},
            **documented(404),
        },
    )
    async def cut(video_id: str, track: Annotated[str, Query(description="A track of this video.")]) -> Response:
        """A cut of an archived video around one of its tracks, H.264, with what was found drawn on it.

        A minute at most. Clips that were sent here are not kept, so there are no cuts of them.
        """
        if cuts.locked():
            raise BusyError
        async with cuts:
            t0, t1 = await asyncio.to_thread(_extent, settings.store, video_id, track)
            return Response(await _rendered(settings.store, video_id, t0, t1), media_type="video/mp4")

    return router


_TRACK_SQL = """
    select track_id, source_id, class_name, t0, t1, duration_s, n_tracklets, n_observations, n_detected, n_bridged
    from tracks where track_id = $track_id
"""
_PATH_SQL = """
    select c.video_id, s.ts, s.x_px, s.y_px, s.x_m, s.y_m from track_samples s join chunks c on c.chunk_id = s.chunk_id
    where s.track_id = $track_id order by s.ts, c.video_id
"""


def _track(store: Store, track_id: str) -> dict[str, Any]:
    rows = store.query(_TRACK_SQL, {"track_id": _storable(track_id)}).to_pylist()
    if not rows:
        raise NotFoundError(f"no track {track_id!r}")
    return {**rows[0], "path": store.query(_PATH_SQL, {"track_id": track_id}).to_pylist()}


def _storable(text: str) -> str:
    """Text as databases take it; ids of ours are never changed by this."""
    return text.replace("\0", "")


def _feature(store: Store, track: dict[str, Any]) -> dict[str, Any] | None:
    """GeoJSON (RFC 7946); None where longitude and latitude are not known."""
    text = store.calibration(track["source_id"])
    calibration = Calibration.from_json(text) if text else None
    if calibration is None or calibration.origin_lonlat is None:
        return None
    depth_m = DEPTHS_M.get(track["class_name"], 0.0)
    found = [(point["ts"], _ground(calibration, point, depth_m)) for point in track["path"]]
    placed = [(ts, *xy_m) for ts, xy_m in found if xy_m is not None]
    if not placed:
        return None
    lonlat = to_lonlat(calibration, np.array([xy_m for _, *xy_m in placed])).round(7).tolist()
    line = {"type": "LineString", "coordinates": lonlat}
    properties = {name: value for name, value in track.items() if name != "path"}
    return {
        "type": "Feature",
        "id": track["track_id"],
        "geometry": line if len(lonlat) > 1 else {"type": "Point", "coordinates": lonlat[0]},
        "properties": jsonable_encoder(properties | {"times": [ts for ts, *_ in placed]}),
    }


def _ground(calibration: Calibration, point: dict[str, Any], depth_m: float) -> tuple[float, float] | None:
    """Where a point is in metres: as stored, or, but for leaning, by a later calibration; None if neither says."""
    if point["x_m"] is not None and point["y_m"] is not None:
        return point["x_m"], point["y_m"]
    if calibration.flies:
        return None
    xy_m, _ = ground_positions(calibration, np.array([[point["x_px"], point["y_px"]]]), 1.0, depth_m)
    return (float(xy_m[0, 0]), float(xy_m[0, 1])) if np.isfinite(xy_m).all() else None


def _extent(url: str, video_id: str, track_id: str) -> tuple[datetime, datetime]:
    """When a track is in view on a video, with a margin."""
    with open_store(url) as store:
        videos = store.query(
            "select uri from videos where video_id = $video_id", {"video_id": _storable(video_id)}
        ).to_pylist()
        path = [point for point in _track(store, track_id)["path"] if point["video_id"] == video_id] if videos else []
    if not videos:
        raise NotFoundError(f"no video {video_id!r}")
    if not path:
        raise NotFoundError(f"track {track_id!r} is not on video {video_id!r}")
    if "://" not in videos[0]["uri"] and not Path(videos[0]["uri"]).is_absolute():
        raise NotFoundError(f"{videos[0]['uri']} was sent here as a clip, and clips are not kept")
    begin, end = path[0]["ts"], path[-1]["ts"] + timedelta(seconds=1)
    margin = timedelta(seconds=_CUT_MARGIN_S)
    return begin - margin, min(end + margin, begin + timedelta(seconds=_MAX_CUT_S))


async def _rendered(url: str, video_id: str, t0: datetime, t1: datetime) -> bytes:
    """The cut, made by the command line: what a video does to the decoder, it does to that process."""
    with TemporaryDirectory(prefix="sightflow-cut-") as folder:
        file = Path(folder) / "cut.mp4"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows", "render", str(file), "--video", video_id),
            *("--t0", _utc(t0), "--t1", _utc(t1)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=command_environment(url),
        )
        try:
            _, said = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            raise NotFoundError(said.decode(errors="replace").strip().removeprefix("error: ") or "no cut")
        return await asyncio.to_thread(file.read_bytes)


def _utc(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")

"""Observations -> observations on the ground, by the calibration of their time or by the drone's telemetry."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.carried import shows_part
from flows.config import GeoreferenceSettings
from flows.errors import TelemetryError
from flows.flight import PoseNoise, flight_positions
from flows.georeference import DEPTH_SIGMA, Calibration, Floats, ground_positions, nadir_px, to_pixels
from flows.schema import BoolArray, ChunkResult, Video
from flows.store.base import Store
from flows.telemetry import Telemetry, beside

_log = logging.getLogger(__name__)

GROUND_POINT_SIGMA = 0.03
"""Standard deviation of an object's bottom edge as a share of its box height: about 3 px on a person of 100 px."""
MIN_SIGMA_PX = 1.0
SIZES_M = {
    **{"person": (0.28, 0.2), "bicycle": (1.7, 0.6), "motorcycle": (2.1, 0.75), "car": (4.5, 1.8)},
    **{"truck": (6.3, 2.4), "bus": (11.6, 2.5), "forklift": (2.7, 1.2), "excavator": (4.2, 3.0)},
    **{"loader": (7.0, 2.4), "bulldozer": (5.0, 2.9), "crane": (6.9, 2.5)},
}
"""Length and width of objects on the ground, by class: a person's shoes; arms of machines are not part of them."""
DEPTHS_M = {name: round(2 / math.pi * (length + width), 1) for name, (length, width) in SIZES_M.items()}
"""How deep objects are on the ground: the mean over all directions that they may face. What is not named is where its
box ends."""
UPRIGHT = ("person",)
"""Classes of what is much higher than deep."""
WHEELED = ("bicycle", "motorcycle", "car", "truck", "bus", "forklift", "loader")
"""Classes of what faces the way it drives, but for forklifts that have turned on the spot."""
BOX = ("x1_px", "y1_px", "x2_px", "y2_px")
"""The columns of the box in the picture."""
POINT = ("x_px", "y_px")
"""The columns of the ground point in the picture."""
POSITION = ("x_m", "y_m", "sigma_m")
"""The columns that say where on the ground an object is, and how surely."""

Versions = Sequence[tuple[datetime, Calibration]]
"""Calibrations of one source by the time from which each holds, in order."""
_BESIDE_AND_BELOW = (0, 2, 3)
Sizes = Mapping[str, tuple[int, int]]
"""Width and height in pixels of videos, by id."""

# An object is no narrower than a share of its box: it leans by no more than the rest, half of it to either side.
_LEAN = 0.35


def locate_stored(
    store: Store,
    source_id: str,
    observations: pa.Table,
    settings: GeoreferenceSettings,
    video: Video | None = None,
) -> pa.Table:
    """Put a source's observations on the ground, as far as is known how.

    Its calibrations decide; a source without any takes the telemetry beside each video, and the first video's place
    becomes the origin of its frame.

    Args:
        store: asked for calibrations, and for the source's videos where none is given.
        source_id: of all the observations.
        observations: with `video_id`, `pts_ns`, `ts` and what `locate` needs.
        settings: of georeferencing.
        video: of all the observations; None where they may be of several.

    Returns:
        The same rows with x_m, y_m and sigma_m; as they were where nothing says how to place them.
    """
    versions = calibrations(store, source_id)
    videos = list(_videos(store, source_id)) if video is None else [_of(video)]
    if any(not calibration.flies for _, calibration in versions):
        return locate(observations, versions, {video_id: size_px for video_id, _, size_px in videos})
    if not settings.telemetry or not observations.num_rows:
        return observations
    located: Floats = np.stack([pc.cast(observations[name], pa.float64()).to_numpy() for name in POSITION], axis=1)
    for video_id, uri, size_px in videos:
        rows = np.flatnonzero(pc.equal(observations["video_id"], video_id).to_numpy())
        if len(rows) and (telemetry := _telemetry(uri, settings)) is not None:
            origin = _origin(store, source_id, telemetry, size_px, settings)
            located[rows] = _fly(uri, observations.take(pa.array(rows)), telemetry, size_px, origin, settings)
    return with_columns(observations, POSITION, located)


def commit_located(store: Store, result: ChunkResult, settings: GeoreferenceSettings) -> ChunkResult:
    """Commit a chunk's result with its observations on the ground, as far as is known how; returns what was committed.

    Raises:
        StoreError, RefusedChunkError: See `Store.commit`.
    """
    video = result.chunk.video
    located = locate_stored(store, video.source_id, result.observations, settings, video)
    result = replace(result, observations=located)
    store.commit(result)
    return result


def _of(video: Video) -> tuple[str, str, tuple[int, int]]:
    return video.video_id, video.uri, (video.width_px, video.height_px)


def _videos(store: Store, source_id: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Id, address and size of a source's videos, in order of time."""
    sql = "select video_id, uri, width_px, height_px from videos where source_id = $source_id order by start_time, uri"
    for row in store.query(sql, {"source_id": source_id}).to_pylist():
        yield row["video_id"], row["uri"], (row["width_px"], row["height_px"])


def sizes_px(store: Store, source_id: str) -> Sizes:
    """Sizes of a source's videos."""
    return {video_id: size_px for video_id, _, size_px in _videos(store, source_id)}


def relocate(store: Store, source_id: str) -> None:
    """Put a source's stored observations on the ground anew, by the calibrations that it has now.

    Raises:
        StoreError: See `Store.relocate`.
    """
    versions, sizes = calibrations(store, source_id), sizes_px(store, source_id)
    store.relocate(source_id, lambda observations: locate(observations, versions, sizes))


def calibrations(store: Store, source_id: str) -> Versions:
    """A source's calibrations."""
    return [(since, Calibration.from_json(text)) for since, text in store.calibrations(source_id)]


def locate(
    observations: pa.Table,
    versions: Versions,
    sizes_px: Sizes = MappingProxyType({}),
    headings_rad: Floats | None = None,
) -> pa.Table:
    """The same observations with x_m, y_m and sigma_m; null before the first version and beyond the horizon.

    The ground points in pixels of what is deep (`DEPTHS_M`) move to its middle, too. That is never above the middle of
    the box: where the picture's edge cuts an object, little of its depth is seen. Those of people (`UPRIGHT`) move
    sideways, too, for a camera that looks down sees them lean outwards.

    Args:
        observations: to be placed.
        versions: of the source's calibration.
        sizes_px: of the pictures by video; where that is not known nothing leans.
        headings_rad: (N,) angles on the ground at which objects face, forwards or backwards, NaN where that is not
            known: how deep one is follows from its length and width (`SIZES_M`) then. What sigma_m says of depths
            stays that of the class.
    """
    points_px, sigma_px = _ground_points(observations)
    boxes_px = np.stack([pc.cast(observations[name], pa.float64()).to_numpy() for name in BOX], axis=1)
    picture, sizes = _pictures(observations, sizes_px)
    headings_rad = np.full(len(points_px), np.nan) if headings_rad is None else headings_rad
    mean_m = depths_m(observations)
    located = np.full((len(points_px), 3), np.nan)
    t_us = observations["ts"].cast(pa.int64()).to_numpy()
    since_us = pa.array([since for since, _ in versions], observations["ts"].type).cast(pa.int64()).to_numpy()
    which = np.searchsorted(since_us, t_us, side="right") - 1
    for index, (_, calibration) in enumerate(versions):
        rows = np.flatnonzero(which == index)
        if not len(rows):
            continue
        names = observations["class_name"].take(pa.array(rows))
        depth_m = _faced_depth_m(calibration, points_px[rows], names, headings_rad[rows], mean_m[rows])
        upright = rows[pc.is_in(names, pa.array(UPRIGHT)).to_numpy()]
        for i, size_px in enumerate(sizes):
            shown = upright[picture[upright] == i]
            points_px[shown, 0] += _lean_px(boxes_px[shown], nadir_px(calibration, size_px))
        found_m, sigma_m = ground_positions(calibration, points_px[rows], sigma_px[rows], depth_m)
        deep = depth_m > 0
        up_px = np.nan_to_num(to_pixels(calibration, found_m) - points_px[rows]) * deep[:, None]
        half_px = (boxes_px[rows, 3] - boxes_px[rows, 1]) / 2
        share = np.minimum(1, half_px / np.maximum(-up_px[:, 1], 1e-6))
        points_px[rows] += share[:, None] * up_px
        short = deep & (share < 1)
        found_m[short] = ground_positions(calibration, points_px[rows][short], 1.0)[0]
        sigma_m = np.sqrt(sigma_m**2 + DEPTH_SIGMA**2 * (mean_m[rows] ** 2 - depth_m**2))
        located[rows] = np.column_stack([found_m, sigma_m])
    return with_columns(observations, [*POINT, *POSITION], np.column_stack([points_px, located]))


def _lean_px(boxes_px: Floats, nadir: Floats | None) -> Floats:
    """(N,) how far beside the middles of their boxes upright objects touch the ground, in pixels, by `nadir_px`.

    Their feet point to the nadir. (Lenses bend that by a centimetre or two.)
    """
    if nadir is None:
        return np.zeros(len(boxes_px))
    middles_px, (width_px, height_px) = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2, (boxes_px[:, 2:] - boxes_px[:, :2]).T
    x, y = (np.where(nadir[2] < 0, -1, 1) * (nadir[:2] - nadir[2] * middles_px)).T
    lean_px = np.divide(x, np.abs(y), out=np.zeros_like(x), where=y != 0) * height_px / 2
    return np.clip(lean_px, -_LEAN * width_px, _LEAN * width_px)


def _faced_depth_m(
    calibration: Calibration, points_px: Floats, names: pa.ChunkedArray, headings_rad: Floats, mean_m: Floats
) -> Floats:
    """(N,) how deep objects are, seen from the camera, by the way they face; `mean_m` where that is not known.

    The lower edge of a box is a row of the picture: it touches the corner that lies nearest along that row's normal on
    the ground, and the middle is as far from there as the way along the line of sight is long.
    """
    depth_m, known = mean_m.copy(), np.isfinite(headings_rad)
    at_m, beyond_m, beside_m = (
        ground_positions(calibration, points_px[known] + step, 1.0)[0] for step in ([0, 0], [0, -1], [1, 0])
    )
    sight, row = beyond_m - at_m, beside_m - at_m
    lengths = np.linalg.norm(sight, axis=1) * np.linalg.norm(row, axis=1)
    slant = np.abs(sight[:, 0] * row[:, 1] - sight[:, 1] * row[:, 0]) / np.where(lengths > 0, lengths, np.nan)
    angle = np.arctan2(row[:, 0], -row[:, 1]) - headings_rad[known]
    which = pc.index_in(names.filter(pa.array(known)), pa.array(list(SIZES_M))).fill_null(len(SIZES_M)).to_numpy()
    length_m, width_m = np.array([*SIZES_M.values(), (np.nan, np.nan)])[which].T
    seen_m = (length_m * np.abs(np.cos(angle)) + width_m * np.abs(np.sin(angle))) / np.where(slant > 0, slant, np.nan)
    depth_m[known] = np.where(np.isfinite(seen_m), seen_m, mean_m[known])
    return depth_m


def _pictures(observations: pa.Table, sizes_px: Sizes) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]]]:
    """(N,) which of the sizes each observation's picture has, and these; -1 where that is not known."""
    videos = observations["video_id"].combine_chunks().dictionary_encode()
    sizes = list(dict.fromkeys(sizes_px.values()))
    known = [sizes.index(sizes_px[i]) if i in sizes_px else -1 for i in videos.dictionary.to_pylist()]
    return np.array([*known, -1], dtype=np.int64)[videos.indices.to_numpy()], sizes


def off_the_ground(observations: pa.Table, sizes_px: Sizes) -> BoolArray:
    """(N,) which ground points are none, for the picture's edge may cut the box below or at a side.

    None is where the picture's size is not known.
    """
    cut = np.zeros(observations.num_rows, dtype=np.bool_)
    if not sizes_px:
        return cut
    boxes_px = np.stack([observations[name].to_numpy() for name in BOX], axis=1)
    picture, sizes = _pictures(observations, sizes_px)
    for i, size_px in enumerate(sizes):
        cut[picture == i] = shows_part(boxes_px[picture == i], size_px, _BESIDE_AND_BELOW)
    return cut


def sigma_of_ground_point_px(y1_px: Floats, y2_px: Floats) -> Floats:
    """Standard deviation of the ground point of boxes from `y1_px` to `y2_px`."""
    sigma_px: Floats = np.maximum(GROUND_POINT_SIGMA * (y2_px - y1_px), MIN_SIGMA_PX)
    return sigma_px


def depths_m(observations: pa.Table) -> Floats:
    """(N,) how deep objects are by their classes, as in `DEPTHS_M`."""
    known = pa.array(list(DEPTHS_M))
    at = pc.index_in(observations["class_name"], known).fill_null(len(known))
    depth_m: Floats = np.array([*DEPTHS_M.values(), 0.0])[at.to_numpy()]
    return depth_m


def jitter_m(observations: pa.Table) -> Floats:
    """(N,) what of `sigma_m` differs from frame to frame: an object's depth is as wrong on all of them."""
    sigma_m: Floats = pc.cast(observations["sigma_m"], pa.float64()).to_numpy()
    rest = sigma_m**2 - (DEPTH_SIGMA * depths_m(observations)) ** 2
    return np.where(rest > 0, np.sqrt(np.maximum(rest, 0)), sigma_m)


def _ground_points(observations: pa.Table) -> tuple[Floats, Floats]:
    """Where objects touch the ground nearest to the camera, (N, 2) pixels, and (N,) standard deviations."""
    x1_px, y1_px, x2_px, y2_px = (observations[name].to_numpy().astype(np.float64) for name in BOX)
    return np.stack([(x1_px + x2_px) / 2, y2_px], axis=1), sigma_of_ground_point_px(y1_px, y2_px)


def with_columns(observations: pa.Table, names: Sequence[str], values: Floats) -> pa.Table:
    """The observations with columns (N, C) of these names, null where NaN."""
    for name, column in zip(names, values.T, strict=True):
        index = observations.schema.get_field_index(name)
        field = observations.schema.field(index)
        observations = observations.set_column(index, field, pa.array(column, mask=np.isnan(column)).cast(field.type))
    return observations


def _fly(
    uri: str,
    observations: pa.Table,
    telemetry: Telemetry,
    size_px: tuple[int, int],
    origin_lonlat: tuple[float, float],
    settings: GeoreferenceSettings,
) -> Floats:
    """Positions of one video's observations, (N, 3) as in `POSITION`."""
    points_px, sigma_px = _ground_points(observations)
    poses = telemetry.at(observations["pts_ns"].to_numpy())
    if gap := int(np.isnan(poses.lon_deg).sum()):
        _log.warning(
            "%s: telemetry is missing for %d of %d observations, whose positions stay unknown", uri, gap, len(points_px)
        )
    noise, depth_m = _noise(settings), depths_m(observations)
    return np.column_stack(flight_positions(poses, points_px, sigma_px, size_px, origin_lonlat, noise, depth_m))


def _telemetry(uri: str, settings: GeoreferenceSettings) -> Telemetry | None:
    """A video's telemetry, completed from the settings; None, with a line in the log, where it does not suffice."""
    try:
        found = beside(uri)
    except TelemetryError as error:
        _log.warning("%s", error)
        return None
    if found is None:
        return None
    found = replace(
        found,
        pitch_deg=_filled(found.pitch_deg, settings.gimbal_pitch_deg),
        roll_deg=_filled(found.roll_deg, 0.0),
        focal_35mm=_filled(found.focal_35mm, settings.focal_35mm),
    )
    missing = [n for n in ("height_m", "pitch_deg", "focal_35mm") if not np.isfinite(getattr(found, n)).all()]
    if missing:
        _log.warning(
            "%s: its telemetry lacks %s, so positions stay unknown; see docs/drone.md", uri, ", ".join(missing)
        )
        return None
    return found.with_course()


def _filled(values: Floats, given: float | None) -> Floats:
    return np.where(np.isfinite(values), values, np.nan if given is None else given)


def _origin(
    store: Store, source_id: str, telemetry: Telemetry, size_px: tuple[int, int], settings: GeoreferenceSettings
) -> tuple[float, float]:
    """The origin of a flying source's frame; the first to ask sets it."""
    with store.locked(source_id):
        versions = calibrations(store, source_id)
        if not versions:
            store.write_calibration(source_id, _first_view(telemetry, size_px, settings).to_json())
            return telemetry.origin_lonlat
    return versions[0][1].origin_lonlat or telemetry.origin_lonlat


def _first_view(telemetry: Telemetry, size_px: tuple[int, int], settings: GeoreferenceSettings) -> Calibration:
    """What the store says of a source that flies: its frame, and what a position in the picture's middle is worth."""
    first = telemetry.at(telemetry.pts_ns[:1])
    middle_px = np.array([size_px]) / 2
    _, sigma_m = flight_positions(first, middle_px, 1.0, size_px, telemetry.origin_lonlat, _noise(settings))
    nothing = np.empty((0, 2))
    return Calibration(
        np.eye(3), nothing, nothing, np.empty(0, bool), float(sigma_m[0]), telemetry.origin_lonlat, flies=True
    )


def _noise(settings: GeoreferenceSettings) -> PoseNoise:
    return PoseNoise(
        settings.position_sigma_m,
        settings.height_sigma_m,
        settings.angle_sigma_deg,
        settings.heading_sigma_deg,
        settings.focal_sigma_share,
    )

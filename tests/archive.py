"""A made-up archive: sources, chunks and tracks with the shape of real ones, built column by column."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from flows.events import recompute_events
from flows.schema import NS, OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, State, Video, make_id
from flows.store import Store, Zone
from tests.stores import make_video
from tests.tracked import make_mask

FPS = 25
DAY = datetime(2026, 3, 1, tzinfo=UTC)
CLASSES = ("person", "car", "truck", "bicycle", "excavator")
PX_PER_M = 40.0

ZONES = [
    Zone("west", "zone", ((0, 0), (700, 0), (700, 1080), (0, 1080))),
    Zone("middle", "zone", ((700, 200), (1200, 200), (1200, 900), (700, 900))),
    Zone("east", "zone", ((1200, 0), (1920, 0), (1920, 1080), (1200, 1080))),
    Zone("gate", "line", ((960, 0), (960, 1080))),
]


def make_archive_chunk(
    source: str,
    index: int,
    n_chunks: int,
    n_rows: int,
    seconds_per_object: int = 30,
    video: Video | None = None,
    masks: bool = False,
) -> ChunkResult:
    """One of `n_chunks` chunks of five minutes spread evenly over a day, with about `n_rows` observations.

    The video is one of a day that begins with it, but need not be that long.

    Objects walk, drive or stand, each for half a minute, a detection every 15 frames, some of it hidden; with `masks`
    each that is seen has the ellipse in its box.
    """
    rng = np.random.default_rng([int.from_bytes(source.encode(), "big") % 2**32, index])
    video = video or day_video(source)
    width_px, height_px = video.width_px, video.height_px
    start_ns = index * (86_400 // n_chunks) * NS
    chunk = Chunk(video, index, start_ns, start_ns + 300 * NS, NS, "archive")
    frames = seconds_per_object * FPS
    n_objects = max(1, round(n_rows / frames))
    frame = np.arange(frames) + rng.integers(0, 300 * FPS - frames, (n_objects, 1))
    pts_ns = start_ns + frame * (NS // FPS)
    # A third of them stands.
    speed = rng.uniform(20, 200, n_objects) * (rng.random(n_objects) > 1 / 3)
    # Nobody goes straight on for half a minute.
    turning = rng.uniform(0, 1.5, (n_objects, 1)) * np.sin(
        rng.uniform(0.2, 1.2, (n_objects, 1)) * np.arange(frames) / FPS
    )
    heading = rng.uniform(0, 2 * np.pi, (n_objects, 1)) + turning
    step = speed[:, None] / FPS
    x = np.clip(rng.uniform(0, width_px, (n_objects, 1)) + np.cumsum(step * np.cos(heading), axis=1), 0, width_px)
    y = np.clip(rng.uniform(0, height_px, (n_objects, 1)) + np.cumsum(step * np.sin(heading), axis=1), 0, height_px)
    x, y = x + _sway(rng, x.shape), y + _sway(rng, y.shape)
    size = rng.uniform(30, 120, (n_objects, 1))
    hidden = (np.arange(frames) // 50 + rng.integers(0, 20, (n_objects, 1))) % 20 == 0
    detected = (np.arange(frames) % 15 == 0) & ~hidden
    state = np.where(hidden, State.BRIDGED, np.where(detected, State.DETECTED, State.PROPAGATED))
    class_name = np.array(CLASSES)[rng.integers(0, len(CLASSES), n_objects)]
    ids = [make_id("tracklet", chunk.chunk_id, number) for number in range(n_objects)]
    n = n_objects * frames
    flat = {name: values.ravel() for name, values in {"x": x, "y": y, "size": np.broadcast_to(size, x.shape)}.items()}
    observations = pa.table(
        {
            "source_id": [source] * n,
            "video_id": [video.video_id] * n,
            "chunk_id": [chunk.chunk_id] * n,
            "tracklet_id": np.repeat(ids, frames),
            "ts": pa.array((int(DAY.timestamp()) * NS + pts_ns.ravel()) // 1000).cast(OBSERVATIONS.field("ts").type),
            "pts_ns": pts_ns.ravel(),
            "frame": frame.ravel() + start_ns * FPS // NS,
            "class_name": np.repeat(class_name, frames),
            "state": state.ravel().astype(str),
            "x1_px": flat["x"] - flat["size"] / 2,
            "y1_px": flat["y"] - flat["size"],
            "x2_px": flat["x"] + flat["size"] / 2,
            "y2_px": flat["y"],
            "x_px": flat["x"],
            "y_px": flat["y"],
            "confidence": pa.array(rng.uniform(0.5, 1, n), mask=~detected.ravel()),
            "object_score": pa.array(rng.normal(5, 2, n), mask=hidden.ravel()),
            "area_px": pa.array(flat["size"] ** 2, mask=hidden.ravel()),
            "x_m": flat["x"] / PX_PER_M,
            "y_m": flat["y"] / PX_PER_M,
            "sigma_m": np.full(n, 0.1),
            "mask": _masks(x - size / 2, y - size, size, hidden) if masks else pa.nulls(n, pa.binary()),
        }
    ).cast(OBSERVATIONS)
    boxes = np.stack([x - size / 2, y - size, x + size / 2, y], axis=2).astype(np.float32)
    ends = {"head": slice(0, FPS), "tail": slice(frames - FPS, frames)}
    ts = observations["ts"].combine_chunks()
    tracklets = (
        pa.table(
            {
                "tracklet_id": ids,
                "chunk_id": [chunk.chunk_id] * n_objects,
                "video_id": [video.video_id] * n_objects,
                "source_id": [source] * n_objects,
                "class_name": class_name,
                "class_share": np.ones(n_objects),
                "confidence": np.full(n_objects, 0.8),
                "t0": ts.take(pa.array(np.arange(n_objects) * frames)),
                "t1": ts.take(pa.array(np.arange(n_objects) * frames + frames - 1)),
                "pts0_ns": pts_ns[:, 0],
                "pts1_ns": pts_ns[:, -1],
                "n_observations": np.full(n_objects, frames),
                "n_detected": detected.sum(axis=1),
                "n_bridged": hidden.sum(axis=1),
                **{f"{end}_pts_ns": list(pts_ns[:, part]) for end, part in ends.items()},
                **{f"{end}_xyxy_px": list(boxes[:, part].reshape(n_objects, -1)) for end, part in ends.items()},
                "appearance": [[]] * n_objects,
                "confirmed": [True] * n_objects,
            }
        )
        .select(TRACKLETS.names)
        .cast(TRACKLETS)
    )
    return ChunkResult(chunk, observations, tracklets, counters={"frames": 300 * FPS}, timings_s={"track": 60.0})


def _sway(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Jitter of about a pixel that lasts for half a second, as smoothed boxes have it."""
    rough = rng.normal(0, 3, (shape[0], shape[1] + 12))
    return np.lib.stride_tricks.sliding_window_view(rough, 13, axis=1).mean(axis=2)


def day_video(source: str) -> Video:
    """The video all chunks of a source are of, if no other is given."""
    return make_video(
        source_id=source,
        content_hash=f"{source} day",
        start_time=DAY,
        duration_s=86_400.0,
        fps=FPS,
        width_px=1920,
        height_px=1080,
    )


def _masks(x_px: np.ndarray, y_px: np.ndarray, size_px: np.ndarray, hidden: np.ndarray) -> pa.Array:
    """Stored masks of objects (objects, frames), the same shape all the while."""
    corners = np.stack([x_px, y_px], axis=2).astype("<i4")
    stored: list[bytes | None] = []
    for places, size, unseen in zip(corners, size_px[:, 0], hidden, strict=True):
        shape = make_mask((0, 0, size, size)).to_bytes()[8:]
        stored += [None if gone else place.tobytes() + shape for place, gone in zip(places, unseen, strict=True)]
    return pa.array(stored, pa.binary())


def archive(n_sources: int, n_chunks: int, n_rows: int) -> Iterator[ChunkResult]:
    """Chunks of many sources, hour by hour, as a run over all of them commits them."""
    for index in range(n_chunks):
        for source in range(n_sources):
            yield make_archive_chunk(f"camera-{source:02}", index, n_chunks, n_rows)


def fill(store: Store, n_sources: int, n_chunks: int, n_rows: int) -> int:
    """Commit an archive, link it and compute its events; returns the number of observations."""
    sources = [f"camera-{number:02}" for number in range(n_sources)]
    for source in sources:
        store.add_video(day_video(source))
        store.write_zones(source, ZONES)
    total = 0
    for result in archive(n_sources, n_chunks, n_rows):
        store.plan([result.chunk])
        store.commit(result)
        total += result.observations.num_rows
    for source in sources:
        link_all(store, source)
        recompute_events(store, source)
    return total


def link_all(store: Store, source: str) -> None:
    """Join the tracklets of a source by two to tracks, over the border of every second chunk."""
    tracklets = store.tracklets(source)
    n = tracklets.num_rows
    chunks = tracklets["chunk_id"].combine_chunks().dictionary_encode().indices.to_pylist()
    firsts = {chunk: number for number, chunk in reversed(list(enumerate(chunks)))}
    names = [make_id("track", source, chunk // 2, number - firsts[chunk]) for number, chunk in enumerate(chunks)]
    links = {
        "tracklet_id": tracklets["tracklet_id"],
        "track_id": names,
        "source_id": [source] * n,
        "version": [1] * n,
        "score": [0.9] * n,
        "reason": ["overlap"] * n,
    }
    store.write_links(source, 1, pa.table(links).cast(TRACK_LINKS))

"""MOT and COCO files -> a source of a store: ground truth or another tracker's results, beside one's own.

The rows become those of one chunk over the whole video, a tracklet an identity, so that everything that reads a store
reads them: reports, `render`, `evaluate`, exports. Importing into a source again replaces what was imported before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows.annotations import mot_table
from flows.decode import FrameReader
from flows.errors import UsageError
from flows.export import mot
from flows.mask import Mask
from flows.schema import (
    ENDS_NS,
    NS,
    OBSERVATIONS,
    TRACK_LINKS,
    TRACKLETS,
    Chunk,
    ChunkResult,
    State,
    Video,
    make_id,
)  # fmt: skip
from flows.store.base import Store

_IMPORTED = "import"
"""In place of the hash of settings: nothing was computed."""

_MOT_TRUTH_COLUMNS = 9  # frame, id, x, y, w, h, considered, class, visibility

_TRACK_KEYS = ("track_id", "instance_id")
"""What other programs call an identity in COCO: TAO and MMTracking, then YouTube-VIS and COCO-VID."""


@dataclass(frozen=True)
class Given:
    """One box of a file: `frame` counts decoded frames from 0, `identity` is the file's own name of the object."""

    frame: int
    identity: int
    box_xyxy: tuple[float, float, float, float]
    class_name: str
    confidence: float | None = None
    state: State = State.DETECTED
    mask: Mask | None = None


def read_mot_boxes(
    path: Path, *, first_frame: int = 1, class_name: str = "person", names: Mapping[int, str] | None = None
) -> list[Given]:
    """Read MOT results (7 to 10 columns, or 9 as ground truth with class and visibility).

    Args:
        path: as `annotations.read_mot` reads it.
        first_frame: number of the first frame.
        class_name: of files without a column for it.
        names: of class numbers; those of MOT16 and `class <n>` for others.

    Raises:
        UsageError: no such file, or one without identities.
    """
    table = mot_table(path)
    truth = table.shape[1] == _MOT_TRUTH_COLUMNS
    names = {number: name for name, number in mot.CLASSES.items()} | dict(names or {})
    if len(table) and (table[:, 1] < 0).all():
        raise UsageError(f"{path}: these are detections, without identities (column 2); import tracks or ground truth")
    given = []
    for row in table.tolist():
        if truth and row[6] == 0:
            continue  # a distractor, not to be scored
        given.append(
            Given(
                int(row[0]) - first_frame,
                int(row[1]),
                (row[2], row[3], row[2] + row[4], row[3] + row[5]),
                names.get(int(row[7]), f"class {int(row[7])}") if truth else class_name,
                # Ground truth has no confidence; results outside 0 to 1 have a score of their own kind.
                None if truth or not 0 <= row[6] <= 1 else row[6],
                State.BRIDGED if truth and row[8] == 0 else State.DETECTED,
            )
        )
    return given


def read_coco_boxes(path: Path, *, first_frame: int = 0, stem: str | None = None) -> list[Given]:
    """Read COCO annotations with identities, boxes and masks (run lengths or polygons).

    An image's frame is its `frame_id` or `frame_index`, else the last number in its `file_name`.

    Args:
        path: the JSON file.
        first_frame: number of the first frame.
        stem: of a file of several videos, the folder of the one meant.

    Raises:
        UsageError: no such file, no identities, or several videos and none of that name.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        images = {image["id"]: image for image in _of_one_video(path, document["images"], stem)}
        return [
            _coco_box(path, annotation, images[annotation["image_id"]], names, first_frame)
            for annotation in document["annotations"]
            if annotation["image_id"] in images
        ]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{path}: expected COCO annotations: {type(error).__name__}: {error}") from error


def _of_one_video(path: Path, images: Iterable[dict[str, Any]], stem: str | None) -> list[dict[str, Any]]:
    images = list(images)
    if len({image.get("video_id") for image in images}) < 2:
        return images
    chosen = [image for image in images if Path(image["file_name"]).parent.name == stem]
    if not chosen:
        folders = sorted({Path(image["file_name"]).parent.name for image in images})
        raise UsageError(f"{path}: holds several videos ({', '.join(folders[:10])}), none of them {stem}")
    return chosen


def _coco_box(
    path: Path, annotation: dict[str, Any], image: dict[str, Any], names: Mapping[int, str], first_frame: int
) -> Given:
    identity = next((annotation[key] for key in _TRACK_KEYS if key in annotation), None)
    if identity is None:
        raise UsageError(f"{path}: annotation {annotation.get('id')} has no identity ({' or '.join(_TRACK_KEYS)})")
    x, y, width, height = (float(value) for value in annotation["bbox"])
    states = set(State)
    return Given(
        _frame_of(image) - first_frame,
        int(identity),
        (x, y, x + width, y + height),
        names[annotation["category_id"]],
        annotation.get("score"),
        State(annotation["state"]) if annotation.get("state") in states else State.DETECTED,
        _mask(annotation.get("segmentation"), image),
    )


def _frame_of(image: dict[str, Any]) -> int:
    for key in ("frame_id", "frame_index"):
        if key in image:
            return int(image[key])
    digits = "".join(c if c.isdigit() else " " for c in Path(image["file_name"]).stem).split()
    return int(digits[-1])


def _mask(segmentation: Any, image: dict[str, Any]) -> Mask | None:
    if not segmentation:
        return None
    from pycocotools import mask as coco

    size = int(image["height"]), int(image["width"])
    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = coco.merge(coco.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        encoded = coco.frPyObjects(segmentation, *size)
    full = coco.decode(encoded).astype(np.bool_)
    return Mask(0, 0, full).within(np.array([0, 0, size[1], size[0]], dtype=np.float32))


def import_tracks(store: Store, video: Video, given: Iterable[Given]) -> int:
    """Put boxes into a store as the tracks of a video's source.

    Args:
        store: prepared.
        video: what they lie on; its source must hold no tracks of a run.
        given: in any order.

    Returns:
        Number of tracks.

    Raises:
        UsageError: the source was run already, a frame the video does not have, or an identity twice on one.
        VideoError: the video cannot be read.
    """
    chunk = Chunk(video, 0, 0, round(video.duration_s * NS) + NS, 0, _IMPORTED)
    if any(
        row["video_id"] == video.video_id and row["chunk_id"] != chunk.chunk_id for row in store.ledger().to_pylist()
    ):
        raise UsageError(
            f"source {video.source_id!r} has tracks of this video from a run; import under another --source"
        )
    by_identity: dict[int, list[dict[str, Any]]] = {}
    times_ns = frame_times(video)
    for row in sorted(given, key=lambda row: row.frame):
        if not 0 <= row.frame < len(times_ns):
            raise UsageError(
                f"frame {row.frame} (counted from 0) of {len(times_ns)} in {video.uri}: is it another video, "
                "or does the file count from another number (--first-frame)?"
            )
        rows = by_identity.setdefault(row.identity, [])
        observation = _observation(row, chunk, int(times_ns[row.frame]))
        if rows and rows[-1]["pts_ns"] == observation["pts_ns"]:
            raise UsageError(f"id {row.identity} stands twice on frame {row.frame} (counted from 0)")
        rows.append(observation)
    tracklets = [_tracklet(rows, chunk) for rows in by_identity.values()]
    observations = sorted((row for rows in by_identity.values() for row in rows), key=lambda row: row["pts_ns"])
    store.add_video(video)
    store.plan([chunk])
    store.commit(
        ChunkResult(
            chunk,
            pa.Table.from_pylist(observations, schema=OBSERVATIONS),
            pa.Table.from_pylist(tracklets, schema=TRACKLETS),
            counters={"frames": len(times_ns)},
        )
    )
    _link(store, video.source_id)
    return len(tracklets)


def frame_times(video: Video) -> np.ndarray:
    """Presentation timestamps (N,) of a video's frames in ns, exactly as `decode` gives them."""
    times_ns: list[int] = []

    def note(number: int, pts_ns: int) -> bool:
        times_ns.append(pts_ns)
        return False

    for _ in FrameReader(video, only=note):
        pass
    return np.array(times_ns, dtype=np.int64)


def _observation(row: Given, chunk: Chunk, pts_ns: int) -> dict[str, Any]:
    x1, y1, x2, y2 = row.box_xyxy
    return {
        "source_id": chunk.video.source_id,
        "video_id": chunk.video.video_id,
        "chunk_id": chunk.chunk_id,
        "tracklet_id": make_id("tracklet", chunk.chunk_id, row.identity),
        "ts": chunk.video.time_at(pts_ns),
        "pts_ns": pts_ns,
        "frame": round(pts_ns / NS * chunk.video.fps),
        "class_name": row.class_name,
        "state": row.state.value,
        **{"x1_px": x1, "y1_px": y1, "x2_px": x2, "y2_px": y2, "x_px": (x1 + x2) / 2, "y_px": y2},
        "confidence": row.confidence,
        "area_px": None if row.mask is None else float(row.mask.area_px),
        "mask": None if row.mask is None else row.mask.to_bytes(),
    }


def _tracklet(rows: list[dict[str, Any]], chunk: Chunk) -> dict[str, Any]:
    states = Counter(row["state"] for row in rows)
    ((class_name, n_votes),) = Counter(row["class_name"] for row in rows).most_common(1)
    sure = [row["confidence"] for row in rows if row["confidence"] is not None]
    head = [row for row in rows if row["pts_ns"] < rows[0]["pts_ns"] + ENDS_NS]
    tail = [row for row in rows if row["pts_ns"] >= rows[-1]["pts_ns"] - ENDS_NS]
    return {
        **{name: rows[0][name] for name in ("tracklet_id", "chunk_id", "video_id", "source_id")},
        "class_name": class_name,
        "class_share": n_votes / len(rows),
        "confidence": float(np.mean(sure)) if sure else 1.0,
        **{"t0": rows[0]["ts"], "t1": rows[-1]["ts"], "pts0_ns": rows[0]["pts_ns"], "pts1_ns": rows[-1]["pts_ns"]},
        "n_observations": len(rows),
        "n_detected": states[State.DETECTED],
        "n_bridged": states[State.BRIDGED],
        **{f"{name}_pts_ns": [row["pts_ns"] for row in ends] for name, ends in (("head", head), ("tail", tail))},
        **{f"{name}_xyxy_px": list(_flat(ends)) for name, ends in (("head", head), ("tail", tail))},
        "appearance": [],
    }


def _flat(rows: Iterable[dict[str, Any]]) -> Iterator[float]:
    for row in rows:
        yield from (row["x1_px"], row["y1_px"], row["x2_px"], row["y2_px"])


def _link(store: Store, source_id: str) -> None:
    """Every tracklet its own track: identities are the file's."""
    links = [
        {"tracklet_id": name, "track_id": make_id("track", name), "source_id": source_id, "version": 1, "score": None,
         "reason": "start"}
        for name in store.tracklets(source_id)["tracklet_id"].to_pylist()
    ]  # fmt: skip
    with store.locked(source_id):
        store.write_links(source_id, 1, pa.Table.from_pylist(links, schema=TRACK_LINKS))

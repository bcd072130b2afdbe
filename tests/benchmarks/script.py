"""What one writes first: YOLO on every 30th frame, plain SAM 2 on the whole video, executemany into PostgreSQL.

`python -m tests.benchmarks.script plain|ours VIDEO [DATABASE] [BUDGET_MB]`. With a budget this process may grow by that
much once models are loaded; `ours` is then the flow's own steps on the video as one chunk, in the same process.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import psycopg
import torch

from flows.config import Settings
from flows.decode import plan_chunks, probe
from flows.detect import Detector
from flows.models import PREDICTOR, build_segmenter, resolve
from flows.process import DetectChunk, TrackChunk
from flows.segment import VideoSegmenter, load_segmenter
from tests.plain import Plain

EVERY = 30


def limit_growth(budget_mb: int) -> None:
    """Let this process's data grow by so much and no more."""
    if budget_mb:
        status = Path("/proc/self/status").read_text()
        data_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
        limit = (data_kb << 10) + (budget_mb << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def plain(video: str, database: str, budget_mb: int) -> dict[str, Any]:
    """The plain script; a detection starts an object where no mask explains it."""
    settings = Settings()
    detector = Detector(settings.detect, "cpu")
    model = build_segmenter(resolve("nano", "segmenter"), None, "cpu", target=PREDICTOR)
    model.box_hints = False
    prepare = VideoSegmenter(load_segmenter(settings.segment, "cpu"), settings.segment, 1, 1).frames.pixels
    limit_growth(budget_mb)
    # `init_state` reads the whole video into memory.
    images, keyframes = [], {}
    with av.open(video) as container:
        for index, frame in enumerate(container.decode(video=0)):
            image = frame.to_ndarray(format="rgb24")
            if index % EVERY == 0:
                keyframes[index] = detector([image])[0]
            images.append(prepare(image))
    tracker = Plain(model, images, *image.shape[:2])
    tracker.state["num_frames"] = len(images)
    boxes: dict[tuple[int, int], np.ndarray] = {}
    objects = 0
    for index, found in keyframes.items():
        seen = [box for (frame, _), box in boxes.items() if frame == index]
        for box, confidence in zip(found.xyxy, found.confidence, strict=True):
            if confidence >= settings.track.tentative_conf and all(_iou(box, other) < 0.3 for other in seen):
                tracker.prompt(index, {objects: box})
                objects += 1
        if objects:
            boxes |= _carried(tracker, index)
    if database:
        with psycopg.connect(database) as server, server.cursor() as cursor:
            cursor.execute("drop table if exists boxes")
            cursor.execute("create table boxes (frame int, object int, x1 real, y1 real, x2 real, y2 real)")
            rows = [(*key, *map(float, box)) for key, box in boxes.items()]
            cursor.executemany("insert into boxes values (%s, %s, %s, %s, %s, %s)", rows)
    return {"objects": objects, "frames": len(images), "rows": len(boxes)}


def _carried(tracker: Plain, index: int) -> dict[tuple[int, int], np.ndarray]:
    """Boxes of all objects from one keyframe to the next, by frame and object."""
    boxes = {}
    for at, object_ids, logits in tracker.model.propagate_in_video(
        tracker.state, start_frame_idx=index, max_frame_num_to_track=EVERY
    ):
        for object_id, mask in zip(object_ids, logits[:, 0] > 0, strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            if len(xs):
                boxes[at, object_id] = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
    return boxes


def ours(video: str, budget_mb: int) -> dict[str, Any]:
    """The flow's steps."""
    settings = Settings.load(flags={"plan": {"chunk_seconds": 86400.0}})
    detect, track = DetectChunk(settings, threads=1), TrackChunk(settings, threads=1)
    limit_growth(budget_mb)
    (chunk,) = plan_chunks(probe(video), settings.plan, "benchmark")
    result = track(detect(chunk))
    if result.error is not None:
        raise MemoryError(result.error)
    return {"objects": result.tracklets.num_rows, "frames": result.counters["frames"]}


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    left, top, right, bottom = *np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:])
    shared = max(right - left, 0) * max(bottom - top, 0)
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


if __name__ == "__main__":
    who, video, database, budget = [*sys.argv[1:], "", ""][:4]
    made = plain(video, database, int(budget or 0)) if who == "plain" else ours(video, int(budget or 0))
    print(json.dumps({**made, "rss_mb": round(psutil.Process().memory_info().rss / 2**20)}))

"""Memory of a process that segments a long video: `python -m tests.benchmarks.memory ours|plain|chunk FRAMES [FOLDER]`.

A process of its own, so that nothing else's memory is measured. Prints one JSON object.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pyarrow as pa
import torch

from flows.config import SegmentSettings, Settings
from flows.decode import plan_chunks, probe
from flows.models import PREDICTOR
from flows.onednn import use_onednn
from flows.process import Detected, TrackChunk
from flows.schema import DETECTIONS, NS
from flows.segment import VideoSegmenter
from tests.plain import OURS, Plain, make_frames, make_model

SIZE_PX, HEIGHT_PX, WIDTH_PX = 128, 360, 640
EVERY = 15
BOXES = {i: np.array([40 + 110 * i, 60, 120 + 110 * i, 220], dtype=np.float32) for i in range(5)}
PROCESS = psutil.Process()


def rss_mb() -> float:
    """Memory this process holds now."""
    return float(PROCESS.memory_info().rss) / 2**20


def ours(frames: int) -> dict[str, Any]:
    """The engine; every 15 frames all five objects are shown afresh, as the tracker does with masks that drift."""
    model = make_model(OURS, SIZE_PX, None)
    use_onednn(model)
    segmenter = VideoSegmenter(model, SegmentSettings(), HEIGHT_PX, WIDTH_PX)
    images = make_frames(8, 0, HEIGHT_PX, WIDTH_PX)
    held = {}
    for index in range(frames + 1):
        for segment in segmenter.push(images[index % 8]).values():
            _ = segment.mask and segment.mask.full_size
        if index % EVERY == 0:
            segmenter.prompt(BOXES)
            segmenter.forget_frames()
        if index % 100 == 0:
            held[index] = rss_mb()
    grown = max(mb for index, mb in held.items() if index >= 200) - held[200]
    return {"frames": frames, "mb_at_frame_200": round(held[200]), "growth_from_frame_200_mb": round(grown, 1)}


def plain(frames: int) -> dict[str, Any]:
    """Plain SAM 2, its frames in memory as `init_state` has them, prompted once."""
    model = make_model(PREDICTOR, SIZE_PX, None)
    size = VideoSegmenter(make_model(OURS, SIZE_PX, None), SegmentSettings(), HEIGHT_PX, WIDTH_PX)
    images = make_frames(8, 0, HEIGHT_PX, WIDTH_PX)
    prepared: list[Any] = []
    predictor = Plain(model, prepared, HEIGHT_PX, WIDTH_PX)
    held = {}
    for index in range(frames + 1):
        prepared.append(size.frames.pixels(images[index % 8]))
        predictor.step(index)
        if index == 0:
            predictor.prompt(0, BOXES)
        held[index] = rss_mb()
    return {"plain_mb_a_frame": round((held[frames] - held[50]) / (frames - 50), 3)}


def chunk(frames: int, folder: Path) -> dict[str, Any]:
    """A chunk of 4K video through the tracking step that workers run."""
    video = probe(str(_write_4k(folder / "4k.mp4", frames)))
    settings = Settings()
    (whole,) = plan_chunks(video, settings.plan, "benchmark")
    boxes = np.concatenate([box * 6 for box in BOXES.values()]).tolist()
    keyframes = [
        {
            "pts_ns": round(index / video.fps * NS),
            "class_name": ["person"] * 5,
            "confidence": [0.95] * 5,
            "xyxy_px": boxes,
        }
        for index in range(0, frames, EVERY)
    ]
    held: list[float] = []
    detected = Detected(whole, pa.Table.from_pylist(keyframes, schema=DETECTIONS), {})
    result = TrackChunk(settings, threads=1)(detected, on_frame=lambda _: held.append(rss_mb()))
    assert result.error is None, result.error
    return {
        "frames": len(held),
        "peak_mb": round(max(held)),
        "mb_every_200_frames": [round(max(held[i : i + 200])) for i in range(0, len(held), 200)],
        "objects": result.tracklets.num_rows,
    }


def _write_4k(path: Path, frames: int) -> Path:
    """Discs drifting over a textured ground, 3840x2160, H.264."""
    small = make_frames(32, 0, 540, 960)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for index in range(frames):
            picture = cv2.resize(small[abs(index % 62 - 31)], (3840, 2160), interpolation=cv2.INTER_NEAREST)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, count, *rest = sys.argv[1:]
    made = chunk(int(count), Path(rest[0])) if what == "chunk" else {"ours": ours, "plain": plain}[what](int(count))
    print(json.dumps(made))

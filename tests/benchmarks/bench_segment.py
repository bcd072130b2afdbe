"""The streaming engine beside plain SAM 2: same weights, same frames, same prompts, in the same run.

Times are CPU seconds of one thread, plain and ours taken in turn frame by frame, so that a machine which is shared
with other work still gives fair ratios. Frames are prepared beforehand on both sides.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.ahead import ahead
from flows.config import SegmentSettings
from flows.demo.scene import Scene
from flows.models import PREDICTOR, ResolvedModel, build_segmenter, resolve
from flows.onednn import use_onednn
from flows.outcome import Segment
from flows.schema import Frame
from flows.segment import VideoSegmenter, load_segmenter
from flows.threads import torch_threads
from tests.benchmarks.record import record
from tests.plain import OURS, Plain, make_frames

HEIGHT_PX, WIDTH_PX = 1080, 1920
NO_GPU = "no GPU was to be had where this was measured"
# Frames until an object's memory is full, after which every frame costs the same.
WARM_UP = 8


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    """SAM 2.1 tiny with random weights: speed and equality need no trained ones."""
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    config = "configs/sam2.1/sam2.1_hiera_t.yaml"
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save({"model": build_sam2_video_predictor(config, device="cpu").state_dict()}, path)
    return ResolvedModel("tiny", "segmenter", path, config)


@pytest.fixture(params=["nano", "tiny"])
def weights(request: pytest.FixtureRequest) -> ResolvedModel:
    return request.getfixturevalue("tiny") if request.param == "tiny" else resolve("nano", "segmenter")


def _pair(
    model: ResolvedModel, size_px: int = 256, *, refined: bool = False
) -> tuple[VideoSegmenter, Plain, list[np.ndarray]]:
    """Engine, plain predictor and eight frames of a video."""
    frames = make_frames(8, 0, HEIGHT_PX, WIDTH_PX)
    chosen = SegmentSettings(segmenter=str(model.path) if model.name == "tiny" else model.name, image_size=size_px)
    ours = load_segmenter(chosen, "cpu")
    if not refined:
        ours.refiner = None  # plain SAM 2 corrects no masks, and both are to do the same work
    segmenter = VideoSegmenter(ours, chosen, HEIGHT_PX, WIDTH_PX)
    images = _Repeated([segmenter.frames.pixels(frame) for frame in frames])
    return segmenter, Plain(build_segmenter(model, size_px, target=PREDICTOR), images, HEIGHT_PX, WIDTH_PX), frames


class _Repeated:
    """A few frames as a video without end, of which plain SAM 2 needs no copies."""

    def __init__(self, frames: list[Any]) -> None:
        self._frames = frames

    def __getitem__(self, index: int) -> Any:
        return self._frames[index % len(self._frames)]


def _boxes(count: int) -> dict[int, np.ndarray]:
    corners = [(40 + 230 * (i % 8), 60 + 330 * (i // 8)) for i in range(count)]
    return {i: np.array([x, y, x + 150, y + 280], dtype=np.float32) for i, (x, y) in enumerate(corners)}


def _cpu_s(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _ms(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def _ratio(plain: list[float], ours: list[float]) -> float:
    """How much longer plain took, frame by frame: the median of neighbours in time."""
    return round(statistics.median(p / o for p, o in zip(plain, ours, strict=True)), 2)


@pytest.mark.parametrize("objects", [1, 10])
def bench_frames(weights: ResolvedModel, objects: int) -> None:
    """Cost of a frame. Ours gives boxes and areas; `with_masks` makes every mask at full size as well."""
    ours, plain, frames = _pair(weights)
    ours.push(frames[0])
    ours.prompt(_boxes(objects))
    plain.prompt(0, _boxes(objects))
    following = plain.follow(0)
    next(following)
    # A run's other thread may encode ahead; here all that a frame costs is counted.
    ours.frames._encode_ahead = False
    times: dict[str, list[float]] = {"plain": [], "ours": [], "with_masks": []}
    visible = 0
    for index in range(1, WARM_UP + (20 if weights.name == "nano" else 6)):
        (frame,) = ours.frames.ahead([Frame(index, index, frames[index % len(frames)])])
        plain_s = _cpu_s(lambda: next(following))
        started = time.process_time()
        segments = [s for s in ours.push(frame.image_rgb).values() if s.mask is not None]
        _ = [(s.box_xyxy, s.mask.area_px) for s in segments]
        ours_s = time.process_time() - started
        masks_s = _cpu_s(lambda segments=segments: [s.mask.full_size for s in segments])
        ours.forget_frames()
        if index >= WARM_UP:
            visible = max(visible, len(segments))
            for name, seconds in zip(times, (plain_s, ours_s, ours_s + masks_s), strict=True):
                times[name].append(seconds)
    figures = {
        "plain_ms": _ms(times["plain"]),
        "ours_ms": _ms(times["ours"]),
        "ratio": _ratio(times["plain"], times["ours"]),
        "ratio_with_masks": _ratio(times["plain"], times["with_masks"]),
        "visible": visible,
    }
    record("segment", f"frame, {weights.name} at 256 px, {objects} objects, 1080p", figures)


@pytest.mark.parametrize("size_px", [256, 512])
def bench_stream(size_px: int) -> None:
    """The nano segmenter as a run uses it: all cores, five objects, frames prepared by a thread, masks stored."""
    ours, _, frames = _pair(resolve("nano", "segmenter"), size_px, refined=True)
    count = 40
    stream = (Frame(index, index, frames[index % len(frames)].copy()) for index in range(WARM_UP + count))
    started_s = cpu_s = 0.0
    with torch_threads(ours.threads or len(os.sched_getaffinity(0))):
        for frame in ahead(ours.frames.ahead(stream), 2):
            if frame.number == WARM_UP:
                started_s, cpu_s = time.perf_counter(), time.process_time()
            found = ours.push(frame.image_rgb)
            if frame.number == 0:
                ours.prompt(_boxes(5))
            _ = [s.mask.to_bytes() for s in found.values() if s.mask is not None]
            ours.forget_frames()
    seconds = time.perf_counter() - started_s
    figures = {
        "frames_per_s": round(count / seconds, 1),
        "cpu_ms_a_frame": round(1e3 * (time.process_time() - cpu_s) / count, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "baseline": "none: what plain SAM 2 does with a stream is in the rows above",
    }
    record("segment", f"stream, nano at {size_px} px, 5 objects, 1080p", figures)


def bench_prompt(weights: ResolvedModel) -> None:
    """Cost of the 24th prompt at 1080p. Neither side encodes its memory before the next frame."""
    ours, plain, frames = _pair(weights)
    boxes = _boxes(24)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    ours.push(frames[0])
    ours.prompt({i: boxes[i] for i in range(23)})
    plain.prompt(0, {i: boxes[i] for i in range(23)})
    for _ in range(15):
        times["plain"].append(_cpu_s(lambda: plain.model.add_new_points_or_box(plain.state, 0, 23, box=boxes[23])))
        times["ours"].append(_cpu_s(lambda: ours.prompt({23: boxes[23]})))
    figures = {
        "plain_ms": _ms(times["plain"]),
        "ours_ms": _ms(times["ours"]),
        "ratio": _ratio(times["plain"], times["ours"]),
    }
    record("segment", f"one more prompt at 24 objects, {weights.name} at 256 px, 1080p", figures)


def bench_encodingahead(weights: ResolvedModel) -> None:
    """Cost of encoding a frame, alone and in a batch of four."""
    model: Any = build_segmenter(weights, 256, target=OURS)
    use_onednn(model)
    batch = torch.randn(4, 3, 256, 256)
    times: dict[str, list[float]] = {"alone": [], "batched": []}
    with torch.inference_mode():
        for _ in range(12):
            times["alone"].append(_cpu_s(lambda: model.forward_image(batch[:1])))
            times["batched"].append(_cpu_s(lambda: model.forward_image(batch)) / 4)
    alone_ms, batched_ms = _ms(times["alone"]), _ms(times["batched"])
    figures = {"alone_ms": alone_ms, "in_a_batch_of_4_ms": batched_ms, "ratio": round(alone_ms / batched_ms, 2)}
    record("segment", f"encoding a frame, {weights.name} at 256 px", figures)


VARIANTS: dict[str, dict[str, Any]] = {
    "all 7 prompted frames": {"max_cond_frames": 64},
    "at most 8 prompted frames": {"max_cond_frames": 8},
    "at most 4 prompted frames": {"max_cond_frames": 4},
    "at most 2 prompted frames": {"max_cond_frames": 2},
    "at most 4 prompted frames, bf16": {"max_cond_frames": 4, "precision": "bf16"},
}


def bench_settings_that_change_masks() -> None:
    """The cap on prompted frames, and bf16: nano on a demo scene, every object shown again every tenth frame."""
    count, every, height, width = 61, 10, 360, 640
    scene = Scene.random(1, width=width, height=height, fps=15.0, duration_s=count / 15, n_objects=5)
    model: Any = build_segmenter(resolve("nano", "segmenter"), 256, target=OURS)
    engines = {name: VideoSegmenter(model, SegmentSettings(**s), height, width) for name, s in VARIANTS.items()}
    js: dict[str, list[float]] = {name: [] for name in VARIANTS}
    ious: dict[str, list[float]] = {name: [] for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for index in range(count):
        image, ids = scene.render(index)
        masks: dict[str, dict[int, np.ndarray]] = {}
        for name, engine in engines.items():
            found: dict[int, Segment] = {}
            times[name].append(_cpu_s(lambda e=engine, f=found, i=image: f.update(e.push(i))))
            masks[name] = {i: _full(segment, height, width) for i, segment in found.items()}
            engine.forget_frames()
            if index % every == 0:
                engine.prompt({i: _box_of(ids == i) for i in _shown(ids)})
        for name in VARIANTS if index % every else ():
            base = masks["at most 4 prompted frames" if "bf16" in name else "all 7 prompted frames"]
            for i in set(_shown(ids)) & set(base):
                js[name].append(_iou(masks[name][i], ids == i))
                ious[name].append(_iou(masks[name][i], base[i]))
    for name in VARIANTS:
        reference = "at most 4 prompted frames" if "bf16" in name else "all 7 prompted frames"
        figures = {
            "mean_j": round(float(np.mean(js[name])), 4),
            "compared_with": reference,
            "mean_iou": round(float(np.mean(ious[name])), 4),
            "iou_of_19_in_20_at_least": round(float(np.quantile(ious[name], 0.05)), 4),
            # The last frames, on which most prompts are remembered.
            "cost_ratio": round(1 / _ratio(times[reference][-every:], times[name][-every:]), 2),
            "ms": _ms(times[name][-every:]),
        }
        record("segment", f"{name}, nano at 256 px, a demo scene", figures)


def _shown(ids: np.ndarray) -> list[int]:
    """Objects of which enough is seen to judge a mask."""
    present, counts = np.unique(ids, return_counts=True)
    return [int(i) for i, count in zip(present, counts, strict=True) if i > 0 and count >= 100]


def _box_of(inside: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(inside)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)


def _full(segment: Segment, height_px: int, width_px: int) -> np.ndarray:
    blank = np.zeros((height_px, width_px), dtype=bool)
    return blank if segment.mask is None else segment.mask.full(height_px, width_px)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def bench_memory() -> None:
    """Growth of the process from frame 200 to 3,000, five objects, and plain SAM 2's over 200 frames."""
    figures = _in_process("ours", "3000") | _in_process("plain", "250")
    record("segment", "memory, nano at 128 px, 5 objects", figures)


def bench_4k(tmp_path: Path) -> None:
    """Peak memory of a process that tracks five objects through five minutes of 4K video, as workers do."""
    record("segment", "4K chunk, nano at 256 px, 5 objects", _in_process("chunk", "9000", str(tmp_path)))


def _in_process(*arguments: str) -> dict[str, Any]:
    script = ["-m", "tests.benchmarks.memory", *arguments]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def bench_gpu_is_missing() -> None:
    """The rows a GPU would fill stay empty, and say why."""
    for name in ("frame, tiny and large at 1024 px, 1/10/30 objects, against vos_optimized", "bf16 on a GPU"):
        record("segment", f"GPU: {name}", {"ratio": None, "reason": NO_GPU})

"""Tiny videos for tests, written with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A picture no other index has: texture that shifts, and the index in grey levels in the corner."""
    base = np.random.default_rng(7).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image = np.roll(base, 3 * index, axis=1)
    image[: height // 4, : width // 4] = (index * 37) % 256
    return image


def write_video(path: Path, **overrides: Any) -> Path:
    """Write a video.

    Args:
        path: its ending names the container.
        overrides: codec, frames (count), fps, gop, b_frames, size (width, height), pixels (format), options,
            times_ms (presentation times instead of a constant rate), start (in frames), rotation_deg, metadata,
            audio_only, container (format name) and muxer (options).
    """
    make = {
        "codec": "libx264", "frames": 30, "fps": 25, "gop": 8, "b_frames": 2, "size": (64, 48), "pixels": "yuv420p",
        "options": {}, "times_ms": None, "start": 0, "rotation_deg": 0, "metadata": {}, "container": None, "muxer": {},
    } | overrides  # fmt: skip
    times_ms: Sequence[int] | None = make["times_ms"]
    with av.open(str(path), "w", format=make["container"], options=make["muxer"]) as container:
        container.metadata.update(make["metadata"])
        stream = container.add_stream(make["codec"], rate=make["fps"], options=make["options"])
        stream.width, stream.height = make["size"]
        stream.pix_fmt = make["pixels"]
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = make["gop"], make["b_frames"], 1
        time_base = Fraction(1, 1000) if times_ms else 1 / Fraction(make["fps"])
        context.time_base = time_base
        if make["rotation_deg"]:
            stream.set_display_rotation(make["rotation_deg"])
        for index in range(len(times_ms) if times_ms else make["frames"]):
            frame = av.VideoFrame.from_ndarray(picture(index, *make["size"]))
            frame.pts, frame.time_base = times_ms[index] if times_ms else index + make["start"], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """Write a second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def retime(path: Path, out: Path, stamps: Sequence[int]) -> Path:
    """Copy a video's packets under other presentation times, in ticks of `out`'s clock."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
        for packet, stamp in zip(packets, stamps, strict=True):
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = stamp
            target.mux(packet)
    return out

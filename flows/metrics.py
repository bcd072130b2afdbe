"""What is measured of a run, for Prometheus: names, kinds and meanings, and the numbers one chunk adds to them.

Ray exports them from every machine under `ray_` and the name here; deploy/grafana.json draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from flows.schema import ChunkResult

# From a second to an hour: chunks of five minutes take minutes on a GPU and up to an hour on a laptop.
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True)
class Metric:
    """A counter, or, with bounds of buckets, a histogram."""

    name: str
    meaning: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


CHUNKS = Metric("sightflow_chunks", "Chunks that ended, by outcome: done or failed.", ("outcome",))
FRAMES = Metric("sightflow_frames", "Frames of chunks that are done, overlaps included.")
DETECTIONS = Metric("sightflow_detections", "Detections on keyframes.")
OBJECTS = Metric("sightflow_objects", "Tracklets that were reported.")
OBSERVATIONS = Metric("sightflow_observations", "Observations stored, by how they are known.", ("state",))
FAILURES = Metric("sightflow_failures", "Chunks that failed, by kind of error.", ("kind",))
DAMAGE = Metric("sightflow_damaged_packets", "Packets that were skipped, or decoded with damage.")
STEP_SECONDS = Metric(
    "sightflow_step_seconds", "Seconds a chunk took in a step: decode, detect, segment, commit.", ("step",), SECONDS
)
WAIT_SECONDS = Metric("sightflow_wait_seconds", "Seconds a chunk waited between detection and tracking.", (), SECONDS)

METRICS = (CHUNKS, FRAMES, DETECTIONS, OBJECTS, OBSERVATIONS, FAILURES, DAMAGE, STEP_SECONDS, WAIT_SECONDS)
"""Every metric."""

KILLED = "killed"
"""Kind of the failure of a chunk whose process died again and again."""


@dataclass(frozen=True)
class Sample:
    """A number to add to a metric."""

    metric: Metric
    value: float
    tags: dict[str, str]


def samples(result: ChunkResult) -> Iterator[Sample]:
    """What a chunk that was committed adds."""
    if result.error is not None:
        yield Sample(CHUNKS, 1, {"outcome": "failed"})
        yield Sample(FAILURES, 1, {"kind": result.error_kind or "unknown"})
    else:
        yield Sample(CHUNKS, 1, {"outcome": "done"})
    for metric, counter in (
        (FRAMES, "frames"),
        (DETECTIONS, "detections"),
        (OBJECTS, "tracklets"),
        (DAMAGE, "corrupt_packets"),
    ):
        yield Sample(metric, result.counters.get(counter, 0), {})
    for row in pc.value_counts(result.observations["state"]).to_pylist():
        yield Sample(OBSERVATIONS, row["counts"], {"state": row["values"]})
    for step in ("decode", "detect", "segment", "commit"):
        if step in result.timings_s:
            yield Sample(STEP_SECONDS, result.timings_s[step], {"step": step})
    if "wait" in result.timings_s:
        yield Sample(WAIT_SECONDS, result.timings_s["wait"], {})

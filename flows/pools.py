"""How many workers detect and track, and what each asks of the cluster: from what the cluster has, or as told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.config import RunSettings
from flows.errors import UsageError

Resources = Mapping[str, float]

# A worker holds torch, a detector and a segmenter: about 2 GB before the first frame.
_WORKER_BYTES = 3 << 30
# Of the cores of a cluster without GPUs; commits run in what is left.
_DETECT_CORES, _TRACK_CORES = 0.2, 0.7
# Ray counts thousandths; a share that is a hair above what fits would never be scheduled.
_STEP = 100


@dataclass(frozen=True)
class Pool:
    """A pool of actors: how many, what each asks of Ray, on which nodes, and its threads."""

    size: int
    num_cpus: float | None
    num_gpus: float | None
    labels: Mapping[str, str]
    threads: int


@dataclass(frozen=True)
class Machines:
    """What a cluster has, or may grow to: totals, and the cores of its largest machine."""

    cores: int
    gpus: int
    memory_bytes: float
    largest_cores: int

    @classmethod
    def of(cls, nodes: Sequence[Resources], kinds: Sequence[tuple[Resources, int]] = ()) -> Machines:
        """Sum up nodes.

        Args:
            nodes: What each that is there has, in Ray's names (`CPU`, `GPU`, `memory` in bytes).
            kinds: What a node of each kind would have, and how many an autoscaler may start: where it starts from
                none, only this tells of them.
        """

        def total(name: str) -> float:
            there = sum(node.get(name, 0) for node in nodes)
            return max(there, sum(node.get(name, 0) * count for node, count in kinds))

        cores = max(int(total("CPU")), 1)
        largest = max(int(node.get("CPU", 0)) for node in [*nodes, *(node for node, _ in kinds), {}])
        return cls(cores, int(total("GPU")), total("memory"), largest or cores)


def size_pools(machines: Machines, settings: RunSettings, chunks: int) -> tuple[Pool, Pool]:
    """The pools of detection and tracking; none is larger than there are chunks.

    On GPUs each holds one detector beside as many trackers as fit the rest (one, by default). Without, there is a
    tracker per core, as far as memory goes, and a detector to four of them.

    Raises:
        UsageError: One GPU that cannot hold a detector and a tracker.
    """
    if machines.gpus and (settings.detect_gpus or settings.track_gpus):
        return _on_gpus(machines, settings, chunks)
    cores = machines.cores
    fits = int(machines.memory_bytes / _WORKER_BYTES) or cores
    track = settings.track_workers or max(1, min(chunks, cores, fits))
    detect = settings.detect_workers or max(1, min(chunks, cores // 4))
    threads = settings.torch_threads or max(1, min(cores // track, machines.largest_cores))
    return (
        Pool(detect, _share(_DETECT_CORES, detect, machines), None, settings.detect_labels, threads),
        Pool(track, _share(_TRACK_CORES, track, machines), None, settings.track_labels, threads),
    )


def _on_gpus(machines: Machines, settings: RunSettings, chunks: int) -> tuple[Pool, Pool]:
    gpus, per_detector, per_tracker = machines.gpus, settings.detect_gpus, settings.track_gpus
    together = per_detector + per_tracker <= 1
    if not together and gpus == 1:
        raise UsageError(
            f"run.detect_gpus ({per_detector:g}) and run.track_gpus ({per_tracker:g}) do not fit the one GPU there is "
            "together: choose shares whose sum is at most 1"
        )
    # Where a detector and a tracker do not share a GPU, the detectors get one for themselves.
    left = gpus * _fit(1 - per_detector, per_tracker) if together else max(1, int((gpus - 1) / max(per_tracker, 1)))
    track = settings.track_workers or min(chunks, left)
    detect = settings.detect_workers or min(chunks, gpus if together else _fit(1, per_detector))
    threads = settings.torch_threads or max(1, machines.cores // (track + detect))
    # A stage on a GPU asks for nothing else: Ray would otherwise keep GPUs idle for want of cores.
    return (
        Pool(detect, None if per_detector else 1.0, per_detector or None, settings.detect_labels, threads),
        Pool(track, None if per_tracker else 1.0, per_tracker or None, settings.track_labels, threads),
    )


def _fit(room: float, share: float) -> int:
    """How many shares of a GPU fit its room, at least one; a stage that takes none is bound by chunks alone."""
    return max(1, int(room / share + 1e-9)) if share else 1


def _share(of_cores: float, workers: int, machines: Machines) -> float:
    """Cores each worker asks for, no more than one machine has: any part below one, whole ones above, as Ray wants."""
    share = min(of_cores * machines.cores / workers, of_cores * machines.largest_cores)
    return int(share * _STEP) / _STEP if share < 1 else float(int(share))

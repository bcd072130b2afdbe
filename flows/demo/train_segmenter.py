"""Training of the nano segmenter: its curriculum and its loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from flows.demo.clips import ClipMaker, ClipSpec
from flows.demo.nano import build_nano, save_weights
from flows.demo.pictures import contact_sheet
from flows.demo.unroll import Batch, Unrolled, Unroller, collate, losses, mask_iou, total_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with clips of one kind.

    Attributes:
        steps: Optimiser steps.
        size_px: Side of the frames.
        frames: Frames a clip.
        clips: Clips a step.
        objects: Objects a clip.
        real_share: Share of clips from real footage.
        scene_share: Share of clips from synthetic scenes; the rest is textured shapes.
        own_score_share: Share of steps in which the model's own object score, not the truth, decides what is
            remembered, as at inference.
    """

    steps: int
    size_px: int
    frames: int
    clips: int
    objects: int
    real_share: float
    scene_share: float
    own_score_share: float = 0.0


CURRICULUM = (
    Phase(2700, 128, 1, 10, 6, 0.45, 0.35),
    Phase(150, 128, 2, 8, 4, 0.45, 0.35),
    Phase(150, 128, 4, 5, 4, 0.45, 0.35),
    Phase(300, 256, 2, 4, 4, 0.5, 0.3),
    Phase(700, 256, 4, 2, 4, 0.5, 0.35, 0.2),
    Phase(500, 256, 7, 2, 3, 0.5, 0.35, 0.4),
    # Both resolutions by turns: either alone would undo some of the other. Single frames first, then memory.
    *(Phase(5, 512, 1, 1, 8, 0.5, 0.35), Phase(5, 256, 1, 4, 8, 0.5, 0.35)) * 110,
    *(
        Phase(5, 512, 2, 1, 6, 0.55, 0.3, 0.3),
        Phase(4, 256, 4, 2, 6, 0.55, 0.3, 0.3),
        Phase(1, 256, 8, 1, 5, 0.55, 0.3, 0.5),
    )
    * 32,
    *(
        Phase(4, 512, 3, 1, 5, 0.55, 0.3, 0.4),
        Phase(5, 256, 6, 2, 4, 0.55, 0.3, 0.5),
        Phase(1, 512, 1, 1, 8, 0.55, 0.35),
    )
    * 70,
)

# What trained weights go on with. Every frame starts from a box, so what a single frame makes of a box decides, and
# such steps cost a tenth of those through memory; memory is rehearsed so that it keeps up with the changing features.
REFINEMENT = (
    Phase(5, 512, 1, 1, 8, 0.4, 0.5),
    Phase(2, 256, 1, 4, 8, 0.4, 0.5),
    Phase(1, 256, 4, 2, 5, 0.4, 0.5, 0.4),
    Phase(4, 512, 1, 1, 8, 0.4, 0.5),
    Phase(2, 256, 1, 4, 8, 0.4, 0.5),
    Phase(1, 512, 2, 1, 5, 0.4, 0.5, 0.4),
) * 750


class StepDataset(Dataset[Batch]):
    """The batch of every training step, a function of seed, step and rank alone."""

    def __init__(self, maker: ClipMaker, curriculum: tuple[Phase, ...], seed: int, rank: int = 0) -> None:
        self._maker, self._curriculum, self._seed, self._rank = maker, curriculum, seed, rank

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(1)  # the cores belong to training
        phase = phase_at(self._curriculum, step)
        rng = np.random.default_rng((self._seed, step, self._rank))
        spec = ClipSpec(phase.size_px, phase.frames, phase.objects, phase.real_share, phase.scene_share)
        return collate([self._maker.make(rng, spec) for _ in range(phase.clips)], rng)


def phase_at(curriculum: tuple[Phase, ...], step: int) -> Phase:
    """The phase a step lies in; the last one goes on for ever."""
    for phase in curriculum:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return curriculum[-1]


def rate_share(step: int, warm_up_steps: int, progress: float) -> float:
    """Share of the peak learning rate after a warm-up; it falls to 2 % by a cosine over the progress, 0 to 1."""
    warm = min(1.0, (step + 1) / warm_up_steps)
    return float(warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress))))


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], state: Mapping[str, torch.Tensor], step: int) -> None:
    """Draw an exponential average of weights, in place, towards those after a step; young ones follow faster."""
    decay = min(0.995, (step + 1) / (step + 10))
    for key, value in state.items():
        average[key].lerp_(value, 1 - decay)


@dataclass
class Trainer:
    """State of a training run and its loop.

    Attributes:
        out_dir: Checkpoint, `log.jsonl` and pictures go here.
        curriculum: Phases, run one after the other.
        seed: Of data and initial weights.
        learning_rate: Peak, after warm-up; falls to 2 % by a cosine over all phases.
        workers: Processes that make clips.
        device: Where to train.
    """

    out_dir: Path
    maker: ClipMaker
    curriculum: tuple[Phase, ...] = CURRICULUM
    seed: int = 0
    learning_rate: float = 1e-3
    workers: int = 1
    device: str = "cpu"
    init_weights: Path | None = None
    warm_up_steps: int = 100
    log_every: int = 20
    save_every: int = 100
    picture_every: int = 200

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model = build_nano(self.curriculum[0].size_px, self.init_weights).to(self.device)
        self.unroll = Unroller(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=0.02)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        self._rank: int = dist.get_rank() if dist.is_initialized() else 0
        self._ranks: int = dist.get_world_size() if dist.is_initialized() else 1
        self.out_dir.mkdir(parents=True, exist_ok=True)

    @property
    def total_steps(self) -> int:
        """Steps of the whole curriculum."""
        return sum(phase.steps for phase in self.curriculum)

    @property
    def _checkpoint_path(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def resume(self) -> bool:
        """Load the last checkpoint, if there is one."""
        if not self._checkpoint_path.exists():
            return False
        state = torch.load(self._checkpoint_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        return True

    def save(self) -> None:
        """Write checkpoint and averaged weights; a crash while writing leaves the old ones."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        partial = self._checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint_path)
        save_weights(self.average, self.out_dir / "nano_segmenter.safetensors")

    def run(self, max_seconds: float = float("inf")) -> None:
        """Train to the end of the curriculum, or until the time is over."""
        started = last_log = time.monotonic()
        sums: dict[str, list[float]] = {}
        for batch in self._batches():
            figures = self.train_step(batch.to(torch.device(self.device)))
            for key, value in figures.items():
                sums.setdefault(key, []).append(value)
            if self._rank == 0:
                sums, last_log = self._report(batch, sums, last_log)
            if self._agreed(time.monotonic() - started > max_seconds):
                break
        if self._rank == 0:
            self.save()

    def _report(
        self, batch: Batch, sums: dict[str, list[float]], last_log: float
    ) -> tuple[dict[str, list[float]], float]:
        """Write what is due after this step; returns the figures still to be logged and the time of the last log."""
        if self.step % self.picture_every == 0:
            self._picture(batch)
        if self.step % self.save_every == 0:
            self.save()
        if self.step % self.log_every:
            return sums, last_log
        now = time.monotonic()
        self._log(sums, (now - last_log) / self.log_every)
        return {}, now

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.step, self.total_steps)
        dataset = StepDataset(self.maker, self.curriculum, self.seed, self._rank)
        loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=self.device.startswith("cuda"),
        )
        return iter(loader)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the figures to log."""
        rng = np.random.default_rng((self.seed, self.step, 1))
        phase = phase_at(self.curriculum, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._schedule()
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device.startswith("cuda")):
            said = self.unroll(
                batch,
                own_scores=bool(rng.random() < phase.own_score_share),
                prompt_age_frames=int(rng.integers(0, 60)) if rng.random() < 0.5 else 0,
            )
        parts = losses(said, batch)
        loss = total_loss(parts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        update_average(self.average, self.model.state_dict(), self.step)
        return self._figures(parts, said, batch)

    def _agreed(self, over: bool) -> bool:
        """What the first process says of the time, so that all stop after the same step."""
        if self._ranks == 1:
            return over
        said = torch.tensor(over)
        dist.broadcast(said, 0)
        return bool(said)

    def _share_gradients(self) -> None:
        """Average gradients over processes, so that all take the same step."""
        if self._ranks == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        # Which parts take part depends on the clips: what one process did not use, another may have.
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = (gradient / self._ranks).view_as(p)

    def _schedule(self) -> float:
        progress = min(1.0, self.step / max(self.total_steps, 1))
        return rate_share(self.step, self.warm_up_steps, progress)

    @staticmethod
    def _figures(parts: dict[str, torch.Tensor], said: Unrolled, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            iou = mask_iou(said, batch)
            figures = {key: float(value) for key, value in parts.items()}
            figures["iou_first"] = float(iou[:, 0].nanmean())
            if iou.shape[1] > 1:
                figures["iou_second"] = float(iou[:, 1].nanmean())
                figures["iou_last"] = float(iou[:, -1].nanmean())
        return figures

    def _log(self, sums: dict[str, list[float]], seconds_a_step: float) -> None:
        means = {key: round(float(np.nanmean(values)), 4) for key, values in sums.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        record = {"step": self.step, "lr": rate, "s_a_step": round(seconds_a_step, 3), **means}
        logger.info("%s", record)
        with (self.out_dir / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")

    def _picture(self, batch: Batch) -> None:
        with torch.no_grad():
            said = self.unroll(batch, own_scores=True)
        cv2.imwrite(str(self.out_dir / f"step_{self.step:06d}.png"), contact_sheet(batch, said)[..., ::-1])

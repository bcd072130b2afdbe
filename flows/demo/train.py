"""Training of the nano models: `python -m flows.demo.train segmenter|refiner|detector|masklets`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.demo.clips import ClipMaker

app = typer.Typer(help="Train the nano models that Sightflow ships.", no_args_is_help=True)


@app.command()
def masklets(
    out: Annotated[Path, typer.Option(help="Folder for the masklet files.")],
    clips: Annotated[list[Path] | None, typer.Option(help="Videos or folders of videos.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="Segmentation model that ultralytics can load.")] = None,
    stride: Annotated[int, typer.Option(help="Use every stride-th frame of the clips.")] = 1,
    scenes: Annotated[int, typer.Option(help="Synthetic scenes to render beside them.")] = 0,
) -> None:
    """Segment real clips with a teacher and link the masks over time; render scenes in the same format."""
    from flows.demo.masklets import FIRST_TRAINING_SEED, make_masklets, make_scene_clips

    if clips and not teacher:
        raise typer.BadParameter("real clips need a teacher", param_hint="--teacher")
    if clips and teacher:
        make_masklets(clips, teacher, out, stride)
    make_scene_clips(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + scenes), out)


@app.command()
def segmenter(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and pictures.")],
    masklets: Annotated[
        Path | None, typer.Option(help="Folder of masklet files; synthetic clips only without.")
    ] = None,
    hold_back: Annotated[list[str] | None, typer.Option(help="Masklet files (stem) kept for validation.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[Path | None, typer.Option(help="Weights to go on from: refines them.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    workers: Annotated[int, typer.Option(help="Processes that make clips.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda; the default takes a GPU where there is one.")] = "",
    max_minutes: Annotated[float, typer.Option(help="Stop (resumably) after this time.")] = float("inf"),
) -> None:
    """Train the nano segmenter through its curriculum; under torchrun, every process makes a batch of its own."""
    import torch.distributed as dist

    from flows.demo.train_segmenter import CURRICULUM, REFINEMENT, Trainer

    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    trainer = Trainer(
        out_dir=out,
        maker=_maker(masklets, hold_back),
        curriculum=REFINEMENT if init else CURRICULUM,
        seed=seed,
        learning_rate=learning_rate,
        workers=workers,
        device=device or _fastest_device(),
        init_weights=init,
    )
    if resume:
        trainer.resume()
    trainer.run(max_minutes * 60)


@app.command()
def refiner(
    out: Annotated[Path, typer.Option(help="Folder for log and weights.")],
    init: Annotated[Path, typer.Option(help="Segmenter to refine the masks of; a refiner it brings is gone on with.")],
    masklets: Annotated[Path | None, typer.Option(help="Folder of masklet files; synthetic only without.")] = None,
    hold_back: Annotated[list[str] | None, typer.Option(help="Masklet files (stem) kept for validation.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    minutes: Annotated[float, typer.Option(help="Time to train for; the learning rate falls to its end in it.")] = 60.0,
    device: Annotated[str, typer.Option(help="cpu or cuda; the default takes a GPU where there is one.")] = "",
) -> None:
    """Train what corrects the nano segmenter's masks close up, and write both as one file."""
    from flows.demo.train_refiner import RefinerTrainer

    RefinerTrainer(
        out_dir=out,
        maker=_maker(masklets, hold_back),
        init_weights=init,
        minutes=minutes,
        seed=seed,
        learning_rate=learning_rate,
        device=device or _fastest_device(),
    ).run()


@app.command()
def detector(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and pictures.")],
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    minutes: Annotated[float, typer.Option(help="Time to train for; the learning rate falls to its end in it.")] = 60.0,
    scenes: Annotated[int, typer.Option(help="Scenes to render, those for validation included.")] = 600,
) -> None:
    """Train the nano detector, and write it as the small file that `--init` and ultralytics take."""
    from flows.demo.train_detector import export_weights, train_detector

    last = train_detector(out, resume, seed, minutes, init, scenes, learning_rate)
    export_weights(last, out / "nano_detector.pt")


def _maker(masklets: Path | None, hold_back: list[str] | None) -> ClipMaker:
    from flows.demo.clips import ClipMaker

    paths = sorted(masklets.glob("*.npz")) if masklets else []
    return ClipMaker([path for path in paths if path.stem not in (hold_back or [])])


def _fastest_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOGLEVEL", "INFO"), format="%(asctime)s %(message)s")
    app()

"""The nano segmenter as a model: build it, load and store its weights, change its resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from flows.models import REFINER

CONFIG_PATH = Path(__file__).with_name("nano_segmenter.yaml")
WEIGHTS_PATH = Path(__file__).with_name("weights") / "nano_segmenter.safetensors"


def build_nano(image_size: int = 256, weights: Path | None = None) -> Any:
    """Build the nano segmenter as `SAM2VideoPredictor` for training and evaluation.

    Args:
        image_size: Side of the square the frames are scaled to, a multiple of 32.
        weights: A safetensors file, or None for random weights.
    """
    config = OmegaConf.load(CONFIG_PATH)
    config.model.image_size = image_size
    model = instantiate(config.model, _recursive_=True)
    if weights is not None:
        model.load_state_dict({k: v for k, v in load_weights(weights).items() if not k.startswith(REFINER)})
    return model.eval()


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Stored weights in single precision, those of the refiner under `flows.models.REFINER`."""
    return {k: v.float() for k, v in load_file(str(path)).items()}


def save_weights(state: dict[str, torch.Tensor], path: Path = WEIGHTS_PATH) -> None:
    """Store weights in half precision, which leaves masks as they are (see the model card)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {k: v.detach().half().contiguous().cpu() for k, v in state.items()}
    save_file(halves, str(path), metadata={"format": "pt", "model": "sightflow nano segmenter"})


def set_image_size(model: Any, image_size: int) -> None:
    """Change the resolution of a built model in place: nothing learned depends on it."""
    if model.image_size == image_size:
        return
    cells = image_size // model.backbone_stride
    encoder = model.sam_prompt_encoder
    model.image_size, model.sam_image_embedding_size = image_size, cells
    encoder.input_image_size, encoder.image_embedding_size = (image_size, image_size), (cells, cells)
    encoder.mask_input_size = (4 * cells, 4 * cells)

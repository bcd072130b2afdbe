"""Pictures of what the nano segmenter does: the first thing to look at."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from flows.demo.unroll import IMAGE_MEAN, IMAGE_STD, Batch, Unrolled


def contact_sheet(batch: Batch, said: Unrolled, rows: int = 6, columns: int = 6) -> NDArray[np.uint8]:
    """A picture of clips, one object a row: frames with the truth outlined in green, the prediction in red."""
    clips, frames = batch.images.shape[:2]
    objects = len(batch.truth) // clips
    size = batch.images.shape[-1]
    times = np.unique(np.linspace(0, frames - 1, columns).astype(int))
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    lines = []
    for n in np.linspace(0, len(batch.truth) - 1, min(rows, len(batch.truth))).astype(int):
        line = []
        for t in times:
            image = batch.images[n // objects, t].cpu() * std + mean
            rgb = np.ascontiguousarray((image.permute(1, 2, 0).numpy() * 255).clip(0, 255).astype(np.uint8))
            shown = said.scores[n, t] > 0
            for mask, colour in (
                (batch.truth[n, t] > 0.5, (0, 255, 0)),
                ((said.logits[n, t].float() > 0) & shown, (255, 0, 0)),
            ):
                full = cv2.resize(mask.cpu().numpy().astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
                outlines = cv2.findContours(full, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
                cv2.drawContours(rgb, outlines, -1, colour, 1)
            line.append(rgb)
        lines.append(np.hstack(line))
    return np.vstack(lines)

"""SAM 2's own modules without work they repeat: what is the same for all objects, or for all frames, is done once.

Modules come built from the configuration, so each is given its class afterwards. Results stay bit-equal for one object;
`fold_values` alone changes their last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base


def lighten(model: SAM2Base) -> None:
    """Spare a model what it repeats, in place."""
    model.memory_attention.layers[0].__class__ = _SharedSelfAttention
    model.memory_encoder.pix_feat_proj.__class__ = _SharedProjection
    model.sam_prompt_encoder.pe_layer.__class__ = _Grid
    for module in (model.image_encoder.neck, model.memory_encoder):
        module.position_encoding = _Positions(module.position_encoding)
    for module in model.image_encoder.modules():
        if isinstance(module, torch.nn.MaxPool2d) and (module.kernel_size, module.padding) == ((2, 2), 0):
            module.__class__ = _Pool


@torch.no_grad()
def fold_values(model: SAM2Base) -> None:
    """Weigh memory by attention before it is projected, not after, in place; once weights are loaded."""
    for attention in (layer.cross_attn_image for layer in model.memory_attention.layers):
        if attention.num_heads == 1 and not isinstance(attention, _FoldedAttention):
            _FoldedAttention.fold(attention)


def compile_steps(model: SAM2Base, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile what a frame goes through, in place, as the package's `SAM2VideoPredictorVOS` does.

    Without its CUDA graphs, which write every result over the one before: memory is made of results.

    Args:
        model: With loaded weights.
        backend: Of `torch.compile`.
    """
    # How many memories an object reads varies from frame to frame, all else with the number of objects alone.
    parts = (model.image_encoder, model.memory_encoder, model.sam_prompt_encoder, model.sam_mask_decoder)
    for part, dynamic in [*((part, False) for part in parts), (model.memory_attention, True)]:
        part.forward = torch.compile(part.forward, backend=backend, dynamic=dynamic)


class _SharedSelfAttention(MemoryAttentionLayer):
    """The first layer's self-attention sees the frame alone, the same for all objects: once is enough."""

    def _forward_sa(self, tgt: torch.Tensor, query_pos: torch.Tensor) -> torch.Tensor:
        return super()._forward_sa(tgt[:1], query_pos[:1]).expand_as(tgt)


class _SharedProjection(torch.nn.Conv2d):
    """The memory encoder's view of the frame, the same for all objects: once is enough."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:1]).expand(len(x), -1, -1, -1)


class _Pool(torch.nn.MaxPool2d):
    """Hiera's pooling of 2x2 cells whose channels lie together, for which torch has no fast path on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class _FoldedAttention(RoPEAttention):
    """Attention of one head over memory as it is; the output projection does what that of values did.

    The weights of attention add up to one and projections are linear, so both are the same; SAM 2's memory is a
    quarter as wide as its values. torch's own attention takes no such values without guarding against keys that are
    masked, of which there are none here.
    """

    freqs_cis: torch.Tensor

    @classmethod
    def fold(cls, attention: RoPEAttention) -> None:
        """Change an attention with loaded weights, in place."""
        value, output = attention.v_proj, attention.out_proj
        both = torch.nn.Linear(value.in_features, output.out_features).to(value.weight).requires_grad_(False)
        both.weight.copy_(output.weight @ value.weight)
        both.bias.copy_(output.weight @ value.bias + output.bias)
        attention.v_proj, attention.out_proj = torch.nn.Identity(), both
        attention.__class__ = cls

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_k_exclude_rope: int = 0) -> torch.Tensor:
        """See `RoPEAttention.forward`."""
        q, k = self.q_proj(q), self.k_proj(k)
        side = math.isqrt(q.shape[1])
        if len(self.freqs_cis) != q.shape[1]:
            self.freqs_cis = self.compute_cis(end_x=side, end_y=side).to(q.device)
        grid = self.freqs_cis
        for placed in (q, k[:, : k.shape[1] - num_k_exclude_rope]):
            # As complex numbers, in place, and memory frame by frame: all lie on the same grid.
            torch.view_as_complex(placed.unflatten(2, (-1, 2)).unflatten(1, (-1, len(grid)))).mul_(grid)
        weights = (q * self.internal_dim**-0.5) @ k.transpose(1, 2)
        return self.out_proj(weights.softmax(-1) @ v)


class _Positions(torch.nn.Module):
    """A position encoding that is made once for each size instead of copied for every frame and level."""

    def __init__(self, encoding: torch.nn.Module) -> None:
        super().__init__()
        self._encoding = encoding
        self._made: dict[tuple[torch.Size, torch.device], torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encoding of the places of (B, C, h, w), of the same shape."""
        key = x.shape[-2:], x.device
        if key not in self._made:
            self._made[key] = self._encoding(x[:1])
        return self._made[key].expand(len(x), -1, -1, -1)


class _Grid(PositionEmbeddingRandom):
    """The prompt encoder's positions of the feature map's cells, likewise made once."""

    def forward(self, size: tuple[int, int]) -> torch.Tensor:
        key = size, self.positional_encoding_gaussian_matrix.device
        made = self.__dict__.setdefault("_made", {})
        if key not in made:
            made[key] = super().forward(size)
        return made[key]

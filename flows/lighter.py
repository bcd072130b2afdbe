"""SAM 2's own modules without work they repeat: what is the same for all objects, or for all frames, is done once.

Modules come built from the configuration, so each is given its class afterwards. Results stay bit-equal for one object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d


def lighten(model: SAM2Base) -> None:
    """Spare a model what it repeats, in place."""
    model.memory_attention.layers[0].__class__ = _SharedSelfAttention
    model.sam_prompt_encoder.pe_layer.__class__ = _Grid
    for module in (model.image_encoder.neck, model.memory_encoder):
        module.position_encoding = _Positions(module.position_encoding)
    for module in model.modules():
        if type(module) is LayerNorm2d:
            module.__class__ = _Norm


def rotary_attentions(model: SAM2Base) -> list[RoPEAttention]:
    """The attentions over memory that turn queries and keys by their place; other models may have others."""
    layers = model.memory_attention.layers
    found = [attention for layer in layers for attention in (layer.self_attn, layer.cross_attn_image)]
    return [attention for attention in found if isinstance(attention, RoPEAttention)]


def compile_steps(model: SAM2Base, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile what a frame goes through, in place, as the package's `SAM2VideoPredictorVOS` does.

    Without its CUDA graphs, which write every result over the one before: memory is made of results.

    Args:
        model: With loaded weights.
        backend: Of `torch.compile`.
    """
    for attention in rotary_attentions(model):
        attention.__class__ = _RealAttention
        attention.turns = torch.view_as_real(attention.freqs_cis).to(attention.q_proj.weight.device)
    # How many memories an object reads varies from frame to frame, all else with the number of objects alone.
    parts = (model.image_encoder, model.memory_encoder, model.sam_prompt_encoder, model.sam_mask_decoder)
    for part, dynamic in [*((part, False) for part in parts), (model.memory_attention, True)]:
        part.forward = torch.compile(part.forward, backend=backend, dynamic=dynamic)


class _SharedSelfAttention(MemoryAttentionLayer):
    """The first layer's self-attention sees the frame alone, the same for all objects: once is enough."""

    def _forward_sa(self, tgt: torch.Tensor, query_pos: torch.Tensor) -> torch.Tensor:
        return super()._forward_sa(tgt[:1], query_pos[:1]).expand_as(tgt)


class _Norm(LayerNorm2d):
    """The same sums in one piece of memory instead of seven: moving them is what takes the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:  # what autocast makes wider on the way has no room where it was
            return super().forward(x)
        x = x - x.mean(1, keepdim=True)
        deviation = x.square().mean(1, keepdim=True).add_(self.eps).sqrt_()
        return x.div_(deviation).mul_(self.weight[:, None, None]).add_(self.bias[:, None, None])


class _RealAttention(RoPEAttention):
    """Attention whose rotary encoding is in real numbers, and whose heads lie as all of torch's kernels take them.

    Compilers leave complex numbers alone, and what could be one pass over memory is several. cuDNN's attention, which
    torch prefers on newer GPUs and which takes SAM 2's heads of 256 by now, wants queries that lie by object, place and
    head; those that the package has turned lie by object, head and place.
    """

    turns: torch.Tensor
    """Cosine and sine of every place on the map, (h * w, C / 2, 2) float32."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_k_exclude_rope: int = 0) -> torch.Tensor:
        """See `RoPEAttention.forward`."""
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        q, k, v = (x.unflatten(2, (self.num_heads, -1)) for x in projected)
        placed = k.shape[1] - num_k_exclude_rope
        k = torch.cat([_turned(k[:, :placed], self.turns), k[:, placed:]], dim=1)
        heads = (x.transpose(1, 2) for x in (_turned(q, self.turns), k, v))
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Heads (B, frames * h * w, H, C), each pair of numbers turned as its place on the map says; in float32."""
    one, other = x.unflatten(1, (-1, len(turns))).unflatten(-1, (-1, 2)).float().unbind(-1)
    cosine, sine = turns[:, None].unbind(-1)
    turned = torch.stack([one * cosine - other * sine, one * sine + other * cosine], dim=-1)
    return turned.flatten(-2).flatten(1, 2).type_as(x)


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

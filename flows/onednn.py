"""SAM 2's products by oneDNN, on a CPU: its linear layers, and the attention that reads memory.

torch multiplies fp32 matrices by MKL, which takes the widest instructions on Intel's processors alone: on an AMD EPYC
with AVX-512 a core does 110 GFLOP/s by MKL and 240 by oneDNN, which torch brings for convolutions. Modules come built
from the configuration, so each is given its class afterwards. Results change in their last bits.
"""

from __future__ import annotations

import math

import torch
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base

from flows.lighter import rotary_attentions

# Multiplications below which oneDNN's preparations, 10 us a call, take longer than what it saves.
_LEAST = 1 << 20
# Numbers in a block of attention's weights: a few MB, what a CPU's cache holds.
_BLOCK = 1 << 20


@torch.no_grad()
def use_onednn(model: SAM2Base) -> None:
    """Multiply by oneDNN, in place, where torch has it; once weights are loaded, for fp32 without autocast."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and _has_product()):
        return
    for attention in rotary_attentions(model):
        if attention.num_heads == 1:
            _Attention.adopt(attention)
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = _Linear
        elif type(module) is torch.nn.Conv2d and _is_pointwise(module):
            module.__class__ = _Pointwise


def _has_product() -> bool:
    """Whether this torch has the operator, which it made for its compiler and promises nobody."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _is_pointwise(conv: torch.nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


class _Linear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() * self.out_features < _LEAST:
            return super().forward(x)
        return _product(x, self.weight, self.bias)


class _Pointwise(torch.nn.Conv2d):
    """A convolution of 1x1: torch leaves those of single frames to MKL."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class _Attention(RoPEAttention):
    """Attention of one head, an object and a block of queries at a time.

    Memory is weighed as it is, and the output projection does what that of values did: the weights of attention add up
    to one and projections are linear, so both are the same, and SAM 2's memory is a quarter as wide as its values.
    """

    freqs_cis: torch.Tensor

    @classmethod
    def adopt(cls, attention: RoPEAttention) -> None:
        """Change an attention with loaded weights, in place."""
        value, output = attention.v_proj, attention.out_proj
        if value.in_features < value.out_features:
            both = torch.nn.Linear(value.in_features, output.out_features).to(value.weight).requires_grad_(False)
            both.weight.copy_(output.weight @ value.weight)
            both.bias.copy_(output.weight @ value.bias + output.bias)
            attention.v_proj, attention.out_proj = torch.nn.Identity(), both
        attention.__class__ = cls

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_k_exclude_rope: int = 0) -> torch.Tensor:
        """See `RoPEAttention.forward`."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        side = math.isqrt(q.shape[1])
        if len(self.freqs_cis) != q.shape[1]:
            self.freqs_cis = self.compute_cis(end_x=side, end_y=side)
        grid = self.freqs_cis
        for placed in (q, k[:, : k.shape[1] - num_k_exclude_rope]):
            # As complex numbers, in place, and memory frame by frame: all lie on the same grid.
            torch.view_as_complex(placed.unflatten(2, (-1, 2)).unflatten(1, (-1, len(grid)))).mul_(grid)
        q *= self.internal_dim**-0.5
        return self.out_proj(torch.stack([_attend(*one) for one in zip(q, k, v, strict=True)]))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One object's values (L, D), weighed by its queries (N, C) on its keys (L, C), which are scaled: (N, D)."""
    blocks = q.split(max(_BLOCK // len(k), 1))
    return torch.cat([_product(_product(block, k).softmax(-1), v.T) for block in blocks])

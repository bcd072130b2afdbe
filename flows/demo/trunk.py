"""The nano segmenter's image trunk: a small convolutional network in the place of SAM 2's Hiera.

It learns from scratch in minutes where a small Hiera had learned nothing after 700 steps, because convolutions bring
locality with them and a hierarchical transformer has to learn it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class ConvBlock(nn.Module):
    """A residual block: depthwise 5x5, GroupNorm, and a pointwise MLP twice as wide.

    Args:
        channels: Channels in and out; must be a multiple of 8 (the size of a normalisation group).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(channels // 8, channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.activation = nn.GELU(approximate="tanh")
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        y: torch.Tensor = self.project(self.activation(self.expand(self.norm(self.depthwise(x)))))
        return x + y


class ConvTrunk(nn.Module):
    """Four stages of feature maps at strides 4, 8, 16 and 32, as SAM 2's `FpnNeck` takes them.

    Args:
        channels: Channels of the four stages, highest resolution first.
        depths: Blocks in each stage.
    """

    def __init__(self, channels: Sequence[int] = (24, 48, 96, 128), depths: Sequence[int] = (2, 2, 4, 2)) -> None:
        super().__init__()
        # SAM 2's neck wants the lowest resolution first.
        self.channel_list = list(channels)[::-1]
        stem_channels = 16
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_channels, 3, stride=2, padding=1),
            nn.GroupNorm(2, stem_channels),
            nn.GELU(approximate="tanh"),
        )
        stages = []
        previous = stem_channels
        for width, depth in zip(channels, depths, strict=True):
            down = nn.Conv2d(previous, width, 3, stride=2, padding=1)
            norm = nn.GroupNorm(width // 8, width)
            stages.append(nn.Sequential(down, norm, *(ConvBlock(width) for _ in range(depth))))
            previous = width
        self.stages = nn.ModuleList(stages)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of (N, 3, H, W) normalised images: four (N, C_i, H / 2^(i+2), W / 2^(i+2)) tensors."""
        # Channels-last halves the time of depthwise convolutions on a CPU and is the fast layout on a GPU, too.
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

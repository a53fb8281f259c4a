"""What the catalogue's models are made of: one encoder for each kind of input, and what goes over a sequence.

Everything normalises within a record (layer norms, never batch norms): records of one site stay apart from those of
another, a batch of one is a batch, and each record has a gradient of its own for private training. Nothing is random
but the first weights, so that training and evaluation are one graph.

Legend: B records, L places of a sequence, W width, F columns, C channels.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Family = Literal["perceptron", "convolutional", "recurrent", "transformer"]

WIDTH: Final = 64
"""Of everything inside: small models, which learn from few records and move in a moment (50 to 400 kB)."""
HEADS: Final = 4
BLOCKS: Final = 2
"""Of a transformer, and of a perceptron."""
DILATIONS: Final = (1, 2, 4)
"""Of convolutions over a sequence: with kernels of five a place sees 28 others."""
KERNEL: Final = 5
SIDE_MOST: Final = 64
"""Images are averaged down to as many points along a side: what is told apart by finer detail needs a larger model."""
GRID: Final = 8
"""Patches along a side of an image, and points of the map that convolutions leave."""


class Residual(nn.Module):
    """`x + f(norm(x))` over the last dimension, with one hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, W) → (…, W)."""
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm(x))))
        return out


class Recurrent(nn.Module):
    """A gated recurrent layer, from the first place to the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLW: Tensor, there_BL: Tensor | None) -> Tensor:
        """(B, L, W) → (B, L, W). Places that are not there come last, and change nothing before them."""
        if there_BL is not None:
            x_BLW = x_BLW * there_BL.unsqueeze(2)
        out: Tensor = self.norm(x_BLW + self.layer(x_BLW)[0])
        return out


class Convolutions(nn.Module):
    """Dilated convolutions along a sequence; `causal`: no place sees what comes after it."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in DILATIONS)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, KERNEL, dilation=one) for one in DILATIONS)

    def forward(self, x_BLW: Tensor, there_BL: Tensor | None) -> Tensor:
        """(B, L, W) → (B, L, W)."""
        for norm, layer, dilation in zip(self.norms, self.layers, DILATIONS, strict=True):
            seen = norm(x_BLW)
            if there_BL is not None:
                seen = seen * there_BL.unsqueeze(2)
            reach = dilation * (KERNEL - 1)
            sides = (reach, 0) if self.causal else (reach // 2, reach // 2)
            x_BLW = x_BLW + functional.gelu(layer(functional.pad(seen.transpose(1, 2), sides))).transpose(1, 2)
        return x_BLW


class Attention(nn.Module):
    """Self-attention of a sequence, added to it."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLW: Tensor, there_BL: Tensor | None) -> Tensor:
        """(B, L, W) → (B, L, W)."""
        _, length, width = x_BLW.shape
        parts = self.into(self.norm(x_BLW)).view(-1, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        mask = None
        if there_BL is not None and not self.causal:
            # The first place is seen even of an empty text: attention to nothing is not a number.
            first = torch.arange(length, device=x_BLW.device) == 0
            mask = (there_BL.bool() | first).view(-1, 1, 1, length)
        mixed = functional.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], attn_mask=mask, is_causal=self.causal
        )
        out: Tensor = x_BLW + self.out(mixed.transpose(1, 2).reshape(-1, length, width))
        return out


class Transformer(nn.Module):
    """Attention and a hidden layer, a few times; each place knows where it stands."""

    def __init__(self, width: int, length: int, *, causal: bool) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.attention = nn.ModuleList(Attention(width, causal=causal) for _ in range(BLOCKS))
        self.hidden = nn.ModuleList(Residual(width) for _ in range(BLOCKS))

    def forward(self, x_BLW: Tensor, there_BL: Tensor | None) -> Tensor:
        """(B, L, W) → (B, L, W)."""
        x_BLW = x_BLW + self.places
        for attention, hidden in zip(self.attention, self.hidden, strict=True):
            x_BLW = hidden(attention(x_BLW, there_BL))
        return x_BLW


def over_sequence(family: Family, length: int, *, causal: bool = False) -> nn.Module:
    """What goes over a sequence of `length` places in this family."""
    if family == "recurrent":
        return Recurrent(WIDTH)
    if family == "transformer":
        return Transformer(WIDTH, length, causal=causal)
    return Convolutions(WIDTH, causal=causal)


def mean_of_places(x_BLW: Tensor, there_BL: Tensor | None) -> Tensor:
    """(B, L, W) → (B, W): the mean over the places that are there, zeros where none is."""
    if there_BL is None:
        return x_BLW.mean(1)
    weights = there_BL.unsqueeze(2)
    return (x_BLW * weights).sum(1) / weights.sum(1).clamp_min(1.0)


class OfNumbers(nn.Module):
    """Numbers without an order: hidden layers over all; in a transformer each number is a place of a sequence (feature
    tokens: Y. Gorishniy and others, NeurIPS 2021)."""

    def __init__(self, family: Family, count: int) -> None:
        super().__init__()
        self.tokens = family == "transformer"
        if self.tokens:
            self.weight = nn.Parameter(torch.randn(count, WIDTH) / math.sqrt(WIDTH))
            self.offset = nn.Parameter(torch.randn(count, WIDTH) / math.sqrt(WIDTH))
            self.over: nn.Module = over_sequence(family, count)
        else:
            self.into = nn.Linear(count, WIDTH)
            self.hidden = nn.Sequential(*(Residual(WIDTH) for _ in range(BLOCKS)))

    def forward(self, x_BF: Tensor) -> Tensor:
        """(B, F) → (B, W)."""
        if self.tokens:
            return mean_of_places(self.over(x_BF.unsqueeze(2) * self.weight + self.offset, None), None)
        out: Tensor = self.hidden(self.into(x_BF))
        return out


class OfCategory(nn.Module):
    """One of a vocabulary: a row of a table."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.table = nn.Embedding(values, WIDTH)

    def forward(self, x_B: Tensor) -> Tensor:
        """(B,) → (B, W)."""
        out: Tensor = self.table(x_B)
        return out


class OfImage(nn.Module):
    """An image: convolutions of ever fewer points, its rows one after another, or its patches as a sequence."""

    def __init__(self, family: Family, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.family = family
        sides = [min(SIDE_MOST, side) for side in (height, width)]
        if family == "transformer":
            grid = [min(GRID, side) for side in sides]
            patch = [side // many for side, many in zip(sides, grid, strict=True)]
            sides = [many * one for many, one in zip(grid, patch, strict=True)]
            self.patches = nn.Conv2d(channels, WIDTH, (patch[0], patch[1]), stride=(patch[0], patch[1]))
            self.over: nn.Module = over_sequence(family, grid[0] * grid[1])
        elif family == "recurrent":
            self.row = nn.Linear(channels * sides[1], WIDTH)
            self.over = over_sequence(family, sides[0])
        else:
            many = max(0, round(math.log2(max(1, min(sides) / GRID))))
            self.stem = nn.Conv2d(channels, WIDTH // 2, 3, padding=1)
            self.halvings = nn.ModuleList(nn.Conv2d(WIDTH // 2, WIDTH // 2, 3, padding=1) for _ in range(many))
            self.last = nn.Conv2d(WIDTH // 2, WIDTH, 3, padding=1)
            self.left = (min(GRID // 2, sides[0]), min(GRID // 2, sides[1]))
            self.out = nn.Linear(WIDTH * self.left[0] * self.left[1], WIDTH)
        self.sides = (sides[0], sides[1])
        self.whole = (sides[0], sides[1]) == (height, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, height, width) → (B, W)."""
        x = x_BCHW if self.whole else functional.adaptive_avg_pool2d(x_BCHW, self.sides)
        if self.family == "transformer":
            return mean_of_places(self.over(self.patches(x).flatten(2).transpose(1, 2), None), None)
        if self.family == "recurrent":
            return mean_of_places(self.over(self.row(x.transpose(1, 2).flatten(2)), None), None)
        x = functional.gelu(self.stem(x))
        for layer in self.halvings:
            x = functional.gelu(layer(functional.max_pool2d(x, 2)))
        x = functional.adaptive_avg_pool2d(functional.gelu(self.last(x)), self.left)
        out: Tensor = self.out(x.flatten(1))
        return out


class OfSequence(nn.Module):
    """A sequence of vectors."""

    def __init__(self, family: Family, length: int, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, WIDTH)
        self.over = over_sequence(family, length)

    def forward(self, x_BLF: Tensor) -> Tensor:
        """(B, L, F) → (B, W)."""
        return mean_of_places(self.over(self.into(x_BLF), None), None)


class OfTokens(nn.Module):
    """A text as tokens."""

    def __init__(self, family: Family, length: int, vocabulary: int, padding: int, *, causal: bool) -> None:
        super().__init__()
        self.padding = padding
        self.table = nn.Embedding(vocabulary, WIDTH)
        self.over = over_sequence(family, length, causal=causal)

    def places(self, ids_BL: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, L) → (B, L, W), and (B, L) which places are there."""
        there_BL = (ids_BL != self.padding if mask_BL is None else mask_BL > 0).to(torch.float32)
        return self.over(self.table(ids_BL), there_BL), there_BL

    def forward(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L) → (B, W)."""
        return mean_of_places(*self.places(ids_BL, mask_BL))

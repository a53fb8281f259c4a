"""The owners' own models: ordinary `nn.Module`s that know nothing of the network they are trained in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CellReader(nn.Module):
    """Mira's: 30 measured numbers → logits of benign, malignant. Layer norm, since each site sees another mix."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(30, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, 2),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """(B, 30) → (B, 2)."""
        logits: Tensor = self.layers(cells)
        return logits


class DigitReader(nn.Module):
    """Jonas's: images of 8 × 8 → logits of `classes` signs. Two convolutions, one pooling."""

    def __init__(self, classes: int = 10, channels: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * channels * 4 * 4, classes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, 8, 8) → (B, classes)."""
        hidden = torch.relu(self.first(image))
        hidden = self.pool(torch.relu(self.second(hidden)))
        logits: Tensor = self.head(self.dropout(hidden.flatten(1)))
        return logits


def make_model(kind: str, seed: int) -> nn.Module:
    """A fresh model of a kind (`breast`, `forms`, `hexadecimal`), the same for the same seed."""
    torch.manual_seed(seed)
    if kind == "breast":
        return CellReader()
    return DigitReader(classes=16 if kind == "hexadecimal" else 10)

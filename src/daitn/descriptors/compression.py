"""Compression of updates: how much of what a visit changed is handed on, and how large that is."""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from daitn.base.errors import InputError

WINDOW: Final = 1 << 16
"""Numbers of a tensor that are ranked together: a place in them takes two bytes, and memory stays bounded."""
BLOCK: Final = 256
"""Numbers that share a scale of four bytes: 1.6 % beside their codes."""
KEEP: Final = 0.05
"""Share that `top-k` keeps where its owner says none."""


class Compression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Updates are handed on in 8 bits a number, all of them or the largest only; what that leaves out stays at the site
    and goes into its next update (`learning.numerics.compression`)."""

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of an update's numbers that is handed on, those that changed most; 1: all of them."""

    def __str__(self) -> str:
        return "8-bit" if self.keep == 1.0 else f"top-k={self.keep:g}"

    def kept_of(self, count: int) -> int:
        """How many of so many numbers are handed on."""
        return min(count, math.ceil(self.keep * count))

    def bytes_of(self, count: int) -> int:
        """Bytes that an update of so many numbers takes, nearly: what small tensors round up is left out."""
        kept = self.kept_of(count)
        return kept * (1 if self.keep == 1.0 else 3) + 4 * -(-kept // BLOCK)


def parse_compression(text: str) -> Compression:
    """`8-bit`, `top-k` or `top-k=0.05`; InputError for anything else."""
    name, equals, share = text.strip().partition("=")
    if name == "8-bit" and not equals:
        return Compression()
    if name == "top-k":
        try:
            keep = float(share) if equals else KEEP
        except ValueError:
            keep = math.nan
        if 0 < keep <= 1:
            return Compression(keep=keep)
        raise InputError(f"{text[:40]!r}: {share[:20]!r} is no share", todo="write a number above 0 and at most 1")
    raise InputError(f"{text[:40]!r} is no compression", todo="write '8-bit', 'top-k' or for example 'top-k=0.01'")

"""Differentially private training: what an owner asks for, and what one visit does about it.

What is protected is one group of a data set (a patient, where the contract groups records; else one record), as in
published statistics, so that one ledger can hold both. Everything that the cost follows from stands in the order and is
known to all: the numbers of a site's groups and records are private themselves and never enter into it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.errors import InputError

EpsilonBound = Annotated[float, msgspec.Meta(gt=0, le=100)]
Delta = Annotated[float, msgspec.Meta(gt=0, le=0.001)]
Clip = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class Privacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train with noise, so that the job costs no data set more than (`epsilon`, `delta`)."""

    epsilon: EpsilonBound
    delta: Delta = 1e-5
    """Chance beyond which the bound may not hold; well below one over the number of groups."""
    clip: Clip = 1.0
    """Euclidean norm of one record's gradient at most; the noise grows with it."""
    visits: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    """Visits to one data set that `epsilon` shall last for: more of them, more noise in each."""


class PrivateSteps(msgspec.Struct, frozen=True, kw_only=True):
    """How the steps of one visit are made private. `epsilon` and `delta` bound what the whole job costs a data set."""

    epsilon: EpsilonBound
    delta: Delta
    clip: Clip
    noise_multiplier: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    """Standard deviation of the noise on the sum of a step's gradients, in `clip`s."""
    sampling_rate: Annotated[float, msgspec.Meta(gt=0, le=1)]
    """Chance of each group to be in a step, told from published counts."""


def parse_privacy(text: str) -> dict[str, float]:
    """`epsilon=2,clip=1` as the fields of `Privacy`; InputError with the grammar. Ranges are checked with the rest."""
    known = Privacy.__struct_fields__
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            if name not in known or not equals or name in found:
                raise ValueError
            found[name] = int(value) if name == "visits" else float(value)
        except ValueError:
            raise InputError(
                f"privacy {text!r} cannot be read at {part.strip()!r}",
                todo=f"write for example 'epsilon=2,clip=1'; it has {', '.join(known)}, each once",
            ) from None
    if "epsilon" not in found:
        raise InputError(f"privacy {text!r} says no epsilon", todo="write for example 'epsilon=2'")
    return found

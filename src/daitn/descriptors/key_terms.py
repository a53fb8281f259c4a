"""What a key may ask: which models, how much, and how it stands among others (paper II-B: Q-FAM).

A key without terms may ask every model, as much as the door bears, and shares what hosts can do in equal parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.base.names import check_name

KEY_MODELS: Final = 4
"""Models that a key can be bound to; whoever needs more needs no bound, or another key. 1,500 keys of the longest names
fit into one message to a gateway."""

QUOTA_MOST: Final = 10**12
WEIGHTS: Final = (0.01, 100.0)
"""Least and largest weight: beyond, a key among others gets nothing, or all."""

Quota = Annotated[int, msgspec.Meta(ge=1, le=QUOTA_MOST)]


class KeyPriority(StrEnum):
    """Whose queries go first where some must wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


RANKS: Final = {KeyPriority.HIGH: 0, KeyPriority.NORMAL: 1, KeyPriority.LOW: 2}
"""Order of turns: the least first."""


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one key may ask. None: no bound of its own."""

    models: Annotated[
        tuple[Annotated[ModelName, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=KEY_MODELS)
    ] = ()
    """Only these; empty: all."""
    priority: KeyPriority = KeyPriority.NORMAL
    weight: Annotated[float, msgspec.Meta(ge=WEIGHTS[0], le=WEIGHTS[1])] = 1.0
    """Its part of what hosts can do, beside those of other keys of its priority whose queries wait too."""
    queries_per_minute: Quota | None = None
    tokens_per_minute: Quota | None = None
    """Of prompts and answers together, as the engine counts them; queries of tensors have none."""
    tokens_per_day: Quota | None = None

    @property
    def counted(self) -> bool:
        """Whether what is asked has to be counted."""
        return self.quotas != (None, None, None)

    @property
    def quotas(self) -> tuple[int | None, int | None, int | None]:
        """Queries and tokens a minute, tokens a day."""
        return self.queries_per_minute, self.tokens_per_minute, self.tokens_per_day


def check_terms(terms: KeyTerms) -> KeyTerms:
    """The terms as they are; InputError listing every fault."""
    faults: list[str] = []
    if len(terms.models) > KEY_MODELS:
        faults.append(f"{len(terms.models)} models, a key is bound to at most {KEY_MODELS}")
    for model in terms.models:
        faults += _fault(lambda model=model: check_name("model", model))  # type: ignore[misc]
    if not math.isfinite(terms.weight) or not WEIGHTS[0] <= terms.weight <= WEIGHTS[1]:
        faults.append(f"weight {terms.weight:g} is not within {WEIGHTS[0]:g} and {WEIGHTS[1]:g}")
    for name in ("queries_per_minute", "tokens_per_minute", "tokens_per_day"):
        quota = getattr(terms, name)
        if quota is not None and not 1 <= quota <= QUOTA_MOST:
            faults.append(f"{name} {quota} is not within 1 and {QUOTA_MOST}")
    if faults:
        raise InputError("the terms of the key cannot be: " + "; ".join(faults), todo="correct them")
    return terms


def _fault(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except InputError as error:
        return [error.what]
    return []

"""How long answers of a model took, as counts by how long: what gateways tell of, and quantiles are read from.

A bucket is a fifth wider than the one before it, so a quantile that is interpolated within one is right to a few
percent, and counts of many gateways and moments add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

FIRST_S: Final = 2e-4
"""Upper edge of the first bucket."""

GROWTH: Final = 1.2
BUCKETS: Final = 80
"""The last one has all that took longer than six minutes, and what was lost."""

Bucket = Annotated[int, msgspec.Meta(ge=0, lt=BUCKETS)]
Took = Annotated[dict[Bucket, Annotated[int, msgspec.Meta(ge=1, le=2**53)]], msgspec.Meta(max_length=BUCKETS)]
"""Answers by bucket."""

_LOG_GROWTH: Final = math.log(GROWTH)


def bucket_of(seconds: float) -> int:
    """The bucket of a time; that of a time that is not finite is the last. O(1)."""
    if not seconds < math.inf:
        return BUCKETS - 1
    if seconds <= FIRST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log(seconds / FIRST_S) / _LOG_GROWTH))


def quantile_of(took: Mapping[int, float], quantile: float) -> float | None:
    """Seconds within which this share was answered: interpolated within a bucket, infinite where that share lies in the
    last one; None where nothing was counted. O(buckets)."""
    wanted = quantile * sum(took.values())
    if wanted <= 0:
        return None
    below = 0.0
    for bucket in sorted(took):
        count = took[bucket]
        if below + count >= wanted:
            break
        below += count
    if bucket == BUCKETS - 1:
        return math.inf
    upper_s = FIRST_S * GROWTH**bucket
    lower_s = upper_s / GROWTH if bucket else 0.0
    return lower_s + (upper_s - lower_s) * (wanted - below) / count


class LatencyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A latency that a provider asked for, and how it is."""

    target: str
    measured_s: float | None
    """At gateways, from query to answer, over the last minutes; None: too few answers, or as many were lost."""
    answers: int
    """That this rests on, older ones counted less."""
    kept: bool | None
    """None: not known."""

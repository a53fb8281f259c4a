"""Dynamics of a data set, from what was released of it: how fast records arrive and how far labels have drifted.

Differences between releases are post-processing of differentially private values, so publishing them costs nothing and
tells no more than the releases did (Dwork, Roth, Algorithmic Foundations of Differential Privacy, proposition 2.1).
They come when releases do: by the schedule of the data owner's policy, never with an append. The noise of the releases
is in them, and its size is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from daitn.descriptors.terminals import Count, DataDescriptor, Dynamics

RELEASES: Final = 24
"""Newest releases remembered: two years at one a month."""

DAY_NS: Final = 86_400 * 1_000_000_000

SMOOTH: Final = 0.5
"""Added to each count before shares are taken."""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """One release, as the network got it."""

    at_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    records: Count
    labels: dict[str, Count] = {}
    noise_std: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """Of each label's count."""


def released(descriptor: DataDescriptor, at_ns: int) -> Released:
    """What of a published descriptor dynamics are made from."""
    labels = descriptor.labels
    return Released(
        at_ns=at_ns,
        records=descriptor.records,
        labels=dict(labels.counts) if labels is not None else {},
        noise_std=labels.noise_std if labels is not None else 0.0,
    )


def is_another(known: Sequence[Released], new: Released) -> bool:
    """Whether this is another release than the last one; the same values again are the same release."""
    return not known or (known[-1].records, known[-1].labels) != (new.records, new.labels)


def dynamics_of(known: Sequence[Released]) -> Dynamics | None:
    """From the first release remembered to the last; None where there are not two with time between.

    The arrival rate is over label counts where there are some (their noise is known), else over records. Drift is the
    population stability index between the two histograms; `drift_noise` is what the noise alone makes of it in the
    mean, to second order: Σ 2σ² / (n² · share), with n the smaller total. What does not exceed it says nothing.
    """
    if len(known) < 2 or known[-1].at_ns <= known[0].at_ns:
        return None
    first, last = known[0], known[-1]
    days = (last.at_ns - first.at_ns) / DAY_NS
    if not first.labels or first.labels.keys() != last.labels.keys():
        return Dynamics(over_days=days, arrival_per_day=(last.records - first.records) / days)
    totals = [sum(one.labels.values()) for one in (first, last)]
    std = math.sqrt(len(first.labels) * (first.noise_std**2 + last.noise_std**2))
    drift, drift_noise = _drift(first, last)
    return Dynamics(
        over_days=days,
        arrival_per_day=(totals[1] - totals[0]) / days,
        arrival_std_per_day=std / days,
        drift=drift,
        drift_noise=drift_noise,
    )


def _drift(first: Released, last: Released) -> tuple[float, float]:
    left = [count + SMOOTH for count in first.labels.values()]
    right = [last.labels[name] + SMOOTH for name in first.labels]
    total = min(sum(left), sum(right))
    drift = noise = 0.0
    for one, other in zip(left, right, strict=True):
        before, after = one / sum(left), other / sum(right)
        drift += (after - before) * math.log(after / before)
        noise += (first.noise_std**2 + last.noise_std**2) / (total**2 * (before + after) / 2)
    return drift, noise

"""An errand: what a route is to bring, what was measured so far, and what it may still cost (MTRCE's two forms).

Figures are shares of the way from the submitted model (0) to a perfect one (1), so that accuracies and losses are one
kind of thing. What is perfect for a loss or an error is 0; a return has no best, so a quarter beyond the target counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from daitn.decision.costs import verification_seconds
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.keeping import measurement_of
from daitn.decision.visit_length import batches_at
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import METRIC_SENSES, UNIT_METRICS, Request, Target
from daitn.descriptors.view import Candidate, TrainingView
from daitn.descriptors.work import Measurement

LOOKS_MOST: Final = 200
"""Newest looks that are told: what was measured before stands in them."""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """One target. `label` and `field` empty: over all records. `wanted`: share of the way to perfect."""

    label: str = ""
    field: str = ""
    wanted: float


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a kept model was measured at after so many visits: by aim, the share of the way; NaN: not measured."""

    visits: int
    known: tuple[float, ...]


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring. What is left of budgets is infinite where there is none."""

    aims: tuple[Aim, ...] = ()
    looks: tuple[Look, ...] = ()
    seconds_left: float = math.inf
    bytes_left: float = math.inf
    price_left: float = math.inf
    joules_left: float = math.inf
    visits_left: int = 10_000
    batches: int = 0
    """Of a visit to a typical site."""
    batch_size: int = 1
    epochs: float = 0.0
    """Passes that a visit makes over its data set; 0: all visits are as long."""
    model_bytes: int = 0
    preflight: Preflight | None = None
    check_s: float = 0.0
    """Seconds of one verification."""
    check_every: int = 1
    """Visits from one verification to the next."""

    def batches_of(self, candidate: Candidate, unknown: int = 0) -> int:
        """Of a visit there; `unknown` where nothing was planned."""
        if not self.batches:
            return unknown
        return batches_at(self.batches, self.batch_size, self.epochs, candidate.records)


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has left of its deadline and budgets."""

    seconds: float
    bytes: float = math.inf
    price: float = math.inf
    joules: float = math.inf
    visits: int = 10_000


def errand_of(
    request: Request,
    package: PackageFacts,
    plan: Plan,
    view: TrainingView,
    preflight: Preflight | None,
    looks: Sequence[tuple[int, tuple[Measurement, ...]]],
    left: Left,
) -> Errand:
    """The errand of a job. `looks`: visits and measurements of the submitted model, and of each kept one. O(looks)."""
    untrained = looks[0][1] if looks else ()
    looks = (*looks[:1], *looks[max(1, len(looks) - LOOKS_MOST) :])
    ways = [_way(target, untrained) for target in request.targets]
    unit = next((one for one in view.verifiers if one.node == plan.verifier), None)
    return Errand(
        aims=tuple(
            Aim(label=target.label, field=target.field, wanted=_along(way, target.value))
            for target, way in zip(request.targets, ways, strict=True)
        ),
        looks=tuple(
            Look(
                visits=visits,
                known=tuple(
                    _along(way, found.value)
                    if (found := measurement_of(target, measurements)) is not None
                    else math.nan
                    for target, way in zip(request.targets, ways, strict=True)
                ),
            )
            for visits, measurements in looks
        ),
        seconds_left=max(0.0, left.seconds),
        bytes_left=max(0.0, left.bytes),
        price_left=max(0.0, left.price),
        joules_left=max(0.0, left.joules),
        visits_left=max(0, left.visits),
        batches=plan.training.batches,
        batch_size=plan.training.batch_size,
        epochs=plan.epochs,
        model_bytes=package.total_bytes,
        preflight=preflight,
        check_s=verification_seconds(package, preflight, unit.bytes_per_s if unit is not None else None),
        check_every=plan.verify_every,
    )


def _way(target: Target, untrained: Sequence[Measurement]) -> tuple[float, float]:
    """From where to where a figure goes: of the submitted model, and of a perfect one."""
    found = measurement_of(target, untrained)
    sense = METRIC_SENSES.get(target.metric, "up")
    if target.metric in UNIT_METRICS or target.metric in ("r2", "perplexity"):
        perfect = 1.0
    else:
        perfect = 0.0 if sense == "down" else math.nan
    start = found.value if found is not None and math.isfinite(found.value) else math.nan
    if math.isnan(start):
        start = 0.0 if sense == "up" else 2.0 * abs(target.value) + 1.0
    if math.isnan(perfect):
        perfect = target.value + 0.25 * abs(target.value - start)
    return start, perfect


def _along(way: tuple[float, float], value: float) -> float:
    """Share of the way, 0 to 1; NaN for NaN. A model that began perfect has all of it."""
    start, perfect = way
    if math.isnan(value):
        return math.nan
    if perfect == start:
        return 1.0
    return min(1.0, max(0.0, (value - start) / (perfect - start)))

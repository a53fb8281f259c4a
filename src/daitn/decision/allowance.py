"""Allowance: how many rounds of training a request's deadline and budgets leave room for, and how sure that is.

Visits are counted exactly; bytes nearly, since what travels along with a model depends on the method; seconds least,
since machines and lines are slower or faster than they say. The bound that is reached first is the one that counts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base import limits
from daitn.decision.costs import WARM_S, verification_seconds, visit_seconds
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.routes.contract import best_computes
from daitn.decision.visit_length import planned_batches
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Request
from daitn.descriptors.view import TrainingView
from daitn.learning.methods import METHODS
from daitn.learning.numerics.slots import KINDS

HALVINGS: Final = 40
"""Of the range in which the rounds lie that some bytes leave room for: to a part in 10¹²."""
BYTES_SPREAD: Final = 0.03
SECONDS_SPREAD: Final = 0.25
"""Deviations of the logarithm of rounds: a site's pace deviates by a fifth from what its speed says, and a line's."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """`rounds`: visits of a sequential method, rounds of one that averages; below 1 not even the first is sure.
    `spread`: deviation of its logarithm."""

    rounds: float
    spread: float


def allowance(
    view: TrainingView,
    request: Request,
    package: PackageFacts,
    plan: Plan,
    preflight: Preflight | None,
    elapsed_s: float = 0.0,
    moved_bytes: int = 0,
) -> Allowance:
    """Rounds that fit. `elapsed_s`: seconds since submission, gone from the deadline already; `moved_bytes`: what has
    moved since then, gone from the budget. Cost: O(candidates)."""
    places = best_computes(view)
    if not places:
        return Allowance(rounds=0.0, spread=0.0)
    method = METHODS[plan.method]
    a_round = len(places) if method.parallel else 1
    bounds = [(limits.VISITS_PER_JOB / a_round, 0.0)]
    if request.budget.visits is not None:
        bounds.append((request.budget.visits / a_round, 0.0))
    if request.budget.transfer_bytes is not None:
        left = float(request.budget.transfer_bytes - moved_bytes)
        bounds.append((_rounds_of(left, package, plan, len(places)), BYTES_SPREAD))
    seconds = [
        visit_seconds(place, planned_batches(plan, place.records), package.total_bytes, preflight)
        for place in places.values()
    ]
    verifier = view.verifiers[0].bytes_per_s if view.verifiers else None
    check_s = verification_seconds(package, preflight, verifier)
    round_s = max(seconds) if method.parallel else sum(seconds) / len(seconds)
    round_s += check_s / max(1, plan.verify_every)
    cold = 1 if method.parallel else len(places)
    bounds.append((_rounds_in(request.deadline_s - elapsed_s, round_s, cold), SECONDS_SPREAD))
    rounds, spread = min(bounds)
    return Allowance(rounds=rounds, spread=spread)


def _rounds_of(bytes_left: float, package: PackageFacts, plan: Plan, sites: int) -> float:
    """Rounds in so many bytes: parts go to each site once, weights with every visit, and with them, from the second
    visit of a sequential method on, what its optimizer and its average remember. What is due to be measured moves to
    the unit, and the last model in any case."""
    payload, parts = float(max(1, package.payload_bytes)), float(package.parts_bytes)
    training, parallel = plan.training, METHODS[plan.method].parallel
    slots = len(KINDS[training.optimizer]) if training.carry_optimizer else 0
    carried = 0.0 if parallel else payload * (slots + bool(training.average_steps) + bool(training.elastic))
    a_round = (payload + package.update_bytes(plan.compression)) * sites if parallel else payload + carried
    colds = 1.0 if parallel else float(sites)
    cold = parts * (sites if parallel else 1)

    def moved(rounds: float) -> float:
        looks = max(1.0, rounds / max(1, plan.verify_every))
        return cold * min(rounds, colds) + a_round * rounds - carried + looks * (payload + carried)

    low, high = 0.0, max(0.0, bytes_left / a_round + 2.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) <= bytes_left else (low, middle)
    return low


def _rounds_in(left_s: float, round_s: float, cold: int) -> float:
    """Rounds in so many seconds, of which the first `cold` start a child each."""
    first = left_s / (round_s + WARM_S)
    return max(0.0, first if first <= cold else (left_s - cold * WARM_S) / round_s)

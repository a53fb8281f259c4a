"""Validity: how far facts may move before a choice would be another one.

Paper II-A, DRRT-A: topologies are kept up to date as training progresses. Most changes of the map change no decision; a
choice therefore comes with the ranges of facts within which it stands, so that others need only compare. The ranges are
found by widening: all facts of all candidates are given the same share of their furthest spread, the largest for which
the rule says that its stop holds over the whole span (`RouteRule.holds`); then those candidates that are far from being
chosen are given more. What is returned is a box, so facts may move together.

Pure. Legend: S candidates. Cost: at most ten calls of `holds`, each O(S).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from daitn.base.effects import Problem, Solution
from daitn.base.ids import DataSetId, NodeId
from daitn.decision.routes.contract import RouteRule, Seen, Span
from daitn.descriptors.plan import RANGES_MOST, FactRange, Pair, Stop, Validity
from daitn.descriptors.view import Candidate, TrainingView

SHARE_SPREAD: Final = 0.5
"""Furthest that trust and availability may move either way."""

TIMES_SPREAD: Final = 4.0
"""Furthest that the time of a batch and the speed may move: to a quarter, and to four times."""

SHARES: Final = tuple(2.0**-power for power in range(15))
"""Shares of the furthest spread that are tried: leads of a thousandth of a choice's worth have to be told from ties."""

PARTS: Final = tuple(1 - sixteenth / 16 for sixteenth in range(17))
"""Parts of all candidates that may be given their furthest spread, the largest first."""

FACTS: Final = ("trust", "availability", "batch_s", "flops", "wait_s")
"""Facts of a candidate that route rules look at and that move while a job runs. Speed and wait are told by its site, so
that how it tells them is tuned by these ranges; the rest is the centre's own measure."""

WAIT_SPREAD_S: Final = 60.0
"""Furthest that a wait for a slot may move either way."""


class ValidityFound(Solution, frozen=True, kw_only=True):
    """How long a choice stands; None where the view is too large to tell."""

    validity: Validity | None


class ValiditySought(Problem, frozen=True, kw_only=True):
    """How long does this stop of this rule stand on this view?"""

    view: TrainingView
    rule: RouteRule
    seen: Seen
    records_per_visit: int
    stop: Stop

    def solve(self) -> ValidityFound:
        """See `validity_of`."""
        return ValidityFound(validity=validity_of(self.view, self.rule, self.seen, self.records_per_visit, self.stop))


def widened(candidate: Candidate, share: float) -> tuple[Candidate, Candidate]:
    """A candidate at its worst and at its best, where each fact may move by a share of its furthest spread."""
    times = TIMES_SPREAD**share
    return (_moved(candidate, -share, 1 / times), _moved(candidate, share, times))


def _moved(candidate: Candidate, share: float, times: float) -> Candidate:
    return msgspec.structs.replace(
        candidate,
        trust=min(1.0, max(min(candidate.trust, 1e-6), candidate.trust + SHARE_SPREAD * share)),
        availability=min(1.0, max(0.0, candidate.availability + SHARE_SPREAD * share)),
        batch_s=None if candidate.batch_s is None else candidate.batch_s / times,
        flops=candidate.flops * times,
        wait_s=max(0.0, candidate.wait_s - WAIT_SPREAD_S * share),
    )


def span_of(view: TrainingView, shares: Sequence[float]) -> Span:
    """The span in which each candidate's facts may move by its share."""
    both = [widened(one, share) for one, share in zip(view.candidates, shares, strict=True)]
    return Span(
        worst=msgspec.structs.replace(view, candidates=tuple(worst for worst, _ in both)),
        best=msgspec.structs.replace(view, candidates=tuple(best for _, best in both)),
    )


def validity_of(view: TrainingView, rule: RouteRule, seen: Seen, records_per_visit: int, stop: Stop) -> Validity | None:
    """The ranges within which the rule's `stop` stands; None where the view is too large to tell (`RANGES_MOST`).

    Where the choice is a tie, every range is the one value that the fact has.
    """
    return ranges_where(view, stop, lambda span: rule.holds(span, seen, records_per_visit, stop))


def ranges_where(view: TrainingView, stop: Stop, stands: Callable[[Span], bool]) -> Validity | None:
    """The widest box found of facts around those of the view in which a choice of `stop` stands, whatever that means;
    None where the view is too large to tell. `stands` must hold for each span within one that it holds for."""
    candidates = view.candidates
    if len(candidates) * len(FACTS) > RANGES_MOST:
        return None

    def holds(shares: Sequence[float]) -> bool:
        return stands(span_of(view, shares))

    common = _largest(SHARES, lambda share: holds([share] * len(candidates)))
    order = sorted(range(len(candidates)), key=lambda place: _nearness(candidates[place], stop))

    def far_at_most(part: float) -> list[float]:
        near = set(order[: len(order) - round(part * len(order))])
        return [common if place in near else 1.0 for place in range(len(candidates))]

    part = _largest(PARTS, lambda part: holds(far_at_most(part))) if common < 1.0 else 1.0
    shares = far_at_most(part)
    ranges = [
        one
        for place, candidate in enumerate(candidates)
        for one in _ranges(candidate, *widened(candidate, shares[place]))
    ]
    pairs = sorted(pair_of(one) for one in candidates)
    return Validity(pairs=tuple(pairs), ranges=tuple(ranges))


def within(validity: Validity, view: TrainingView) -> bool:
    """Whether a choice with this validity stands on a view: the same candidates, each fact within its range. O(S)."""
    if tuple(sorted(pair_of(one) for one in view.candidates)) != validity.pairs:
        return False
    facts = {(one.compute_node, one.dataset): one for one in view.candidates}
    return all(
        one.holds(value)
        for one in validity.ranges
        if (value := getattr(facts[NodeId(one.thing), DataSetId(one.dataset)], one.fact)) is not None
    )


def pair_of(candidate: Candidate) -> Pair:
    """What of a candidate must stay for a choice to stand."""
    return Pair(candidate.dataset, candidate.compute_node, candidate.batch_s is not None)


def _largest(choices: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The largest of some falling values that holds, where what holds for one holds for smaller ones; 0 for none."""
    first, last = 0, len(choices)
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if holds(choices[middle]) else (middle + 1, last)
    return choices[first] if first < len(choices) else 0.0


def _nearness(candidate: Candidate, stop: Stop) -> tuple[bool, bool, str, str]:
    """The chosen one first, then other places of its data set, then the rest by name."""
    mine = candidate.dataset == stop.dataset
    return (
        not (mine and candidate.compute_node == stop.compute_node),
        not mine,
        candidate.dataset,
        candidate.compute_node,
    )


def _ranges(candidate: Candidate, worst: Candidate, best: Candidate) -> list[FactRange]:
    found = []
    for fact in FACTS:
        ends = (getattr(worst, fact), getattr(best, fact))
        if None not in ends:
            found.append(
                FactRange(
                    thing=candidate.compute_node,
                    dataset=candidate.dataset,
                    fact=fact,
                    low=min(ends),
                    high=max(ends),
                    loss=_loss(fact, getattr(candidate, fact)),
                )
            )
    return found


def _loss(fact: str, value: float) -> float:
    """What a unit beyond a range may cost: all that is at stake where a share is off by one, a speed or the time of a
    batch by its own size, a wait by as far as one may move."""
    if fact == "wait_s":
        return 1.0 / WAIT_SPREAD_S
    return 1.0 / value if fact in ("flops", "batch_s") and value > 0 else 1.0

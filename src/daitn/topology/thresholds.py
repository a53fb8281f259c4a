"""Thresholds for all facts that are watched: the tunings that lose least, worked out beside the orchestrator's core.

A problem (`base.effects.Problem`) of what is known at one moment; `topology.tuning` hands it out, and spends its budget
on what comes back. The law is that of `topology.budget`.

Legend: F facts, S sites. Cost: O(F), vectorised: 40 ms for 1,000 things with 2,000 facts that matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from daitn.base.effects import Problem, Solution
from daitn.base.ids import NodeId
from daitn.describe.reporting import UNTUNED_AGES, GroupShape
from daitn.descriptors.reporting import AGE_MOST_S, ANY_MOVE, STEPS_PER_OCTAVE, GroupTuning, amount_of, step_of
from daitn.topology.budget import expected_bytes, expected_loss, spread_budget
from daitn.topology.watched import MARGINS, Key, WatchedFact, WatchedGroup

STEPS: Final = 2
"""A threshold is told again when it is to change by this many steps, a factor of two: finer changes cost more than they
save."""

GAP_LEAST_S: Final = 1.0
"""No fact is worth telling more often: thresholds are not finer than what a fact moves in this time."""

IDLE_FRAC: Final = 1e-3
"""Loss of a fact that no decision has depended on yet, relative to the mean: decisions to come may."""

SPARE_FRAC: Final = 0.05
"""Share of what sites may tell that facts may take which no decision has depended on, the cheapest first: a node that
fails once in an hour costs next to nothing to be told of, and may be chosen next. They also get what is left over."""

SWEEP_FRAC: Final = 0.9
"""Share of what sites may tell for ever that sweeps take (`describe.sweeping`), where there are sweeps."""

SWEEP_LEAST_S: Final = 120.0
"""Where there are bytes to sweep more often than this, nobody does: thresholds spend them better then. Measured: a
sweep each three minutes beside them made errors at 0.25 and 0.5 bytes a terminal and second greater by a tenth."""

SWEEP_ALONE_S: Final = 300.0
"""Where sweeps are no more frequent than this, they are all there is, and no fact has a threshold of its own: tunings
that name things one by one do not reach all sites there, and what was not reached told each move of everything."""

THRESHOLDS: Final = 24
SPREADS_MOST: Final = 8.0
"""Thresholds to choose from: half octaves downwards from this many standard deviations of a fact, or from twice its
widest margin; beyond, it is told for its age only."""

ROWS_AT_ONCE: Final = 4096
"""Facts spread over at once: 4,096 facts of 24 thresholds and 16 margins are 12 MB."""

AGE_FRAC: Final = 0.1
"""Share of the budget that telling old facts again may take; ages grow until it fits."""

FAR_MOST: Final = 40
"""Steps of change that count, so that one fact that is new does not outweigh all others of its site."""


class SiteKnown(msgspec.Struct, frozen=True):
    """What is known of a site: what it speaks for, and what it was told."""

    groups: tuple[WatchedGroup, ...]
    sent: dict[Key, GroupTuning]


class SiteWanted(msgspec.Struct, frozen=True):
    """What a site would have to be told, the most important first; how much there is to gain by it, in steps; and what
    it is then expected to take."""

    changes: tuple[GroupTuning, ...]
    gain: float
    bytes_per_s: float


class ThresholdsFound(Solution, frozen=True, kw_only=True):
    """For each site what it would have to be told."""

    wanted: dict[NodeId, SiteWanted]
    sweep_step: int = 0
    swept: dict[int, int] = msgspec.field(default_factory=dict)
    """How often all sites are to sweep, and what, by group."""


class ThresholdsSought(Problem, frozen=True, kw_only=True):
    """Which thresholds lose least? `reports_bytes_per_s`: what all sites may tell; `sustained_bytes_per_s`: that
    without what they may save up; `gain`: what the law's budget is multiplied by, so that they do; `overhead_bytes`:
    of a report's header."""

    sites: dict[NodeId, SiteKnown]
    reports_bytes_per_s: float
    sustained_bytes_per_s: float
    gain: float
    overhead_bytes: int

    def solve(self) -> ThresholdsFound:
        """See the module's docstring."""
        ages = self._ages()
        rates: dict[NodeId, float] = {}
        rows: list[_Row] = []
        for site, known in self.sites.items():
            rates[site] = sum(self._bytes_of(watched) / ages[watched.shape.number] for watched in known.groups)
            rows += [row for watched in known.groups for row in self._rows_of(site, watched)]
        swept = self._swept()
        sweep_bytes = {site: self._sweep_bytes(known, swept) for site, known in self.sites.items()}
        every_s = sum(sweep_bytes.values()) / max(1e-9, SWEEP_FRAC * self.sustained_bytes_per_s)
        sweep_step = step_of(min(AGE_MOST_S, max(1.0, every_s)))
        if every_s < SWEEP_LEAST_S:
            swept, sweep_bytes = {}, {}
        for site, size in sweep_bytes.items():
            rates[site] += size / amount_of(sweep_step)
        if swept and every_s >= SWEEP_ALONE_S:
            return self._alike(ages, rates, sweep_step, swept)
        budget = max(0.0, self.reports_bytes_per_s - sum(rates.values())) * self.gain
        moves: dict[NodeId, dict[Key, dict[int, int | None]]] = {}
        weighed = _all_thresholds([row for row in rows if row.fact.margins], budget)
        left = (budget - sum(rate for _, _, rate in weighed)) / max(1.0, self.gain)
        spare = max(left, SPARE_FRAC * self.reports_bytes_per_s)
        for row, step, rate in weighed + _all_thresholds([row for row in rows if not row.fact.margins], spare):
            moves.setdefault(row.site, {}).setdefault(row.key, {})[row.place] = step
            rates[row.site] += rate
        return ThresholdsFound(
            wanted={site: _wanted(known, ages, moves.get(site, {}), rates[site]) for site, known in self.sites.items()},
            sweep_step=sweep_step,
            swept=swept,
        )

    def _alike(
        self, ages: Mapping[int, float], rates: Mapping[NodeId, float], sweep_step: int, swept: dict[int, int]
    ) -> ThresholdsFound:
        """Sweeps alone: the same said of all things, in a few bytes."""
        hushed = self._hushed(amount_of(sweep_step))
        moves: dict[NodeId, dict[Key, dict[int, int | None]]] = {
            site: {
                watched.key: {
                    place: None if hushed.get(watched.shape.number, 0) >> place & 1 else ANY_MOVE
                    for place in range(len(watched.facts) if hushed.get(watched.shape.number) else 0)
                }
                for watched in known.groups
            }
            for site, known in self.sites.items()
        }
        return ThresholdsFound(
            wanted={site: _wanted(known, ages, moves[site], rates[site]) for site, known in self.sites.items()},
            sweep_step=sweep_step,
            swept=swept,
        )

    def _hushed(self, every_s: float) -> dict[int, int]:
        """Kinds of facts that are told in sweeps or for their age only, as bits by place, by group: those that move
        more often than there are sweeps, with half of the things at least. To tell what moves more seldom at once costs
        no more than to sweep it. What is hushed stays so: sweeps do not show how often it moved between them."""
        often: dict[tuple[int, int], list[float]] = {}
        hushed_now: Counter[tuple[int, int]] = Counter()
        for known in self.sites.values():
            for watched in known.groups:
                sent = known.sent.get(watched.key)
                for place, fact in enumerate(watched.facts):
                    kind = watched.shape.number, place
                    moves_per_s = fact.wander / fact.jump**2 if fact.jump > 0 else 0.0
                    often.setdefault(kind, []).append(moves_per_s * every_s)
                    hushed_now[kind] += sent is not None and sent.quiet and place not in sent.moves
        hushed: dict[int, int] = {}
        for (group, place), moved in often.items():
            if 2 * hushed_now[group, place] > len(moved) or float(np.median(moved)) >= 1.0:
                hushed[group] = hushed.get(group, 0) | 1 << place
        return hushed

    def _swept(self) -> dict[int, int]:
        """What is swept, as bits by place: kinds of facts that decisions depended on, of whichever thing. Said alike to
        all, it needs no tuning when decisions move on to other things."""
        swept: dict[int, int] = {}
        for known in self.sites.values():
            for watched in known.groups:
                for place, fact in enumerate(watched.facts):
                    if fact.margins:
                        swept[watched.shape.number] = swept.get(watched.shape.number, 0) | 1 << place
        return swept

    def _sweep_bytes(self, known: SiteKnown, swept: Mapping[int, int]) -> int:
        """Of a site's sweep in which all has changed that ever did."""
        messages: set[tuple[int, int]] = set()
        total = 0
        for watched in known.groups:
            part = swept.get(watched.shape.number, 0)
            part &= sum(1 << place for place, fact in enumerate(watched.facts) if fact.variance > 0)
            if part:
                messages.add((watched.shape.number, part))
                total += watched.shape.bytes_of(part)
        return total + len(messages) * self.overhead_bytes

    def _rows_of(self, site: NodeId, watched: WatchedGroup) -> list[_Row]:
        """Facts that want a threshold: all that vary, each told by itself. Those of which none has been near to a
        decision are told when that is cheap: what decisions to come depend on is not known yet."""
        return [
            _Row(site, watched.key, place, self._bytes_of(watched, 1 << place), fact)
            for place, fact in enumerate(watched.facts)
            if fact.variance > 0
        ]

    def _bytes_of(self, watched: WatchedGroup, part: int = 0) -> int:
        return watched.shape.bytes_of(part) + self.overhead_bytes

    def _ages(self) -> dict[int, float]:
        """By group: the age at which it is told again, so that all this takes no more than its share."""
        count: Counter[int] = Counter()
        shapes: dict[int, GroupShape] = {}
        for known in self.sites.values():
            for watched in known.groups:
                count[watched.shape.number] += 1
                shapes[watched.shape.number] = watched.shape
        each = AGE_FRAC * self.reports_bytes_per_s / max(1, len(count))
        ages: dict[int, float] = {}
        for group, things in count.items():
            fitting = things * (shapes[group].record_bytes + self.overhead_bytes) / each
            ages[group] = amount_of(step_of(min(AGE_MOST_S, max(shapes[group].age_most_s / UNTUNED_AGES, fitting))))
        return ages


class _Row(msgspec.Struct, frozen=True):
    """One fact that wants a threshold. `size`: bytes of telling it."""

    site: NodeId
    key: Key
    place: int
    size: int
    fact: WatchedFact


def _wanted(
    known: SiteKnown, ages: Mapping[int, float], moves: Mapping[Key, dict[int, int | None]], rate: float
) -> SiteWanted:
    far: dict[Key, int] = {}
    wanted: dict[Key, GroupTuning] = {}
    for watched in known.groups:
        key = watched.key
        steps = moves.get(key, {})
        quiet = None in steps.values()
        # What never moved costs nothing by what is known, and is told when it does; where others are quiet, by name.
        still: dict[int, int | None] = dict.fromkeys(range(len(watched.facts) if quiet else 0), ANY_MOVE)
        named = {place: step for place, step in (still | steps).items() if step is not None}
        wanted[key] = GroupTuning(*key, step_of(ages[key[1]]), named, quiet)
        if (apart := steps_apart(known.sent.get(key), wanted[key])) >= STEPS:
            far[key] = apart
    changed = sorted(far, key=lambda key: (-far[key], key))
    gain = float(sum(min(FAR_MOST, far[key]) for key in changed))
    return SiteWanted(tuple(wanted[key] for key in changed), gain, rate)


def _all_thresholds(rows: Sequence[_Row], budget: float) -> list[tuple[_Row, int | None, float]]:
    """`_thresholds` in parts of equal means, so that memory stays bounded."""
    found: list[tuple[_Row, int | None, float]] = []
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[begin : begin + ROWS_AT_ONCE]
        found += _thresholds(part, budget * len(part) / len(rows))
    return found


def _thresholds(rows: Sequence[_Row], budget: float) -> list[tuple[_Row, int | None, float]]:
    """For each fact its threshold's step and what that is expected to take; None where no decision depended on it and
    bytes are better spent elsewhere."""
    facts = [row.fact for row in rows]
    widest = [
        max(SPREADS_MOST * math.sqrt(fact.variance), 2 * max((margin for margin, _ in fact.margins), default=0.0))
        for fact in facts
    ]
    last = np.ceil(STEPS_PER_OCTAVE * np.log2(widest)).astype(int)
    steps_FK = last[:, None] - np.arange(THRESHOLDS)[None, :]  # the coarsest first: it is taken where none is better
    moves_FK = 2.0 ** (steps_FK / STEPS_PER_OCTAVE)
    margins = np.full((len(rows), MARGINS), np.inf)
    slopes = np.zeros((len(rows), MARGINS))
    for row, fact in enumerate(facts):
        for place, (margin, slope) in enumerate(fact.margins):
            margins[row, place], slopes[row, place] = margin, slope / len(fact.margins)
    loss_FK = expected_loss(moves_FK, margins, slopes)
    weighed_F = np.array([bool(fact.margins) for fact in facts])
    usual = float(np.mean(loss_FK[weighed_F, 0])) if weighed_F.any() else 0.0
    usual = usual or 1.0
    loss_FK += IDLE_FRAC * usual * (moves_FK / moves_FK[:, :1]) ** 2
    bytes_FK = expected_bytes(
        moves_FK,
        np.array([fact.wander for fact in facts]),
        np.array([fact.jump for fact in facts]),
        np.array([float(row.size) for row in rows]),
        GAP_LEAST_S,
    )
    spread = spread_budget(loss_FK, bytes_FK, budget)
    every = np.arange(len(rows))
    chosen, rates = steps_FK[every, spread.chosen_F], bytes_FK[every, spread.chosen_F]
    told_F = weighed_F | (spread.chosen_F > 0)
    return [
        (row, int(step), float(rate)) if told else (row, None, 0.0)
        for row, step, rate, told in zip(rows, chosen, rates, told_F, strict=True)
    ]


def steps_apart(sent: GroupTuning | None, wanted: GroupTuning) -> int:
    """By how many steps two tunings differ, where they differ most; very far where one lacks a fact."""
    if sent is None:
        return 1000
    if sent.moves.keys() != wanted.moves.keys() or sent.quiet != wanted.quiet:
        return 400
    pairs = [(sent.age_step, wanted.age_step), *((sent.moves[fact], wanted.moves[fact]) for fact in sent.moves)]
    return max(abs(now - was) for was, now in pairs)

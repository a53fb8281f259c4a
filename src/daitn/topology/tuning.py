"""The tuner: what the orchestrator has learnt of facts, and the tunings it makes of it, within a budget of bytes.

Of each fact it keeps how it wanders (squared moves per second, from what was told: unbiased for a motion without drift,
whatever the thresholds), how it jumps, how wide it spreads, and its margins: how far it was from the edges of the
ranges that the last `MARGINS` decisions came with (`descriptors.plan.FactRange`), and what each unit beyond costs.
`topology.budget` makes thresholds of all this.

The budget is kept in three parts. What sites may tell: each is granted a share, and no share grows before another has
been acknowledged to be smaller, so that the sum holds at every moment and not only when all tunings have arrived. Of a
share, part is rate and part is burst, so that it holds over each window too. What tunings take: they are sent as far as
their own part reaches, sites first that gain most; only groups whose threshold changes by `STEPS` are told again.

Legend: F facts, S sites.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from daitn.base.errors import BugError
from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds
from daitn.describe.reporting import UNTUNED_AGES, GroupShape
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import (
    AGE_MOST_S,
    ANY_MOVE,
    EVERY,
    STEPS_PER_OCTAVE,
    TUNINGS_OF_A_SITE,
    GroupTuning,
    Reading,
    amount_of,
    step_of,
)
from daitn.topology.budget import expected_bytes, expected_loss, spread_budget
from daitn.topology.watched import MARGINS, Key, WatchedFact, WatchedGroup, WatchedSite, moves_in_force
from daitn.wire.codec import encode
from daitn.wire.topology_tools import TuneReporting

STEPS: Final = 2
"""A threshold is told again when it is to change by this many steps, a factor of two: finer changes cost more than they
save."""

GAP_LEAST_S: Final = 1.0
"""No fact is worth telling more often: thresholds are not finer than what a fact moves in this time."""

GAIN_MOST: Final = 2.0
"""What sites were told to expect is corrected by what they took, at most by this factor each period: facts that jump
take less than the law believes."""

IDLE_FRAC: Final = 1e-3
"""Loss of a fact that no decision has depended on yet, relative to the mean: decisions to come may."""

THRESHOLDS: Final = 24
SPREADS_MOST: Final = 8.0
"""Thresholds to choose from: half octaves downwards from this many standard deviations of a fact, or from twice its
widest margin; beyond, it is told for its age only."""

ROWS_AT_ONCE: Final = 4096
"""Facts spread over at once: 4,096 facts of 24 thresholds and 16 margins are 12 MB."""

AGE_FRAC: Final = 0.1
"""Share of the budget that telling old facts again may take; ages grow until it fits."""

BURST_FRAC: Final = 0.1
"""Of a site's share over a window: what it may save up. The rest is its rate."""

BURST_LEAST: Final = 160
"""Bytes without which not even one report fits."""

AIM_FRAC: Final = 0.7
"""Share of what sites may take that the correction aims at: the rest is for what nobody foresaw."""

FULL_FRAC: Final = 0.8
"""Of its share: a site that takes more would take more still."""

NEED_SMOOTHING: Final = 0.3
"""Weight of the last period in what a site is taken to need."""

EXPECTED_FRAC: Final = 0.3
"""Weight of what the law expects a site to take against what it took: decisions move on to other sites."""

GAINS_MOST: Final = 1e6
"""The correction's bounds, either way."""


class TunerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The budget, and how often it is spread anew."""

    budget_bytes_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e10)] = 20_000.0
    """For reports of all sites and the tunings to them. The default: a percent of a 16 Mbit/s link."""
    tuning_frac: Annotated[float, msgspec.Meta(gt=0, le=0.4)] = 0.1
    """Share of it that tunings may take in the mean; twice as much in one window."""
    period_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 60.0
    """Between two tunings."""
    window_s: Annotated[float, msgspec.Meta(ge=1, le=604_800)] = 3600.0
    """The budget holds over each window of this length: what sites save up for bursts is bounded by it."""


class ReportTuner:
    """See the module's docstring."""

    def __init__(self, config: TunerConfig, shape_of: Callable[[str], GroupShape], overhead_bytes: int) -> None:
        self.config = config
        self.told_bytes = 0
        """All that sites have told."""
        self.tuning_bytes = 0
        """All that tunings have taken."""
        self._shape_of = shape_of
        self._overhead_bytes = overhead_bytes
        self._sites: dict[NodeId, WatchedSite] = {}
        self._places: dict[tuple[str, str], tuple[WatchedGroup, int]] = {}
        self._held: dict[str, tuple[FactRange, ...]] = {}
        self._allowance = self._tuning_window_bytes
        self._tuned_ns: int | None = None
        self._gain = 1.0
        """What the law's budget is multiplied by, so that sites take what they may."""
        self._corrected_ns: int | None = None

    @property
    def _tuning_window_bytes(self) -> float:
        return self.config.tuning_frac * self.config.budget_bytes_per_s * self.config.window_s

    @property
    def _reports_bytes_per_s(self) -> float:
        """What sites may tell in all: the budget without twice the tunings' share, which they may take in one
        period."""
        return self.config.budget_bytes_per_s * (1 - 2 * self.config.tuning_frac)

    # --- learning ---------------------------------------------------------------------------------------------------

    def take(self, site: NodeId, readings: Sequence[Reading], wire_bytes: int) -> bool:
        """What a site has told: whether it is a new site. O(facts told)."""
        self.told_bytes += wire_bytes
        new = site not in self._sites
        known = self._sites.setdefault(site, WatchedSite())
        known.taken_bytes += wire_bytes
        for reading in readings:
            key = (reading.thing, reading.group)
            watched = known.things.get(key)
            if watched is None:
                shape = self._shape_of(reading.group)
                watched = known.things[key] = WatchedGroup(shape, reading)
                self._places |= {(reading.thing, fact): (watched, place) for place, fact in enumerate(shape.facts)}
                continue
            seconds = ns_to_seconds(reading.measured_ns - watched.told_ns)
            if seconds <= 0:
                continue
            fade = 0.5 ** (seconds / (4 * self.config.period_s))
            moves = moves_in_force(known.sent.get((reading.thing, watched.shape.number)), len(watched.facts))
            for fact, before, now, move in zip(watched.facts, watched.values, reading.values, moves, strict=True):
                fact.told(before, now, seconds, fade, move)
            watched.values, watched.told_ns = reading.values, reading.measured_ns
        return new

    def hold(self, holder: str, ranges: tuple[FactRange, ...]) -> None:
        """A decision stands within these ranges. O(ranges)."""
        self._held.pop(holder, None)
        if ranges:
            self._held[holder] = ranges
            self._weigh(ranges)

    def forget(self, site: NodeId) -> None:
        """A site left for good; its share is free."""
        known = self._sites.pop(site, None)
        for thing, group in known.things if known is not None else ():
            for fact in self._shape_of(group).facts:
                self._places.pop((thing, fact), None)

    def _weigh(self, ranges: tuple[FactRange, ...]) -> None:
        for one in ranges:
            place = self._places.get((one.thing, one.fact))
            if place is None:
                continue
            watched, number = place
            value, fact = watched.values[number], watched.facts[number]
            for edge in (one.low, one.high):
                if math.isfinite(edge) and math.isfinite(value):
                    fact.margins.append((abs(value - edge), one.loss))

    # --- tuning -----------------------------------------------------------------------------------------------------

    def tune(self, now_ns: int, alive: Collection[NodeId]) -> list[tuple[NodeId, TuneReporting]]:
        """What to tell sites now. O(F), vectorised: 40 ms for 1,000 things with 2,000 facts that matter."""
        if self._tuned_ns is not None:
            gained = self.config.tuning_frac * self.config.budget_bytes_per_s * ns_to_seconds(now_ns - self._tuned_ns)
            self._allowance = min(self._tuning_window_bytes, self._allowance + max(0.0, gained))
        self._tuned_ns = now_ns
        for ranges in self._held.values():
            self._weigh(ranges)
        self._correct(now_ns)
        wanted, rates = self._solve()
        shares = self._share_out(rates)
        changes = {site: self._changes(site, wanted[site], shares[site]) for site in self._sites if site in alive}
        out: list[tuple[NodeId, TuneReporting]] = []
        for site in sorted(changes, key=lambda one: (-changes[one][1], one)):
            groups, gain = changes[site]
            if gain > 0 and (message := self._affordable(site, groups, shares[site])) is not None:
                out.append((site, message))
        return out

    def _affordable(self, site: NodeId, changed: list[GroupTuning], share: float) -> TuneReporting | None:
        """The message with as many of the changes as the allowance reaches for; it counts as sent."""
        known = self._sites[site]
        full = known.acknowledged != known.number or known.number == 0
        # From the clock, so that a centre that began anew is not behind the tunings it gave before.
        number = max(known.number + 1, (self._tuned_ns or 0) // NS_PER_S)
        while True:
            groups = {**known.sent, **{(one.thing, one.group): one for one in changed}} if full else None
            said = tuple(changed) if groups is None else _common_first(tuple(groups.values()))
            message = _message(said, share, self.config.window_s, 0 if full else known.number, number)
            size = len(encode(message))
            if size <= self._allowance:
                break
            if not changed:
                return None
            changed = changed[: len(changed) // 2]
        self._allowance -= size
        self.tuning_bytes += size
        known.number, known.share = message.number, share
        known.promised = max(known.promised, share)
        known.sent |= {(one.thing, one.group): one for one in changed}
        return message

    def answered(self, site: NodeId, number: int) -> TuneReporting | None:
        """A site says which tuning is in force there: all of the newest one, where it has another and the allowance
        reaches; else at the next tuning."""
        known = self._sites.get(site)
        if known is None or known.number == 0:
            return None
        if number == known.number:
            known.acknowledged, known.promised = number, known.share
            return None
        message = _message(
            _common_first(tuple(known.sent.values())), known.share, self.config.window_s, 0, known.number
        )
        size = len(encode(message))
        if size > self._allowance:
            known.acknowledged = -1
            return None
        self._allowance -= size
        self.tuning_bytes += size
        return message

    def check_invariants(self) -> None:
        """BugError if sites may believe to have more than there is."""
        promised = sum(known.promised for known in self._sites.values())
        if promised > self._reports_bytes_per_s * (1 + 1e-9):
            raise BugError(f"sites were promised {promised:.1f} bytes/s of {self._reports_bytes_per_s:.1f}")
        if self._allowance < -1e-6:
            raise BugError(f"tunings took {-self._allowance:.0f} bytes more than their part")

    # --- inside -----------------------------------------------------------------------------------------------------

    def _correct(self, now_ns: int) -> None:
        """What is expected follows what sites really take: the law's budget grows while they take less than they may,
        and a site that takes all it may gets more of it."""
        if self._corrected_ns is None:
            self._corrected_ns = now_ns
        seconds = ns_to_seconds(now_ns - self._corrected_ns)
        if seconds < self.config.period_s / 2:
            return
        taken = 0.0
        for known in self._sites.values():
            rate = known.taken_bytes / seconds
            taken += rate
            known.taken_bytes = 0
            full = known.share > 0 and rate > FULL_FRAC * known.share
            now = rate * (GAIN_MOST if full else 1.0)
            known.need = now if known.need <= 0 else known.need + NEED_SMOOTHING * (now - known.need)
        aim = AIM_FRAC * self._reports_bytes_per_s / max(taken, 1e-9)
        self._gain = min(GAINS_MOST, max(1 / GAINS_MOST, self._gain * min(GAIN_MOST, max(1 / GAIN_MOST, aim))))
        self._corrected_ns = now_ns

    def _solve(self) -> tuple[dict[NodeId, dict[Key, GroupTuning]], dict[NodeId, float]]:
        """For each site the tunings that lose least, and the bytes per second they are expected to take."""
        ages = self._ages()
        rates: dict[NodeId, float] = dict.fromkeys(self._sites, 0.0)
        rows: list[tuple[NodeId, WatchedGroup, int, WatchedFact]] = []
        for site, known in self._sites.items():
            for watched in known.things.values():
                rates[site] += self._bytes_of(watched) / ages[watched.shape.number]
                named = [fact for fact in watched.facts if fact.margins] or watched.facts
                rows += [
                    (site, watched, place, fact)
                    for place, fact in enumerate(watched.facts)
                    if fact.variance > 0 and any(fact is one for one in named)
                ]
        budget = max(0.0, self._reports_bytes_per_s - sum(rates.values())) * self._gain
        moves: dict[int, dict[int, int]] = {}
        for begin in range(0, len(rows), ROWS_AT_ONCE):  # in parts of equal means, so that memory stays bounded
            part = rows[begin : begin + ROWS_AT_ONCE]
            for (site, watched, place, _), step, rate in _thresholds(
                part, self._bytes_of, budget * len(part) / len(rows)
            ):
                moves.setdefault(id(watched), {})[place] = step
                rates[site] += rate
        wanted: dict[NodeId, dict[Key, GroupTuning]] = {site: {} for site in self._sites}
        for site, known in self._sites.items():
            for watched in known.things.values():
                weighed = {place: ANY_MOVE for place, fact in enumerate(watched.facts) if fact.margins}
                number = watched.shape.number
                said = weighed | moves.get(id(watched), {})
                wanted[site][watched.thing, number] = GroupTuning(
                    watched.thing, number, step_of(ages[number]), said, bool(weighed)
                )
        return wanted, rates

    def _bytes_of(self, watched: WatchedGroup) -> int:
        return watched.shape.record_bytes + self._overhead_bytes

    def _ages(self) -> dict[int, float]:
        """By group: the age at which it is told again, so that all this takes no more than its share."""
        count: Counter[int] = Counter()
        shapes: dict[int, GroupShape] = {}
        for known in self._sites.values():
            for watched in known.things.values():
                count[watched.shape.number] += 1
                shapes[watched.shape.number] = watched.shape
        each = AGE_FRAC * self._reports_bytes_per_s / max(1, len(count))
        ages: dict[int, float] = {}
        for group, things in count.items():
            fitting = things * (shapes[group].record_bytes + self._overhead_bytes) / each
            ages[group] = amount_of(step_of(min(AGE_MOST_S, max(shapes[group].age_most_s / UNTUNED_AGES, fitting))))
        return ages

    def _share_out(self, rates: Mapping[NodeId, float]) -> dict[NodeId, float]:
        """Each site's bytes per second: in proportion to what it takes or is expected to, none below what one
        report a window needs; what is promised to others stays promised until they have let go of it."""
        total, sites = self._reports_bytes_per_s, list(self._sites)
        if not sites:
            return {}
        floor = min(total / len(sites), BURST_LEAST / BURST_FRAC / self.config.window_s)
        over = total - floor * len(sites)
        needs = {site: self._sites[site].need for site in sites}
        scale = EXPECTED_FRAC * sum(needs.values()) / max(1e-9, sum(rates.values()))
        wants = {site: max(needs[site], rates[site] * scale, 1e-9) for site in sites}
        asked = sum(wants.values())
        targets = {site: floor + over * wants[site] / asked for site in sites}
        free = total - sum(known.promised for known in self._sites.values())
        shares: dict[NodeId, float] = {}
        for site in sorted(sites, key=lambda one: targets[one] - self._sites[one].promised):
            known = self._sites[site]
            grown = max(0.0, targets[site] - known.promised)
            allowed = min(grown, max(0.0, free))
            if known.promised + allowed < floor / 2:
                allowed = 0.0  # nothing to speak of is free: it waits until others have let go, and is not starved
            free -= allowed
            shares[site] = min(targets[site], known.promised + allowed)
        return shares

    def _changes(
        self, site: NodeId, wanted: Mapping[Key, GroupTuning], share: float
    ) -> tuple[list[GroupTuning], float]:
        """What would have to be told to a site, the most important first, and how much there is to gain."""
        known = self._sites[site]
        if share <= 0:
            return [], 0.0
        far = {key: _steps_apart(known.sent.get(key), one) for key, one in wanted.items()}
        changed = sorted((key for key in wanted if far[key] >= STEPS), key=lambda key: (-far[key], key))
        gain = float(sum(min(40, far[key]) for key in changed))
        moved = abs(math.log2(share / known.share)) if known.share > 0 else 100.0
        return [wanted[key] for key in changed], gain + (moved if moved >= 0.5 else 0.0)


def _thresholds(
    rows: Sequence[tuple[NodeId, WatchedGroup, int, WatchedFact]],
    bytes_of: Callable[[WatchedGroup], int],
    budget: float,
) -> list[tuple[tuple[NodeId, WatchedGroup, int, WatchedFact], int, float]]:
    """For each fact its threshold's step and what that is expected to take."""
    widest = [
        max(SPREADS_MOST * math.sqrt(fact.variance), 2 * max((margin for margin, _ in fact.margins), default=0.0))
        for *_, fact in rows
    ]
    last = np.ceil(STEPS_PER_OCTAVE * np.log2(widest)).astype(int)
    steps_FK = last[:, None] - np.arange(THRESHOLDS)[None, :]  # the coarsest first: it is taken where none is better
    moves_FK = 2.0 ** (steps_FK / STEPS_PER_OCTAVE)
    margins = np.full((len(rows), MARGINS), np.inf)
    slopes = np.zeros((len(rows), MARGINS))
    for row, (*_, fact) in enumerate(rows):
        for place, (margin, slope) in enumerate(fact.margins):
            margins[row, place], slopes[row, place] = margin, slope / len(fact.margins)
    loss_FK = expected_loss(moves_FK, margins, slopes)
    usual = float(np.mean(loss_FK[:, 0])) or 1.0
    loss_FK += IDLE_FRAC * usual * (moves_FK / moves_FK[:, :1]) ** 2
    bytes_FK = expected_bytes(
        moves_FK,
        np.array([fact.wander for *_, fact in rows]),
        np.array([fact.jump for *_, fact in rows]),
        np.array([float(bytes_of(watched)) for _, watched, _, _ in rows]),
        GAP_LEAST_S,
    )
    spread = spread_budget(loss_FK, bytes_FK, budget)
    every = np.arange(len(rows))
    chosen, rates = steps_FK[every, spread.chosen_F], bytes_FK[every, spread.chosen_F]
    return [(row, int(step), float(rate)) for row, step, rate in zip(rows, chosen, rates, strict=True)]


def _steps_apart(sent: GroupTuning | None, wanted: GroupTuning) -> int:
    """By how many steps two tunings differ, where they differ most; very far where one lacks a fact."""
    if sent is None:
        return 1000
    if sent.moves.keys() != wanted.moves.keys() or sent.quiet != wanted.quiet:
        return 400
    pairs = [(sent.age_step, wanted.age_step), *((sent.moves[fact], wanted.moves[fact]) for fact in sent.moves)]
    return max(abs(now - was) for was, now in pairs)


def _message(groups: tuple[GroupTuning, ...], share: float, window_s: float, since: int, number: int) -> TuneReporting:
    """A share as rate and burst: over a window they add up to it."""
    burst = max(BURST_LEAST, int(min(1 << 20, BURST_FRAC * share * window_s)))
    rate = max(share * 1e-3, share - burst / window_s)
    return TuneReporting(
        number=number, since=since, bytes_per_s=min(1e9, rate), burst_bytes=burst, groups=groups[:TUNINGS_OF_A_SITE]
    )


def _common_first(groups: Sequence[GroupTuning]) -> tuple[GroupTuning, ...]:
    """The same said shorter: for each group what most things have in common is said once, for `EVERY`."""
    by_group: dict[int, Counter[tuple[int, tuple[tuple[int, int], ...], bool]]] = {}
    for one in groups:
        by_group.setdefault(one.group, Counter())[_said(one)] += 1
    common = {group: count.most_common(1)[0][0] for group, count in by_group.items()}
    said = [GroupTuning(EVERY, group, age, dict(moves), quiet) for group, (age, moves, quiet) in common.items()]
    return (*said, *(one for one in groups if _said(one) != common[one.group]))


def _said(one: GroupTuning) -> tuple[int, tuple[tuple[int, int], ...], bool]:
    return one.age_step, tuple(sorted(one.moves.items())), one.quiet

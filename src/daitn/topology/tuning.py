"""The tuner: what the orchestrator has learnt of facts, and the tunings it makes of it, within a budget of bytes.

Of each fact it keeps how it wanders (squared moves per second, from what was told: unbiased for a motion without drift,
whatever the thresholds), how it jumps, how wide it spreads, and its margins: how far it was from the edges of the
ranges that the last `MARGINS` decisions came with (`descriptors.plan.FactRange`), and what each unit beyond costs.
`topology.thresholds` makes thresholds of all this, beside the core.

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

from daitn.base.errors import BugError
from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds
from daitn.describe.reporting import GroupShape
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import (
    BURST_STEP_MOST,
    EVERY,
    TUNINGS_OF_A_SITE,
    GroupTuning,
    Reading,
    rate_of,
    rate_step_below,
)
from daitn.topology.thresholds import FAR_MOST, STEPS, SiteKnown, ThresholdsFound, ThresholdsSought
from daitn.topology.watched import WatchedFact, WatchedGroup, WatchedSite, moves_in_force
from daitn.wire.codec import encode
from daitn.wire.topology_tools import TuneReporting

GAIN_MOST: Final = 2.0
"""What sites were told to expect is corrected by what they took, at most by this factor each period: facts that jump
take less than the law believes."""

BURST_FRAC: Final = 0.1
"""Of a site's share over a window: what it may save up. The rest is its rate."""

BURST_LEAST_STEP: Final = 59
BURST_LEAST: Final = rate_of(BURST_LEAST_STEP)
"""166 bytes, without which not even one report fits."""

AIM_FRAC: Final = 0.7
"""Share of what sites may take that the correction aims at: the rest is for what nobody foresaw."""

FULL_FRAC: Final = 0.8
"""Of its share: a site that takes more would take more still."""

NEED_SMOOTHING: Final = 0.3
"""Weight of the last period in what a site is taken to need."""

EXPECTED_FRAC: Final = 0.3
"""Weight of what the law expects a site to take against what it took: decisions move on to other sites."""

ALIKE_FRAC: Final = 0.25
"""Where no fewer of a site's groups change, all of its tuning may be the shorter thing to say, if they become alike."""

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
        self._places: dict[tuple[str, str], tuple[NodeId, tuple[str, str], int]] = {}
        """By thing and fact: the site that told of it, thing and group, and the fact's place there."""
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

    @property
    def _sustained_bytes_per_s(self) -> float:
        """Of that, what sites may tell for ever: the rest is what they may save up, once a window."""
        window_bytes = self._reports_bytes_per_s * self.config.window_s
        bursts = max(BURST_FRAC * window_bytes, len(self._sites) * BURST_LEAST)
        return max(0.0, window_bytes - bursts) / self.config.window_s

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
                facts = tuple(WatchedFact(value, told_ns=reading.measured_ns) for value in reading.values)
                known.things[key] = WatchedGroup(shape, reading, facts)
                self._places |= {(reading.thing, fact): (site, key, place) for place, fact in enumerate(shape.facts)}
                continue
            if reading.measured_ns > watched.reading.measured_ns:
                known.things[key] = self._learnt(watched, reading, known.sent.get(watched.key))
        return new

    def _learnt(self, watched: WatchedGroup, reading: Reading, sent: GroupTuning | None) -> WatchedGroup:
        """What is known of a group once it was told again, in whole or in part."""
        moves = moves_in_force(sent, len(watched.facts))
        facts = tuple(
            fact.told(was, now, reading.measured_ns, 4 * self.config.period_s, move)
            if not reading.part or reading.part >> place & 1
            else fact
            for place, (fact, was, now, move) in enumerate(
                zip(watched.facts, watched.reading.values, reading.values, moves, strict=True)
            )
        )
        return WatchedGroup(watched.shape, reading, facts)

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
            site, key, number = place
            things = self._sites[site].things
            watched = things[key]
            value, fact = watched.reading.values[number], watched.facts[number]
            for edge in (one.low, one.high):
                if math.isfinite(edge) and math.isfinite(value):
                    fact = fact.near(abs(value - edge), one.loss)
            facts = (*watched.facts[:number], fact, *watched.facts[number + 1 :])
            things[key] = WatchedGroup(watched.shape, watched.reading, facts)

    # --- tuning -----------------------------------------------------------------------------------------------------

    def seek(self, now_ns: int) -> ThresholdsSought:
        """Begin a tuning: the problem whose solution `spend` takes. O(things) references, and the ranges that stand."""
        if self._tuned_ns is not None:
            gained = self.config.tuning_frac * self.config.budget_bytes_per_s * ns_to_seconds(now_ns - self._tuned_ns)
            self._allowance = min(self._tuning_window_bytes, self._allowance + max(0.0, gained))
        self._tuned_ns = now_ns
        for ranges in self._held.values():
            self._weigh(ranges)
        self._correct(now_ns)
        return ThresholdsSought(
            sites={
                site: SiteKnown(tuple(known.things.values()), dict(known.sent)) for site, known in self._sites.items()
            },
            reports_bytes_per_s=self._reports_bytes_per_s,
            sustained_bytes_per_s=self._sustained_bytes_per_s,
            gain=self._gain,
            overhead_bytes=self._overhead_bytes,
        )

    def spend(self, found: ThresholdsFound, alive: Collection[NodeId]) -> list[tuple[NodeId, TuneReporting]]:
        """What to tell sites now; those that came since it was sought are told next time. O(sites) and what is told."""
        wanted = {site: one for site, one in found.wanted.items() if site in self._sites}
        shares = self._share_out({site: one.bytes_per_s for site, one in wanted.items()})
        gains = {
            site: wanted[site].gain + self._moved(site, shares[site], found)
            for site in wanted
            if site in alive and shares[site] > 0
        }
        out: list[tuple[NodeId, TuneReporting]] = []
        for site in sorted(gains, key=lambda one: (-gains[one], one)):
            changes = list(wanted[site].changes)
            if gains[site] > 0 and (message := self._affordable(site, changes, shares[site], found)) is not None:
                out.append((site, message))
        return out

    def _affordable(
        self, site: NodeId, changed: list[GroupTuning], share: float, found: ThresholdsFound
    ) -> TuneReporting | None:
        """The message with as many of the changes as the allowance reaches for; it counts as sent."""
        known, sweeps = self._sites[site], (found.sweep_step, found.swept)
        full = known.acknowledged != known.number or known.number == 0
        # From the clock, so that a centre that began anew is not behind the tunings it gave before.
        number = max(known.number + 1, (self._tuned_ns or 0) // NS_PER_S)
        while True:
            said: list[tuple[tuple[GroupTuning, ...], int]] = [] if full else [(tuple(changed), known.number)]
            if full or (len(changed) > 1 and len(changed) >= ALIKE_FRAC * len(known.sent)):
                groups = {**known.sent, **{(one.thing, one.group): one for one in changed}}
                said.append((_common_first(tuple(groups.values())), 0))
            messages = [_message(one, share, self.config.window_s, since, number, sweeps) for one, since in said]
            message = min(messages, key=lambda one: len(encode(one)))
            size = len(encode(message))
            if size <= self._allowance:
                break
            if not changed or (len(changed) == 1 and not full and not self._moved(site, share, found)):
                return None  # without a change there would be nothing to tell: the allowance is saved up
            changed = changed[: len(changed) // 2]
        self._allowance -= size
        self.tuning_bytes += size
        known.number, known.share, known.sweeps = message.number, share, sweeps
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
            _common_first(tuple(known.sent.values())),
            known.share,
            self.config.window_s,
            0,
            known.number,
            known.sweeps,
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
        wants = {site: max(needs[site], rates.get(site, 0.0) * scale, 1e-9) for site in sites}
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

    def _moved(self, site: NodeId, share: float, found: ThresholdsFound) -> float:
        """What there is to gain by a tuning without a change of thresholds."""
        return self._share_moved(site, share) + self._sweep_moved(site, found)

    def _share_moved(self, site: NodeId, share: float) -> float:
        """What there is to gain by telling a site its share alone: octaves that it moved by, half of one at least."""
        known = self._sites[site]
        moved = abs(math.log2(share / known.share)) if known.share > 0 else 100.0
        return moved if moved >= 0.5 else 0.0

    def _sweep_moved(self, site: NodeId, found: ThresholdsFound) -> float:
        """What there is to gain by telling a site how often it sweeps, or what."""
        before, swept = self._sites[site].sweeps
        if swept != found.swept:
            return float(FAR_MOST)
        apart = abs(found.sweep_step - before) if swept else 0
        return float(apart) if apart >= STEPS else 0.0


def _message(
    groups: tuple[GroupTuning, ...],
    share: float,
    window_s: float,
    since: int,
    number: int,
    sweeps: tuple[int, dict[int, int]],
) -> TuneReporting:
    """A share as rate and burst: over a window they add up to it."""
    burst_step = rate_step_below(max(1.0, BURST_FRAC * share * window_s))
    burst_step = min(BURST_STEP_MOST, max(BURST_LEAST_STEP, burst_step))
    rate = max(share * 1e-3, share - rate_of(burst_step) / window_s)
    return TuneReporting(
        number=number,
        back=number - since if since else 0,
        rate_step=rate_step_below(rate),
        burst_step=burst_step,
        sweep_step=sweeps[0] if sweeps[1] else 0,
        swept=sweeps[1],
        groups=groups[:TUNINGS_OF_A_SITE],
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

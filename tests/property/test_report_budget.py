"""The orchestrator's budget: whatever moves, is lost or comes late, no window takes more bytes than it allows."""

from __future__ import annotations

import random

import pytest

from daitn.base.effects import Compute, Delivered, Send, Started, TimerFired, computed
from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.describe.reporting import ReportingRule, registered_shape, report_bytes
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import Reading, Tuning
from daitn.topology.orchestrator import (
    TUNE_TIMER,
    NodeSignalled,
    OrchestratorConfig,
    RangesStated,
    ReadingsAccepted,
    TopologyOrchestrator,
)
from daitn.topology.tuning import TunerConfig
from daitn.wire.codec import encode
from daitn.wire.packed_facts import HEADER
from daitn.wire.topology_tools import ReportingTuned, TuneReporting

WINDOW_S, PERIOD_S, HORIZON_S = 300, 20, 1500


class Sites:
    """Five sites of three things each; messages to and from them are lost and late by chance."""

    def __init__(self, seed: int, budget: float, lost: float) -> None:
        self.rng = random.Random(seed)
        self.lost = lost
        tuner = TunerConfig(budget_bytes_per_s=budget, period_s=PERIOD_S, window_s=WINDOW_S)
        self.orchestrator = TopologyOrchestrator(OrchestratorConfig(tuner=tuner), registered_shape, HEADER.itemsize)
        self.orchestrator.handle(Started(), 0)
        # Bytes before a site's first tuning are not the orchestrator's to give; here there are hardly any.
        first = Tuning(bytes_per_s=1e-3, burst_bytes=160)
        self.rules = {NodeId(f"n{site}"): ReportingRule(registered_shape, HEADER.itemsize, first) for site in range(5)}
        self.tunings: dict[NodeId, dict[tuple[str, int], object]] = {site: {} for site in self.rules}
        self.values = {(site, thing): 50.0 for site in self.rules for thing in range(3)}
        self.spent: list[tuple[int, int]] = []
        self.coming: list[tuple[int, NodeId, TuneReporting]] = []

    def run(self) -> None:
        """All seconds."""
        for second in range(HORIZON_S):
            now_ns = seconds_to_ns(second)
            self._report(second, now_ns)
            self._decide(second, now_ns)
            for site in self.rules:
                self.orchestrator.handle(NodeSignalled(node=site, beat=True), now_ns)
            if second % PERIOD_S == 1:
                effects = self.orchestrator.handle(TimerFired(name=TUNE_TIMER), now_ns)
                for sought in [effect for effect in effects if isinstance(effect, Compute)]:
                    self._post(self.orchestrator.handle(computed(sought), now_ns), second)
            self._tuned(second, now_ns)
            self.orchestrator.check_invariants()

    def _report(self, second: int, now_ns: int) -> None:
        for (site, thing), value in self.values.items():
            moved = value + self.rng.choice((-1.0, 1.0)) * self.rng.choice((0.1, 1.0, 20.0 if second > 700 else 0.1))
            self.values[site, thing] = abs(moved)
            values = (abs(moved), 1.0)
            reading = Reading(thing=f"{site}/{thing}", group="price", values=values, measured_ns=now_ns)
            assert self.rules[site].take(reading, now_ns)
        for site, rule in self.rules.items():
            chosen = rule.collect(now_ns, 100)
            if chosen:
                size = report_bytes(chosen)
                self.spent.append((second, size))
                if self.rng.random() >= self.lost:
                    event = ReadingsAccepted(site=site, readings=chosen, wire_bytes=size)
                    self.orchestrator.handle(event, now_ns)

    def _decide(self, second: int, now_ns: int) -> None:
        if second % 7 == 0:
            site, thing = self.rng.choice(list(self.values))
            value = self.values[site, thing]
            one = FactRange(thing=f"{site}/{thing}", fact="price_per_hour", low=value - 2, high=value + 2)
            self.orchestrator.handle(RangesStated(holder="job", ranges=(one,)), now_ns)

    def _post(self, effects, second: int) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.spent.append((second, len(encode(effect.message))))
                if self.rng.random() >= self.lost:
                    self.coming.append((second + self.rng.randint(0, 9), effect.receiver, effect.message))

    def _tuned(self, second: int, now_ns: int) -> None:
        for due in [one for one in self.coming if one[0] <= second]:
            self.coming.remove(due)
            _, site, message = due
            rule, held = self.rules[site], self.tunings[site]
            if message.since in (0, rule.tuning.number) and message.number > rule.tuning.number:
                held = ({} if message.since == 0 else held) | {(one.thing, one.group): one for one in message.groups}
                self.tunings[site] = held
                rule.tune(
                    Tuning(
                        number=message.number,
                        bytes_per_s=message.bytes_per_s,
                        burst_bytes=message.burst_bytes,
                        sweep_step=message.sweep_step,
                        swept=message.swept,
                        groups=tuple(held.values()),
                    ),
                    now_ns,
                )
            if self.rng.random() >= self.lost:
                answer = Delivered(sender=site, message=ReportingTuned(number=rule.tuning.number))
                self._post(self.orchestrator.handle(answer, now_ns), second)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("budget", "lost"), [(20.0, 0.0), (20.0, 0.3), (200.0, 0.1)])
def test_no_window_takes_more_than_the_budget(seed, budget, lost):
    sites = Sites(seed, budget, lost)
    sites.run()

    taken = [0] * HORIZON_S
    for second, size in sites.spent:
        taken[second] += size
    windows = [sum(taken[begin : begin + WINDOW_S]) for begin in range(HORIZON_S - WINDOW_S + 1)]

    assert max(windows) <= budget * WINDOW_S
    assert sum(taken) > 0.05 * budget * HORIZON_S  # and it is used: an orchestrator that allows nothing keeps it too

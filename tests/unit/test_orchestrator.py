"""The orchestrator as a core: who has failed, who flaps, and what sites are told to tell."""

from __future__ import annotations

import pytest
from tests.builders import START_NS, messages

from daitn.base.effects import Compute, Delivered, Effect, SetTimer, Started, TimerFired, computed
from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.describe.damping import DampingConfig
from daitn.describe.reporting import registered_shape
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import EVERY, Reading, amount_of
from daitn.topology.orchestrator import (
    LOOK_TIMER,
    TUNE_TIMER,
    DeclareFailure,
    DeclareSuspicion,
    NodeDropped,
    NodeSignalled,
    NodeVanished,
    OrchestratorConfig,
    RangesStated,
    ReadingsAccepted,
    TopologyOrchestrator,
)
from daitn.topology.tuning import TunerConfig
from daitn.wire.packed_facts import HEADER
from daitn.wire.topology_tools import ReportingTuned, TuneReporting

NODE, OTHER = NodeId("n0001"), NodeId("n0002")
PRICE = registered_shape("price")


def at(seconds: float) -> int:
    """A moment."""
    return START_NS + seconds_to_ns(seconds)


def make(budget: float = 1000.0, **changes) -> TopologyOrchestrator:
    """An orchestrator whose damping takes three falls."""
    tuner = TunerConfig(budget_bytes_per_s=budget, period_s=60.0, window_s=600.0)
    damping = DampingConfig(suppress=2.5, reuse=1.0, half_life_s=60.0, hold_most_s=240.0)
    return TopologyOrchestrator(
        OrchestratorConfig(tuner=tuner, damping=damping, **changes), registered_shape, HEADER.itemsize
    )


def give(core: TopologyOrchestrator, event, at_s: float) -> list[Effect]:
    """An event, and its invariants."""
    effects = core.handle(event, at(at_s))
    core.check_invariants()
    return effects


def beating(core: TopologyOrchestrator, until_s: int, node: NodeId = NODE) -> None:
    """A node speaks each second."""
    for second in range(until_s + 1):
        give(core, NodeSignalled(node=node, beat=True), second)


def tell(
    core: TopologyOrchestrator, price: float, at_s: float, thing: str = "n0001", site: NodeId = NODE
) -> list[Effect]:
    """A site tells a price."""
    reading = Reading(thing=thing, group="price", values=(price, 1.0), measured_ns=at(at_s))
    return give(core, ReadingsAccepted(site=site, readings=(reading,), wire_bytes=50), at_s)


def tune(core: TopologyOrchestrator, at_s: float) -> list[TuneReporting]:
    """What a tuning says, once its thresholds are found; acknowledged by nobody."""
    effects = give(core, TimerFired(name=TUNE_TIMER), at_s)
    return messages(TuneReporting, [one for sought in problems(effects) for one in give(core, computed(sought), at_s)])


def problems(effects: list[Effect]) -> list[Compute]:
    """What shall be worked out."""
    return [effect for effect in effects if isinstance(effect, Compute)]


def wandering(core: TopologyOrchestrator, thing: str, until_s: int, site: NodeId = NODE) -> None:
    """A price that goes up and down by one each second."""
    for second in range(until_s):
        tell(core, 50.0 + second % 2, second, thing, site)


def test_started_asks_for_its_timers():
    timers = {effect.name for effect in give(make(), Started(), 0) if isinstance(effect, SetTimer)}

    assert timers == {LOOK_TIMER, TUNE_TIMER}


def test_silent_node_is_suspected_then_declared_failed_once():
    core = make()
    beating(core, 30)

    assert not give(core, TimerFired(name=LOOK_TIMER), 36)[:-1]
    (suspected, _) = give(core, TimerFired(name=LOOK_TIMER), 37.5)
    (failed, _) = give(core, TimerFired(name=LOOK_TIMER), 39)
    assert suspected == DeclareSuspicion(node=NODE, phi=core.phi(NODE, at(37.5)))
    assert isinstance(failed, DeclareFailure)
    assert failed.silent_s == pytest.approx(9.0)
    assert core.suspect(NODE, at(39))
    assert len(give(core, TimerFired(name=LOOK_TIMER), 60)) == 1  # its own timer only


def test_node_that_speaks_again_is_alive():
    core = make()
    beating(core, 30)
    give(core, TimerFired(name=LOOK_TIMER), 60)
    give(core, NodeSignalled(node=NODE, beat=True), 61)

    assert core.phi(NODE, at(62)) < 0.1
    assert core.fails_after_s(NODE) == pytest.approx(8.4, abs=0.1)


def test_node_that_falls_again_and_again_is_damped_and_released():
    core = make()
    for number in range(3):
        give(core, NodeSignalled(node=NODE, beat=True), 2 * number)
        give(core, NodeVanished(node=NODE), 2 * number + 1)

    assert core.damped(NODE, at(6))
    assert not core.damped(OTHER, at(6))
    assert not core.damped(NODE, at(6 + 240))


def test_one_fall_that_two_report_counts_once():
    core = make()
    give(core, NodeSignalled(node=NODE, beat=True), 0)
    for second in range(1, 5):
        give(core, NodeVanished(node=NODE), second)

    assert not core.damped(NODE, at(5))


def test_node_that_left_is_forgotten():
    core = make()
    beating(core, 10)
    tell(core, 1.0, 10)
    give(core, NodeDropped(node=NODE), 11)

    assert core.phi(NODE, at(100)) == 0.0
    assert tune(core, 100) == []


def test_tuning_that_is_being_worked_out_is_not_begun_again_and_is_after_a_restart():
    core = make()
    tell(core, 1.0, 0)
    (sought,) = problems(give(core, TimerFired(name=TUNE_TIMER), 1))

    assert problems(give(core, TimerFired(name=TUNE_TIMER), 61)) == []
    assert messages(TuneReporting, give(core, computed(sought), 62))
    assert problems(give(core, TimerFired(name=TUNE_TIMER), 121))
    give(core, Started(), 130)
    assert problems(give(core, TimerFired(name=TUNE_TIMER), 190))


def test_sites_that_came_or_left_while_thresholds_were_found_are_no_trouble():
    core = make()
    tell(core, 1.0, 0)
    tell(core, 1.0, 0, thing="n0002", site=NodeId("n0002"))
    (sought,) = problems(give(core, TimerFired(name=TUNE_TIMER), 1))
    give(core, NodeDropped(node=NODE), 1)
    tell(core, 1.0, 1, thing="n0003", site=NodeId("n0003"))

    sent = give(core, computed(sought), 2)

    assert [one.receiver for one in sent] == ["n0002"]


def test_new_site_is_tuned_soon_after_its_first_report():
    core = make()

    (timer,) = tell(core, 1.0, 0)
    (message,) = tune(core, 1)
    assert isinstance(timer, SetTimer)
    assert timer.name == TUNE_TIMER
    assert timer.at_ns == at(1)
    assert message.number == at(1) // 1_000_000_000
    assert message.since == 0
    assert message.bytes_per_s <= 800


def test_fact_near_the_edge_of_a_decision_is_told_finer_than_one_that_is_far():
    core = make(budget=12.0)
    for thing in ("near", "far"):
        wandering(core, thing, 60)
    ranges = tuple(
        FactRange(thing=thing, fact="price_per_hour", low=50.0 - off, high=51.0 + off)
        for thing, off in (("near", 1.0), ("far", 200.0))
    )
    give(core, RangesStated(holder="job", ranges=ranges), 60)
    give(core, NodeSignalled(node=NODE, beat=True), 60)
    (message,) = tune(core, 60)

    moves = {one.thing: one.moves[0] for one in message.groups}
    coarse = moves.get("far", moves.get(EVERY))
    assert amount_of(moves.get("near", moves.get(EVERY))) < amount_of(coarse)
    assert amount_of(coarse) > 16


def test_fact_that_a_decision_rests_on_and_that_never_moved_is_told_when_it_does():
    core = make()
    tell(core, 5.0, 0)
    give(core, RangesStated(holder="job", ranges=(FactRange(thing="n0001", fact="price_per_hour", high=6.0),)), 1)
    (message,) = tune(core, 2)

    # Facts that are not named are told whenever they change, unless the group is quiet.
    assert (message.groups[0].moves, message.groups[0].quiet) == ({}, False)


def test_fact_of_no_decision_is_quiet_where_bytes_are_scarce_and_told_where_they_are_not():
    for budget, quiet in ((12.0, True), (1000.0, False)):
        core = make(budget=budget)
        for thing in ("near", "idle"):
            wandering(core, thing, 60)
        edge = FactRange(thing="near", fact="price_per_hour", high=51.5)
        give(core, RangesStated(holder="job", ranges=(edge,)), 60)
        give(core, NodeSignalled(node=NODE, beat=True), 60)
        (message,) = tune(core, 60)

        said = {one.thing: one for one in message.groups}
        idle, near = said.get("idle") or said[EVERY], said.get("near") or said[EVERY]
        assert idle.quiet is quiet
        assert 0 not in idle.moves if quiet else 0 in idle.moves
        assert 0 in near.moves


def test_site_with_another_tuning_in_force_is_sent_all_and_the_answer_ends_it():
    core = make()
    wandering(core, "n0001", 60)
    (first,) = tune(core, 61)

    (again,) = messages(TuneReporting, give(core, Delivered(sender=NODE, message=ReportingTuned(number=0)), 62))
    assert again == first
    assert give(core, Delivered(sender=NODE, message=ReportingTuned(number=first.number)), 63) == []
    assert give(core, Delivered(sender=OTHER, message=ReportingTuned(number=7)), 64) == []


def test_later_tunings_tell_changes_only():
    core = make(budget=12.0)
    tell(core, 7.0, 0, thing="still")
    for thing in ("near", "far", "idle"):
        wandering(core, thing, 60)
    (first,) = tune(core, 61)
    give(core, Delivered(sender=NODE, message=ReportingTuned(number=first.number)), 62)
    edge = FactRange(thing="near", fact="price_per_hour", high=51.5)
    give(core, RangesStated(holder="job", ranges=(edge,)), 63)
    (second,) = tune(core, 121)

    assert (second.since, second.number) == (first.number, at(121) // 1_000_000_000)
    assert "near" in {one.thing for one in second.groups}
    assert not {one.thing for one in second.groups} & {"still", EVERY}


def test_shares_of_all_sites_stay_within_the_budget_before_any_answer():
    core = make(budget=500.0)
    for number in range(5):
        tell(core, 1.0, number, thing=f"t{number}", site=NodeId(f"n{number}"))
        tune(core, number + 0.5)

    wandering(core, "t0", 60, NodeId("n0"))
    tune(core, 61)


def test_failed_site_is_not_tuned():
    core = make()
    tell(core, 1.0, 0)
    give(core, NodeVanished(node=NODE), 1)

    assert tune(core, 2) == []


def test_orchestrator_that_began_anew_is_not_behind_the_tunings_it_gave_before():
    earlier, later = make(), make()
    tell(earlier, 1.0, 0)
    (before,) = tune(earlier, 1)
    tell(later, 1.0, 100)
    (after,) = tune(later, 101)

    assert after.number > before.number
    assert after.since == 0

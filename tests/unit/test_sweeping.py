"""Sweeps: what decisions depend on is told together where it has changed, with bytes that were set aside for it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import START_NS

from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.describe.reporting import ReportingRule, registered_shape, report_bytes
from daitn.describe.sweeping import SET_ASIDE_MOST, Sweeps
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import ANY_MOVE, EVERY, GroupTuning, Reading, Tuning, amount_of, step_of
from daitn.terminal.fact_reporter import merge_tuning
from daitn.topology.thresholds import SWEEP_ALONE_S, SWEEP_FRAC, SWEEP_LEAST_S, ThresholdsFound
from daitn.topology.tuning import ReportTuner, TunerConfig
from daitn.wire.codec import encode
from daitn.wire.packed_facts import HEADER
from daitn.wire.topology_tools import TuneReporting

SHAPE = registered_shape("load")
WAIT, BUSY = SHAPE.facts.index("wait_s"), SHAPE.facts.index("busy_slots")
THINGS = 40
EVERY_S = 64.0
COARSE = GroupTuning(EVERY, SHAPE.number, step_of(1e5), {WAIT: step_of(8.0)}, True)
SITE = NodeId("n0001")


def at(seconds: float) -> int:
    """A moment."""
    return START_NS + seconds_to_ns(seconds)


def load(at_s: float, thing: str, wait_s: float, busy_slots: float = 0.0) -> Reading:
    """A reading."""
    facts = {"wait_s": wait_s, "busy_slots": busy_slots}
    values = tuple(facts.get(name, 0.0) for name in SHAPE.facts)
    return Reading(thing=thing, group="load", values=values, measured_ns=at(at_s))


def make_rule(every_s: float | None = EVERY_S, things: int = 4, **bytes_given: float) -> ReportingRule:
    """A rule of some things with waits of nothing, all told, that is tuned to sweep."""
    rule = ReportingRule(registered_shape, HEADER.itemsize, Tuning(bytes_per_s=1e6, burst_bytes=1 << 20))
    for thing in range(things):
        rule.take(load(0, f"t{thing}", 0.0), at(0))
    assert len(rule.collect(at(0), 100)) == things
    values = {"bytes_per_s": 1e6, "burst_bytes": 1 << 20} | bytes_given
    swept = {} if every_s is None else {SHAPE.number: 1 << WAIT}
    assert rule.tune(Tuning(number=1, groups=(COARSE,), sweep_step=step_of(EVERY_S), swept=swept, **values), at(0))
    return rule


def move(rule: ReportingRule, at_s: float, *waits: float) -> None:
    """New waits of the first things."""
    for thing, wait in enumerate(waits):
        assert rule.take(load(at_s, f"t{thing}", wait, busy_slots=1.0), at(at_s))


def told(rule: ReportingRule, at_s: float) -> dict[str, int]:
    """What is told now, and which facts of it."""
    chosen = rule.collect(at(at_s), 100)
    rule.check_invariants()
    return {one.thing: one.part for one in chosen}


def test_sweep_tells_together_what_it_is_for_where_that_changed_within_its_threshold():
    rule = make_rule()
    move(rule, 1, 2.0, 3.0, 0.0)

    assert told(rule, EVERY_S - 1) == {}
    assert told(rule, EVERY_S) == {"t0": 1 << WAIT, "t1": 1 << WAIT}
    assert told(rule, EVERY_S + 1) == {}


def test_next_look_is_at_the_sweep_where_nothing_is_due():
    assert make_rule().next_ns(at(1)) == at(EVERY_S)


def test_without_sweeps_what_stays_within_its_threshold_is_not_told():
    rule = make_rule(every_s=None)
    move(rule, 1, 2.0, 3.0, 0.0)

    assert told(rule, 10 * EVERY_S) == {}


def test_what_moved_by_its_threshold_does_not_wait_for_the_sweep():
    rule = make_rule()
    move(rule, 1, 9.0)

    assert told(rule, 1) == {"t0": 1 << WAIT}


def test_thresholds_leave_the_bytes_that_a_sweep_takes():
    # 52 bytes every 64 s of one byte a second are set aside: the rest is a report of one number every two minutes.
    rule = make_rule(bytes_per_s=1.0, burst_bytes=128)
    sizes: list[tuple[int, int]] = []
    for second in range(1, 1000):
        move(rule, second, *(second * 9.0 + thing for thing in range(4)))
        chosen = rule.collect(at(second), 100)
        if chosen:
            sizes.append((len(chosen), report_bytes(chosen)))

    assert (
        sum(1 for things, size in sizes if (things, size) == (4, 52)) >= 12
    )  # of 15; what a sweep takes is known once there was one
    assert sum(size for _, size in sizes) <= 128 + 1000


def test_what_the_bytes_of_a_sweep_did_not_reach_for_comes_first_in_the_next():
    rule = make_rule(bytes_per_s=0.5, burst_bytes=64)  # 32 bytes a sweep: two of four things
    seen: list[set[str]] = []
    for lap in range(1, 9):
        move(rule, lap * EVERY_S - 1, *(lap / 2 + thing / 8 for thing in range(4)))
        seen.append(set(told(rule, lap * EVERY_S)))

    assert [len(one) for one in seen[2:]] == [2] * 6
    assert all(not before & after for before, after in pairwise(seen[2:]))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 10_000), st.floats(0.0, 300.0))
def test_no_more_is_set_aside_than_a_sweep_takes_and_than_may_be(rate, size, seconds):
    sweeps = Sweeps()
    tuning = Tuning(number=1, bytes_per_s=rate, burst_bytes=500, sweep_step=step_of(EVERY_S), swept={3: 8})
    sweeps.tune(tuning, at(0))
    sweeps.bytes = size
    kept = sweeps.set_aside(tuning, at(seconds))

    assert 0 <= kept <= min(size, SET_ASIDE_MOST * 500, SET_ASIDE_MOST * rate * seconds + 1e-6)
    if seconds >= EVERY_S and size <= SET_ASIDE_MOST * min(500.0, rate * EVERY_S):
        assert kept == pytest.approx(size)


# --- how often ------------------------------------------------------------------------------------------------------


def make_tuner(budget: float, step_s: float = 1.0) -> ReportTuner:
    """A site whose things all wander near to the edge of a decision; `step_s`: between two moves of each."""
    tuner = make_fresh(budget)
    wander(tuner, range(30), step_s)
    return tuner


def make_fresh(budget: float) -> ReportTuner:
    """It knows nothing yet."""
    return ReportTuner(TunerConfig(budget_bytes_per_s=budget), registered_shape, HEADER.itemsize)


def wander(tuner: ReportTuner, steps: range, step_s: float = 1.0) -> None:
    """All things move from step to step, and a decision is near to the edge of each."""
    for step in steps:
        readings = tuple(
            load(step_s * step, f"t{thing}", 5.0 + step % 2, busy_slots=float(step % 2)) for thing in range(THINGS)
        )
        tuner.take(SITE, readings, wire_bytes=report_bytes(readings))
    edges = tuple(FactRange(thing=f"t{thing}", fact="wait_s", high=7.0) for thing in range(THINGS))
    tuner.hold("requests", edges)


def tuned(tuner: ReportTuner, at_s: float) -> TuneReporting:
    """The tuning of the only site."""
    found = tuner.seek(at(at_s)).solve()
    assert isinstance(found, ThresholdsFound)
    ((_, message),) = tuner.spend(found, [SITE])
    tuner.check_invariants()
    return message


def test_where_bytes_are_few_they_go_to_sweeps_and_where_there_are_many_nobody_sweeps():
    small, large = tuned(make_tuner(4.0), 60), tuned(make_tuner(400.0), 60)

    assert small.swept == {SHAPE.number: 1 << WAIT}
    taken = (HEADER.itemsize + 40 * 10) / amount_of(small.sweep_step)
    # Of the budget a fifth is for tunings, of the rest a tenth for bursts.
    assert taken == pytest.approx(SWEEP_FRAC * 0.9 * 0.8 * 4.0, rel=0.2)
    assert amount_of(small.sweep_step) > SWEEP_LEAST_S
    assert large.swept == {}


def test_where_sweeps_are_rare_they_are_all_there_is_and_things_are_told_alike():
    message = tuned(make_tuner(1.5), 60)

    assert amount_of(message.sweep_step) > SWEEP_ALONE_S
    (group,) = message.groups
    assert (group.thing, group.quiet) == (EVERY, True)
    # What never moved is told when it does; the wait, which moves each second, only in sweeps, and what nobody needs
    # only for its age.
    moving = {WAIT, BUSY}
    assert group.moves == {place: ANY_MOVE for place in range(len(SHAPE.facts)) if place not in moving}
    assert message.swept == {SHAPE.number: 1 << WAIT}


def test_where_sweeps_are_rare_what_moves_more_seldom_is_told_at_once():
    tuner = make_tuner(1.5, step_s=1000)
    message = tuned(tuner, 30_000)

    assert amount_of(message.sweep_step) > SWEEP_ALONE_S
    assert not any(group.quiet for group in message.groups)


def test_what_was_left_to_sweeps_stays_so_though_sweeps_show_few_of_its_moves():
    tuner = make_tuner(1.5)
    first = tuned(tuner, 60)
    tuner.answered(SITE, first.number)
    readings = tuple(load(1e5, f"t{thing}", 5.0) for thing in range(40))
    tuner.take(SITE, readings, wire_bytes=report_bytes(readings))

    found = tuner.seek(at(1e5)).solve()

    assert isinstance(found, ThresholdsFound)
    assert found.wanted[SITE].changes == ()


def test_when_all_things_become_alike_one_tuning_for_all_of_them_is_told():
    tuner = make_fresh(1.5)
    wander(tuner, range(1))
    first = tuned(tuner, 1)
    assert not first.groups[0].quiet, "nothing is known of what moves"
    tuner.answered(SITE, first.number)
    wander(tuner, range(1, 30))

    second = tuned(tuner, 60)

    assert (second.back, [one.thing for one in second.groups], second.groups[0].quiet) == (0, [EVERY], True)


def test_nobody_sweeps_where_nothing_rests_on_what_moves():
    fresh = make_fresh(100.0)
    fresh.take(SITE, (load(0, "t0", 1.0),), wire_bytes=62)

    assert tuned(fresh, 60).swept == {}


def test_terminal_sweeps_as_its_newest_tuning_says():
    merged = merge_tuning(Tuning(), TuneReporting(number=2, rate_step=0, burst_step=59, sweep_step=12, swept={3: 8}))
    assert merged is not None
    without = merge_tuning(merged, TuneReporting(number=3, back=1, rate_step=0, burst_step=59))

    assert (merged.sweep_step, merged.swept) == (12, {3: 8})
    assert without is not None
    assert without.swept == {}


def test_sweeps_take_few_bytes_of_a_tuning():
    plain = TuneReporting(number=1_790_000_000, rate_step=0, burst_step=59)
    sweeping = TuneReporting(number=1_790_000_000, rate_step=0, burst_step=59, sweep_step=18, swept={3: 8})

    assert len(encode(sweeping)) - len(encode(plain)) <= 8

"""The reporting rule: what moved or is old is told, in the site's bytes, and flapping is told once."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import START_NS

from daitn.base.units import seconds_to_ns
from daitn.describe.damping import DampingConfig
from daitn.describe.reporting import GroupShape, ReportingRule, registered_shape, report_bytes
from daitn.descriptors.facts import group_named
from daitn.descriptors.reporting import ANY_MOVE, EVERY, GroupTuning, Reading, Tuning, amount_of, step_of
from daitn.wire.packed_facts import HEADER, record_dtype

SHAPE = GroupShape(1, ("load", "up"), frozenset({1}), 40, 10.0)
OVERHEAD = 12


def shape_of(group: str) -> GroupShape:
    """One group, `state`; the rest is not known."""
    return SHAPE if group == "state" else registered_shape(group)


def rule_with(*groups: GroupTuning, number: int = 1, **changes) -> ReportingRule:
    """A rule with a tuning, and bytes for everything unless told otherwise."""
    values = {"bytes_per_s": 1e6, "burst_bytes": 1 << 20} | changes
    damping = DampingConfig(suppress=3.0, reuse=1.0, half_life_s=60.0, hold_most_s=240.0)
    return ReportingRule(shape_of, OVERHEAD, Tuning(number=number, groups=groups, **values), damping)


def read(load: float, up: float = 1.0, at_s: float = 0.0, thing: str = "t1") -> Reading:
    """A reading of `state`."""
    return Reading(thing=thing, group="state", values=(load, up), measured_ns=at(at_s))


def at(seconds: float) -> int:
    """A moment."""
    return START_NS + seconds_to_ns(seconds)


def told(rule: ReportingRule, *readings: Reading, at_s: float = 0.0) -> list[tuple[float, ...]]:
    """What is told after some readings."""
    for one in readings:
        assert rule.take(one, at(at_s))
    rule.check_invariants()
    return [one.values for one in rule.collect(at(at_s), 100)]


COARSE = GroupTuning(EVERY, 1, step_of(64.0), {0: step_of(2.0)}, True)


def test_first_reading_is_told():
    assert told(rule_with(COARSE), read(0.0)) == [(0.0, 1.0)]


def test_fact_that_moved_no_more_than_its_threshold_is_not_told():
    rule = rule_with(COARSE)
    told(rule, read(0.0))

    assert told(rule, read(2.0, at_s=1), at_s=1) == []
    assert told(rule, read(2.1, at_s=2), at_s=2) == [(2.1, 1.0)]


def test_slow_drift_is_measured_from_what_was_told_and_not_from_the_last_reading():
    rule = rule_with(COARSE)
    told(rule, read(0.0))

    found = [told(rule, read(0.5 * step, at_s=step), at_s=step) for step in range(1, 10)]

    assert [values for values in found if values] == [[(2.5, 1.0)]]


def test_fact_that_moved_back_before_it_was_told_is_not_told():
    rule = rule_with(COARSE)
    told(rule, read(0.0))

    assert told(rule, read(9.0, at_s=1), read(0.0, at_s=2), at_s=2) == []


def test_group_of_age_is_told_again_though_it_did_not_move():
    rule = rule_with(COARSE)
    told(rule, read(0.0))

    assert rule.next_ns(at(1)) == at(64)
    assert told(rule, at_s=63.9) == []
    assert told(rule, at_s=64.0) == [(0.0, 1.0)]


def test_quiet_group_does_not_tell_facts_without_threshold_and_another_does():
    loud = GroupTuning(EVERY, 1, step_of(64.0), {1: ANY_MOVE})
    quiet = GroupTuning(EVERY, 1, step_of(64.0), {1: ANY_MOVE}, True)
    for tuning, expected in ((loud, [(5.0, 1.0)]), (quiet, [])):
        rule = rule_with(tuning)
        told(rule, read(0.0))
        assert told(rule, read(5.0, at_s=1), at_s=1) == expected


def test_flag_is_told_when_it_changes_however_quiet_its_group_is():
    rule = rule_with(GroupTuning(EVERY, 1, step_of(64.0), {0: step_of(2.0)}, True))
    told(rule, read(0.0))

    assert told(rule, read(0.0, up=0.0, at_s=1), at_s=1) == [(0.0, 0.0)]


def test_tuning_of_a_thing_counts_before_that_of_all():
    rule = rule_with(COARSE, GroupTuning("t2", 1, step_of(64.0), {0: step_of(0.25)}, True))
    told(rule, read(0.0), read(0.0, thing="t2"))

    assert told(rule, read(1.0, at_s=1), read(1.0, at_s=1, thing="t2"), at_s=1) == [(1.0, 1.0)]


def test_new_tuning_takes_effect_at_once_and_an_older_one_none():
    rule = rule_with(COARSE, number=5)
    told(rule, read(0.0))
    told(rule, read(1.0, at_s=1), at_s=1)
    fine = (GroupTuning(EVERY, 1, step_of(64.0), {0: step_of(0.25)}, True),)

    assert not rule.tune(Tuning(number=5, groups=fine), at(2))
    assert told(rule, at_s=2) == []
    assert rule.tune(Tuning(number=6, groups=fine), at(2))
    assert told(rule, at_s=2) == [(1.0, 1.0)]


def test_unknown_value_is_told_and_told_once():
    rule = rule_with(COARSE)
    told(rule, read(0.0))

    assert len(told(rule, read(math.nan, at_s=1), at_s=1)) == 1
    assert told(rule, read(math.nan, at_s=2), at_s=2) == []
    assert told(rule, read(0.0, at_s=3), at_s=3) == [(0.0, 1.0)]


def test_flag_that_falls_too_often_is_told_as_no_until_it_is_steady():
    rule = rule_with(GroupTuning(EVERY, 1, step_of(4096.0), {0: step_of(2.0), 1: ANY_MOVE}, True))
    told(rule, read(0.0))
    found = [values for second in range(1, 21) for values in told(rule, read(0.0, second % 2, second), at_s=second)]

    assert len(found) == 7  # three falls and rises, and the fall that suppresses
    assert found[-1] == (0.0, 0.0)
    told(rule, read(0.0, 1.0, 21.0), at_s=21)
    released_ns = rule.next_ns(at(21))
    assert released_ns is not None
    assert released_ns < at(21 + 241)
    assert [one.values for one in rule.collect(released_ns, 100)] == [(0.0, 1.0)]


def test_everything_is_due_again_for_a_map_that_may_hold_nothing():
    rule = rule_with(COARSE)
    told(rule, read(0.0), read(1.0, thing="t2"))

    rule.repeat_all(at(1))

    assert sorted(told(rule, at_s=1)) == [(0.0, 1.0), (1.0, 1.0)]


def test_thing_that_is_gone_is_not_told():
    rule = rule_with(COARSE)
    rule.take(read(0.0), at(0))
    rule.forget("t1")

    assert told(rule, at_s=100) == []
    assert rule.next_ns(at(100)) is None


@pytest.mark.parametrize(
    "reading",
    [
        Reading(thing="t1", group="weather", values=(1.0,), measured_ns=at(0)),
        Reading(thing="t1", group="state", values=(1.0,), measured_ns=at(0)),
    ],
    ids=["no-group", "other-facts"],
)
def test_reading_that_is_none_is_refused_and_changes_nothing(reading):
    rule = rule_with(COARSE)

    assert not rule.take(reading, at(0))
    assert rule.collect(at(0), 100) == ()


def test_reading_older_than_the_one_held_is_refused():
    rule = rule_with(COARSE)
    told(rule, read(0.0, at_s=5), at_s=5)

    assert not rule.take(read(9.0, at_s=4), at(6))


def test_what_does_not_fit_waits_and_the_most_urgent_goes_first():
    rule = rule_with(COARSE, bytes_per_s=10.0, burst_bytes=OVERHEAD + 2 * SHAPE.record_bytes)
    told(rule, read(0.0, thing="t1"), read(0.0, thing="t2"))

    moved = (read(3.0, at_s=1, thing="t1"), read(9.0, at_s=1, thing="t2"))
    assert told(rule, *moved, at_s=1) == []
    assert rule.next_ns(at(1)) == at(5.2)
    assert told(rule, at_s=5.2) == [(9.0, 1.0)]
    assert told(rule, at_s=12.0) == [(3.0, 1.0)]


@settings(max_examples=100, deadline=None)
@given(
    moves=st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 4), st.floats(-100, 100)), min_size=1, max_size=150),
    bytes_per_s=st.floats(1, 200),
    burst_bytes=st.integers(64, 1000),
)
def test_no_window_of_any_length_takes_more_than_rate_and_burst(moves, bytes_per_s, burst_bytes):
    rule = rule_with(bytes_per_s=bytes_per_s, burst_bytes=burst_bytes)
    now_s, sent = 0.0, []
    for gap_s, thing, load in moves:
        now_s += gap_s
        rule.take(read(load, at_s=now_s, thing=f"t{thing}"), at(now_s))
        chosen = rule.collect(at(now_s), 3)
        rule.check_invariants()
        if chosen:
            sent.append((now_s, OVERHEAD + len(chosen) * SHAPE.record_bytes))

    for first, (begun_s, _) in enumerate(sent):
        for last in range(first, len(sent)):
            taken = sum(size for _, size in sent[first : last + 1])
            assert taken <= burst_bytes + bytes_per_s * (sent[last][0] - begun_s) + 1e-3


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(st.floats(0.01, 9), st.floats(-10, 10)), min_size=1, max_size=60), data=st.data())
def test_map_is_never_further_off_than_the_threshold_where_bytes_suffice(moves, data):
    threshold = data.draw(st.integers(-6, 6))
    rule = rule_with(GroupTuning(EVERY, 1, step_of(64.0), {0: threshold}, True))
    now_s, known = 0.0, math.nan
    for gap_s, load in moves:
        now_s += gap_s
        for values in told(rule, read(load, at_s=now_s), at_s=now_s):
            known = values[0]
        assert abs(load - known) <= amount_of(threshold)


def test_shape_of_a_registered_group_is_that_of_its_packed_records():
    shape = registered_shape("load")

    assert shape.record_bytes == record_dtype(group_named("load")).itemsize
    assert shape.facts[:2] == ("load_frac", "busy_slots")


# --- in part --------------------------------------------------------------------------------------------------------


def load(at_s: float, thing: str = "t1", **facts: float) -> Reading:
    shape = registered_shape("load")
    values = tuple(facts.get(name, 0.0) for name in shape.facts)
    return Reading(thing=thing, group="load", values=values, measured_ns=at(at_s))


def load_rule(tuning: Tuning) -> ReportingRule:
    return ReportingRule(registered_shape, HEADER.itemsize, tuning)


LOAD = registered_shape("load").number
WAIT = registered_shape("load").facts.index("wait_s")


def test_what_moved_is_told_alone_and_all_is_told_for_its_age():
    quiet = GroupTuning(EVERY, LOAD, step_of(64.0), {WAIT: step_of(1.0)}, True)
    rule = load_rule(Tuning(number=1, groups=(quiet,)))
    rule.take(load(0, wait_s=1.0), at(0))
    (first,) = rule.collect(at(0), 10)
    rule.take(load(1, wait_s=9.0, busy_slots=3.0), at(1))
    (second,) = rule.collect(at(1), 10)
    (third,) = rule.collect(at(64), 10)

    assert [first.part, second.part, third.part] == [0, 1 << WAIT, 0]
    assert second.values == (0.0, 0.0, 0.0, 9.0, 0.0, 0.0)
    assert third.values == (0.0, 3.0, 0.0, 9.0, 0.0, 0.0)


def test_part_takes_the_bytes_of_its_message_and_no_more():
    tuning = Tuning(number=1, bytes_per_s=1e-6, burst_bytes=1000, groups=(GroupTuning(EVERY, LOAD, step_of(4096.0)),))
    rule = load_rule(tuning)
    rule.take(load(0, wait_s=1.0), at(0))
    spent = report_bytes(rule.collect(at(0), 10))
    for second in range(1, 100):
        rule.take(load(second, wait_s=float(second)), at(second))
        spent += report_bytes(rule.collect(at(second), 10))
        rule.check_invariants()

    assert spent <= 1000
    assert 1000 - spent < 22


def test_things_that_always_move_take_turns_where_not_all_fit():
    tuning = Tuning(number=1, bytes_per_s=22.0, burst_bytes=64, groups=(GroupTuning(EVERY, LOAD, step_of(4096.0)),))
    rule = load_rule(tuning)
    told = Counter[str]()
    for second in range(200):
        for thing in ("t1", "t2", "t3"):
            rule.take(load(second, thing, wait_s=float(second)), at(second))
        told.update(one.thing for one in rule.collect(at(second), 10))

    assert min(told.values()) >= 0.8 * max(told.values())

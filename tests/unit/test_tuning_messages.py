"""What tuning a site takes on the wire: few bytes, and no more promised than there is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import START_NS, make_site

from daitn.base.effects import Delivered, Send, TimerFired
from daitn.base.ids import CENTER
from daitn.base.units import NS_PER_S
from daitn.descriptors.reporting import (
    RATE_STEP_LEAST,
    RATE_STEP_MOST,
    RATE_STEPS_PER_OCTAVE,
    GroupTuning,
    rate_of,
    rate_step_below,
)
from daitn.terminal.reporter import DescriptorChanged, Reporter
from daitn.topology.tuning import BURST_LEAST
from daitn.wire.codec import decode, encode
from daitn.wire.topology_tools import Described, Heartbeat, ReportingTuned, TuneReporting

NUMBER = START_NS // NS_PER_S


@given(st.floats(1e-3, 9e8))
def test_step_of_a_share_promises_no_more_than_there_is_and_little_less(rate):
    step = rate_step_below(rate)

    assert RATE_STEP_LEAST <= step <= RATE_STEP_MOST
    assert rate_of(step) <= rate * (1 + 1e-9)
    assert rate < rate_of(step + 1) * (1 + 1e-9)


@pytest.mark.parametrize("step", range(RATE_STEP_LEAST, RATE_STEP_MOST + 1))
def test_step_says_again_what_it_meant(step):
    assert rate_step_below(rate_of(step)) == step


def test_tuning_of_one_group_takes_fewer_bytes_than_two_reports_of_one_number():
    groups = (GroupTuning("n0042", 3, 14, {3: -2}, True),)
    changes = TuneReporting(number=NUMBER, back=120, rate_step=rate_step_below(0.9), burst_step=59, groups=groups)

    assert len(encode(changes)) <= 50
    assert decode(encode(changes)) == changes
    assert (changes.since, changes.burst_bytes) == (NUMBER - 120, math.floor(BURST_LEAST))
    assert TuneReporting(number=NUMBER, rate_step=0, burst_step=59).since == 0


def test_heartbeat_takes_a_dozen_bytes_more_where_it_acknowledges_and_is_less_than_an_answer():
    plain = Heartbeat(sequence=NUMBER * 1_000_000, incarnation=NUMBER * 1000, told=70)
    more = len(encode(Heartbeat(sequence=NUMBER * 1_000_000, incarnation=NUMBER * 1000, told=70, tuned=NUMBER)))

    assert 0 < more - len(encode(plain)) <= 12 < len(encode(ReportingTuned(number=NUMBER)))


def test_reporter_asks_what_to_acknowledge_once_for_each_heartbeat_that_it_says():
    said = iter([(7, 1, 0), (7, 2, NUMBER), (7, 2, 0)])
    reporter = Reporter()
    reporter.told = lambda: next(said)
    reporter.handle(DescriptorChanged(descriptor=make_site(1)), START_NS)
    described = Described(sequence=reporter.sequence, heartbeat_s=1.0)
    reporter.handle(Delivered(sender=CENTER, message=described), START_NS)
    beats = [
        effect.message
        for _ in range(3)
        for effect in reporter.handle(TimerFired(name="report node"), START_NS)
        if isinstance(effect, Send)
    ]

    assert [one.tuned for one in beats if isinstance(one, Heartbeat)] == [0, NUMBER, 0]


def test_octave_has_as_many_steps_as_it_says():
    assert rate_of(RATE_STEPS_PER_OCTAVE) == 2 * rate_of(0)

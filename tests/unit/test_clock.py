"""The node's clock: what the machine's wall clock does meanwhile changes nothing."""

from __future__ import annotations

import time

import pytest

from daitn.base.units import NS_PER_S
from daitn.node.clock import NodeClock

HOUR_NS = 3600 * NS_PER_S


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS], ids=["forward", "back"])
def test_wall_clock_that_is_set_while_the_process_runs_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, jump_ns: int
) -> None:
    clock, real = NodeClock(), time.time_ns
    before = clock.now_ns()
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump_ns)

    assert 0 <= clock.now_ns() - before < NS_PER_S


def test_clock_set_back_between_two_starts_is_not_behind_what_was_written() -> None:
    clock = NodeClock()
    written_ns = clock.now_ns() + HOUR_NS
    clock.not_before(written_ns)

    assert 0 <= clock.now_ns() - written_ns < NS_PER_S


def test_moment_in_the_past_changes_nothing() -> None:
    clock = NodeClock()
    before = clock.now_ns()
    clock.not_before(before - HOUR_NS)

    assert 0 <= clock.now_ns() - before < NS_PER_S

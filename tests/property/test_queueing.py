"""Whose turn it is, against a plain choice one after another; and making room never goes round in circles."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daitn.base.ids import JobId, OwnerId
from daitn.control_center.training.queueing import WAITING, makes_room, next_up
from daitn.descriptors.job import Phase

PHASES = (Phase.RUNNING, Phase.QUEUED, Phase.QUEUED, Phase.ASSESSING, Phase.PAUSED, Phase.DELIVERED)
JOBS = st.lists(
    st.tuples(st.sampled_from(PHASES), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5)), max_size=14
)
MOST = st.tuples(st.integers(1, 5), st.integers(1, 4))


def machines(rows: list[tuple[Phase, str, int, int]]) -> Any:
    """Jobs of owners with priorities and ages."""
    return {
        JobId(f"j{number:02d}"): SimpleNamespace(
            state=SimpleNamespace(
                job=JobId(f"j{number:02d}"),
                phase=phase,
                owner=OwnerId(owner),
                request=SimpleNamespace(priority=priority),
                submitted_ns=age,
            )
        )
        for number, (phase, owner, priority, age) in enumerate(rows)
    }


def plain(jobs: Any, running_jobs: int, per_owner: int) -> list[JobId]:
    """One after another, each time the first of all that may."""
    states = [one.state for one in jobs.values()]
    has = Counter(one.owner for one in states if one.phase is Phase.RUNNING)
    chosen: list[JobId] = []
    while has.total() < running_jobs:
        left = [one for one in states if one.phase in WAITING and one.job not in chosen and has[one.owner] < per_owner]
        if not left:
            break
        first = min(left, key=lambda one: (-one.request.priority, has[one.owner], one.submitted_ns, one.job))
        chosen.append(first.job)
        has[first.owner] += 1
    return chosen


@given(JOBS, MOST)
def test_turns_are_those_of_a_plain_choice(rows, most):
    assert next_up(machines(rows), *most) == plain(machines(rows), *most)


@given(JOBS, MOST)
def test_no_more_run_than_may_in_all_and_of_one_owner(rows, most):
    jobs = machines(rows)
    before = Counter(one.state.owner for one in jobs.values() if one.state.phase is Phase.RUNNING)
    for job in next_up(jobs, *most):
        jobs[job].state.phase = Phase.RUNNING
    after = Counter(one.state.owner for one in jobs.values() if one.state.phase is Phase.RUNNING)

    assert after.total() <= max(most[0], before.total())
    assert all(after[owner] <= max(most[1], before[owner]) for owner in after)


@given(JOBS, MOST)
def test_making_room_comes_to_rest_with_nobody_of_higher_priority_waiting_for_a_lower_one(rows, most):
    jobs = machines([row for row in rows if row[0] is not Phase.ASSESSING])
    for job in next_up(jobs, *most):
        jobs[job].state.phase = Phase.RUNNING
    overfull = sum(one.state.phase is Phase.RUNNING for one in jobs.values()) > most[0]
    for _ in range(100):
        running = [job for job, one in jobs.items() if one.state.phase is Phase.RUNNING]
        pairs = [(job, room) for job in running if (room := makes_room(jobs, job, *most)) is not None]
        if not pairs:
            break
        job, room = pairs[0]
        assert jobs[room].state.request.priority > jobs[job].state.request.priority
        jobs[job].state.phase = Phase.QUEUED
        started = next_up(jobs, *most)
        assert job not in started
        for one in started:
            jobs[one].state.phase = Phase.RUNNING
        if overfull:
            break
    else:
        raise AssertionError("jobs go on displacing each other")


@given(JOBS, MOST)
def test_the_least_of_those_that_run_makes_room_first(rows, most):
    jobs = machines(rows)
    running = [one.state for one in jobs.values() if one.state.phase is Phase.RUNNING]
    making = [one for one in running if makes_room(jobs, one.job, *most) is not None]
    if making and all(one.owner == running[0].owner for one in running):
        least = max(running, key=lambda one: (-one.request.priority, one.submitted_ns, one.job))
        assert least in making

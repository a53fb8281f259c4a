"""Whose turn it is: which jobs may run, and which of those that run make room for others.

Paper II-A, DCC: many owners share one network. Priority comes first. Among jobs of one priority it is the turn of the
owner who has the fewest running (fair sharing), then of the oldest job. An owner may have only so many running at a
time (quota). A queued job of higher priority does not wait for the end of a lower one: of those that run, the least of
all makes room at the border of its next visit, and is queued again with what it has learnt. Nothing under way is cut
short, and nobody makes room for an equal, so two jobs cannot go on displacing each other.

Pure. Cost: O(jobs · log jobs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from daitn.base.ids import JobId, OwnerId
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.job_state import JobState
from daitn.descriptors.job import Phase

WAITING: Final = (Phase.ASSESSING, Phase.QUEUED)
"""Phases of jobs that will want to run."""


def next_up(jobs: Mapping[JobId, JobMachine], running_jobs: int, running_jobs_per_owner: int) -> list[JobId]:
    """The jobs whose turn it is to run, in order, within the number that may run, in all and of one owner."""
    states = [machine.state for machine in jobs.values()]
    running = Counter(state.owner for state in states if state.phase is Phase.RUNNING)
    free = running_jobs - running.total()
    if free <= 0:
        return []
    lines: dict[tuple[int, OwnerId], list[JobState]] = {}
    for state in sorted((one for one in states if one.phase in WAITING), key=_age, reverse=True):
        lines.setdefault((-state.request.priority, state.owner), []).append(state)
    # One entry for each line of jobs, the oldest of which is at its end; what an owner has running only grows, so an
    # entry that is out of date is put back with what holds now.
    heads = [(priority, running[owner], _age(line[-1]), owner) for (priority, owner), line in lines.items()]
    heapify(heads)
    chosen: list[JobId] = []
    while heads and len(chosen) < free:
        priority, had, _, owner = heappop(heads)
        line = lines[priority, owner]
        if running[owner] >= running_jobs_per_owner:
            continue
        if had == running[owner]:
            chosen.append(line.pop().job)
            running[owner] += 1
        if line:
            heappush(heads, (priority, running[owner], _age(line[-1]), owner))
    return chosen


def makes_room(
    jobs: Mapping[JobId, JobMachine], job: JobId, running_jobs: int, running_jobs_per_owner: int
) -> JobId | None:
    """The queued job of higher priority for which a running one has to make room; None where it may go on."""
    states = [machine.state for machine in jobs.values()]
    mine = jobs[job].state
    queued = [one for one in states if one.phase is Phase.QUEUED and one.request.priority > mine.request.priority]
    running = [one for one in states if one.phase is Phase.RUNNING]
    if not queued or len(running) < running_jobs:
        return None
    of_owner = Counter(one.owner for one in running)
    of_owner[mine.owner] -= 1  # once it has made room
    able = [one for one in queued if of_owner[one.owner] < running_jobs_per_owner]
    lesser = sum(_rank(one) > _rank(mine) for one in running)
    if len(able) <= lesser:
        return None  # there are others to make room first
    return min(able, key=_rank).job


def _rank(state: JobState) -> tuple[int, int, JobId]:
    """Smaller comes first: by priority, then by age."""
    return (-state.request.priority, *_age(state))


def _age(state: JobState) -> tuple[int, JobId]:
    return (state.submitted_ns, state.job)

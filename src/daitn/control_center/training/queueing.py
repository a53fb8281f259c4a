"""Whose turn it is: which jobs may run, by priority and then by age."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from daitn.base.ids import JobId
from daitn.control_center.training.job import JobMachine
from daitn.descriptors.job import Phase

WAITING: Final = (Phase.ASSESSING, Phase.QUEUED)
"""Phases of jobs that will want to run."""


def next_up(jobs: Mapping[JobId, JobMachine], running_jobs: int) -> list[JobId]:
    """The jobs whose turn it is to run: by priority, then by age, within the number that may run. O(jobs)."""
    free, waiting = running_jobs, []
    for job, machine in jobs.items():
        state = machine.state
        if state.phase is Phase.RUNNING:
            free -= 1
        elif state.phase in WAITING:
            waiting.append((-state.request.priority, state.submitted_ns, job))
    return [job for _, _, job in heapq.nsmallest(max(0, free), waiting)]

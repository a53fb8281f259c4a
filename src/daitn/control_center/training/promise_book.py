"""The promise book: what all jobs together were promised, so that nothing is promised twice.

Paper II-A, T-FAM. A job that was admitted holds seconds of slots and room in stores (`training.promised`) from its
admission to its end, or until it is paused; what its visits use is taken off. `decision.promises` tells from what
others hold what a further job can be promised. Nothing is kept here: each answer is made of the jobs' states, at
O(jobs · sites).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from daitn.base.ids import JobId, NodeId
from daitn.base.units import ns_to_seconds, seconds_to_ns
from daitn.control_center.training.job_state import JobState
from daitn.decision.promises import Owed, Promises, free_seconds
from daitn.descriptors.promise import Promise


class PromiseBook:
    """See the module's docstring. `states` gives all jobs' states."""

    def __init__(self, states: Callable[[], Iterable[JobState]]) -> None:
        self._states = states

    def _others(self, job: JobId) -> list[JobState]:
        return [state for state in self._states() if state.promised.in_force and state.job != job]

    def owed(self, job: JobId, now_ns: int) -> Promises:
        """What jobs other than this one hold and have not used."""
        found: dict[NodeId, list[Owed]] = {}
        for state in self._others(job):
            until_s = ns_to_seconds(deadline_ns(state) - now_ns)
            for node, seconds in state.promised.left.items():
                if until_s > 0 and seconds > 0:
                    found.setdefault(node, []).append(Owed(until_s, seconds))
        return Promises({node: tuple(each) for node, each in found.items()})

    def store_bytes(self, job: JobId) -> dict[NodeId, int]:
        """Room in stores that is promised to others, by node."""
        found: dict[NodeId, int] = {}
        for state in self._others(job):
            for node in state.promised.left:
                found[node] = found.get(node, 0) + state.promised.store_bytes
        return found

    def again(self, state: JobState, slots: dict[NodeId, int], now_ns: int) -> Promise:
        """What a job that goes on, or has another deadline, is promised: what is left of its promise at nodes with so
        many slots, as far as others leave it free."""
        left_s = max(0.0, ns_to_seconds(deadline_ns(state) - now_ns))
        owed = self.owed(state.job, now_ns).owed
        return state.promised.again(
            {node: free_seconds(owed.get(node, ()), many, left_s) for node, many in slots.items()}
        )


def deadline_ns(state: JobState) -> int:
    """When a job's owner wants the model back at the latest."""
    return state.submitted_ns + seconds_to_ns(state.request.deadline_s)

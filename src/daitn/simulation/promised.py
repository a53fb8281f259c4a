"""No slot is promised twice: what each promise adds is counted anew from the journal, in the plainest way.

The centre works out what is free by a bound (`decision.promises`). Here all that is held at a node is added up for each
moment at which some of it is due, and compared with what the node's slots can do by then. O(promises²) a record.
"""

from __future__ import annotations

import msgspec

from daitn.base.effects import Record
from daitn.base.errors import BugError
from daitn.base.ids import JobId, NodeId
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.control_center.training.records import (
    JobAssessed,
    JobPhased,
    JobSubmitted,
    PromiseMade,
    RequestChanged,
    VisitAccepted,
    VisitOrdered,
)
from daitn.decision.costs import WARM_S
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Request
from daitn.descriptors.work import TrainOutcome
from daitn.simulation.world import World

ROUNDING_S = 1e-6


class _Job(msgspec.Struct):
    submitted_ns: int
    request: Request
    holds: dict[NodeId, float]
    begun: set[NodeId]

    @property
    def deadline_ns(self) -> int:
        return self.submitted_ns + seconds_to_ns(self.request.deadline_s)

    def use(self, node: NodeId, seconds: float) -> None:
        """A visit was made; the first one at a node has started a child."""
        spent_s = seconds + (0.0 if node in self.begun else WARM_S)
        self.holds = {one: left - spent_s * (one == node) for one, left in self.holds.items()}
        self.begun.add(node)


class PromiseCheck:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, _Job] = {}
        self._ordered: dict[str, NodeId] = {}
        self.promises = 0

    def read(self, record: Record, world: World) -> None:
        """One more record of the centre's; BugError if it promises what is not there."""
        match record:
            case JobSubmitted(job=job, request=request, at_ns=at_ns):
                self._jobs[job] = _Job(at_ns, request, {}, set())
            case RequestChanged(job=job, request=request):
                self._jobs[job].request = request
            case JobAssessed(job=job, taken=taken) if taken is not None:
                self._jobs[job].request = taken
            case VisitOrdered(visit=visit, node=node) if record.purpose != "probe":
                self._ordered[visit] = node
            case VisitAccepted(job=job, visit=visit, outcome=TrainOutcome(seconds=seconds)) if visit in self._ordered:
                self._jobs[job].use(self._ordered[visit], seconds)
            case JobPhased(job=job, phase=phase) if phase not in (Phase.QUEUED, Phase.RUNNING):
                self._jobs[job].holds = {}
            case PromiseMade(job=job, promise=promise, at_ns=at_ns):
                self.promises += 1
                self._jobs[job].holds = {hold.node: hold.seconds for hold in promise.holds}
                for node in self._jobs[job].holds:
                    self._check(job, node, world.specs[node].slots, at_ns)
            case _:
                pass

    def _check(self, job: JobId, node: NodeId, slots: int, now_ns: int) -> None:
        mine = self._jobs[job]
        seconds = mine.holds[node]
        if seconds > (mine.deadline_ns - now_ns) / NS_PER_S + ROUNDING_S:
            raise BugError(f"job {job} was promised {seconds:.3f} s at {node}, which is more than there are")
        there = [one for one in self._jobs.values() if node in one.holds and one.deadline_ns > now_ns]
        for end_ns in {one.deadline_ns for one in there if one.deadline_ns >= mine.deadline_ns}:
            due = 0.0
            for one in there:
                if one.deadline_ns <= end_ns:
                    due += min(max(0.0, one.holds[node]), (one.deadline_ns - now_ns) / NS_PER_S)
            able = slots * (end_ns - now_ns) / NS_PER_S
            if due > able + ROUNDING_S:
                raise BugError(f"{due:.3f} s of {node} are promised by then, its slots can do {able:.3f} s: {job}")

"""The visit desk: what terminals say of the visits that they were ordered, of whichever job.

A message for a visit that is not this sender's now is answered with a fence, never ignored, because a terminal repeats
what it owes until it is told. What is accepted is acknowledged again as often as it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daitn.base.ids import JobId, NodeId, VisitId
from daitn.base.metrics import Counters
from daitn.base.units import ns_to_seconds
from daitn.control_center.config import CenterConfig
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.pacing import pace_of
from daitn.control_center.training.results import Verify, wrong_in
from daitn.control_center.turn import Turn
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, TrainOutcome
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_tools import (
    LeaseRenewed,
    ResultAccepted,
    ResultFenced,
    VisitFailed,
    VisitProgress,
    VisitRefused,
    VisitResult,
)

FRESH_FRAC: Final = 0.1
"""A lease of which less than this share has passed is not renewed. Nine tenths of it are left for the next progress,
which comes within a quarter of the shortest."""


class VisitDesk:
    """See the module's docstring. `jobs` is the centre's own table, which grows after this is made."""

    def __init__(
        self,
        config: CenterConfig,
        knowledge: KnowledgeMap,
        jobs: Mapping[JobId, JobMachine],
        counters: Counters,
        verify: Verify,
    ) -> None:
        self._config = config
        self._knowledge = knowledge
        self._jobs = jobs
        self._counters = counters
        self._verify = verify

    def machine_of(self, visit: VisitId) -> JobMachine | None:
        """The job that a visit is of, if there is one."""
        return self._jobs.get(JobId(visit.rpartition("/")[0]))

    def hear(
        self, turn: Turn, sender: NodeId, message: VisitProgress | VisitResult | VisitFailed | VisitRefused
    ) -> JobMachine | None:
        """A word about a visit; the job that may go on because of it."""
        if isinstance(message, VisitProgress):
            self._progressed(turn, sender, message)
            return None
        return self._ended(turn, sender, message)

    def _progressed(self, turn: Turn, sender: NodeId, message: VisitProgress) -> None:
        machine = self.machine_of(message.visit)
        opened = machine.state.open.get(message.visit) if machine is not None else None
        if opened is None or opened.ordered.node != sender or opened.ordered.fence != message.fence:
            self._counters.count("progress_fenced")
            turn.send(sender, ResultFenced(visit=message.visit, fence=message.fence))
            return
        if opened.heard_ns:
            self._knowledge.measured_gap(sender, ns_to_seconds(max(0, turn.now_ns - opened.heard_ns)))
        opened.heard_ns = turn.now_ns
        opened.asked_again = opened.ended_ns = 0
        before = opened.progress
        if before is None or (message.phase.step, message.done) >= (before.phase.step, before.done):
            opened.progress = message
        self._renew(turn, sender, opened)
        turn.timer(f"visit {message.visit}", opened.gives_up_at())
        if machine is not None and before != opened.progress:
            machine.changed(turn)

    def _renew(self, turn: Turn, sender: NodeId, opened: OpenVisit) -> None:
        """Another lease, unless the last one was given a moment ago: the first progress of a visit comes at once, and
        the lease of its order is as good."""
        lease_s = self._knowledge.patience_with(sender, self._config.lease_s)
        given_s = ns_to_seconds(turn.now_ns - opened.spoken_ns)
        if lease_s <= opened.lease_s and given_s < FRESH_FRAC * opened.lease_s:
            return
        opened.spoken_ns, opened.lease_s = turn.now_ns, lease_s
        name, fence = opened.ordered.visit, opened.ordered.fence
        turn.send(sender, LeaseRenewed(visit=name, fence=fence, lease_s=lease_s))

    def _ended(
        self, turn: Turn, sender: NodeId, message: VisitResult | VisitFailed | VisitRefused
    ) -> JobMachine | None:
        """A terminal says that a visit is over: accept, acknowledge again, or fence."""
        told = message.report if isinstance(message, VisitResult) else message
        visit, fence = told.visit, told.fence
        machine = self.machine_of(visit)
        opened = machine.state.open.get(visit) if machine is not None else None
        if machine is None or opened is None or opened.ordered.node != sender or opened.ordered.fence != fence:
            ordered = machine.state.ordered.get(visit) if machine is not None else None
            mine = ordered is not None and ordered.node == sender and ordered.fence == fence
            if mine and machine is not None and visit in machine.state.accepted:
                turn.send(sender, ResultAccepted(visit=visit, fence=fence))
            else:
                self._counters.count("results_fenced")
                turn.send(sender, ResultFenced(visit=visit, fence=fence))
            return None
        match message:
            case VisitResult():
                self._take_result(turn, machine, sender, message)
            case VisitFailed(reason=reason, blame=blame, partner=partner, lacking=lacking, unfit=unfit):
                turn.send(sender, ResultFenced(visit=visit, fence=fence))
                machine.lose(turn, visit, reason, blame, partner=partner, lacking=lacking, unfit=unfit)
                if blame == "no-room":
                    for other in self._jobs.values():
                        other.make_room(turn, sender)
            case VisitRefused(newest_route=newest) if 0 < newest <= machine.state.route_version:
                machine.repeat(turn, visit)
                return None
            case VisitRefused(faults=faults, reason=reason):
                text = "; ".join(f"{one.rule}: asked {one.asked!r}, allowed {one.allowed}" for one in faults)
                machine.lose(turn, visit, f"refused: {text or reason}", "policy" if faults else "unavailable")
        return machine

    def _take_result(self, turn: Turn, machine: JobMachine, sender: NodeId, message: VisitResult) -> None:
        report = message.report
        opened = machine.state.open[report.visit]
        facts = self._knowledge.node(sender)
        key = facts.descriptor.public_key if facts is not None else ""
        wrong = wrong_in(message, opened.ordered.work, key, self._verify)
        wrong = wrong or machine.state.made.not_new(opened.ordered, report.outcome)
        if wrong is None:
            machine.accept(turn, report.visit, report.outcome, message.signature)
            turn.send(sender, ResultAccepted(visit=report.visit, fence=report.fence))
            if isinstance(report.outcome, EvaluateOutcome) and isinstance(opened.ordered.work, EvaluateWork):
                self._knowledge.measured_tests(sender, opened.ordered.work, report.outcome, turn.now_ns)
            if isinstance(report.outcome, TrainOutcome):
                self._knowledge.measured_transfer(sender, report.outcome.fetched_bytes, report.outcome.fetch_s)
                pace = pace_of(opened.ordered.work, report.outcome, machine.state.preflight)
                if pace is not None:
                    self._knowledge.measured_visit(sender, pace, turn.now_ns)
            return
        self._counters.count("results_refused", wrong.label)
        turn.send(sender, ResultFenced(visit=report.visit, fence=report.fence))
        if wrong.blame == "peer":
            turn.record_if(self._knowledge.found(sender, Evidence.REFUTED, turn.now_ns, why=wrong.fault))
        machine.lose(turn, report.visit, wrong.fault, wrong.blame)

"""The last stage of a job: training stops, the best model is fetched, sites are told what they may drop.

Paper III: models return to their owners with their logs.
"""

from __future__ import annotations

from typing import Final

from daitn.base import limits
from daitn.base.ids import CENTER
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.commands import FetchModel, JobChanged
from daitn.control_center.training.job_desk import WAIT_S, JobDesk
from daitn.control_center.training.records import (
    ModelGone,
    VisitLost,
)
from daitn.control_center.turn import Turn
from daitn.descriptors.grant import Lacking
from daitn.descriptors.job import Phase
from daitn.wire.center_tools import ReleaseArtifacts, VisitCancel

DELIVERY_PATIENCES: Final = 15.0
"""Past the deadline the finished model is asked for this much longer; then the job has failed."""


class Ending:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self.state = desk.state
        self._desk = desk
        self._fetching = False
        self._delivering_ns = 0

    def finish(self, turn: Turn, *, met: bool, why: str) -> None:
        """Training is over: stop what is under way and fetch the best model."""
        state = self.state
        for name, visit in state.open.items():
            turn.send(visit.ordered.node, VisitCancel(visit=name, fence=visit.ordered.fence))
        for name in list(state.open):
            turn.record(VisitLost(job=state.job, at_ns=turn.now_ns, visit=name, why=why, blame="over"))
        self._desk.enter(turn, Phase.DELIVERING, ("met: " if met else "not met: ") + why)

    def deliver(self, turn: Turn) -> None:
        """Fetch the best model, unless it is being fetched."""
        state = self.state
        self._delivering_ns = self._delivering_ns or turn.now_ns
        patience_ns = seconds_to_ns(DELIVERY_PATIENCES * self._desk.config.patience_s)
        if state.best == state.request.package:
            self.delivered(turn)
        elif self._fetching:
            return
        elif not state.holders.get(state.best):
            self._go_back(turn)
        elif turn.now_ns >= max(self._desk.deadline_ns, self._delivering_ns + patience_ns):
            self.end(turn, Phase.FAILED, "no site that holds the best model gave it back in time")
        elif self._desk.reachable(state.best):
            self._fetching = True
            model = self._desk.orders.input_ref(state, state.best, CENTER, turn.now_ns)
            turn.perform(FetchModel(job=state.job, model=model))
        else:
            turn.wake_in(f"job {state.job}", WAIT_S)

    def _go_back(self, turn: Turn) -> None:
        """Every holder of the best model has answered that it has it no more: an older one is better than none."""
        state = self.state
        kept = state.kept != state.best and state.holders.get(state.kept)
        instead = state.kept if kept else state.request.package
        turn.record(ModelGone(job=state.job, at_ns=turn.now_ns, model=state.best, instead=instead))
        why = f"{state.reason.split(': ', 1)[1]}; no site has the best model any more, this one is older"
        self._desk.enter(turn, Phase.DELIVERING, ("met: " if state.met else "not met: ") + why)
        self.deliver(turn)

    def fetch_failed(self, turn: Turn, lacking: Lacking | None) -> None:
        """The best model could not be fetched this time; it is asked for again, of those who may have it."""
        self._fetching = False
        if lacking is not None:
            self._desk.drop_holders(turn, lacking)
        turn.wake_in(f"job {self.state.job}", WAIT_S)

    def delivered(self, turn: Turn) -> None:
        """The best model is at the centre."""
        why = self.state.reason
        phase = Phase.DELIVERED if why.startswith("met: ") else Phase.EXHAUSTED
        self.end(turn, phase, why.split(": ", 1)[1])

    def end(self, turn: Turn, phase: Phase, why: str) -> None:
        """The job is over; sites may drop what they hold of it."""
        state = self.state
        nodes = {node for nodes in state.holders.values() for node in nodes}
        nodes |= {ordered.node for ordered in state.ordered.values()} | {unit for unit, _ in state.sampled.given}
        shared = [sample.artifact for sample in state.sampled.given.values()]
        shared += [artifact for artifact, _ in state.records.values()]
        artifacts = tuple(dict.fromkeys([*state.holders, *shared]))[: limits.ARTIFACTS_RELEASED]
        self._desk.book.ended(turn, state)
        self._desk.enter(turn, phase, why)
        for node in sorted(nodes - {CENTER}):
            turn.send(node, ReleaseArtifacts(job=state.job, artifacts=artifacts, job_ended=True))
        turn.perform(JobChanged(job=state.job))

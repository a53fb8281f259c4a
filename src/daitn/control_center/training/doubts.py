"""Doubts: a site says that the model it was given cannot be used. Who is at fault, its maker or the one who says so?

What one site says of another is no evidence. The verification unit is the third party that both trust: it is asked to
measure the model before anything else, and looks at it as the site did. If it cannot use it either, its maker has
handed on what no honest site would: its data set is barred, its node's trust falls, and the job goes back. If it can,
the one who refused it has to answer for that.
"""

from __future__ import annotations

from typing import Final

from daitn.base.ids import ArtifactId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import DoubtRefuted, MakerRefuted, SiteBarred, VisitOrdered
from daitn.control_center.training.running import Running
from daitn.control_center.turn import Turn
from daitn.descriptors.origin import Unfit
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateWork, TrainWork

REFUSALS_MOST: Final = 2
"""Models that a data set's site may refuse wrongly before the job leaves it out."""


class Doubts:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, running: Running) -> None:
        self._desk = desk
        self._state = desk.state
        self._running = running

    def told(self, turn: Turn, ordered: VisitOrdered, unfit: Unfit, why: str) -> None:
        """A visit ended because the model that it was given cannot be used, as its site says."""
        match ordered.work:
            case EvaluateWork(model=model) if model == unfit.artifact and ordered.purpose == "verify":
                self._refute_maker(turn, model, unfit, why)
            case TrainWork(model=model) if model not in self._state.made.doubted:
                self._refute_doubt(turn, ordered, ordered.work, model)
            case _:
                pass

    def measured(self, turn: Turn, model: ArtifactId) -> None:
        """A unit could use a model: whoever would not has to answer for that."""
        visit = self._state.made.doubted.get(model)
        told = self._state.ordered[visit] if visit is not None else None
        if told is not None and isinstance(told.work, TrainWork):
            self._refute_doubt(turn, told, told.work, model)

    def _refute_maker(self, turn: Turn, model: ArtifactId, unfit: Unfit, why: str) -> None:
        state = self._state
        if model in (state.kept, state.best):
            return  # it was measured before: its bytes are damaged where they lie now, and nobody's doing
        made = state.made.of(model)
        dataset = made.dataset if made is not None else None
        if made is not None and made.node is not None:
            turn.record(
                MakerRefuted(
                    job=state.job,
                    at_ns=turn.now_ns,
                    visit=made.visit,
                    node=made.node,
                    model=model,
                    fault=unfit.fault,
                    why=why,
                )
            )
            self._desk.found(turn, made.node, Evidence.REFUTED, f"visit {made.visit}: {why}")
        self._running.judging.judge_unfit(turn, model, f"it cannot be measured: {why}", culprit=dataset)
        if dataset is not None and dataset not in state.barred:
            turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=dataset, why=why))

    def _refute_doubt(self, turn: Turn, told: VisitOrdered, work: TrainWork, model: ArtifactId) -> None:
        """A site refused a model that a unit has measured."""
        state, dataset = self._state, work.dataset
        why = f"visit {told.visit} refused model {model[:16]}, which a verification unit can use"
        turn.record(DoubtRefuted(job=state.job, at_ns=turn.now_ns, visit=told.visit, model=model, dataset=dataset))
        self._desk.found(turn, told.node, Evidence.BROKEN, why)
        if state.harm.get(dataset, 0) >= REFUSALS_MOST and dataset not in state.barred:
            turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=dataset, why=why))

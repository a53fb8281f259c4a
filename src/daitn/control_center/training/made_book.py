"""Which visit of a job made which model of what: whom a model is by, and whether a result is old or another's.

Part of a job's state, so made of records alone. What a site says of its weights is believed as far as a receiver finds
the same (`descriptors.origin.Origin`).
"""

from __future__ import annotations

from typing import NamedTuple

from daitn.base.ids import ArtifactId, DataSetId, NodeId, VisitId
from daitn.control_center.training.records import VisitOrdered
from daitn.control_center.training.results import Wrong
from daitn.descriptors.work import AggregateOutcome, Outcome, TrainOutcome, TrainWork


class Made(NamedTuple):
    """A model's making, from the model `given`. `visit`: that of rank 0 where a group made it, and then nobody's
    alone."""

    visit: VisitId
    given: ArtifactId | None
    node: NodeId | None
    dataset: DataSetId | None
    weights: str


class MadeBook:
    """See the module's docstring. `package`: the submitted model, and `weights` the name of its numbers."""

    def __init__(self, package: ArtifactId, weights: str) -> None:
        self._package = package
        self._made: dict[ArtifactId, Made] = {}
        self.doubted: dict[ArtifactId, VisitId] = {}
        """Models that were never measured and that a site would not use, by the visit that says so."""
        self._weights: dict[str, tuple[ArtifactId | None, DataSetId | None]] = {weights: (None, None)}
        """By the name of some numbers: of which model, on which data they came about first. At most one a visit."""

    def accepted(self, ordered: VisitOrdered, outcome: Outcome) -> None:
        """A visit made a model."""
        work = ordered.work
        match outcome:
            case TrainOutcome(model=model, weights=weights) if isinstance(work, TrainWork):
                if work.group is not None:
                    self._made[model] = Made(work.group.name, work.model, None, None, weights)
                else:
                    self._made[model] = Made(ordered.visit, work.model, ordered.node, work.dataset, weights)
                self._weights.setdefault(weights, (work.model, work.dataset))
            case AggregateOutcome(model=model):
                self._made[model] = Made(ordered.visit, None, ordered.node, None, "")
            case _:
                pass

    def lost(self, ordered: VisitOrdered, blame: str, kept: ArtifactId) -> None:
        """A visit was lost; where its site would not use the model, and that was never measured, it is doubted."""
        if isinstance(ordered.work, TrainWork) and blame == "unfit":
            model = ordered.work.model
            if model != kept and model in self._made:
                self.doubted[model] = ordered.visit

    def settled(self, model: ArtifactId) -> None:
        """A model was measured, or whoever doubted it has answered for that."""
        self.doubted.pop(model, None)

    def of(self, model: ArtifactId) -> Made | None:
        """Who made a model; None for the submitted one, and for what this job knows nothing of."""
        return self._made.get(model)

    def not_new(self, ordered: VisitOrdered, outcome: Outcome) -> Wrong | None:
        """What is wrong with a result that is no new model: its input again, an older one, or another visit's.

        The same visit of the same model on the same data makes the same numbers, and may be made twice (a model was
        lost, the job went back). A visit that says itself that nothing changed is not blamed: a gradient may be zero.
        """
        work = ordered.work
        if not isinstance(outcome, TrainOutcome) or not isinstance(work, TrainWork):
            return None
        given = self._made.get(work.model)
        same = outcome.weights != "" and self._is_of(work.model, outcome.weights, given)
        if same and outcome.update_norm == 0 and outcome.model != work.model:
            fault = "the visit changed nothing: the model's gradient is zero on its records"
            return Wrong("unchanged", fault, blame="input")
        if same or outcome.model == work.model:
            return Wrong("stale", "it returned the model that it was given, and says that it was trained")
        other = self._made.get(outcome.model)
        dataset = None if work.group is not None else work.dataset
        again = other is not None and (other.given, other.dataset) == (work.model, dataset)
        if outcome.model == self._package or (other is not None and not again):
            whose = "the submitted model" if other is None else f"the model of visit {other.visit}"
            return Wrong("foreign", f"it returned {whose} as its own")
        first = self._weights.get(outcome.weights) if outcome.weights else None
        if first is not None and not self._is_again(first, work) and work.group is None:
            what = "the submitted model" if first[1] is None else f"what came of {first[1]} before"
            return Wrong("stale", f"it returned the weights of an older model, {what}")
        return None

    def _is_again(self, first: tuple[ArtifactId | None, DataSetId | None], work: TrainWork) -> bool:
        """Whether numbers that came about before come of the same numbers on the same data: where a job went back, each
        visit of the same way makes what it made before, though every model has a new name."""
        model, dataset = first
        if dataset != work.dataset or model is None:
            return False
        before, now = self._made.get(model), self._made.get(work.model)
        return model == work.model or (before is not None and now is not None and before.weights == now.weights != "")

    def _is_of(self, model: ArtifactId, weights: str, made: Made | None) -> bool:
        if model == self._package:
            return self._weights.get(weights) == (None, None)
        return made is not None and made.weights == weights

"""What work comes to at a simulated terminal: models by lineage, figures by law, records by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.splitting import CutCost
from daitn.descriptors.trials import TriedOut
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    CurvePoint,
    EvaluateOutcome,
    EvaluateWork,
    Group,
    Outcome,
    ShareOutcome,
    ShareWork,
    TrainOutcome,
    TrainWork,
)
from daitn.scenario.spec import Scenario
from daitn.simulation.learner import Learner, control_name
from daitn.simulation.masking import SimulatedMasks
from daitn.wire.center_tools import VisitOrder

CUTS: Final = (
    CutCost(begin=1, end=3, middle_frac=0.4, up_bytes=400.0, down_bytes=400.0),
    CutCost(begin=1, end=5, middle_frac=0.8, up_bytes=400.0, down_bytes=100.0),
)
"""Where a simulated model can be cut."""

TRIAL_STEPS: Final = 240
"""As many as a real trial makes where time allows (`learning.numerics.trial_extent`)."""


class SimulatedWork:
    """See the module's docstring. `artifacts`: what each node holds; `masks`: its masked rounds."""

    def __init__(
        self, scenario: Scenario, learner: Learner, artifacts: dict[NodeId, set[ArtifactId]], masks: SimulatedMasks
    ) -> None:
        self._scenario = scenario
        self._masks = masks
        self._learner = learner
        self._artifacts = artifacts

    def outcome(self, node: NodeId, order: VisitOrder, seconds: float) -> Outcome:
        """The outcome of an order at a node; what it makes is then held there."""
        match order.work:
            case TrainWork(model=model, dataset=dataset, training=training):
                labels = self.labels_of(dataset)
                trained = self._learner.train(model, dataset, labels, training.batches * training.batch_size)
                if dataset.partition("/")[0] in self._scenario.faults.poisoners:
                    self._learner.spoil(trained)
                if order.work.masking is not None:
                    trained = self._masks.mask(node, order.work.masking, trained)
                self._artifacts[node].add(trained)
                control = control_name(trained) if training.control_variates else None
                if control is not None:
                    self._artifacts[node].add(control)
                return TrainOutcome(
                    model=trained,
                    control=control,
                    batches=training.batches,
                    records=sum(labels.values()),
                    loss_first=1.0,
                    loss_last=0.5,
                    update_norm=1.0,
                    weights=trained,
                    data_version="1",
                    seconds=seconds,
                )
            case EvaluateWork(model=model, samples=samples, measurements=names, preflight=preflight):
                held_out: Counter[str] = Counter()
                for sample in samples:
                    for label, count in self.labels_of(sample.dataset).items():
                        held_out[label] += max(1, count // 5)
                return EvaluateOutcome(
                    model=model,
                    measurements=self._learner.measure(model, held_out, names),
                    test_set="1",
                    evaluations_left=0,
                    seconds=seconds,
                    overfits=True if preflight else None,
                    batch_seconds=0.01,
                    cuts=CUTS if order.work.cuts else (),
                    curve=self._curve(model, held_out, order.work),
                    tried=self._tried(model, held_out, order.work),
                )
            case AgreeWork() | SealWork() | UnmaskWork() as work:
                return self._masks.answer(node, order.job, work)
            case AggregateWork(updates=updates, masked=True):
                added = self._masks.add(updates)
                self._artifacts[node].add(added)
                return AggregateOutcome(model=added, seconds=seconds)
            case AggregateWork(updates=updates, base=base, buffered=True) if base is not None:
                moved = self._learner.move(base, updates)
                self._artifacts[node].add(moved)
                return AggregateOutcome(model=moved, seconds=seconds)
            case AggregateWork(updates=updates, server=server, base=base, state=before, unmasking=opening):
                mean = self._learner.average(
                    updates if opening is None else self._masks.open(updates[0].model, opening)
                )
                if server is None:
                    self._artifacts[node].add(mean)
                    return AggregateOutcome(model=mean, seconds=seconds)
                stepped, state = self._learner.step(mean, f"{server.optimizer} {base} {before}")
                self._artifacts[node] |= {stepped, state}
                return AggregateOutcome(model=stepped, state=state, seconds=seconds)
            case ShareWork(dataset=dataset, kind=kind):
                shared = ArtifactId(f"{self._learner.submit(f'{kind} {dataset} {order.work.contract}')}")
                self._artifacts[node].add(shared)
                return ShareOutcome(artifact=shared, records=sum(self.labels_of(dataset).values()), data_version="1")

    def _curve(self, model: ArtifactId, held_out: Mapping[str, int], work: EvaluateWork) -> tuple[CurvePoint, ...]:
        """What a trial finds: the learner's law, which knows of steps only, on the mix of the whole set."""
        if work.trial is None:
            return ()
        points: list[CurvePoint] = []
        for share in (0.0, 0.25, 0.5):
            records = round(share * sum(held_out.values()))
            learnt = round(2 * share * TRIAL_STEPS * work.trial.batch_size)
            tried = self._learner.train(model, DataSetId("trial"), held_out, learnt) if learnt else model
            figures = self._learner.measure(tried, held_out, work.trial_measurements)
            points.append(CurvePoint(records=records, steps=TRIAL_STEPS if learnt else 0, measurements=figures))
        return tuple(points)

    def _tried(self, model: ArtifactId, held_out: Mapping[str, int], work: EvaluateWork) -> tuple[TriedOut, ...]:
        """What short runs come to: the learner's law knows of records only, so more of them are better."""
        found: list[TriedOut] = []
        for place, training in enumerate(work.tries.trainings if work.tries is not None else ()):
            assert work.tries is not None
            visits = work.tries.visits(training)
            records = visits * training.batches * training.batch_size
            tried = self._learner.train(model, DataSetId("tried"), held_out, records)
            figures = self._learner.measure(tried, held_out, work.tries.names)
            found.append(TriedOut(place=place, measurements=figures, visits=visits, seconds=0.01))
        return tuple(found)

    def group_outcome(
        self, node: NodeId, order: VisitOrder, group: Group, seconds: float, *, differs: bool
    ) -> TrainOutcome:
        """The outcome of a member of a group; `differs`: it makes another model than the rest."""
        work = order.work
        assert isinstance(work, TrainWork)
        records = work.training.batches * work.training.batch_size
        readers = group.members if work.split is None else group.members[:1]
        parts = [(member.dataset, self.labels_of(member.dataset), records) for member in readers]
        trained = self._learner.train_together(work.model, parts, odd=order.visit if differs else "")
        self._artifacts[node].add(trained)
        return TrainOutcome(
            model=trained,
            batches=work.training.batches,
            records=sum(self.labels_of(work.dataset).values()),
            loss_first=1.0,
            loss_last=0.5,
            update_norm=1.0,
            weights=trained,
            data_version="1",
            seconds=seconds,
            exchanged_bytes=1000,
        )

    def labels_of(self, dataset: DataSetId) -> dict[str, int]:
        """True records per label of a data set."""
        name = dataset.partition("/")[2]
        for spec in self._scenario.nodes:
            if spec.name == dataset.partition("/")[0]:
                for data in spec.data:
                    if data.name == name:
                        return data.labels
        raise BugError(f"no data set {dataset} in scenario {self._scenario.name}")


def made_by(outcome: Outcome) -> tuple[ArtifactId, ...]:
    """The artifacts that a work left at its site."""
    match outcome:
        case AggregateOutcome(model=made, state=state) if state is not None:
            return (made, state)
        case TrainOutcome(model=made, control=control) if control is not None:
            return (made, control)
        case TrainOutcome(model=made) | AggregateOutcome(model=made) | ShareOutcome(artifact=made):
            return (made,)
        case _:
            return ()

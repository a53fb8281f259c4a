"""Which verification unit measures, on which test set, and which one stands by for it.

Paper II-A: a unit holds a test set built from samples of the participating nodes. Figures of two models can be compared
only where both were measured on the same one. So the samples that the preflight was made on are the job's test set, and
while the job runs the sites are asked to give the very same samples to one more unit, as far as their policies agree:
it takes over at once when the unit that measures is lost. A unit with other samples measures only where no unit with
the job's test set is to be expected soon, and then the best model before any other, so that what comes after is
compared with figures of the same test set again. See decision 0031.
"""

from __future__ import annotations

from typing import Final

from daitn.base import limits
from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.base.units import seconds_to_ns
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import OtherTestSet
from daitn.control_center.turn import Turn
from daitn.decision.feasibility import LEAST_TEST
from daitn.decision.keeping import score
from daitn.descriptors.view import TrainingView, Verifier
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, SampleRef, ShareWork
from daitn.wire.center_tools import VisitPrepare

PREPARES: Final = 3
"""How often a unit is told to get ready, one look after the other: nobody answers, and what is sent in the moment in
which a node appears may find it not listening yet. A unit that is ready has nothing more to do."""

LOOK_S: Final = 5.0
"""How often a running job looks whether a unit stands by: a view is made for it, and units come and go rarely."""


class Measuring:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state
        self._looked_ns = 0
        self._prepared: dict[NodeId, int] = {}
        """How often each unit was told to get ready since it appeared."""

    def look_again(self, node: NodeId | None = None) -> None:
        """Something is new: a sample was given, or a node appeared or lost a visit, so that its child is gone."""
        self._looked_ns = 0
        if node is not None:
            self._prepared.pop(node, None)

    def look_due(self, turn: Turn) -> bool:
        """Whether to look now for a unit that stands by (`stand_by`)."""
        return turn.now_ns - self._looked_ns >= seconds_to_ns(LOOK_S)

    def stand_by(self, turn: Turn, view: TrainingView) -> None:
        """Ask the sites to give the job's test set to the unit that is to take over, and have that one get ready."""
        self._looked_ns = turn.now_ns
        others = [unit for unit in self.believed(view) if unit.node != self._state.sampled.unit]
        ready = [unit.node for unit in others if self._same(unit.node)]
        if others and not ready:
            why = "the same sample for a unit that stands by, should the one that measures be lost"
            run_by = {unit.node: unit.operator for unit in view.verifiers}
            by = run_by.get(self._state.sampled.unit or NodeId(""), "")
            # One of another operator is a second opinion, too.
            self.ask(turn, max(others, key=lambda one: (one.operator != by, self._promised(one))), why)
        elif ready:
            unit = max(ready, key=lambda node: self._prepared.get(node, 0))
            if self._prepared.get(unit, 0) < PREPARES:
                self._prepare(turn, unit)

    def _prepare(self, turn: Turn, unit: NodeId) -> None:
        """Tell a unit to fetch its samples and start a child: from a cold start it would take over seconds later, and
        by then a site may be away. It costs the unit an idle child for each job that it stands by for."""
        self._prepared[unit] = self._prepared.get(unit, 0) + 1
        orders, state, samples = self._desk.orders, self._state, self._given(unit)
        prepare = VisitPrepare(
            job=state.job,
            package=orders.input_ref(state, state.request.package, unit, turn.now_ns, parts_only=True),
            warrant=orders.warrant(state),
            dataset=None,
            verify=True,
            samples=samples,
            inputs=tuple(
                orders.input_ref(state, one.artifact, unit, turn.now_ns, holder=one.holder) for one in samples
            ),
        )
        turn.send(unit, prepare)

    def measure(self, turn: Turn, view: TrainingView, why: str, model: ArtifactId | None = None) -> bool:
        """Order a measurement of the head, or of an older model; of the best one where the test set has to change.
        False if that must wait for a unit, or for its samples."""
        unit = self._with_test_set(turn, view)
        if unit is not None:
            before = self._state.sampled.unit
            if before not in (None, unit.node):
                why += f"; {self._desk.name_of(unit.node)} has the test set of {self._desk.name_of(before)}"
            self._order(turn, unit.node, model or self._state.head, self._given(unit.node), why)
            return True
        why = "no unit that has the test set answers"
        missing = sorted(self.believed(view), key=self._promised, reverse=True)
        if any(self.ask(turn, unit, why) for unit in missing) or not self._given_up(turn):
            return False
        return self._measure_elsewhere(turn, view)

    def believed(self, view: TrainingView) -> list[Verifier]:
        """The units of a view but for those that others agree against, or that the owner leaves out."""
        return [unit for unit in view.verifiers if unit.node not in self._state.opinions.barred]

    def is_ready(self, unit: NodeId) -> bool:
        """Whether a unit has the job's test set, or can fetch it now."""
        return len(self._there(unit, self._given(unit))) == len(self._state.sampled.test_set)

    def look_twice(self, turn: Turn, unit: NodeId, model: ArtifactId, why: str) -> None:
        """Have a model that was measured before measured by another unit, on the same test set."""
        self._desk.order(turn, "compare", unit, self._desk.evaluation(model, self._given(unit)), why)

    def waits(self, turn: Turn) -> bool:
        """Whether a unit may soon be able to measure: it is expected back, or samples are being made for it."""
        asked = any(opened.ordered.purpose == "sample" for opened in self._state.open.values())
        return asked or not self._given_up(turn)

    def compare_anew(self, turn: Turn, unit: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> None:
        """The best model was measured on another test set: it is what others are compared with from now on."""
        measured_score = score(self._state.request.targets, outcome.measurements)
        turn.record(
            OtherTestSet(
                job=self._state.job,
                at_ns=turn.now_ns,
                unit=unit,
                samples=work.samples,
                model=outcome.model,
                measurements=outcome.measurements,
                score=measured_score,
            )
        )

    def is_other(self, work: EvaluateWork) -> bool:
        """Whether a measurement was made on another test set than the job's."""
        return _names(work.samples) != _names(self._state.sampled.test_set)

    # --- units ------------------------------------------------------------------------------------------------------

    def _with_test_set(self, turn: Turn, view: TrainingView) -> Verifier | None:
        """The unit that measures now: the one that did last, unless it rests after a loss and another is ready."""
        whole = len(self._state.sampled.test_set)
        ready = [unit for unit in self.believed(view) if len(self._there(unit.node, self._given(unit.node))) == whole]
        rather = self._state.opinions.rather or self._state.sampled.unit
        return min(ready, key=lambda unit: (self._desk.cools(turn, unit.node), unit.node != rather), default=None)

    def _given(self, unit: NodeId) -> tuple[SampleRef, ...]:
        """What a unit was given of the job's test set."""
        wanted = _names(self._state.sampled.test_set)
        return tuple(one for one in self._state.sampled.of(unit) if (one.dataset, one.artifact) in wanted)

    def _same(self, unit: NodeId) -> bool:
        """Whether a unit was given the whole of the job's test set."""
        return len(self._given(unit)) == len(self._state.sampled.test_set)

    def _there(self, unit: NodeId, samples: tuple[SampleRef, ...]) -> tuple[SampleRef, ...]:
        """Those samples that a unit holds, or can fetch now."""
        if unit in self._state.sampled.told:
            return samples
        return tuple(one for one in samples if self._desk.answers(one.holder))

    def _promised(self, unit: Verifier) -> float:
        """Records of the job's test set that a unit has, or may be given now."""
        wanted = [one for one in self._state.sampled.test_set if one.dataset in unit.datasets]
        return float(sum(one.records for one in wanted))

    def ask(self, turn: Turn, unit: Verifier, why: str) -> bool:
        """Order what a unit lacks of the job's test set. Whether anything of it is under way."""
        under_way = self._under_way(unit.node)
        for sample in self._state.sampled.test_set[: limits.SITES_PER_ORDER]:
            name = sample.dataset
            asked = name in under_way or self._state.sampled.has(unit.node, name, without=True)
            found = None if asked or name not in unit.datasets else self._desk.knowledge.dataset(name)
            if found is None:
                continue
            under_way.add(name)
            self._desk.ask_sample(turn, found[0].descriptor.node, name, unit, why)
        return bool(under_way)

    def _under_way(self, unit: NodeId) -> set[DataSetId]:
        """Data sets whose samples are being made for a unit."""
        works = (opened.ordered.work for opened in self._state.open.values() if opened.ordered.purpose == "sample")
        return {work.dataset for work in works if isinstance(work, ShareWork) and work.receiver == unit}

    # --- another test set -------------------------------------------------------------------------------------------

    def _given_up(self, turn: Turn) -> bool:
        """Whether no unit with the job's test set is waited for any longer: it is away, or who holds a sample that it
        has not fetched yet."""
        units = {unit for unit, _ in self._state.sampled.given if self._same(unit)} - self._state.opinions.barred
        return all(self._is_lost(turn, unit) for unit in units)

    def _is_lost(self, turn: Turn, unit: NodeId) -> bool:
        if self._desk.away(turn, [unit]):
            return True
        holders = {one.holder for one in self._given(unit)} if unit not in self._state.sampled.told else set()
        return any(self._desk.away(turn, [holder]) for holder in holders)

    def _measure_elsewhere(self, turn: Turn, view: TrainingView) -> bool:
        """Order a measurement of the best model at the unit that has the largest other test set."""
        state = self._state
        model = next((one for one in (state.best, state.kept) if self._desk.reachable(one)), None)
        found = {unit.node: self._there(unit.node, self._state.sampled.of(unit.node)) for unit in self.believed(view)}
        unit = max(found, key=lambda node: _records(found[node]), default=None)
        if model is None or unit is None or _records(found[unit]) < LEAST_TEST:
            return False
        why = "no unit with the job's test set is to be expected; the best model is measured anew, for comparison"
        self._order(turn, unit, model, found[unit], why)
        return True

    def _order(self, turn: Turn, unit: NodeId, model: ArtifactId, samples: tuple[SampleRef, ...], why: str) -> None:
        self._desk.order(turn, "verify", unit, self._desk.evaluation(model, samples), why)


def _names(samples: tuple[SampleRef, ...]) -> set[tuple[DataSetId, ArtifactId]]:
    """What tells test sets apart."""
    return {(sample.dataset, sample.artifact) for sample in samples}


def _records(samples: tuple[SampleRef, ...]) -> int:
    return sum(sample.records for sample in samples)

"""Asking a second verification unit, and what follows where it does not find what the first one found.

A goal counts as reached only when every unit that is believed and has looked at the model says so, and a unit of
another operator is asked before if there is one. `decision.second_opinion` says what differs, decision 0045 why so.
"""

from __future__ import annotations

from daitn.base.ids import ArtifactId, NodeId, OperatorId
from daitn.control_center.training.job_desk import WAIT_S, JobDesk
from daitn.control_center.training.measuring import Measuring
from daitn.control_center.training.opinion_book import OPINION_TRIES
from daitn.control_center.training.records import UnitsCompared
from daitn.control_center.turn import Turn
from daitn.decision.keeping import score
from daitn.decision.second_opinion import COMPARE_EVERY, Opinion, difference, odd_one_out
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import Verifier
from daitn.descriptors.work import EvaluateOutcome


class Opinions:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, measuring: Measuring) -> None:
        self._desk = desk
        self._state = desk.state
        self._measuring = measuring

    def look(self, turn: Turn) -> bool:
        """Nothing is under way and a model was just measured: have it measured again where that is due, at a unit that
        has the test set already. Whether that is under way now."""
        state, book = self._state, self._state.opinions
        if state.rounds_since_verified or not state.verifications:
            return False
        disputed = book.disputed if book.disputed is not None and self._desk.reachable(book.disputed) else None
        model = disputed or state.kept
        if (disputed is None and book.since < COMPARE_EVERY) or not self._desk.reachable(model):
            return False
        unit = next((one for one in self._others(turn, model) if self._measuring.is_ready(one.node)), None)
        if unit is None:
            if disputed is not None:
                why = "the same sample for a unit that is to decide between others"
                any(self._measuring.ask(turn, one, why) for one in self._others(turn, model))
            return False
        self._measuring.look_twice(turn, unit.node, model, f"does it find the same as {self._names(model)}?")
        return True

    def wanted(self, turn: Turn) -> bool:
        """The best model meets the goal: whether another unit's opinion has to be waited for before that counts."""
        state = self._state
        if any(opened.ordered.purpose == "compare" for opened in state.open.values()):
            return True
        if not self._desk.reachable(state.best):
            return False
        others = self._others(turn, state.best)
        ready = next((one for one in others if self._measuring.is_ready(one.node)), None)
        if ready is not None:
            why = f"the goal is reached, {self._names(state.best)} says: does another unit?"
            self._measuring.look_twice(turn, ready.node, state.best, why)
            return True
        why = "the same sample for a unit that is to say whether the goal is reached"
        if any(self._measuring.ask(turn, unit, why) for unit in others):
            turn.wake_in(f"job {state.job}", WAIT_S)
            return True
        return False

    def said(self) -> str:
        """How many units stand behind the best model's figures, for the log."""
        found = self._state.opinions.of(self._state.best)
        if len({self._operator(unit) for unit in found}) > 1:
            return f"{self._names(self._state.best)} both say so"
        names = self._names(self._state.best) or "one unit"
        return f"measured by {names} alone: no unit of another operator was there to say whether that is so"

    def heard(self, turn: Turn, unit: NodeId, outcome: EvaluateOutcome) -> None:
        """A second unit has measured a model that was measured before."""
        state, model = self._state, outcome.model
        found = state.opinions.of(model)
        other = next((one for one in found if one != unit), None)
        if other is None:
            return  # the owner left the first one out meanwhile
        opinions: dict[NodeId, Opinion] = {one: (self._operator(one), figures) for one, figures in found.items()}
        differs = next((text for one in found if (text := difference(found[one], outcome.measurements))), "")
        odd = odd_one_out(opinions)
        others = {one: figures for one, figures in found.items() if one != odd}
        lower = min(others, key=lambda one: score(state.request.targets, others[one]))
        compared = UnitsCompared(
            job=state.job,
            at_ns=turn.now_ns,
            model=model,
            unit=unit,
            other=other,
            difference=differs,
            odd=odd,
            lower=lower,
        )
        turn.record(compared)
        if not differs:
            return
        names = " and ".join(f"{self._desk.name_of(one)} (run by {self._operator(one)})" for one in found)
        what = f"job {state.job}: {names} measured model {model[:16]} on the same records and do not agree: {differs}"
        if odd is not None:
            what += f"; {self._desk.name_of(odd)} stands alone against the others, and measures no more for this job"
            self._desk.found(turn, odd, Evidence.REFUTED, what)
        else:
            what += "; a third unit of another operator decides, or the owner: daitn train set JOB --exclude-node NODE"
        self._desk.alarms.sound(turn, f"units {unit} {other}", what)

    def _others(self, turn: Turn, model: ArtifactId) -> list[Verifier]:
        """Units of operators that have not said anything of a model yet, and are believed."""
        book = self._state.opinions
        heard = {self._operator(unit) for unit in book.of(model)}
        return [
            one
            for one in self._measuring.believed(self._desk.view(turn))
            if one.operator not in heard and book.lost[one.node] < OPINION_TRIES
        ]

    def _operator(self, unit: NodeId) -> OperatorId:
        facts = self._desk.knowledge.node(unit)
        return facts.descriptor.operator if facts is not None else OperatorId(unit)

    def _names(self, model: ArtifactId) -> str:
        return " and ".join(self._desk.name_of(unit) for unit in self._state.opinions.of(model))

"""Two verification units of different operators look at the same model: what they agree on counts, and one that lies is
found, or stands against one that does not until a third or the owner decides."""

from __future__ import annotations

import pytest
from tests.builders import (
    JOB,
    UNIT,
    Bench,
    changed,
    facts_of,
    make_data,
    make_mixer,
    make_policy,
    make_request,
    make_site,
    make_unit,
    measure,
)

from daitn.base.ids import CENTER, ArtifactId, NodeId, OperatorId
from daitn.control_center.node_records import NodeRecorded
from daitn.control_center.training.commands import ChangeAsked
from daitn.control_center.training.records import ModelJudged, UnitsCompared, VisitOrdered
from daitn.decision.second_opinion import COMPARE_EVERY, difference, odd_one_out
from daitn.descriptors.job import Phase
from daitn.descriptors.policy import summarise
from daitn.descriptors.request import Selection
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateWork, ShareWork, TrainWork
from daitn.wire.center_tools import VisitFailed, VisitOrder

SECOND, THIRD = NodeId("n0098"), NodeId("n0099")
OPERATORS = ("trust", "audit", "board")
GOAL = 0.9


def test_figures_within_the_joint_interval_do_not_differ():
    assert difference(measure(0.80), measure(0.86)) == ""


def test_figures_beyond_it_do_and_the_first_of_them_is_named():
    assert difference(measure(1.0), measure(0.5)).startswith("accuracy 1.000 and 0.500")


@pytest.mark.parametrize(("one", "other", "differs"), [("nan", "nan", False), ("nan", 0.5, True), ("inf", 0.5, True)])
def test_what_is_no_number_agrees_only_with_what_is_none_either(one, other, differs):
    assert bool(difference(measure(float(one)), measure(float(other)))) is differs


def test_figure_that_only_one_has_says_nothing():
    assert difference(measure(0.9, "accuracy"), measure(0.1, "loss")) == ""


def test_one_against_two_that_agree_is_the_odd_one():
    found = {
        UNIT: (OperatorId("trust"), measure(1.0)),
        SECOND: (OperatorId("audit"), measure(0.5)),
        THIRD: (OperatorId("board"), measure(0.52)),
    }
    assert odd_one_out(found) == UNIT


def test_two_of_one_operator_are_no_majority():
    found = {
        UNIT: (OperatorId("trust"), measure(1.0)),
        SECOND: (OperatorId("audit"), measure(0.5)),
        THIRD: (OperatorId("audit"), measure(0.5)),
    }
    assert odd_one_out(found) is None


def test_three_that_all_differ_have_no_odd_one():
    found = {node: (OperatorId(node), measure(value)) for node, value in ((UNIT, 1.0), (SECOND, 0.5), (THIRD, 0.0))}
    assert odd_one_out(found) is None


# --- jobs -------------------------------------------------------------------------------------------------------------


class Court:
    """A job before several units, each of which says of a model what a test has it say."""

    def __init__(self, **says: object) -> None:
        """`says`: by operator, a figure, or nothing: the truth."""
        policy = summarise(make_policy(verification_operators=OPERATORS))
        sites = [make_site(number, data=(make_data(f"s{number}", policy=policy),)) for number in (1, 2)]
        nodes = dict(zip(OPERATORS, (UNIT, SECOND, THIRD), strict=True))
        self.says = {nodes[operator]: figure for operator, figure in says.items()}
        units = [make_unit(nodes[operator], operator=OperatorId(operator)) for operator in says]
        self.made = Bench(*sites, *units, make_mixer())
        self.skill: dict[ArtifactId, int] = {}
        self.made.submit(make_request(f"accuracy >= {GOAL}", until_deadline=True, chance_floor=0.0))

    def truth(self, model: ArtifactId) -> float:
        return min(0.95, 0.5 + 0.05 * self.skill.get(model, 0))

    def one(self) -> None:
        """One terminal answers, or time passes."""
        self.made.solve()
        orders = self.made.orders()
        if not orders:
            self.made.wait(0.5)
            return
        node, order = orders[0]
        self.answer(node, order)

    def answer(self, node: NodeId, order: VisitOrder) -> None:
        match order.work:
            case ShareWork():
                artifact = ArtifactId(f"{order.work.dataset}-".ljust(64, "f"))
                self.made.answer(node, order, artifact=artifact)
            case EvaluateWork(model=model):
                said = self.says[node]
                self.made.answer(node, order, accuracy=self.truth(model) if said is None else said)
            case TrainWork(model=model):
                made = ArtifactId((order.visit + "-").ljust(64, "f"))
                self.skill[made] = self.skill.get(model, 0) + 1
                self.made.answer(node, order)
            case _:
                self.made.answer(node, order)

    def play(self, until=lambda state: False, most: int = 600) -> Court:
        for _ in range(most):
            state = self.made.state()
            if until(state) or state.phase not in (Phase.ASSESSING, Phase.QUEUED, Phase.RUNNING):
                return self
            self.one()
        return self

    @property
    def compared(self) -> list[UnitsCompared]:
        return [record for record in self.made.state().log if isinstance(record, UnitsCompared)]

    def alarms(self) -> list[str]:
        found = [one for one in self.made.journal if isinstance(one, NodeRecorded) and one.node == CENTER]
        return [entry.text for one in found for entry in one.entries]

    def reasons(self, node: NodeId) -> list[Evidence]:
        return [change.kind for change in self.made.center.knowledge.trust_book.changes(node)]


def test_honest_units_find_the_same_and_the_goal_counts():
    court = Court(trust=None, audit=None).play()

    state = court.made.state()
    assert state.phase is Phase.DELIVERING
    assert "both say so" in state.reason
    assert court.truth(state.best) >= GOAL
    assert all(not record.difference for record in court.compared)
    assert court.alarms() == []
    assert facts_of(court.made.replayed().jobs[JOB].state) == facts_of(state)


def test_comparing_costs_an_eighth_and_one_before_the_goal():
    court = Court(trust=None, audit=None).play()

    judged = sum(isinstance(record, ModelJudged) for record in court.made.state().log)
    assert len(court.compared) <= 2 + judged // COMPARE_EVERY


def test_one_unit_alone_is_said_to_be_alone():
    court = Court(trust=None).play()

    assert court.made.state().reason.startswith("met: ")
    assert "alone" in court.made.state().reason
    assert court.compared == []


def test_unit_that_always_says_one_hundred_percent_has_no_untrained_model_delivered():
    court = Court(trust=1.0, audit=None).play()

    state = court.made.state()
    assert state.phase is Phase.DELIVERING
    assert state.visits > 0
    assert court.truth(state.best) >= GOAL, "the other one must say so, too"
    assert len([one for one in court.compared if one.difference]) >= 1
    assert "do not agree" in court.alarms()[0]


def test_unit_that_lies_second_does_not_make_a_goal_either():
    court = Court(trust=None, audit=1.0).play()

    state = court.made.state()
    assert state.phase is Phase.DELIVERING
    assert court.truth(state.best) >= GOAL


def test_unit_that_always_says_nothing_is_learnt_keeps_the_goal_open_and_an_alarm_says_why():
    court = Court(trust=None, audit=0.1).play(lambda state: state.visits > 40)

    state = court.made.state()
    assert state.phase is Phase.RUNNING
    assert not state.met
    assert court.alarms()
    assert Evidence.REFUTED not in (*court.reasons(UNIT), *court.reasons(SECOND)), "one's word against another's"


@pytest.mark.parametrize(("liar", "node"), [("trust", UNIT), ("audit", SECOND)])
@pytest.mark.parametrize("lie", [1.0, 0.1])
def test_third_unit_finds_the_liar_which_is_not_believed_any_more(liar: str, node: NodeId, lie: float):
    court = Court(**(dict.fromkeys(OPERATORS) | {liar: lie})).play()

    state = court.made.state()
    assert state.phase is Phase.DELIVERING, state.reason
    assert state.reason.startswith("met: ")
    assert court.truth(state.best) >= GOAL
    assert [one.odd for one in court.compared if one.odd] == [node]
    assert court.reasons(node).count(Evidence.REFUTED) == 1
    found = next(place for place, one in enumerate(state.log) if isinstance(one, UnitsCompared) and one.odd)
    later = [one for one in state.log[found:] if isinstance(one, VisitOrdered) and isinstance(one.work, EvaluateWork)]
    assert node not in {one.node for one in later}


def test_owner_decides_by_leaving_one_out():
    court = Court(trust=None, audit=0.1).play(lambda state: state.opinions.disputed is not None)
    request = court.made.state().request
    out = make_request(*[str(one) for one in request.targets], until_deadline=True, chance_floor=0.0)
    out = changed(out, data=Selection(exclude_nodes=(SECOND,)))

    court.made.give(ChangeAsked(job=JOB, request=out))
    court.play()

    state = court.made.state()
    assert state.opinions.disputed is None
    assert state.reason.startswith("met: "), state.reason
    assert court.truth(state.best) >= GOAL


def test_second_unit_that_answers_nothing_is_gone_on_without():
    court = Court(trust=None, audit=None)
    court.says[SECOND] = None
    court.play(lambda state: state.phase is Phase.RUNNING)
    for _ in range(600):
        state = court.made.state()
        if state.phase is Phase.DELIVERING:
            break
        refused = [
            (node, order) for node, order in court.made.orders() if state.open[order.visit].ordered.purpose == "compare"
        ]
        for node, order in refused:
            court.made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no", blame="policy"))
        if not refused:
            court.one()

    assert court.made.state().reason.startswith("met: "), court.made.state().reason
    assert "alone" in court.made.state().reason


def test_dispute_survives_a_restart_of_the_centre():
    court = Court(trust=1.0, audit=None).play(lambda state: state.opinions.disputed is not None)
    rather = court.made.state().opinions.rather
    court.made.restart()

    assert court.made.state().opinions.rather == rather == SECOND
    court.play()
    assert court.truth(court.made.state().best) >= GOAL

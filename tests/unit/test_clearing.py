"""A run that gains nothing because one of its data sets spoils every model from its first visit on."""

from __future__ import annotations

import pytest
from tests.builders import JOB, Bench, bench, facts_of, make_request

from daitn.base.ids import ArtifactId, DataSetId
from daitn.control_center.training.records import SitesSetAside
from daitn.decision.clearing import FIRST_LOOKS, TRIES_MOST, TRY_LOOKS, never_gains, tries
from daitn.decision.stalling import Standing
from daitn.descriptors.job import Phase
from daitn.descriptors.request import parse_target
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import AggregateWork, EvaluateWork, TrainWork

A, B, C, D = (DataSetId(f"{name}/records") for name in "abcd")
START, STEP, GOAL = 0.5, 0.04, 0.97


def test_of_two_data_sets_each_is_tried_alone_the_more_trusted_first():
    assert tries((A, B), others=False, most=8) == ((B,), (A,))


def test_halves_are_halved_until_each_was_tried_alone():
    assert tries((A, B, C), others=False, most=8) == ((C,), (A, B), (B, C), (A, C))


def test_all_suspects_are_aside_first_where_there_are_others():
    assert tries((A, B), others=True, most=8) == ((A, B), (B,), (A,))
    assert tries((A,), others=True, most=8) == ((A,),)


@pytest.mark.parametrize("suspects", [(), (A,)], ids=["none", "the only one"])
def test_nobody_is_tried_where_nobody_would_be_left(suspects: tuple[DataSetId, ...]):
    assert tries(suspects, others=False, most=8) == ()


def test_tries_are_bounded():
    many = tuple(DataSetId(f"s{number}/records") for number in range(40))
    found = tries(many, others=False, most=TRIES_MOST)
    assert len(found) == TRIES_MOST
    assert all(set(aside) < set(many) for aside in found)


def test_run_that_gained_once_is_not_suspected_of_never_gaining():
    standing = Standing(looks=FIRST_LOOKS, looks_since=FIRST_LOOKS, visits_since={})
    assert never_gains(standing, gained=False)
    assert not never_gains(standing, gained=True)
    assert not never_gains(Standing(looks=3, looks_since=3, visits_since={}), gained=False)


# --- in a job ---------------------------------------------------------------------------------------------------------


class Poisoned:
    """A bench whose poisoner leaves every model deaf: what comes of it measures as if untrained, whoever trains it."""

    def __init__(self, method: str = "cyclic", sites: int = 2, poisoner: int = 1) -> None:
        self.made: Bench = bench(sites=sites)
        self.made.submit(
            make_request(
                method=method, targets=(parse_target(f"accuracy >= {GOAL}"),), chance_floor=0.0, deadline_s=100_000.0
            )
        )
        self.made.answer_until(lambda state: state.phase is Phase.RUNNING)
        node = list(self.made.nodes.values())[poisoner]
        self.poisoner = DataSetId(f"{node.name}/records")
        self.node = node.node
        self.lucky = 0.0
        """How much better than the submitted model a spoilt one measures."""
        self.skill: dict[ArtifactId, int | None] = {self.made.state().request.package: 0}

    def play(self, most: int = 1000) -> None:
        """Terminals answer until the job runs no more."""
        for _ in range(most):
            if self.made.state().phase is not Phase.RUNNING:
                return
            self.play_one()
        raise AssertionError("the job goes on and on")

    def play_one(self) -> None:
        """One terminal answers, or time passes."""
        self.made.solve()
        orders = self.made.orders()
        if not orders:
            self.made.wait(0.5)
            return
        node, order = orders[0]
        match order.work:
            case EvaluateWork(model=model):
                self.made.answer(node, order, accuracy=self.measured(model))
            case TrainWork(model=model, dataset=dataset):
                skill = self.skill[model]
                made = None if skill is None or dataset == self.poisoner else skill + 1
                self.made.answer(node, order)
                self.skill[self._made_by(order.visit)] = made
            case AggregateWork(updates=updates):
                skills = [self.skill[one.model] for one in updates]
                self.made.answer(node, order)
                self.skill[self._made_by(order.visit)] = None if None in skills else min(skills)  # type: ignore[type-var]
            case _:
                self.made.answer(node, order)

    def _made_by(self, visit: str) -> ArtifactId:
        return ArtifactId((visit + "-").ljust(64, "f"))

    def measured(self, model: ArtifactId) -> float:
        skill = self.skill[model]
        return START + self.lucky if skill is None else min(0.99, START + STEP * skill)

    def reasons(self, number: int) -> list[Evidence]:
        node = list(self.made.nodes)[number]
        return [change.kind for change in self.made.center.knowledge.trust_book.changes(node)]


@pytest.mark.parametrize("method", ["cyclic", "fedavg"])
@pytest.mark.parametrize(("sites", "poisoner"), [(2, 0), (2, 1), (3, 0), (3, 2), (5, 3)])
def test_poison_from_the_first_visit_on_is_gone_round_and_the_goal_reached(method: str, sites: int, poisoner: int):
    played = Poisoned(method, sites, poisoner)

    played.play()

    state = played.made.state()
    assert state.phase is Phase.DELIVERING, state.reason
    assert state.reason.startswith("met: "), state.reason
    assert played.skill[state.best] is not None
    assert played.poisoner in state.clearing.stay
    assert Evidence.HARMED in played.reasons(poisoner)
    assert facts_of(played.made.replayed().jobs[JOB].state) == facts_of(state)


def test_gain_by_chance_at_first_does_not_hide_the_poisoner():
    """An untrained model may measure worse than one that always says the same."""
    played = Poisoned(sites=2, poisoner=0)
    played.lucky = 0.12

    played.play()

    state = played.made.state()
    assert state.reason.startswith("met: "), state.reason
    assert played.skill[state.best] is not None
    assert played.poisoner in state.clearing.stay


def test_only_the_poisoner_is_blamed_where_it_alone_was_aside():
    played = Poisoned(sites=2, poisoner=0)

    played.play()

    assert played.reasons(0).count(Evidence.HARMED) == 1
    assert Evidence.HARMED not in played.reasons(1)
    tried = [record for record in played.made.state().log if isinstance(record, SitesSetAside)]
    begun = played.made.state().log.index(tried[0])
    assert tried[0].model == played.made.state().request.package
    assert len([r for r in played.made.state().log[:begun] if type(r).__name__ == "ModelJudged"]) == FIRST_LOOKS


def test_run_that_nobody_spoils_and_that_learns_nothing_ends_after_as_many_looks_as_before():
    played = Poisoned(sites=2)
    played.skill = dict.fromkeys(played.skill, None)

    played.play()

    state = played.made.state()
    assert state.reason.startswith("not met: ")
    assert "no gain beyond noise" in state.reason
    assert state.verifications <= FIRST_LOOKS + 2 * TRY_LOOKS + 4
    assert state.clearing.aside == ()
    assert Evidence.HARMED not in (*played.reasons(0), *played.reasons(1))


def test_restart_of_the_centre_goes_on_with_the_try():
    played = Poisoned(sites=2, poisoner=0)
    made = played.made
    while not made.state().clearing.trying:
        played.play_one()
    aside = made.state().clearing.aside
    made.restart()

    assert made.state().clearing.aside == aside
    played.play()
    assert made.state().reason.startswith("met: ")

"""Searching hyper-parameters: what is tried at the unit, what is taken and why, and that a restart tries none twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    JOB,
    OWNER,
    Bench,
    bench,
    changed,
    make_package,
    make_request,
    measure,
    the_order,
)

from daitn.base.effects import Compute, Computed, computed
from daitn.base.errors import InputError
from daitn.control_center.training.commands import SubmissionReceived
from daitn.control_center.training.records import TuningDone, TuningTried
from daitn.decision.experience import Outlook, PastRun, Reached, Situation, worked
from daitn.decision.facts import Searched
from daitn.decision.hyperparameters import PARALLEL_RATE, propose_training
from daitn.decision.tuning import (
    PASSES,
    CandidatesSought,
    Go,
    Propose,
    Stage,
    choose,
    in_vain,
    next_move,
    optimizers_of,
    point_of,
    starts_of,
    training_of,
)
from daitn.descriptors.contract import Classification
from daitn.descriptors.job import Phase
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Hyperparameters, Request, Tuning, check_request
from daitn.descriptors.trials import Training, TriedOut, Trying
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, answers
from daitn.learning.methods import METHODS
from daitn.learning.numerics.tuning_trial import tuning_trial
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice
from daitn.oam.timeline import render_log
from daitn.sdk.requests import make_request as written_request
from daitn.wire.center_tools import VisitFailed

BASE = Training(batch_size=32, batches=16, learning_rate=0.02)
ROUTED, FEDAVG = METHODS["routed"], METHODS["fedavg"]
NOTHING = Hyperparameters()


# --- what is tried --------------------------------------------------------------------------------------------------


def sought(tried=(), count=6, *, starts=(BASE,), pinned=NOTHING, seed=3) -> tuple[Training, ...]:
    problem = CandidatesSought(
        base=BASE, pinned=pinned, optimizers=("momentum",), starts=starts, tried=tuple(tried), count=count, seed=seed
    )
    return problem.solve().trainings


def test_sequential_search_begins_with_the_rules_own_and_rates_ten_and_thirty_below_parallel():
    starts = starts_of(ROUTED, BASE, NOTHING, ())

    assert starts[0] == BASE
    rates = {one.learning_rate for one in starts if one.optimizer == "momentum"}
    assert {PARALLEL_RATE / 10, round(PARALLEL_RATE / 30, 4)} <= rates
    assert any(one.optimizer == "adamw" and one.learning_rate == pytest.approx(0.001) for one in starts)


def test_what_worked_in_earlier_runs_is_tried_right_after_the_rules_own():
    earlier = changed(BASE, learning_rate=0.11, batch_size=64)

    assert starts_of(ROUTED, BASE, NOTHING, (earlier,))[1] == earlier


def test_what_the_owner_pinned_is_never_another():
    pinned = Hyperparameters(learning_rate=0.02, batch_size=32)
    starts = starts_of(ROUTED, BASE, pinned, (changed(BASE, learning_rate=0.5, batch_size=8, batches=32),))
    found = sought([(one, 0.5) for one in starts], pinned=pinned, starts=starts)

    for one in (*starts, *found):
        assert (one.learning_rate, one.batch_size, one.optimizer) == (0.02, 32, "momentum")
    assert {one.batches for one in (*starts, *found)} == {8, 16, 32}


def test_search_is_in_vain_where_everything_is_pinned_or_sites_keep_what_a_unit_lacks():
    request = make_request("accuracy >= 0.9")
    assert in_vain(ROUTED, request, make_package()) == ""
    assert in_vain(METHODS["fedadam"], request, make_package()) == ""
    assert "keeps of its own" in in_vain(METHODS["scaffold"], request, make_package())
    pinned = Hyperparameters(learning_rate=0.1, batch_size=8, batches_per_visit=4)
    assert "pinned" in in_vain(ROUTED, changed(request, hyperparameters=pinned), make_package())


def test_proposals_are_new_repeat_with_their_seed_and_follow_what_was_better():
    tried = [(training_of(BASE, {"rate": rate}), abs(math.log(rate / 8))) for rate in (1.0, 0.1, 0.3, 2.0, 6.0, 9.0)]
    first, again = sought(tried), sought(tried)

    assert first == again
    assert not {one for one, _ in tried} & set(first)
    assert len(set(first)) == 6
    assert np.median([one.learning_rate / BASE.learning_rate for one in first]) > 1


def test_optuna_that_is_missing_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    problem = CandidatesSought(
        base=BASE, pinned=NOTHING, optimizers=("momentum",), starts=(BASE,), tried=(), count=3, seed=0
    )
    answer = computed(Compute(key="tune j", basis=0, problem=problem))

    assert answer.solution is None
    assert "daitn[tune]" in answer.fault


@given(
    st.sampled_from(["momentum", "adamw"]),
    st.floats(1 / 16, 16),
    st.integers(-1, 2),
    st.integers(-1, 1),
)
def test_points_and_hyper_parameters_are_each_others(optimizer, rate, batch, length):
    point = {"optimizer": optimizer, "rate": rate, "batch": batch, "length": length}
    found = point_of(BASE, training_of(BASE, point))

    assert (found["optimizer"], found["batch"], found["length"]) == (optimizer, batch, length)
    assert found["rate"] == pytest.approx(rate, rel=0.06)


# --- how long, and which is taken -----------------------------------------------------------------------------------


def stage(rung: int, errors: dict[Training, float], seconds: float = 0.1) -> Stage:
    trainings = tuple(errors)
    tried = tuple(
        TriedOut(
            place=place,
            measurements=() if math.isinf(error) else measure(1 - error, "accuracy"),
            visits=2,
            seconds=seconds,
        )
        for place, error in enumerate(errors.values())
    )
    return Stage(rung=rung, trainings=trainings, tried=tried)


def rated(*rates: float) -> list[Training]:
    return [changed(BASE, learning_rate=rate) for rate in rates]


@given(st.integers(2, 24), st.randoms(use_true_random=False))
def test_every_search_ends_with_the_rules_own_compared_on_each_rung(trials, chance):
    tuning, stages = Tuning(trials=trials), []
    number = 0
    while (move := next_move(tuning, BASE, stages)) is not None:
        if isinstance(move, Propose):
            fresh = [changed(BASE, learning_rate=1.0 + number + place) for place in range(move.many)]
            number += move.many
            move = Go(0, tuple(fresh) if stages else (BASE, *fresh[1:]))
        else:
            assert move.trainings[0] == BASE
        stages.append(stage(move.rung, {one: chance.choice([0.1, 0.3, math.inf]) for one in move.trainings}))
        assert len(stages) <= 2 + len(PASSES)
    offered = [one for one in stages if one.rung == 0]
    assert sum(len(one.trainings) for one in offered) <= trials
    for one in stages:
        assert one.rung == 0 or len(one.trainings) <= max(2, math.ceil(trials / 3))
    choose(BASE, stages)


def test_search_ends_when_its_seconds_are_used_up():
    many = stage(0, dict.fromkeys([BASE, *rated(0.1, 0.2)], 0.3), seconds=30.0)

    assert next_move(Tuning(trials=12, seconds=60.0), BASE, [many]) is None


def test_something_else_is_taken_only_if_it_is_better_by_more_than_chance():
    quick, slow = rated(0.1, 0.005)
    first = stage(0, {BASE: 0.4, quick: 0.2, slow: 0.6, changed(BASE, learning_rate=9.0): math.inf})

    clear = choose(BASE, [first, stage(1, {BASE: 0.3, quick: 0.1})])
    assert clear.chosen == quick
    assert "0.100 of error is left, 0.300 with the rules' own" in clear.why
    assert "momentum at 0.02: 0.300 after 3 passes" in clear.rejected[0]
    assert "diverged" in clear.rejected[-1]

    near = choose(BASE, [first, stage(1, {BASE: 0.101, quick: 0.1})])
    assert near.chosen is None
    assert "by more than chance" in near.why


def test_search_that_compared_nothing_keeps_the_rules_and_says_so():
    assert choose(BASE, []).chosen is None
    assert "nothing could be compared" in choose(BASE, [stage(0, {BASE: 0.2})]).why


def test_searched_values_take_the_place_of_rules_and_pins_that_of_both():
    found = Searched(
        chosen=changed(BASE, optimizer="adamw", learning_rate=0.003, batch_size=64, batches=32), why="seen"
    )
    view = TrainingView(version=1, made_at_ns=0, candidates=(), excluded=(), verifiers=(), aggregators=())

    training, choice = propose_training(view, NOTHING, parallel=False, steady=True, searched=found)
    assert (training.optimizer, training.learning_rate, training.batch_size) == ("adamw", 0.003, 64)
    assert training.average_steps == 3 * 32
    assert choice.why.startswith("seen; by the rules: ")

    pinned, _ = propose_training(view, Hyperparameters(optimizer="momentum"), parallel=False, searched=found)
    assert (pinned.optimizer, pinned.learning_rate) == ("momentum", 0.02)


def situation(contract: str = "c", records: float = 1000.0) -> Situation:
    return Situation(
        contract=contract, method="routed", parallel=False, steady=True, sites=3, skew=0.5, records=records, labels=2,
        payload_bytes=10_000, batches=16, unseen=(), lopsided=(),
        outlooks=(Outlook(name="accuracy", untrained=0.5, tried=0.5, quarter=0.3, half=0.2, whole=0.1),),
    )  # fmt: skip


def test_what_worked_is_what_left_least_error_in_the_runs_most_alike():
    def ended(rate: float, error: float, contract: str = "c") -> PastRun:
        reached = (Reached(name="accuracy", rounds=(9,), errors=(error,)),)
        return PastRun(situation=situation(contract), reached=reached, training=changed(BASE, learning_rate=rate))

    runs = [ended(0.5, 0.001, "other"), *[ended(0.02, 0.3)] * 8, ended(0.1, 0.05), ended(0.2, 0.1)]
    assert [one.learning_rate for one in worked(runs[1:], situation())] == [0.02]
    assert [one.learning_rate for one in worked(runs[-3:], situation())] == [0.1, 0.2]
    assert worked([PastRun(situation=situation(), reached=())], situation()) == ()


# --- in a job -------------------------------------------------------------------------------------------------------


def asked(**changes) -> Request:
    return make_request("accuracy >= 0.9", deadline_s=600.0, tuning=Tuning(trials=6), **changes)


def preflighted(request: Request | None = None) -> Bench:
    """A job whose model was tried, and that is about to search."""
    made = bench()
    package = make_package()
    made.give(SubmissionReceived(job=JOB, owner=OWNER, request=request or asked(), package=package, key="k"))
    made.answer_until(lambda state: any(one.ordered.purpose == "preflight" for one in state.open.values()))
    node, order = the_order(made)
    made.answer(node, order, measurements=measure(0.5, "accuracy"), overfits=True)
    return made


def compared(made: Bench, error_of=lambda training: abs(math.log10(training.learning_rate))) -> Trying:
    """The unit answers what it is asked to compare."""
    made.solve()
    node, order = the_order(made)
    assert isinstance(order.work, EvaluateWork)
    tries = order.work.tries
    assert tries is not None
    tried = tuple(
        TriedOut(place=place, measurements=measure(1 - error_of(one) / 10, "accuracy"), visits=2, seconds=0.1)
        for place, one in enumerate(tries.trainings)
    )
    made.answer(node, order, measurements=measure(0.5, "accuracy"), tried=tried)
    return tries


def test_job_searches_before_its_verdict_and_runs_with_what_was_found():
    made = preflighted()
    tries = []
    while made.state().phase is Phase.ASSESSING:
        tries.append(compared(made))

    rungs = [one.stage.rung for one in made.state().log if isinstance(one, TuningTried)]
    assert rungs == [0, 0, 1, 2]
    assert len({one for each in tries[:2] for one in each.trainings}) == 6
    assert [each.steps for each in tries[1:]] == [tries[0].steps, 3 * tries[0].steps, 9 * tries[0].steps]
    plan = made.state().plan
    best = min(
        (one for each in tries[2:] for one in each.trainings), key=lambda one: abs(math.log10(one.learning_rate))
    )
    assert plan.training.learning_rate == best.learning_rate > 0.02
    assert made.state().planned_rate == best.learning_rate
    choice = next(one for one in plan.choices if one.what == "hyper-parameters")
    assert "6 were tried at the verification unit" in choice.why
    assert any("momentum at 0.02" in one for one in choice.rejected)
    entries = render_log(made.state(), str)
    assert [one.kind for one in entries].count("tuning-tried") == 4
    done = next(one for one in entries if one.kind == "tuning-done")
    assert f"at {best.learning_rate:g}" in done.text
    assert "not: " in done.text


def test_restart_repeats_no_finished_trial_and_searches_on():
    made = preflighted()
    first = compared(made)
    made.restart()
    second = compared(made)

    assert not set(first.trainings) & set(second.trainings)
    while made.state().phase is Phase.ASSESSING:
        compared(made)
        made.restart()
    assert sum(isinstance(one, TuningDone) for one in made.state().log) == 1


def test_rules_stand_where_the_unit_can_compare_nothing():
    made = preflighted()
    made.solve()
    node, order = the_order(made)
    made.answer(node, order, measurements=measure(0.5, "accuracy"), tried=())
    made.solve()
    while made.state().phase is Phase.ASSESSING:
        node, order = the_order(made)
        made.answer(node, order, measurements=measure(0.5, "accuracy"), tried=())
        made.solve()

    assert made.state().plan.training.learning_rate == 0.02
    assert made.state().preflight.searched.chosen is None


def test_unit_that_loses_every_visit_for_it_ends_the_search():
    made = preflighted()
    made.solve()
    for _ in range(3):
        node, order = the_order(made)
        made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no room", blame="unavailable"))
        made.wait(4.0)

    assert made.state().phase is not Phase.ASSESSING
    assert isinstance(next(one for one in made.state().log if isinstance(one, TuningDone)), TuningDone)


def test_missing_optuna_ends_the_search_with_what_to_install():
    made = preflighted()
    made.problems.clear()
    made.give(Computed(key=f"tune {JOB}", basis=0, solution=None, fault="Optuna is not installed"))

    assert made.state().phase is not Phase.ASSESSING
    assert "Optuna is not installed" in made.state().preflight.searched.why


def test_answer_of_a_unit_that_speaks_of_what_was_not_tried_is_no_answer():
    trying = Trying(
        trainings=(BASE,), steps=10, batch_size=32, hop=16.0, order="sequential", names=("accuracy",), seconds=1.0
    )
    work = EvaluateWork(model="m", samples=(), measurements=("accuracy",), tries=trying)

    def told(*places: int) -> EvaluateOutcome:
        tried = tuple(TriedOut(place=place) for place in places)
        return EvaluateOutcome(model="m", measurements=(), test_set="t", evaluations_left=1, seconds=0.1, tried=tried)

    assert answers(work, told(0))
    assert answers(work, told())
    assert not answers(work, told(1))
    assert not answers(work, told(0, 0))
    assert not answers(changed(work, tries=None), told(0))


# --- at the unit ----------------------------------------------------------------------------------------------------


def world(records: int = 60):
    """Two data sets with one label each, told apart by a number."""
    rng = np.random.default_rng(0)
    contract = make_package().contract
    name = contract.inputs[0].name
    width = 2
    sets = [
        RecordSlice(
            inputs={name: (rng.normal(size=(records, width)) + (3.0 if label else -3.0)).astype(np.float32)},
            labels=np.full(records, label, dtype=np.int64),
            fields=np.zeros((records, len(contract.field_names())), np.bool_),
            dataset=f"s{label}/d",
        )
        for label in (0, 1)
    ]
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, max(2, len(contract.labels())))

        def forward(self, **inputs):
            return self.layer(inputs[name])

    task = contract.task
    assert isinstance(task, Classification)
    return Net(), ClassificationNumerics(task, contract, torch.device("cpu")), sets


def trying(order: str, *trainings: Training, seconds: float = 30.0) -> Trying:
    return Trying(
        trainings=trainings, steps=80, batch_size=8, hop=16.0, order=order, names=("accuracy", "loss"), seconds=seconds
    )


SMALL = Training(batch_size=8, batches=4, learning_rate=0.05, average_steps=12)


@pytest.mark.parametrize("order", ["sequential", "rounds", "mixed"])
def test_short_runs_tell_a_rate_that_learns_from_one_that_does_not_and_put_the_model_back(order):
    model, numerics, sets = world()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wild = changed(SMALL, learning_rate=1000.0, weight_decay=10.0, momentum=0.0, batches=200)
    asked_for = trying(order, SMALL, changed(SMALL, learning_rate=1e-6), wild)

    found = tuning_trial(model, numerics, sets, asked_for)
    assert [one.place for one in found] == [0, 1, 2]
    loss = [{each.name: each.value for each in one.measurements}.get("loss", math.inf) for one in found]
    assert loss[0] < loss[1]
    assert found[2].measurements == ()
    assert found[0].visits == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = tuning_trial(model, numerics, sets, asked_for)
    assert [one.measurements for one in again] == [one.measurements for one in found]


@pytest.mark.parametrize("method", ["fedadam", "fedyogi", "diloco"])
def test_short_runs_of_rounds_make_the_server_s_step_too(method):
    """One round by hand: the mean of two visits, and the step from it."""
    model, numerics, sets = world()
    server = METHODS[method].prefers.server
    asked = changed(trying("rounds", SMALL), steps=16, server=server)
    plain = tuning_trial(model, numerics, sets, changed(asked, server=None))
    found = tuning_trial(model, numerics, sets, asked)
    wild = tuning_trial(model, numerics, sets, changed(asked, server=changed(server, learning_rate=1000.0)))

    assert found[0].measurements != plain[0].measurements
    assert math.isfinite(found[0].measurements[1].value)
    assert wild[0].measurements != found[0].measurements
    still = changed(server, learning_rate=1e-12)
    stays = tuning_trial(model, numerics, sets, changed(asked, server=still))
    nothing = tuning_trial(model, numerics, sets, trying("rounds", changed(SMALL, learning_rate=1e-12)))
    assert stays[0].measurements[1].value == pytest.approx(nothing[0].measurements[1].value, abs=1e-5)


def test_server_s_step_is_tried_with_rounds_alone_and_never_that_of_scaffold():
    server = METHODS["fedadam"].prefers.server
    with pytest.raises(ValueError, match="follows rounds"):
        Trying(**{**as_given(trying("sequential", SMALL)), "server": server})
    with pytest.raises(ValueError, match="follows rounds"):
        Trying(**{**as_given(trying("rounds", SMALL)), "server": METHODS["scaffold"].prefers.server})


def as_given(one: Trying) -> dict[str, object]:
    return {name: getattr(one, name) for name in Trying.__struct_fields__}


def test_short_runs_that_there_is_no_time_for_are_left_out():
    model, numerics, sets = world()

    assert tuning_trial(model, numerics, sets, trying("sequential", SMALL, seconds=1e-9)) == ()
    assert tuning_trial(model, numerics, [*world(4)[2]], trying("sequential", SMALL)) == ()


def test_longer_visits_and_larger_batches_are_not_had_for_nothing():
    one = trying("sequential", SMALL)

    assert one.visits(SMALL) == 4
    assert one.visits(changed(SMALL, batches=64)) == 1
    assert one.visits(changed(SMALL, batch_size=64)) < one.visits(SMALL)


# --- how it is asked for --------------------------------------------------------------------------------------------


def test_search_is_asked_for_in_words_and_beside_privacy():
    plain = {"name": "j", "targets": "accuracy >= 0.9", "deadline": "1 min", "purpose": "care"}
    assert written_request("p" * 64, **plain).tuning is None
    assert written_request("p" * 64, **plain, tuning=True).tuning == Tuning()
    assert written_request("p" * 64, **plain, tuning={"trials": 4}).tuning.trials == 4
    with pytest.raises(InputError, match="trials"):
        written_request("p" * 64, **plain, tuning={"trials": 1})

    private = changed(asked(), privacy=Privacy(epsilon=2.0, clip=1.0))
    check_request(private, make_package().contract)


def test_optimizers_are_those_that_the_method_can_do():
    assert optimizers_of(ROUTED, BASE) == ("momentum", "adamw")
    assert optimizers_of(METHODS["scaffold"], changed(BASE, optimizer="sgd")) == ("sgd",)
    assert len({one.optimizer for one in starts_of(FEDAVG, BASE, NOTHING, ())}) == 2

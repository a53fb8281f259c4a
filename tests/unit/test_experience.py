"""Experience: what runs reached before moves what is expected of the next, as far as they are like it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from tests.builders import JOB, Bench, bench, make_candidate, make_package, make_request, make_verifier, make_view

from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.commands import CancelAsked
from daitn.control_center.training.lesson_book import past_run
from daitn.control_center.training.records import ExperienceGained
from daitn.decision.allowance import allowance
from daitn.decision.drafting import draft_plan
from daitn.decision.experience import (
    ERROR_LEAST,
    POINTS_MOST,
    RUNS_LEAST,
    RUNS_MOST,
    Lessons,
    LessonsSought,
    PastRun,
    Reached,
    Situation,
)
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Known, judge
from daitn.decision.gaussian_process import GaussianProcess, Settings
from daitn.descriptors.outcome import Prediction, ReasonCode
from daitn.descriptors.request import Budget, Request
from daitn.descriptors.work import CurvePoint, EvaluateWork, Measurement

VIEW = make_view(make_candidate("s1"), make_candidate("s2"))


def figures(value: float, name: str = "accuracy") -> tuple[Measurement, ...]:
    """One figure, tightly."""
    return (Measurement(name=name, value=value, low=value - 0.01, high=value + 0.01, records=1000),)


TRIED = Preflight(
    overfits=True,
    measurements=figures(0.1),
    batch_seconds=0.01,
    unit_flops=1e10,
    curve=tuple(CurvePoint(records=50 * at, measurements=figures(value)) for at, value in enumerate((0.1, 0.7, 0.8))),
)
"""A trial that makes 0.9 likely and says nothing of how soon."""


def situation(request: Request | None = None, **changes: object) -> Situation:
    """What is known of a run on the view after that trial."""
    found = judge(VIEW, request or make_request("accuracy >= 0.85"), make_package(), Known(TRIED)).situation
    assert found is not None
    return msgspec.structs.replace(found, **changes)


def slow_run(number: int = 0, *, rounds: tuple[int, ...] = (2, 4, 8, 16, 32), last: float = 0.1) -> PastRun:
    """A run whose error fell from 0.9 by the same factor with each doubling, to `last`."""
    factor = (last / 0.9) ** (1 / len(rounds))
    errors = tuple(0.9 * factor ** (at + 1) * (1 + 0.02 * math.sin(number)) for at in range(len(rounds)))
    return PastRun(
        situation=situation(records=400.0 + 10 * number),
        reached=(Reached(name="accuracy", rounds=rounds, errors=errors),),
    )


def predicted(lessons: Lessons, target: str = "accuracy >= 0.85", **request: object) -> Prediction:
    """The only prediction."""
    judged = judge(VIEW, make_request(target, **request), make_package(), Known(TRIED, lessons))
    (found,) = judged.predictions
    return found


def test_without_runs_the_trial_speaks_alone_whatever_the_budget():
    alone = predicted(Lessons())

    assert alone.runs == 0
    assert predicted(Lessons([slow_run(n) for n in range(RUNS_LEAST - 1)])) == alone
    assert predicted(Lessons(), budget=Budget(visits=2)).probability == alone.probability


def test_runs_that_took_long_make_a_short_budget_hopeless_and_a_long_one_likely():
    lessons = Lessons([slow_run(n) for n in range(40)])

    short, middle, long = (predicted(lessons, budget=Budget(visits=visits)) for visits in (2, 8, 32))

    assert short.runs == 40
    assert short.probability < 0.1 < middle.probability < long.probability
    assert long.probability > 0.8
    assert short.expected < middle.expected < long.expected


def test_verdict_says_how_many_runs_it_rests_on():
    lessons = Lessons([slow_run(n) for n in range(30)])
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(
        make_request("accuracy >= 0.85", budget=Budget(visits=2)), make_package(), Known(TRIED, lessons)
    )

    (failed,) = verdict.failed()
    assert failed.code is ReasonCode.ATTAINABILITY
    assert "from the trial and 30 earlier runs" in failed.available
    assert verdict.outcome == "refused"


def test_more_runs_are_believed_more():
    few, many = (Lessons([slow_run(n) for n in range(count)]) for count in (RUNS_LEAST, 60))
    known = situation()

    assert 0 < few.weight(known, "accuracy", 8) < many.weight(known, "accuracy", 8) < 1


def test_beyond_the_longest_run_the_trial_gets_louder():
    lessons = Lessons([slow_run(n, rounds=(1, 2), last=0.5) for n in range(20)])
    known = situation()

    assert lessons.weight(known, "accuracy", 2) > 10 * lessons.weight(known, "accuracy", 40)
    assert predicted(lessons, budget=Budget(visits=2)).probability < 0.1
    assert predicted(lessons, budget=Budget(visits=400)).probability > 0.5 * predicted(Lessons()).probability


def test_run_unlike_all_others_is_expected_with_less_certainty():
    lessons = Lessons([slow_run(n) for n in range(30)])
    near, far = situation(), situation(contract="other", skew=1.0, sites=40, records=1e6, payload_bytes=10**9)

    def deviation(one: Situation) -> float:
        outlook = one.outlook("accuracy")
        assert outlook is not None
        return lessons.expect(one, outlook, [8.0])[0].deviation

    assert deviation(far) > 1.3 * deviation(near)


def test_metric_that_no_run_had_is_left_to_the_trial():
    lessons = Lessons([slow_run(n) for n in range(10)])

    assert lessons.runs("f1") == 0
    assert lessons.weight(situation(), "f1", 8) == 0


def test_only_the_newest_runs_are_learnt_from():
    runs = [slow_run(n) for n in range(RUNS_MOST + 5)]

    assert Lessons(runs).runs("accuracy") == RUNS_MOST


def test_long_curve_counts_with_a_few_points_only():
    long = slow_run(rounds=tuple(range(1, 200)))
    lessons = LessonsSought(runs=tuple([long] * RUNS_LEAST)).solve().lessons

    assert lessons.runs("accuracy") == RUNS_LEAST
    assert len(lessons._lessons["accuracy"].process._weights_N) <= RUNS_LEAST * POINTS_MOST


# --- regression -----------------------------------------------------------------------------------------------------


def test_regression_is_the_plain_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    groups, kinds = [at // 3 for at in range(12)], ["ab"[at // 6] for at in range(12)]
    settings = Settings(linear=0.4, bend=0.7, reach=1.5, kind=0.3, group=0.2, noise=0.1)
    asked = rng.normal(size=3)

    mean, deviation = GaussianProcess(x, y, groups, kinds, settings).predict(asked[None], "b")

    scaled, point = (x - x.mean(0)) / x.std(0), (asked - x.mean(0)) / x.std(0)

    def plain(a, b, *, kind, group=False, same=False):
        lines = (0.4**2 + kind * 0.3**2) * (1 + a @ b / 3)
        return lines + 0.7**2 * np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2)) + group * 0.2**2 + same * 0.1**2

    known = np.array([
        [plain(scaled[i], scaled[j], kind=kinds[i] == kinds[j], group=groups[i] == groups[j], same=i == j)
         for j in range(12)] for i in range(12)
    ])  # fmt: skip
    cross = np.array([plain(point, scaled[i], kind=kinds[i] == "b") for i in range(12)])
    own = plain(point, point, kind=True, group=True, same=True)
    assert mean[0] == pytest.approx(y.mean() + cross @ np.linalg.solve(known, y - y.mean()))
    assert deviation[0] ** 2 == pytest.approx(own - cross @ np.linalg.solve(known, cross))


def test_number_that_never_changed_divides_nothing_by_zero():
    x = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    settings = Settings(linear=0.3, bend=0.5, reach=3.0, kind=0.1, group=0.2, noise=0.1)

    mean, deviation = GaussianProcess(x, np.array([1.0, 2.0, 3.0]), [0, 1, 2], ["a"] * 3, settings).predict(x, "a")

    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()


# --- allowance ------------------------------------------------------------------------------------------------------


def allowed(elapsed_s: float = 0.0, **request: object) -> tuple[float, float]:
    """Rounds and their spread."""
    asked = make_request(**request)
    plan = draft_plan(VIEW, asked, make_package(), TRIED)
    found = allowance(VIEW, asked, make_package(), plan, TRIED, elapsed_s)
    return found.rounds, found.spread


def test_visits_are_counted_exactly_and_a_round_takes_one_of_every_site():
    assert allowed(budget=Budget(visits=7)) == (7.0, 0.0)
    assert allowed(budget=Budget(visits=7), method="fedavg") == (3.5, 0.0)


def test_bytes_allow_for_what_travels_along():
    plan = draft_plan(VIEW, make_request(), make_package(), TRIED)
    carried = 1000 * (2 if plan.training.average_steps else 1)
    both_sites = 2 * 100 + 1000 + (1000 + carried)  # parts to each, weights, and what the second visit takes along
    looks = max(1.0, 5 / plan.verify_every) * (1000 + carried)  # and the unit fetches what is measured

    rounds, spread = allowed(budget=Budget(transfer_bytes=round(both_sites + 3 * (1000 + carried) + looks)))

    assert rounds == pytest.approx(5.0)
    assert spread > 0


def test_bytes_that_have_moved_before_the_verdict_leave_fewer_rounds():
    asked = make_request(budget=Budget(transfer_bytes=50_000))
    plan = draft_plan(VIEW, asked, make_package(), TRIED)
    whole, left = (allowance(VIEW, asked, make_package(), plan, TRIED, 0.0, moved) for moved in (0, 40_000))

    assert left.rounds < whole.rounds / 2
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(asked, make_package(), Known(moved_bytes=49_000))
    assert {one.code for one in verdict.failed()} == {ReasonCode.BYTES}
    assert verdict.counter_offer is not None
    assert verdict.counter_offer.request.budget.transfer_bytes > 50_000


def test_time_that_is_gone_leaves_fewer_rounds():
    rounds, spread = allowed(deadline_s=60.0)

    assert allowed(30.0, deadline_s=60.0)[0] < rounds / 1.5
    assert allowed(70.0, deadline_s=60.0)[0] == 0.0
    assert spread > 0


def test_time_that_is_gone_counts_for_the_deadline_and_is_in_the_offer():
    admission = TrainingAdmission(lambda _: make_view(make_candidate("s1"), verifiers=(make_verifier(),)))
    asked = make_request(deadline_s=20.0)

    assert admission.assess(asked, make_package(), Known())[0].outcome == "admitted"
    verdict, _, _ = admission.assess(asked, make_package(), Known(elapsed_s=19.0))

    assert {one.code for one in verdict.failed()} == {ReasonCode.TIME}
    assert verdict.counter_offer is not None
    assert verdict.counter_offer.request.deadline_s > 20.0


# --- the centre keeps it --------------------------------------------------------------------------------------------


def measured_run() -> Bench:
    """A job that ran and was measured, after a trial."""
    made = bench()
    made.submit(make_request("accuracy >= 0.85"))
    while len(made.state().measured_after) < 2:
        for node, order in made.orders():
            found = {"accuracy": 0.6} if isinstance(order.work, EvaluateWork) else {}
            tried = {"curve": TRIED.curve} if found and order.work.preflight else {}
            made.answer(node, order, **found, **tried)
        made.wait(0.5)
    return made


def test_run_that_ends_is_kept_and_outlives_a_restart():
    made = measured_run()
    run = past_run(made.state())
    made.give(CancelAsked(job=JOB))

    assert [one.run for one in made.journal if isinstance(one, ExperienceGained)] == [run]
    assert run is not None
    (reached,) = run.reached
    assert reached.name == "accuracy"
    assert list(reached.rounds) == sorted(set(reached.rounds))
    assert reached.errors[-1] == pytest.approx(0.4)
    made.restart()
    assert made.center.lessons.runs == 1


def test_lessons_are_worked_out_beside_the_turn_after_each_run_and_after_a_restart():
    made = measured_run()
    made.give(CancelAsked(job=JOB))

    assert "lessons" in made.problems
    made.solve()
    assert made.center.lessons.lessons.runs("accuracy") == 0, "one run teaches nothing yet"
    made.restart()
    assert "lessons" in made.problems


def test_job_that_was_never_measured_teaches_nothing():
    made = bench()
    made.submit()
    made.give(CancelAsked(job=JOB))

    assert not [one for one in made.journal if isinstance(one, ExperienceGained)]


def test_least_error_is_what_a_test_set_tells_apart():
    assert 0 < ERROR_LEAST <= 0.01

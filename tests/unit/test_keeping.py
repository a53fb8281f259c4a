"""Keep or roll back: what is measured decides, and what is no number never wins."""

from __future__ import annotations

import math

import pytest
from tests.builders import measure

from daitn.decision.keeping import TOLERANCE, judge_model, meets, score
from daitn.descriptors.request import parse_target
from daitn.descriptors.work import Measurement

GOAL = (parse_target("accuracy >= 0.9"),)
BOTH = (parse_target("accuracy >= 0.9"), parse_target("recall[1] >= 0.5"))


def judge(before: float, after: float, best: float | None = None):
    """A model that goes from one accuracy to another."""
    return judge_model(GOAL, measure(before), score(GOAL, measure(before if best is None else best)), measure(after))


def test_model_that_improves_is_kept_and_best():
    judgement = judge(0.5, 0.6)

    assert (judgement.keep, judgement.best, judgement.met) == (True, True, False)


def test_model_slightly_worse_is_kept_but_not_best():
    judgement = judge(0.5, 0.5 - TOLERANCE / 2)

    assert (judgement.keep, judgement.best) == (True, False)


def test_model_much_worse_is_rolled_back_and_says_by_how_much():
    judgement = judge(0.8, 0.7 - TOLERANCE)

    assert not judgement.keep
    assert str(TOLERANCE) in judgement.why


def test_model_that_meets_all_targets_is_best_even_if_a_near_miss_had_larger_margins():
    near = (*measure(0.8999), *measure(0.99, "recall[1]"))
    met = (*measure(0.9), *measure(0.6, "recall[1]"))
    assert score(BOTH, near) > score(BOTH, met)

    judgement = judge_model(BOTH, near, score(BOTH, near), met)

    assert (judgement.keep, judgement.best, judgement.met) == (True, True, True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_measurement_that_is_no_number_is_rolled_back_whatever_else_is_met(value, name):
    broken = Measurement(name=name, value=value, low=0.0, high=0.0, records=100)
    others = () if name == "accuracy" else measure(0.99)

    judgement = judge_model(GOAL, measure(0.5), score(GOAL, measure(0.5)), (*others, broken))

    assert (judgement.keep, judgement.best, judgement.met) == (False, False, False)


def test_measurement_on_no_records_breaks_nothing():
    empty = Measurement(name="accuracy@x", value=math.nan, low=0.0, high=0.0, records=0)

    assert judge_model(GOAL, measure(0.5), -1.0, (*measure(0.6), empty)).keep


def test_unmeasured_target_counts_as_a_shortfall_of_one_and_is_never_met():
    assert score(GOAL, ()) == -1.0
    assert not meets(GOAL, ())
    assert not judge_model(GOAL, (), -math.inf, ()).met


def test_score_grows_with_the_figure_on_both_sides_of_the_goal():
    scores = [score(GOAL, measure(value)) for value in (0.1, 0.5, 0.89, 0.9, 0.95, 1.0)]

    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def test_score_of_figures_that_shall_fall_is_turned_round():
    goal = (parse_target("loss <= 0.4"),)

    assert score(goal, measure(0.3, "loss")) > score(goal, measure(0.5, "loss"))
    assert meets(goal, measure(0.4, "loss"))

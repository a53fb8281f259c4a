"""Attainability: a chance from a short learning curve, honest where there is none, and an offer that can be kept."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_candidate, make_package, make_request, make_verifier, make_view, measure

from daitn.control_center.training.admission import TrainingAdmission
from daitn.decision.attainability import easier, error_of, joint_chance, predict, value_of
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Known
from daitn.descriptors.outcome import Prediction, ReasonCode
from daitn.descriptors.request import Request, parse_target
from daitn.descriptors.work import CurvePoint, Measurement

VIEW = make_view(make_candidate("s1"), make_candidate("s2"))
"""Two sites of 200 records."""


def tried(*values: float, name: str = "accuracy", records: int = 1000) -> Preflight:
    """A trial on 0, 50 and 100 records that found these figures, tightly."""

    def figure(value: float) -> tuple[Measurement, ...]:
        return (Measurement(name=name, value=value, low=value - 0.01, high=value + 0.01, records=records),)

    points = [CurvePoint(records=50 * place, measurements=figure(value)) for place, value in enumerate(values)]
    return Preflight(overfits=True, measurements=figure(values[0]), curve=tuple(points))


def one(request: Request, preflight: Preflight | None) -> Prediction:
    """The only prediction."""
    (found,) = predict(VIEW, request, preflight)
    return found


def test_without_a_trial_nothing_is_claimed():
    assert predict(VIEW, make_request("accuracy >= 0.9"), None) == ()
    assert predict(VIEW, make_request("accuracy >= 0.9"), Preflight(overfits=True)) == ()
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(make_request("accuracy >= 0.9"), make_package(), Known())
    assert verdict.probability is None


def test_chance_that_cannot_be_told_is_enough_only_for_who_asked_for_no_more_than_usual():
    untold = Known(Preflight(overfits=True))
    usual, _, _ = TrainingAdmission(lambda _: VIEW).assess(make_request("accuracy >= 0.9"), make_package(), untold)
    request = make_request("accuracy >= 0.9", chance_floor=0.5)
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(request, make_package(), untold)

    assert usual.outcome == "admitted"
    assert verdict.outcome == "refused"
    (failed,) = verdict.failed()
    assert failed.code is ReasonCode.ATTAINABILITY
    assert "not known" in failed.available
    assert verdict.counter_offer is not None
    (change,) = verdict.counter_offer.changes
    assert (change.what, change.asked, change.offered) == ("chance", "50%", "25%, where it is known")
    taken, _, _ = TrainingAdmission(lambda _: VIEW).assess(verdict.counter_offer.request, make_package(), untold)
    assert taken.outcome == "admitted"


def test_chance_that_cannot_be_told_is_probed_where_that_is_allowed():
    request = make_request("accuracy >= 0.9", chance_floor=0.5, allow_probe=True)
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(request, make_package(), Known(Preflight(overfits=True)))

    assert verdict.outcome == "needs-probe"


def test_goal_below_what_the_trial_reached_is_all_but_certain():
    assert one(make_request("accuracy >= 0.8"), tried(0.1, 0.85, 0.9)).probability > 0.95


def test_goal_far_above_a_flat_curve_is_all_but_out_of_reach():
    found = one(make_request("accuracy >= 0.99"), tried(0.8, 0.82, 0.82))

    assert found.probability < 0.05
    assert found.untrained == 0.8
    assert 0.8 <= found.promised < 0.9


def noisily(*values: float, width: float) -> Preflight:
    """The same trial on few test records: each figure within `width` either way."""
    trial = tried(*values)

    def wider(measurements: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        replace = msgspec.structs.replace
        return tuple(replace(each, low=each.value - width, high=each.value + width) for each in measurements)

    points = tuple(msgspec.structs.replace(one, measurements=wider(one.measurements)) for one in trial.curve)
    return msgspec.structs.replace(trial, measurements=wider(trial.measurements), curve=points)


def test_where_a_sure_promise_would_add_nothing_what_is_rather_reached_is_offered():
    request = make_request("accuracy >= 0.9", chance_floor=0.5)
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(
        request, make_package(), Known(noisily(0.3, 0.34, 0.38, width=0.12))
    )

    assert verdict.counter_offer is not None
    (offered,) = verdict.counter_offer.request.targets
    assert 0.3 < offered.value <= verdict.predictions[0].expected


def test_what_the_submitted_model_does_untrained_is_no_offer_and_the_refusal_says_so():
    request = make_request("accuracy >= 0.9", chance_floor=0.8)
    verdict, _, _ = TrainingAdmission(lambda _: VIEW).assess(
        request, make_package(), Known(noisily(0.3, 0.3, 0.3, width=0.05))
    )

    assert verdict.counter_offer is None
    (failed,) = verdict.failed()
    assert failed.code is ReasonCode.ATTAINABILITY
    assert "no more than the 0.3 of the submitted model can be promised" in failed.available


def test_steeper_curve_promises_more():
    steep, flat = (one(make_request("accuracy >= 0.9"), tried(0.5, *rest)) for rest in ((0.7, 0.8), (0.55, 0.57)))

    assert steep.expected > flat.expected
    assert steep.probability > flat.probability


def test_what_is_promised_of_several_targets_holds_together():
    trial = tried(0.5, 0.7, 0.8)

    def both(measurements: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        return (*measurements, *(msgspec.structs.replace(each, name="auc") for each in measurements))

    points = tuple(msgspec.structs.replace(point, measurements=both(point.measurements)) for point in trial.curve)
    twice = msgspec.structs.replace(trial, measurements=both(trial.measurements), curve=points)

    alone = one(make_request("accuracy >= 0.99"), trial)
    found = predict(VIEW, make_request("accuracy >= 0.99", "auc >= 0.99"), twice)

    assert [each.promised < alone.promised for each in found] == [True, True]
    assert [each.expected for each in found] == [alone.expected] * 2


def test_wider_noise_gives_a_wider_interval():
    sharp = tried(0.5, 0.7, 0.8)
    wide_points = tuple(
        msgspec.structs.replace(
            point,
            measurements=tuple(
                msgspec.structs.replace(each, low=each.value - 0.2, high=each.value + 0.2)
                for each in point.measurements
            ),
        )
        for point in sharp.curve
    )
    request = make_request("accuracy >= 0.9")
    narrow, wide = one(request, sharp), one(request, msgspec.structs.replace(sharp, curve=wide_points))

    assert wide.high - wide.low > narrow.high - narrow.low


def test_loss_is_predicted_downwards():
    found = one(make_request("loss <= 0.2"), tried(1.2, 0.5, 0.3, name="loss"))

    assert found.low <= found.expected <= found.high <= 1.2
    assert found.expected < 0.3


def test_refusal_for_attainability_offers_what_can_be_promised_and_taking_it_is_admitted():
    admission = TrainingAdmission(lambda _: make_view(make_candidate("s1"), verifiers=(make_verifier(),)))
    asked = make_request("accuracy >= 0.99")
    preflight = tried(0.8, 0.82, 0.83)

    refused, _, _ = admission.assess(asked, make_package(), Known(preflight))

    assert refused.outcome == "refused"
    assert {condition.code for condition in refused.failed()} == {ReasonCode.ATTAINABILITY}
    assert refused.counter_offer is not None
    (target,) = refused.counter_offer.request.targets
    assert target.value == easier(target, refused.predictions[0].promised)
    admitted, _, _ = admission.assess(refused.counter_offer.request, make_package(), Known(preflight))
    assert admitted.outcome == "admitted"
    assert admitted.probability is not None
    assert admitted.probability >= 0.75


def test_owner_who_wants_to_try_whatever_is_predicted_may():
    admission = TrainingAdmission(lambda _: make_view(make_candidate("s1"), verifiers=(make_verifier(),)))
    verdict, _, _ = admission.assess(
        make_request("accuracy >= 0.99", chance_floor=0.0), make_package(), Known(tried(0.8, 0.82, 0.82))
    )

    assert verdict.outcome == "admitted"
    assert verdict.predictions[0].probability < 0.05


def test_target_that_was_not_tried_is_said_to_be_unknown_and_claims_no_joint_chance():
    admission = TrainingAdmission(lambda _: make_view(make_candidate("s1"), verifiers=(make_verifier(),)))
    request = make_request("accuracy >= 0.8", "auc >= 0.9")
    verdict, _, _ = admission.assess(request, make_package(), Known(tried(0.1, 0.85, 0.9)))

    assert verdict.probability is None
    unknown = [each for each in verdict.conditions if each.what == "chance of auc >= 0.9"]
    assert "not known" in unknown[0].available


@pytest.mark.parametrize("value", [float("nan"), 1.0])
def test_model_without_an_error_to_lose_is_certain_or_unknown(value: float):
    found = predict(VIEW, make_request("accuracy >= 0.9"), tried(value, value, value))

    assert [each.probability for each in found] == ([] if math.isnan(value) else [1.0])


def test_joint_chance_lies_within_its_bounds():
    (first,) = predict(VIEW, make_request("accuracy >= 0.9"), tried(0.5, 0.7, 0.8))
    chance, low, high = joint_chance((first, msgspec.structs.replace(first, probability=0.5)))

    assert low <= chance <= high <= 0.5


figures = st.floats(0.0, 1.0)


@given(figures, figures, figures, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_prediction_is_ordered_bounded_and_fairer_goals_are_likelier(
    start: float, quarter: float, half: float, first: float, second: float
):
    easy, hard = sorted((first, second))
    easy_one, hard_one = (
        one(make_request(f"accuracy >= {goal:.6f}"), tried(start, quarter, half)) for goal in (easy, hard)
    )

    assert 0.0 <= hard_one.probability <= easy_one.probability + 1e-12 <= 1.0 + 1e-12
    assert easy_one.low <= easy_one.expected <= easy_one.high
    assert start - 1e-9 <= easy_one.promised <= 1.0


@given(st.sampled_from(["accuracy", "loss", "perplexity", "r2", "mse"]), st.floats(-0.5, 5.0))
def test_errors_and_figures_are_two_ways_to_say_the_same(metric: str, value: float):
    sense = "<=" if metric in ("loss", "perplexity", "mse") else ">="
    target = parse_target(f"{metric} {sense} 0.5")
    if metric == "accuracy":
        value = min(1.0, max(0.0, value))

    assert value_of(target, error_of(target, value)) == pytest.approx(value)


@given(st.floats(1e-6, 1.0), st.booleans())
def test_rounded_figure_is_never_harder(value: float, up: bool):
    target = parse_target("accuracy >= 0.5" if up else "loss <= 0.5")
    rounded = easier(target, value)

    assert rounded <= value + 1e-9 if up else rounded >= value - 1e-9


def test_measure_builder_is_not_enough_for_a_trial():
    """A preflight that was only measured, not tried, predicts nothing."""
    assert predict(VIEW, make_request("accuracy >= 0.9"), Preflight(overfits=True, measurements=measure(0.5))) == ()

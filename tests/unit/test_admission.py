"""Admission (T-FAM): all failed conditions with what is needed and what there is, and an offer that is admitted."""

from __future__ import annotations

import pytest
from tests.builders import make_candidate, make_package, make_request, make_verifier, make_view, measure

from daitn.control_center.training.admission import TrainingAdmission
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Known
from daitn.descriptors.outcome import Exclusion, ReasonCode, Verdict
from daitn.descriptors.request import Budget, Hyperparameters, Request, Selection
from daitn.descriptors.view import TrainingView


def assess(
    request: Request, view: TrainingView | None = None, preflight: Preflight | None = None, **package
) -> Verdict:
    """The verdict on a view that is the same whatever is asked."""
    seen = view if view is not None else make_view(make_candidate("s1"), make_candidate("s2"))
    verdict, judged, _ = TrainingAdmission(lambda _: seen).assess(request, make_package(), Known(preflight))
    assert verdict.expected == judged.plan.expected
    return verdict


def codes(verdict: Verdict) -> set[ReasonCode]:
    """Codes of the failed conditions."""
    return {condition.code for condition in verdict.failed()}


def test_request_that_can_be_met_is_admitted_without_claiming_a_probability():
    verdict = assess(make_request())

    assert verdict.outcome == "admitted"
    assert verdict.probability is None
    assert ReasonCode.ATTAINABILITY in {condition.code for condition in verdict.conditions}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"deadline_s": 0.01}, ReasonCode.TIME),
        ({"budget": Budget(transfer_bytes=1)}, ReasonCode.BYTES),
        ({"budget": Budget(visits=0)}, ReasonCode.VISITS),
        ({"budget": Budget(energy_joules=1.0)}, ReasonCode.ENERGY),
        ({"budget": Budget(price=1.0)}, ReasonCode.PRICE),
        ({"method": "sorcery"}, ReasonCode.METHOD),
        ({"data": Selection(min_records=10_000)}, ReasonCode.VOLUME),
        ({"data": Selection(min_records_field={"ones": 10_000})}, ReasonCode.VOLUME),
    ],
)
def test_one_thing_that_fails_is_the_one_reason_and_the_offer_mends_it(changes, code):
    verdict = assess(make_request(**changes))

    assert verdict.outcome == "refused"
    assert codes(verdict) == {code}
    assert verdict.counter_offer is not None
    assert [change.because for change in verdict.counter_offer.changes] == [code]
    assert assess(verdict.counter_offer.request).outcome == "admitted"


def test_offered_budgets_are_the_least_and_not_what_the_plan_would_like():
    verdict = assess(make_request(budget=Budget(transfer_bytes=0, visits=0)))

    assert verdict.counter_offer is not None
    offered = verdict.counter_offer.request.budget
    said = {change.what: change.offered for change in verdict.counter_offer.changes}
    assert offered.visits == 1
    assert said == {"transfer budget": f"{offered.transfer_bytes} bytes", "visits budget": "1"}
    assert offered.transfer_bytes is not None
    fewer = Budget(transfer_bytes=int(0.9 * offered.transfer_bytes), visits=1)
    assert codes(assess(make_request(budget=fewer))) == {ReasonCode.BYTES}


def test_all_things_that_fail_are_listed_at_once_and_mended_at_once():
    verdict = assess(make_request(deadline_s=0.01, budget=Budget(transfer_bytes=1, visits=0), method="sorcery"))

    assert codes(verdict) == {ReasonCode.TIME, ReasonCode.BYTES, ReasonCode.VISITS, ReasonCode.METHOD}
    assert verdict.counter_offer is not None
    assert len(verdict.counter_offer.changes) == 4


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (make_view(), ReasonCode.NO_DATA),
        (make_view(make_candidate("s1"), verifiers=()), ReasonCode.NO_VERIFIER),
        (make_view(make_candidate("s1"), verifiers=(make_verifier(sample_records=3.0),)), ReasonCode.NO_TEST_SET),
        (make_view(make_candidate("s1", memory_bytes=1e6)), ReasonCode.MEMORY),
        (make_view(make_candidate("s1", {"0": 4.0, "1": 4.0})), ReasonCode.VOLUME),
    ],
)
def test_network_that_lacks_something_refuses_without_an_offer_it_cannot_keep(view, code):
    verdict = assess(make_request(), view)

    assert code in codes(verdict)
    assert verdict.counter_offer is None


def test_consent_of_nobody_is_policy_and_names_the_rules():
    closed = Exclusion(dataset="s1/records", code=ReasonCode.POLICY, why="owners: asked 'ada', allowed nobody")
    verdict = assess(make_request(), make_view(excluded=(closed,)))

    (policy,) = [one for one in verdict.failed() if one.code is ReasonCode.POLICY]
    assert "allowed nobody" in policy.available


def test_named_data_set_that_does_not_exist_is_said_and_left_out_of_the_offer():
    verdict = assess(make_request(data=Selection(include=("s1/records", "nowhere/records"))))

    assert codes(verdict) == {ReasonCode.NO_DATA}
    assert verdict.counter_offer is not None
    assert verdict.counter_offer.request.data.include == ("s1/records",)


def test_target_nobody_can_teach_is_dropped_from_the_offer_but_never_the_last():
    view = make_view(make_candidate("s1", {"0": 100.0}), make_candidate("s2", {"0": 100.0}))
    both = assess(make_request("accuracy >= 0.9", "accuracy@ones >= 0.9"), view)
    only = assess(make_request("accuracy@ones >= 0.9"), view)

    assert codes(both) == {ReasonCode.COVERAGE}
    assert both.counter_offer is not None
    assert [str(target) for target in both.counter_offer.request.targets] == ["accuracy >= 0.9"]
    assert only.counter_offer is None


def test_offer_drops_the_label_that_lacks_and_keeps_a_field_of_the_same_name():
    view = make_view(
        make_candidate("s1", {"0": 100.0}, fields={"1": 100.0}), verifiers=(make_verifier(sample_fields={"1": 50.0}),)
    )
    verdict = assess(make_request("accuracy@1 >= 0.9", "recall[1] >= 0.9"), view)

    assert verdict.counter_offer is not None
    assert [str(target) for target in verdict.counter_offer.request.targets] == ["accuracy@1 >= 0.9"]


def test_deadline_that_no_request_may_have_is_not_offered():
    pinned = Hyperparameters(batches_per_visit=10_000_000)
    verdict = assess(
        make_request(deadline_s=1.0, hyperparameters=pinned),
        preflight=Preflight(measurements=measure(0.5), overfits=True, batch_seconds=100.0),
    )

    assert codes(verdict) == {ReasonCode.TIME}
    assert verdict.counter_offer is None


def test_preflight_faults_are_conditions():
    assert codes(assess(make_request(), preflight=Preflight(fault="no operator"))) == {ReasonCode.DOES_NOT_LOAD}
    assert codes(assess(make_request(), preflight=Preflight(overfits=False))) == {ReasonCode.CANNOT_OVERFIT}
    assert assess(make_request(), preflight=Preflight(overfits=True)).outcome == "admitted"


def test_parallel_method_needs_an_aggregator():
    view = make_view(make_candidate("s1"), aggregators=())

    verdict = assess(make_request(method="fedavg"), view)

    assert codes(verdict) == {ReasonCode.METHOD}
    assert verdict.counter_offer is not None
    assert verdict.counter_offer.request.method == ""


def test_rate_of_a_step_that_the_method_does_not_take_is_refused_by_name():
    view = make_view(make_candidate("s1"))
    pinned = Hyperparameters(server_learning_rate=0.1)

    verdict = assess(make_request(method="fedavg", hyperparameters=pinned), view)

    (failed,) = [one for one in verdict.failed() if one.code is ReasonCode.METHOD]
    assert failed.required == "one of diloco, fedadam, fedyogi, scaffold"
    assert failed.available == "method 'fedavg' has none"


def test_failed_numbers_say_both_sides():
    (failed,) = assess(make_request(data=Selection(min_records=10_000))).failed()

    assert (failed.required_value, failed.available_value) == (10_000.0, 400.0)
    assert (failed.required, failed.available) == ("at least 10,000", "400")

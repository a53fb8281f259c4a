"""Drafting: method, hyper-parameters and route from one view."""

from __future__ import annotations

import pytest
from tests.builders import make_candidate, make_package, make_request, make_view

from daitn.decision.costs import BATCH_S, HOP_S, batch_seconds, visit_seconds
from daitn.decision.drafting import ROUTE_AHEAD, ROUTE_WORK, draft_plan, least_stops
from daitn.decision.facts import Preflight
from daitn.decision.hyperparameters import BATCH_LEAST, BATCH_MOST, after_kept, after_rollback, propose_training
from daitn.decision.label_mix import label_skew
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.view import TrainingView


def draft(view: TrainingView, preflight: Preflight | None = None, **request):
    """The plan for a request on a view."""
    return draft_plan(view, make_request(**request), make_package(), preflight)


def test_empty_view_gives_a_plan_without_route():
    plan = draft(make_view(verifiers=(), aggregators=()))

    assert (plan.route, plan.verifier, plan.aggregator) == ((), None, None)


@pytest.mark.parametrize("method", ["", "routed", "cyclic", "random", "tram-fl", "fedavg"])
def test_route_stops_at_candidates_only_and_every_choice_has_a_reason(method):
    view = make_view(make_candidate("s1"), make_candidate("s2"))
    plan = draft(view, method=method)

    assert {stop.dataset for stop in plan.route} <= {"s1/records", "s2/records"}
    assert len(plan.route) == 2
    assert all(choice.why and choice.chosen for choice in plan.choices)
    assert plan.method == (method or "routed")


def test_route_ahead_is_shorter_on_a_view_on_which_each_stop_takes_long_to_choose():
    view = make_view(*(make_candidate(f"s{number}") for number in range(1000)))

    assert 1 <= len(draft(view).route) == ROUTE_WORK // 1000 < ROUTE_AHEAD


def test_route_ahead_is_bounded_however_many_sites_there_are():
    view = make_view(*(make_candidate(f"s{number}") for number in range(200)))

    assert len(draft(view).route) == ROUTE_AHEAD


def test_expectation_grows_with_transfer_and_training_and_never_falls_below_its_least():
    near, far = (make_view(make_candidate("s1", bytes_per_s=rate)) for rate in (1e9, 1.0))
    slow = Preflight(batch_seconds=10.0)

    assert draft(far).expected.seconds > draft(near).expected.seconds
    assert draft(near, slow).expected.seconds > draft(near).expected.seconds
    for plan in (draft(near), draft(far), draft(near, method="fedavg")):
        assert plan.expected.seconds_low <= plan.expected.seconds


def test_batch_seconds_prefer_what_was_measured_there():
    measured = make_candidate("s1", batch_s=0.5)
    preflight = Preflight(batch_seconds=0.1, unit_flops=1e10)

    assert batch_seconds(measured, preflight) == 0.5
    assert batch_seconds(make_candidate("s1", flops=1e9), preflight) == pytest.approx(1.0)
    assert batch_seconds(make_candidate("s1", flops=0.0), preflight) == 0.1
    assert batch_seconds(make_candidate("s1"), None) == BATCH_S


def test_visit_seconds_count_records_only_where_they_stream():
    home, away = make_candidate("s1", bytes_per_s=100.0), make_candidate("s1", bytes_per_s=100.0, streamed=True)

    assert visit_seconds(home, 1, 1000, None) == pytest.approx(HOP_S + 10.0 + BATCH_S)
    assert visit_seconds(away, 1, 1000, None) == pytest.approx(HOP_S + 10.0 + 16.0 + BATCH_S)


def test_label_skew_is_zero_for_like_sites_and_grows_to_disjoint_ones():
    like = make_view(make_candidate("s1"), make_candidate("s2"))
    apart = make_view(make_candidate("s1", {"0": 100.0}), make_candidate("s2", {"1": 100.0}))

    assert label_skew(like) == pytest.approx(0.0)
    assert label_skew(apart) == pytest.approx(0.5)
    assert label_skew(make_view(make_candidate("s1", {}))) == 0.0


def test_least_stops_cover_every_label_and_field():
    view = make_view(
        make_candidate("s1", {"0": 9.0}), make_candidate("s2", {"0": 9.0, "1": 9.0}), make_candidate("s3", {"1": 9.0})
    )

    assert least_stops(view, make_request()) == ("s2/records",)
    assert least_stops(make_view(), make_request()) == ()


def test_pinned_hyperparameters_are_kept_and_named():
    pinned = Hyperparameters(batch_size=7, batches_per_visit=3, learning_rate=0.3, optimizer="adam", momentum=0.1)
    training, choice = propose_training(make_view(make_candidate("s1")), pinned, parallel=False)

    assert (training.batch_size, training.batches, training.learning_rate) == (7, 3, 0.3)
    assert (training.optimizer, training.momentum) == ("adam", 0.1)
    assert "batch_size" in choice.why


@pytest.mark.parametrize("records", [0.0, 1.0, 50.0, 1e6, 1e15])
def test_proposed_sizes_stay_within_their_bounds(records):
    view = make_view(make_candidate("s1", {"0": records}))
    for parallel in (False, True):
        training, _ = propose_training(view, Hyperparameters(), parallel=parallel)
        assert BATCH_LEAST <= training.batch_size <= BATCH_MOST
        assert training.batches >= 1
        assert training.learning_rate > 0


def test_rollback_halves_the_rate_unless_it_is_pinned_and_looks_at_every_second_visit():
    plan = draft(make_view(make_candidate("s1")))

    free, why = after_rollback(plan, Hyperparameters())
    held, _ = after_rollback(plan, Hyperparameters(learning_rate=plan.training.learning_rate))

    assert free.training.learning_rate == plan.training.learning_rate / 2
    assert held.training == plan.training
    assert free.verify_every == held.verify_every == min(2, plan.verify_every)
    assert why


def test_kept_model_doubles_a_lowered_rate_up_to_the_planned_one():
    plan = draft(make_view())
    planned = plan.training.learning_rate
    low, _ = after_rollback(after_rollback(plan, Hyperparameters())[0], Hyperparameters())

    eased = after_kept(low, Hyperparameters(), planned)
    assert eased is not None
    assert eased[0].training.learning_rate == planned / 2
    assert after_kept(plan, Hyperparameters(), planned) is None
    assert after_kept(low, Hyperparameters(learning_rate=planned / 4), planned) is None

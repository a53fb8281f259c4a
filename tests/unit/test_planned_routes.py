"""Planned routes: what a run is taken to have learnt, which route follows, how long it stands, and who asks for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.builders import (
    JOB,
    bench,
    changed,
    make_candidate,
    make_package,
    make_request,
    make_view,
    measure,
    the_order,
)

from daitn.base.effects import Computed
from daitn.base.ids import DataSetId
from daitn.control_center.training.route_desk import PLAN_WAIT_S
from daitn.decision.drafting import draft_plan
from daitn.decision.planned_routes import TOLERANCE, RoutePlanned, RouteSought
from daitn.decision.planning.teaching import learnt_from, topics_of, visit_problem
from daitn.decision.planning.visits import evaluate
from daitn.decision.routes import RULES, quick
from daitn.decision.routes.contract import Seen
from daitn.decision.routes.errand import Aim, Errand, Left, Look, errand_of
from daitn.decision.routes.planned import places_of, plan_route
from daitn.decision.validity import within
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import TrainWork


def visits(*names: str) -> tuple[tuple[DataSetId, int], ...]:
    """Visits of 64 records each."""
    return tuple((DataSetId(f"{name}/records"), 64) for name in names)


def split_view(**changes) -> TrainingView:
    """Two sites, each with one of two labels."""
    return make_view(make_candidate("s1", {"0": 500.0}, **changes), make_candidate("s2", {"1": 500.0}, **changes))


# --- errands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "untrained", "measured", "share", "wanted"),
    [
        ("accuracy >= 0.9", 0.5, 0.75, 0.5, 0.8),
        ("loss <= 0.5", 2.0, 1.0, 0.5, 0.75),
        ("r2 >= 0.5", -1.0, 0.0, 0.5, 0.75),
        ("mean_return >= 100", 0.0, 50.0, 0.4, 0.8),
        ("accuracy >= 0.9", 1.0, 1.0, 1.0, 1.0),
    ],
)
def test_errand_tells_figures_as_shares_of_the_way_to_perfect(target, untrained, measured, share, wanted):
    request = make_request(target)
    name = request.targets[0].name
    view = make_view(make_candidate("s1"))
    plan = draft_plan(view, request, make_package(), None)
    looks = [(0, measure(untrained, name)), (3, measure(measured, name)), (4, measure(0.1, "other"))]

    errand = errand_of(request, make_package(), plan, view, None, looks, Left(seconds=-1.0, bytes=5.0))

    assert errand.aims[0].wanted == pytest.approx(wanted)
    assert [look.visits for look in errand.looks] == [0, 3, 4]
    assert errand.looks[1].known[0] == pytest.approx(share)
    assert math.isnan(errand.looks[2].known[0])
    assert (errand.seconds_left, errand.bytes_left) == (0.0, 5.0)


# --- what was learnt --------------------------------------------------------------------------------------------------


def test_topics_are_labels_then_fields_where_a_target_names_one_then_one_for_all():
    places = places_of(make_view(make_candidate("s1")))
    bare = places_of(make_view(make_candidate("s1", {}, fields={})))

    assert topics_of(places, ()) == (("label", "0"), ("label", "1"))
    assert topics_of(places, (Aim(field="ones", wanted=0.5),)) == (("field", "ones"), ("label", "0"), ("label", "1"))
    assert topics_of(bare, ()) == (("", ""),)


def test_what_is_known_is_what_was_measured_and_fades_where_it_was_not_taught():
    places = places_of(split_view())
    errand = Errand(aims=(Aim(wanted=0.9),), looks=(Look(visits=0, known=(0.0,)), Look(visits=2, known=(0.4,))))

    at_look = learnt_from(places, Seen(visits=visits("s1", "s2")), 64, errand)
    later = learnt_from(places, Seen(visits=visits("s1", "s2", "s1", "s1")), 64, errand)

    assert at_look.known.mean() == pytest.approx(0.4)
    assert later.known[0] > at_look.known[0]
    assert later.known[1] < at_look.known[1]


def test_a_run_that_learns_fast_is_told_from_one_that_learns_slowly():
    places = places_of(split_view())
    seen = Seen(visits=visits(*("s1", "s2") * 4))

    def rate(*known: float) -> float:
        looks = tuple(Look(visits=2 * number, known=(one,)) for number, one in enumerate(known))
        return learnt_from(places, seen, 64, Errand(aims=(Aim(wanted=0.9),), looks=looks)).rate

    assert rate(0.0, 0.02, 0.04, 0.06, 0.08) < rate() < rate(0.0, 0.6, 0.85, 0.9, 0.92)


def test_a_label_that_a_target_names_is_corrected_by_itself():
    places = places_of(split_view())
    aims = (Aim(wanted=0.5), Aim(label="1", wanted=0.9))
    errand = Errand(aims=aims, looks=(Look(visits=1, known=(0.5, 0.1)),))

    learnt = learnt_from(places, Seen(visits=visits("s1")), 64, errand)
    problem = visit_problem(places, learnt, errand, None)

    assert learnt.known[1] == pytest.approx(0.1)
    assert problem.wanted.tolist() == [0.5, 0.9]
    assert problem.weight.tolist() == [0.5, 1.5]


def test_more_is_wanted_where_all_seems_reached():
    places = places_of(split_view())
    errand = Errand(aims=(Aim(wanted=0.3),), looks=(Look(visits=2, known=(0.6,)),))

    learnt = learnt_from(places, Seen(visits=visits("s1", "s2")), 64, errand)

    assert (visit_problem(places, learnt, errand, None).wanted > learnt.known).all()


def test_long_histories_and_visits_at_sites_that_are_gone_are_taken():
    seen = Seen(visits=visits(*("s1", "gone", "s2") * 300))
    looks = tuple(Look(visits=number, known=(0.3,)) for number in range(0, 900, 7))

    learnt = learnt_from(places_of(split_view()), seen, 64, Errand(aims=(Aim(wanted=0.9),), looks=looks))

    assert np.isfinite(learnt.known).all()


# --- routes ----------------------------------------------------------------------------------------------------------


def test_route_goes_where_the_missing_label_is():
    errand = Errand(aims=(Aim(wanted=0.8), Aim(label="1", wanted=0.8)), looks=(Look(visits=1, known=(0.45, 0.1)),))

    route = plan_route(split_view(), Seen(visits=visits("s1"), errand=errand), 64)

    assert route.stops[0].dataset == "s2/records"
    assert "planned" in route.stops[0].why


def test_route_keeps_within_seconds_bytes_and_visits():
    view = split_view(batch_s=1.0)
    free = Errand(aims=(Aim(wanted=0.95),), batches=4, model_bytes=1000)

    def length(**left) -> int:
        return len(plan_route(view, Seen(errand=changed(free, **left)), 64).stops)

    assert length() > 3
    assert length(seconds_left=9.0) == 2
    assert length(bytes_left=4000.0) < length()
    assert length(visits_left=2) == 2
    assert length(seconds_left=1.0) == 0


def test_route_that_can_afford_nothing_leaves_the_choice_to_the_rule_beside_it():
    seen = Seen(errand=Errand(seconds_left=0.0))

    assert RULES["planned"].next_stop(split_view(), seen, 64) == RULES["routed"].next_stop(split_view(), seen, 64)


def test_quota_form_takes_the_cheaper_of_two_alike():
    view = make_view(make_candidate("a", batch_s=5.0), make_candidate("b", batch_s=0.1))
    errand = Errand(aims=(Aim(wanted=0.5),), batches=10)

    route = plan_route(view, Seen(errand=errand), 64)

    assert {stop.dataset for stop in route.stops} == {"b/records"}
    assert route.share == pytest.approx(1.0)


def test_sites_that_are_often_away_cost_more():
    view = make_view(make_candidate("a", availability=0.3), make_candidate("b", availability=1.0))

    assert plan_route(view, Seen(errand=Errand(aims=(Aim(wanted=0.5),), batches=1)), 64).stops[0].dataset == "b/records"


# --- how long a route stands -----------------------------------------------------------------------------------------


def test_route_stands_on_the_view_it_was_made_on_and_falls_with_its_first_site():
    view = make_view(make_candidate("a", batch_s=0.1), make_candidate("b", batch_s=0.4))
    errand = Errand(aims=(Aim(wanted=0.5),), batches=10, looks=(Look(visits=0, known=(0.0,)),))

    plan = RouteSought(view=view, seen=Seen(errand=errand), records_per_visit=64).solve()
    slower = changed(view, candidates=(changed(view.candidates[0], batch_s=9.0), view.candidates[1]))
    a_little = changed(view, candidates=(changed(view.candidates[0], batch_s=0.1001), view.candidates[1]))

    assert plan.validity is not None
    assert within(plan.validity, view)
    assert within(plan.validity, a_little)
    assert not within(plan.validity, slower)
    assert not within(plan.validity, changed(view, candidates=view.candidates[:1]))


def test_a_route_kept_within_its_ranges_loses_no_more_than_the_tolerance_to_its_own_rivals():
    view = make_view(*(make_candidate(f"s{n}", {str(n): 90.0, "9": 10.0}, batch_s=0.1 * (n + 1)) for n in range(4)))
    errand = Errand(aims=(Aim(wanted=0.6),), batches=10)
    seen = Seen(errand=errand)
    plan = RouteSought(view=view, seen=seen, records_per_visit=64).solve()
    assert plan.validity is not None
    ends = {(one.dataset, one.fact): one for one in plan.validity.ranges}
    worst = changed(
        view, candidates=tuple(changed(one, batch_s=ends[one.dataset, "batch_s"].high) for one in view.candidates)
    )
    again = plan_route(worst, seen, 64)
    problem = visit_problem(places_of(worst), again.learnt, errand, None)
    kept = [again.names.index(stop.dataset) for stop in plan.stops]
    spent, known = evaluate(problem, kept)
    short = float((problem.weight * np.maximum(0, problem.wanted - known)).sum())

    swapped = [kept[1], kept[0], *kept[2:]]
    other_spent, other_known = evaluate(problem, swapped)
    other_short = float((problem.weight * np.maximum(0, problem.wanted - other_known)).sum())

    assert short <= other_short + TOLERANCE
    assert problem.price @ spent <= problem.price @ other_spent * (1 + TOLERANCE) or other_short > short


def test_problem_has_the_same_answer_each_time():
    sought = RouteSought(view=split_view(), seen=Seen(visits=visits("s1")), records_per_visit=64)

    assert sought.solve() == sought.solve()


# --- the job that asks ------------------------------------------------------------------------------------------------


def planned_job(**changes):
    """A job with the method `planned`, whose first plan is waited for."""
    made = bench()
    made.submit(make_request(method="planned", **changes))
    while made.state().phase is not Phase.RUNNING:
        orders = made.orders()
        made.answer(*orders[0]) if orders else made.wait(0.5)
    return made


def test_job_waits_for_its_plan_and_goes_where_it_says():
    made = planned_job()
    assert made.orders() == []
    sought = made.problems[f"route {JOB}"].problem

    made.solve()

    _, order = the_order(made)
    assert isinstance(order.work, TrainWork)
    assert order.work.dataset == sought.solve().stops[0].dataset
    assert "planned" in made.state().ordered[order.visit].why


def test_route_is_planned_ahead_while_a_visit_is_under_way():
    made = planned_job()
    made.solve()
    node, order = the_order(made)
    made.answer_until(lambda state: state.visits >= 1)
    made.solve()

    assert made.orders() != []
    assert made.state().visits == 1
    assert node
    assert order


def test_job_goes_on_by_the_rule_beside_where_no_plan_comes():
    made = planned_job()
    effect = made.problems.pop(f"route {JOB}")
    made.give(Computed(key=effect.key, basis=effect.basis, solution=None, fault="no answer"))
    assert made.orders() == []

    made.wait(PLAN_WAIT_S + 1)

    _, order = the_order(made)
    assert "planned" not in made.state().ordered[order.visit].why


def test_plan_for_other_visits_is_not_taken():
    made = planned_job()
    effect = made.problems.pop(f"route {JOB}")
    stops = effect.problem.solve().stops
    stale = RoutePlanned(
        visits=(DataSetId("elsewhere"),), looks=1, known=(0.0,), stops=stops, share=0.5, seconds=1.0, validity=None
    )
    made.give(Computed(key=effect.key, basis=effect.basis, solution=stale))

    assert made.orders() == []


def test_planned_job_reaches_its_goal_with_a_budget_of_visits():
    made = planned_job(budget=Budget(visits=6))
    made.answer_until(lambda state: state.visits >= 3)
    made.answer_until(lambda state: state.phase is Phase.DELIVERING, accuracy=0.95)

    assert made.state().met


def test_rule_that_answers_within_a_turn_stands_in_for_one_that_plans():
    assert quick(RULES["planned"]) is RULES["routed"]
    assert quick(RULES["cyclic"]) is RULES["cyclic"]

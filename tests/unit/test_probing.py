"""Probes: a bounded visit before a verdict that is not sure, and what its point of the curve makes of it."""

from __future__ import annotations

import pytest
from tests.builders import (
    JOB,
    Bench,
    bench,
    changed,
    make_candidate,
    make_package,
    make_request,
    make_view,
    measure,
    the_order,
)

from daitn.base.ids import NodeId
from daitn.control_center.training.records import JobAssessed, ProbeDone
from daitn.decision.attainability import predict, trial_seconds
from daitn.decision.facts import Preflight, ProbePoint
from daitn.decision.feasibility import Known, judge, verdict_of
from daitn.decision.probing import STEPS_MOST, probe_site
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Request
from daitn.descriptors.work import CurvePoint, EvaluateWork, TrainWork
from daitn.oam.timeline import render_log
from daitn.wire.center_tools import VisitFailed

VIEW = make_view(make_candidate("s1", {"0": 400.0, "1": 400.0}), make_candidate("s2", {"0": 900.0}))


def curve_of(untrained: float, quarter: float, half: float) -> tuple[CurvePoint, ...]:
    """What a trial found on 100 records."""
    return tuple(
        CurvePoint(records=records, steps=240 if records else 0, measurements=measure(value, "accuracy"))
        for records, value in ((0, untrained), (25, quarter), (50, half))
    )


TRIED = Preflight(measurements=measure(0.5, "accuracy"), overfits=True, curve=curve_of(0.5, 0.7, 0.78))
UNTRIED = Preflight(measurements=measure(0.5, "accuracy"), overfits=True)


def probed(preflight: Preflight, value: float, gap: float = 0.0) -> Preflight:
    """The same with a probe on 800 records."""
    point = ProbePoint(records=800, gap=gap, steps=240, measurements=measure(value, "accuracy"))
    return changed(preflight, probe=point, probed=True)


def chance(preflight: Preflight, goal: str = "accuracy >= 0.88") -> float:
    """Of reaching a goal."""
    (found,) = predict(VIEW, make_request(goal), preflight)
    return found.probability


def outcome(request: Request, preflight: Preflight | None) -> str:
    """The verdict's word."""
    return verdict_of(VIEW, request, judge(VIEW, request, make_package(), Known(preflight))).outcome


def test_probe_that_went_well_raises_the_chance_and_one_that_did_not_lowers_it():
    assert chance(probed(TRIED, 0.93)) > chance(TRIED) + 0.1
    assert chance(probed(TRIED, 0.79)) < chance(TRIED) - 0.1


def test_poor_probe_says_less_the_further_its_labels_are_from_all():
    near, far = (chance(probed(TRIED, 0.6, gap)) for gap in (0.0, 0.6))

    assert near < 0.05
    assert far > near + 0.1


def test_probe_stands_for_a_trial_that_could_not_be_made():
    assert predict(VIEW, make_request("accuracy >= 0.9"), UNTRIED) == ()
    assert chance(probed(UNTRIED, 0.95), "accuracy >= 0.9") > 0.8


@pytest.mark.parametrize(
    ("goal", "preflight", "said"),
    [
        ("accuracy >= 0.6", TRIED, "admitted"),
        ("accuracy >= 0.95", TRIED, "needs-probe"),
        ("accuracy >= 0.999", TRIED, "refused"),
        ("accuracy >= 0.89", UNTRIED, "needs-probe"),
        ("accuracy >= 0.89", None, "admitted"),
        ("accuracy >= 0.89", probed(TRIED, 0.95), "admitted"),
    ],
)
def test_probe_is_asked_for_only_where_the_answer_is_not_sure_and_none_was_made(goal, preflight, said):
    assert outcome(make_request(goal, allow_probe=True), preflight) == said


def test_probe_is_not_made_where_the_owner_does_not_allow_it_or_something_else_fails():
    assert outcome(make_request("accuracy >= 0.95"), TRIED) != "needs-probe"
    assert outcome(make_request("accuracy >= 0.95", allow_probe=True, deadline_s=0.1), TRIED) == "refused"


def test_site_with_many_records_of_all_labels_is_probed_within_its_seconds():
    request = make_request(deadline_s=200.0)
    quick = probe_site(VIEW, request, make_package(), TRIED)
    slow = probe_site(make_view(make_candidate("s1", batch_s=0.2)), request, make_package(), TRIED)

    assert quick is not None
    assert slow is not None
    assert (quick.node, quick.batches) == (NodeId("s1"), STEPS_MOST)
    assert slow.batches * 0.2 <= trial_seconds(200.0)
    assert probe_site(make_view(make_candidate("s1", batch_s=5.0)), request, make_package(), TRIED) is None
    assert probe_site(make_view(make_candidate("s1", streamed=True)), request, make_package(), TRIED) is None


def tried_job() -> Bench:
    """A job whose trial left its goal open, so that the probe's visit is under way."""
    made = bench()
    made.submit(make_request("accuracy >= 0.93", allow_probe=True))
    made.answer_until(lambda state: any(one.ordered.purpose == "preflight" for one in state.open.values()))
    made.answer(*the_order(made), measurements=TRIED.measurements, curve=TRIED.curve, overfits=True)
    return made


def test_job_is_probed_once_measured_and_judged_again_from_its_first_model():
    made = tried_job()
    node, order = the_order(made)

    assert made.state().phase is Phase.ASSESSING
    assert made.state().verdict is not None
    assert made.state().verdict.outcome == "needs-probe"
    assert isinstance(order.work, TrainWork)
    made.answer(node, order)
    unit, measured = the_order(made)
    assert isinstance(measured.work, EvaluateWork)
    assert measured.work.model != made.state().head
    made.answer(unit, measured, accuracy=0.95)

    state = made.state()
    assert state.phase is not Phase.ASSESSING
    assert state.verdict is not None
    assert state.verdict.outcome == "admitted"
    assert "a probe on" in next(one.available for one in state.verdict.conditions if one.code == "attainability")
    assert state.visits == 0
    assert state.head == state.request.package
    kinds = [entry.kind for entry in render_log(state, str)]
    assert kinds.count("probed") == kinds.count("needs-probe") == 1


def test_poor_probe_refuses_and_costs_no_further_visit():
    made = tried_job()
    made.answer(*the_order(made))
    made.answer(*the_order(made), accuracy=0.55)

    assert made.state().phase is Phase.REFUSED
    assert "chance of accuracy" in made.state().reason


def test_probe_that_is_lost_again_and_again_is_done_without():
    made = tried_job()
    for _ in range(10):
        if made.state().phase is not Phase.ASSESSING:
            break
        orders = made.orders()
        if orders:
            node, order = orders[0]
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no luck", blame="unavailable"))
        made.wait(5.0)

    (done,) = [one for one in made.state().log if isinstance(one, ProbeDone)]
    assert done.point is None
    assert "no luck" in done.why
    assert made.state().phase is not Phase.ASSESSING


def test_probe_survives_a_restart_of_the_centre():
    made = tried_job()
    made.answer(*the_order(made))
    made.restart()
    made.answer(*the_order(made), accuracy=0.95)

    assert made.state(JOB).phase is not Phase.ASSESSING
    assert [one.verdict.outcome for one in made.state().log if isinstance(one, JobAssessed)] == [
        "needs-probe",
        "admitted",
    ]

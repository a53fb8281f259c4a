"""Model advice: the owner's variants are tried before a refusal, the smallest that reaches the goal is named."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.builders import (
    JOB,
    OWNER,
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

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId
from daitn.cli import render
from daitn.control_center.training.commands import SubmissionReceived
from daitn.control_center.training.records import VariantTried
from daitn.decision.advising import judge_variant, next_variant
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.feasibility import Known
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Request, Selection, check_request
from daitn.descriptors.work import CurvePoint, EvaluateWork
from daitn.oam import wording
from daitn.oam.timeline import render_log
from daitn.sdk.submission import from_options
from daitn.wire.center_tools import VisitFailed
from daitn.wire.topology_tools import Heartbeat

SMALL, MIDDLE, LARGE = (ArtifactId(letter * 64) for letter in "abc")
VARIANTS = {
    LARGE: make_package(payload_bytes=9_000_000, name="large"),
    SMALL: make_package(payload_bytes=100_000, name="small"),
    MIDDLE: make_package(payload_bytes=2_000_000, name="middle"),
}
GOAL = "accuracy >= 0.95"


def curve(*values: float) -> tuple[CurvePoint, ...]:
    """What a trial found after none, a quarter and a half of 200 records."""
    return tuple(
        CurvePoint(records=records, steps=240 if records else 0, measurements=measure(value, "accuracy"))
        for records, value in zip((0, 50, 100), values, strict=True)
    )


POOR, GOOD = curve(0.5, 0.55, 0.56), curve(0.5, 0.93, 0.97)


def submitted(request: Request | None = None, variants: dict[ArtifactId, PackageFacts] | None = None) -> Bench:
    """A job whose own model was tried, and will not reach its goal."""
    made, declared = bench(), VARIANTS if variants is None else variants
    asked = changed(request or make_request(GOAL, deadline_s=600.0), variants=tuple(declared))
    made.give(
        SubmissionReceived(job=JOB, owner=OWNER, request=asked, package=make_package(), key="k", variants=declared)
    )
    made.answer_until(lambda state: any(one.ordered.purpose == "preflight" for one in state.open.values()))
    return made


def refused(*, request: Request | None = None, variants: dict[ArtifactId, PackageFacts] | None = None) -> Bench:
    """The same, with what the trial found."""
    made = submitted(request, variants)
    tried(made, POOR)
    return made


def tried(made: Bench, found: tuple[CurvePoint, ...]) -> ArtifactId:
    """The unit answers the trial that is under way; returns which model it was."""
    node, order = the_order(made)
    assert isinstance(order.work, EvaluateWork)
    assert order.work.preflight
    made.answer(node, order, measurements=measure(0.5, "accuracy"), curve=found, overfits=True)
    return order.work.model


def advice_of(made: Bench):
    """What went with the refusal."""
    state = made.state()
    assert state.phase is Phase.REFUSED
    assert state.verdict is not None
    return state.verdict.advice


def test_smallest_variant_that_reaches_the_goal_is_named_and_no_further_one_is_tried():
    made = refused()

    assert [tried(made, POOR), tried(made, GOOD)] == [SMALL, MIDDLE]
    advice = advice_of(made)
    assert advice.named.package == MIDDLE
    assert advice.named.probability > 0.25
    assert [one.package for one in advice.tried] == [SMALL, MIDDLE]
    assert advice.untried == 0
    entries = render_log(made.state(), str)
    assert [entry.kind for entry in entries].count("variant-tried") == 2
    assert "the model 'middle'" in next(entry.text for entry in entries if entry.kind == "refused")


def test_model_that_learns_nothing_at_all_has_its_variants_tried_too():
    made = submitted()
    node, order = the_order(made)
    made.answer(node, order, measurements=measure(0.5, "accuracy"), overfits=False)

    assert tried(made, GOOD) == SMALL
    assert advice_of(made).named.package == SMALL


def test_advice_says_that_none_does_where_none_is_predicted_to_reach_the_goal():
    made = refused()
    for _ in VARIANTS:
        tried(made, POOR)

    advice = advice_of(made)
    assert advice.named is None
    assert len(advice.tried) == 3
    assert all(one.failed for one in advice.tried)
    assert "none of the 3" in wording.advice(advice)


def test_refusal_without_declared_variants_says_that_there_was_nothing_to_try():
    advice = advice_of(refused(variants={}))

    assert advice.tried == ()
    assert "--variant" in wording.advice(advice)


def test_job_that_is_admitted_tries_no_variant():
    made = submitted()
    tried(made, GOOD)

    assert made.state().phase is not Phase.REFUSED
    assert made.state().tried == {}


def test_refusal_for_what_no_model_can_mend_tries_none():
    made = bench()
    asked = make_request(GOAL, deadline_s=600.0, data=Selection(min_records=10**6), variants=tuple(VARIANTS))
    made.give(
        SubmissionReceived(job=JOB, owner=OWNER, request=asked, package=make_package(), key="k", variants=VARIANTS)
    )
    made.wait(5.0)

    assert advice_of(made) is None
    assert made.state().tried == {}


def test_offer_that_is_taken_beforehand_ends_the_search():
    made = submitted(make_request("accuracy >= 0.97", deadline_s=600.0, accept_counter_offer=True))
    tried(made, curve(0.5, 0.7, 0.75))

    assert made.state().refusals
    assert made.state().tried == {}


def test_variant_that_the_unit_cannot_try_is_passed_over_with_the_reason():
    made = refused()
    node, order = the_order(made)
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no such operator", blame="input"))
    made.wait(2.0)

    assert tried(made, GOOD) == MIDDLE
    first, second = advice_of(made).tried
    assert "no such operator" in first.why
    assert second.reaches


def test_search_ends_when_half_of_the_time_has_gone_and_says_so():
    made = refused(request=make_request(GOAL, deadline_s=600.0))
    made.now_ns += 301 * 10**9
    for node in made.nodes:
        made.say(node, Heartbeat(sequence=1))
    tried(made, POOR)

    advice = advice_of(made)
    assert advice.untried == 2
    assert "50% of the time" in wording.advice(advice)


def test_search_survives_a_restart_of_the_centre_and_tries_none_twice():
    made = refused()
    tried(made, POOR)
    made.restart()

    assert tried(made, GOOD) == MIDDLE
    records = [one.variant.package for one in made.state().log if isinstance(one, VariantTried)]
    assert records == [SMALL, MIDDLE]


@pytest.mark.parametrize(("found", "reaches"), [(GOOD, True), (POOR, False), ((), False)])
def test_variant_is_judged_by_its_own_trial_as_if_submitted_now(found, reaches):
    view = make_view(make_candidate("s1", {"0": 400.0, "1": 400.0}), make_candidate("s2", {"0": 400.0, "1": 400.0}))
    known = Known(Preflight(), elapsed_s=599.0, moved_bytes=10**12)
    own = Preflight(measurements=measure(0.5, "accuracy"), overfits=True, curve=found)
    request = make_request(GOAL, deadline_s=600.0, allow_probe=True)

    assert judge_variant(view, request, SMALL, VARIANTS[SMALL], known, own).reaches is reaches


def test_variants_are_tried_in_the_order_of_their_size():
    assert next_variant(VARIANTS, {}) == SMALL
    assert next_variant({}, {}) is None


@pytest.mark.parametrize("variants", [(SMALL, SMALL), (ArtifactId("p" * 64),)])
def test_variant_named_twice_or_the_submitted_one_is_refused(variants):
    request = changed(make_request(GOAL), package=ArtifactId("p" * 64), variants=variants)

    with pytest.raises(InputError, match="variants name a package twice, or the submitted one itself"):
        check_request(request, make_package().contract)


def test_variants_of_a_request_file_lie_beside_it_and_options_go_before_it(tmp_path: Path):
    spec = tmp_path / "job.toml"
    spec.write_text(
        'package = "m"\ntargets = ["accuracy >= 0.9"]\ndeadline = "1 h"\npurpose = "care"\n'
        'variants = ["wide", "deep"]\n'
    )

    assert from_options(spec)["variants"] == [tmp_path / "wide", tmp_path / "deep"]
    assert from_options(spec, variants=[Path("other")])["variants"] == [Path("other")]


def test_owner_reads_what_was_tried_and_which_model_would_do():
    made = refused()
    tried(made, POOR)
    tried(made, GOOD)
    shown = Console(width=200, record=True, file=StringIO())
    shown.print(render.verdict(made.state().verdict))
    text = shown.export_text()

    assert "other model: 'small'" in text
    assert "Advice: the model 'middle'" in text
    assert "submit that instead" in text

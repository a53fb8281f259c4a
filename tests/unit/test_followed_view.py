"""The view that a running job is planned on: silent while the choice stands, else told, and planned on."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import (
    JOB,
    START_NS,
    Bench,
    bench,
    make_candidate,
    make_request,
    make_view,
    messages,
    the_order,
)

from daitn.base.effects import Compute, PeerVanished, TimerFired
from daitn.base.units import NS_PER_S
from daitn.control_center.training.followed_view import STEPS_KEPT, FollowedView
from daitn.descriptors.job import Phase
from daitn.descriptors.plan import FactRange, Pair, Validity
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import TrainWork
from daitn.topology.view_deltas import apply_delta
from daitn.topology.view_updates import ViewUpdates
from daitn.wire.center_tools import VisitPrepare

TWO = (make_candidate("s1", trust=0.9), make_candidate("s2", trust=0.5))


def seen(*candidates, version: int = 1, at_s: float = 0.0) -> TrainingView:
    """A view of these, made then."""
    view = make_view(*candidates, version=version)
    return msgspec.structs.replace(view, made_at_ns=START_NS + round(at_s * NS_PER_S))


def following(updates: ViewUpdates | None = None) -> FollowedView:
    """Of `TWO`, on which s1 was chosen while its trust is 0.6 at least."""
    followed = FollowedView(updates or ViewUpdates())
    followed.chosen(seen(*TWO), "s1 was chosen", START_NS)
    ranges = (FactRange(thing="s1", dataset="s1/records", fact="trust", low=0.6),)
    pairs = tuple(Pair(one.dataset, one.compute_node, False) for one in TWO)
    followed.valid(1, Validity(pairs=pairs, ranges=ranges))
    return followed


def trusted(trust: float, **when) -> TrainingView:
    """The view with another trust in s1."""
    return seen(msgspec.structs.replace(TWO[0], trust=trust), TWO[1], **({"version": 2} | when))


def test_nothing_is_told_while_the_choice_stands_and_what_moved_when_it_does_not():
    followed = following()
    began = followed.number

    assert followed.look(trusted(0.61), START_NS) is None
    assert followed.told(began).steps == ()
    delta = followed.look(trusted(0.59, version=3), START_NS)

    assert delta is not None
    (step,) = followed.told(began).steps
    assert step.delta == delta
    assert step.why == "trust of s1/records at s1 is 0.59, not within 0.6 and inf"
    assert followed.view is not None
    assert [one.trust for one in followed.view.candidates] == [0.59, 0.5]


def test_until_ranges_are_known_the_choice_stands_while_the_same_candidates_are_there():
    followed = FollowedView(ViewUpdates())
    followed.chosen(seen(*TWO), "s1 was chosen", START_NS)

    assert followed.look(trusted(0.1), START_NS) is None
    assert followed.look(seen(TWO[0], version=2), START_NS) is not None
    assert followed.told(followed.number - 2).view is not None, "a number that was never told gives all"


def test_ranges_of_another_view_say_nothing_of_this_one():
    followed = following()
    followed.chosen(trusted(0.8), "s1 was chosen again", START_NS)
    followed.valid(1, Validity(pairs=(), ranges=()))

    assert followed.look(trusted(0.7, version=3), START_NS) is None
    assert followed.told(0).ranges == 0


def test_by_periodic_triggers_everything_is_told_once_a_period():
    followed = following(ViewUpdates(by="periodic", period_s=2.0))

    assert followed.look(trusted(0.1, at_s=1.9), START_NS) is None
    delta = followed.look(trusted(0.89, at_s=2.0, version=3), START_NS)

    assert delta is not None
    assert followed.told(0).view is not None
    assert followed.look(trusted(0.2, at_s=3.0, version=4), START_NS) is None


def test_whoever_follows_has_the_planner_s_view_and_whoever_missed_too_much_gets_it_whole():
    followed = following()
    first = followed.told(0)
    assert first.view is not None
    mine, number = first.view, first.number
    for step in range(2 * STEPS_KEPT):
        moved = seen(TWO[0]) if step % 2 else seen(*TWO)
        followed.chosen(msgspec.structs.replace(moved, version=3 + step), f"step {step}", START_NS + step)
        told = followed.told(number)
        for one in told.steps:
            mine = apply_delta(mine, one.delta)
        assert {one.dataset for one in mine.candidates} == {one.dataset for one in moved.candidates}
        number = told.number

    assert followed.told(first.number).view == followed.view
    assert [one.number for one in followed.told(number - 3).steps] == [number - 2, number - 1, number]


def test_numbers_go_on_after_the_centre_has_begun_anew():
    before = following().number
    again = FollowedView(ViewUpdates())
    again.chosen(seen(*TWO), "s1 was chosen", START_NS + NS_PER_S)

    assert again.number > before
    assert again.told(before).view is not None


# --- at the centre ----------------------------------------------------------------------------------------------------


def under_way(method: str, **config) -> Bench:
    """A job with a training visit under way, all that it wanted solved."""
    made = bench(sites=3, **config)
    made.submit(make_request(method=method))
    for _ in range(100):
        if made.state().phase is Phase.RUNNING and made.state().visits >= 1:
            made.solve()
            if made.orders() and isinstance(the_order(made)[1].work, TrainWork):
                return made
        orders = made.orders()
        made.answer(*orders[0]) if orders else made.wait(0.5)
    raise AssertionError("no visit is under way")


def look(made: Bench) -> list:
    """The centre looks at the map for the job's planner."""
    made.now_ns = max(made.now_ns, made.timers.pop(f"view {JOB}"))
    return made.give(TimerFired(name=f"view {JOB}"))


@pytest.mark.parametrize("method", ["planned", "routed", "tram-fl"])
def test_planner_is_told_and_plans_on_while_the_visit_is_still_under_way(method):
    made = under_way(method)
    node, order = the_order(made)
    number = made.center.jobs[JOB].followed(0).number
    assert look(made) is not None
    assert made.center.counters.shown().get("views_told", 0) == 0

    gone = next(name for name in made.nodes if name != node and made.nodes[name].data)
    made.nodes.pop(gone)
    made.give(PeerVanished(node=gone))
    effects = look(made)

    assert made.center.counters.shown()["views_told"] == 1
    (step,) = made.center.jobs[JOB].followed(number).steps
    assert "is no candidate any more" in step.why
    assert the_order(made) == (node, order), "the visit goes on"
    if method == "planned":
        (sought,) = (one for one in effects if isinstance(one, Compute) and one.key == f"route {JOB}")
        assert gone not in {one.compute_node for one in sought.problem.view.candidates}
    else:
        warned = messages(VisitPrepare, effects)
        assert all(one.dataset != made.center.knowledge.node(gone) for one in warned)
    assert look(made) is not None
    assert made.center.counters.shown()["views_told"] == 1, "said once"


def test_small_move_of_trust_is_not_told_and_a_large_one_is():
    made = under_way("planned")
    node, _ = the_order(made)
    other = next(name for name in made.nodes if name != node and made.nodes[name].data)
    number = made.center.jobs[JOB].followed(0).number
    assert made.center.jobs[JOB].followed(0).ranges > 0

    look(made)
    assert made.center.jobs[JOB].followed(number).steps == ()
    for attempt in range(6):
        made.center.knowledge.found(other, Evidence.REFUTED, made.now_ns + attempt * 20 * NS_PER_S)
    look(made)

    assert made.center.jobs[JOB].followed(number).steps != ()


def test_by_configuration_the_centre_tells_once_a_period_instead():
    made = under_way("planned", views=ViewUpdates(by="periodic", period_s=3.0))
    node, _ = the_order(made)
    other = next(name for name in made.nodes if name != node and made.nodes[name].data)
    made.center.knowledge.found(other, Evidence.KEPT, made.now_ns)
    began_ns = made.now_ns

    look(made)

    assert made.now_ns - began_ns <= 3 * NS_PER_S
    assert made.center.counters.shown().get("views_told", 0) <= 1


def test_nobody_is_told_anything_of_a_job_that_has_ended_or_waits():
    made = under_way("tram-fl")
    made.center.jobs[JOB].state.open.clear()

    assert not [one for one in look(made) if isinstance(one, Compute)]
    assert f"view {JOB}" not in made.timers

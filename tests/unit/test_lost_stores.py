"""Holders that are there and have lost what they held: who is asked next, and from what a job goes on."""

from __future__ import annotations

from tests.builders import JOB, Bench, facts_of, running, the_order, verify_with

from daitn.base.ids import CENTER, ArtifactId, NodeId
from daitn.control_center.training.commands import ModelNotFetched
from daitn.control_center.training.job_desk import RETRIES_AT_ONCE
from daitn.control_center.training.records import HolderDropped, ModelGone, VisitLost
from daitn.descriptors.grant import Lacking
from daitn.descriptors.job import Phase
from daitn.descriptors.trust import Evidence
from daitn.wire.center_tools import VisitFailed, VisitOrder


def lack(made: Bench, node: NodeId, order: VisitOrder, artifact: ArtifactId, *holders: NodeId) -> None:
    """A node could not fetch an input: these holders answered that they do not hold it."""
    lacking = Lacking(artifact=artifact, holders=holders)
    failed = VisitFailed(visit=order.visit, fence=order.fence, reason="not held", blame="not-held", lacking=lacking)
    made.say(node, failed)


def held_by_one() -> tuple[Bench, NodeId, ArtifactId]:
    """A job whose newest model only the site that made it holds, while another one is asked to go on with it."""
    made = running()
    holder, order = the_order(made)
    made.answer(holder, order)
    return made, holder, made.state().head


def test_model_that_its_only_holder_has_lost_is_given_up_at_once_for_the_last_one_that_somebody_holds():
    made, holder, head = held_by_one()
    node, order = the_order(made)

    lack(made, node, order, head, holder)

    (dropped,) = [record for record in made.journal if isinstance(record, HolderDropped)]
    assert (dropped.artifact, dropped.node) == (head, holder)
    (gone,) = [record for record in made.journal if isinstance(record, ModelGone)]
    assert (gone.model, made.state().head) == (head, gone.instead)
    _, again = the_order(made)
    assert again.inputs[0].artifact == gone.instead
    assert CENTER in [one.node for one in again.inputs[0].holders]


def test_holder_that_lost_a_model_is_not_named_again_while_another_one_holds_it():
    made, first, head = held_by_one()
    unit, order = the_order(made)
    made.answer(unit, order)
    assert (made.state().head, made.state().holders[head]) == (head, [first, unit])
    node, order = the_order(made)

    lack(made, node, order, head, first)

    made.wait(1.0)
    _, again = the_order(made)
    assert again.inputs[0].artifact == head
    assert [one.node for one in again.inputs[0].holders] == [unit]


def test_site_that_could_not_fetch_what_another_lost_has_broken_no_promise():
    made, holder, head = held_by_one()
    node, order = the_order(made)
    before = [one for one in made.journal if getattr(one, "kind", None) is Evidence.BROKEN]

    lack(made, node, order, head, holder)

    assert [one for one in made.journal if getattr(one, "kind", None) is Evidence.BROKEN] == before
    (lost,) = [record for record in made.journal if isinstance(record, VisitLost)]
    assert lost.blame == "not-held"


def test_word_about_an_artifact_that_the_visit_did_not_need_is_not_believed():
    made, holder, head = held_by_one()
    node, order = the_order(made)

    lack(made, node, order, ArtifactId("ab" * 32), holder)

    assert made.state().holders[head] == [holder]


def test_centre_is_not_told_what_it_holds_itself():
    made = running()
    node, order = the_order(made)

    lack(made, node, order, made.state().request.package, CENTER)

    assert made.state().holders[made.state().request.package][0] == CENTER


def test_dropped_holders_survive_a_restart_of_the_centre():
    made, holder, head = held_by_one()
    node, order = the_order(made)
    lack(made, node, order, head, holder)
    before = facts_of(made.state())

    made.restart()

    assert facts_of(made.state())["holders"] == before["holders"]


def test_best_model_that_all_its_holders_lost_is_replaced_by_an_older_one_and_the_job_ends():
    made = running()
    verify_with(made, 0.95)
    state = made.state()
    assert state.phase is Phase.DELIVERING
    best = state.best

    holders = tuple(node for node in state.holders[best] if node != CENTER)
    lacking = Lacking(artifact=best, holders=holders)
    made.give(ModelNotFetched(job=JOB, artifact=best, what="not held", lacking=lacking))
    made.wait(1.0)

    assert state.best != best
    assert (made.state().phase, made.state().met) == (Phase.EXHAUSTED, False)
    assert "no site has the best model any more" in made.state().reason


def test_job_that_learnt_who_lost_its_model_does_not_rest_before_it_goes_on():
    made, holder, head = held_by_one()
    for _ in range(RETRIES_AT_ONCE):
        node, order = the_order(made)
        failed = VisitFailed(visit=order.visit, fence=order.fence, reason="cut", blame="unavailable")
        made.say(node, failed)
        made.wait(1.0)
    node, order = the_order(made)

    lack(made, node, order, head, holder)

    assert made.state().lost_in_row > RETRIES_AT_ONCE
    _, again = the_order(made)
    assert again.inputs[0].artifact != head

"""Who has ended and who is only cut off: when a visit is taken over, as presence and silence say."""

from __future__ import annotations

import pytest
from tests.builders import Bench, running, the_order

from daitn.base.effects import LinkBroken, PeerAppeared, PeerVanished
from daitn.base.ids import NodeId
from daitn.control_center.training.job_desk import RESTART_S, WAIT_S
from daitn.control_center.training.open_visits import ENDED_S, MARGIN_S
from daitn.control_center.training.records import ModelGone
from daitn.wire.center_tools import VisitFailed, VisitOrder, VisitPhase, VisitProgress


def speaking() -> tuple[Bench, NodeId, VisitOrder]:
    """A visit whose site has just spoken of it."""
    made = running()
    node, order = the_order(made)
    made.say(node, VisitProgress(visit=order.visit, fence=order.fence, phase=VisitPhase.WORKING))
    made.silence(node)
    return made, node, order


def test_site_that_vanishes_right_after_a_word_is_taken_over_at_once():
    made, node, order = speaking()
    made.give(PeerVanished(node=node))
    made.wait(ENDED_S + 0.1)

    assert order.visit not in made.state().open
    assert "has ended" in made.state().last_loss


def test_site_that_vanishes_after_silence_keeps_its_visit_for_its_lease():
    made, node, order = speaking()
    made.wait(2.5)
    made.give(PeerVanished(node=node))
    made.wait(ENDED_S + 0.5)
    assert order.visit in made.state().open

    made.wait(made.config.lease_s + MARGIN_S)
    assert order.visit not in made.state().open
    assert "has run out" in made.state().last_loss


def test_site_that_is_back_at_once_keeps_its_visit():
    made, node, order = speaking()
    made.give(PeerVanished(node=node))
    made.wait(ENDED_S / 2)
    made.give(PeerAppeared(node=node))
    made.wait(ENDED_S)

    assert order.visit in made.state().open


def test_site_that_vanishes_while_the_centre_has_lost_its_own_link_keeps_its_visit():
    made, node, order = speaking()
    made.give(LinkBroken())
    made.give(PeerVanished(node=node))
    made.wait(ENDED_S + 0.5)

    assert order.visit in made.state().open


def test_site_that_vanished_just_before_the_centre_lost_its_own_link_keeps_its_visit():
    made, node, order = speaking()
    made.give(PeerVanished(node=node))
    made.give(LinkBroken())
    made.wait(ENDED_S + 0.5)

    assert order.visit in made.state().open


@pytest.mark.parametrize("cut_off", [False, True], ids=["ended", "cut off"])
def test_model_that_only_one_site_held_is_waited_for_as_long_as_that_site_may_be_back(cut_off: bool) -> None:
    made = running()
    holder, order = the_order(made)
    made.answer(holder, order)
    head = made.state().head
    assert made.state().holders[head] == [holder]
    made.silence(holder)
    if cut_off:
        made.wait(2.5)
    made.give(PeerVanished(node=holder))
    for node, lost in made.orders():
        made.say(node, VisitFailed(visit=lost.visit, fence=lost.fence, reason="not to be had", blame="unavailable"))
    wait_s = RESTART_S + (made.config.patience_s - 2.5 if cut_off else 0.0)

    made.wait(wait_s - 2 * WAIT_S)
    assert not [record for record in made.journal if isinstance(record, ModelGone)]

    made.wait(4 * WAIT_S)
    (gone,) = (record for record in made.journal if isinstance(record, ModelGone))
    assert gone.model == head


def test_job_that_has_nothing_under_way_goes_on_as_soon_as_a_node_is_back():
    made = running()
    nodes = {node: made.silence(node) for node in list(made.nodes)}
    for node in nodes:
        made.give(PeerVanished(node=node))
    made.wait(ENDED_S + 0.1)
    assert not made.state().open

    for node, descriptor in nodes.items():
        made.nodes[node] = descriptor
        made.give(PeerAppeared(node=node))

    assert made.state().open

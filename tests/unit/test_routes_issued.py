"""Routes at the centre and at a terminal: one version for all orders of a turn, a new one when the route changes, and
an old one taken up by nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import (
    JOB,
    START_NS,
    Bench,
    bench,
    changed,
    make_order,
    make_policy,
    make_request,
    messages,
    running,
    the_order,
)

from daitn.artifacts.itineraries import check_order, sign_itinerary
from daitn.base.effects import Append, Delivered, Effect, Send, replay
from daitn.base.errors import PolicyError
from daitn.base.ids import CENTER, DataSetId, DomainId, NodeId
from daitn.control_center.training.commands import ChangeAsked
from daitn.control_center.training.records import RouteIssued
from daitn.descriptors.itinerary import Action, Itinerary
from daitn.descriptors.request import Budget
from daitn.descriptors.work import AggregateWork
from daitn.oam.timeline import render_log
from daitn.terminal.roles import DataNode, Roles
from daitn.terminal.visit_keeper import KeeperConfig, VisitKeeper
from daitn.terminal.visit_records import VisitTaken
from daitn.terminal.work import FetchInputs
from daitn.wire.center_tools import VisitOrder, VisitRefused

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


class SignedBench(Bench):
    """A centre that signs routes by a key."""

    def _make(self) -> Any:
        center = super()._make()

        def sign(itinerary: Itinerary) -> str:
            return sign_itinerary(KEY, itinerary)

        tools = msgspec.structs.replace(center._tools, sign_route=sign)
        return type(center)(self.config, tools)


def signed(**config: Any) -> SignedBench:
    made = bench(sites=3)
    return SignedBench(*made.nodes.values(), **config)


def version_of(made: Bench, node: NodeId, order: VisitOrder) -> int:
    return check_order(order, node, made.config.domain, KEY.public_key()).version


def issued(made: Bench) -> list[RouteIssued]:
    return [record for record in made.journal if isinstance(record, RouteIssued)]


# --- at the centre --------------------------------------------------------------------------------------------------


def test_orders_of_a_round_go_by_one_version_in_which_each_is_its_own_segment() -> None:
    made = signed()
    made.submit(make_request(method="fedavg"))
    made.answer_until(lambda state: sum(one.ordered.purpose == "train" for one in state.open.values()) == 3)

    orders = [one for one in made.orders() if one[1].route is not None]
    versions = {version_of(made, *one) for one in orders}

    assert len(orders) == 3
    assert versions == {issued(made)[-1].version}
    assert issued(made)[-1].visits == tuple(order.visit for _, order in orders)
    assert Action.AGGREGATE in [segment.action for segment in issued(made)[-1].ahead]


def test_each_visit_of_a_sequence_goes_by_a_newer_version_that_says_what_follows() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 3)

    versions = [record.version for record in issued(made)]
    ahead = [segment.action for record in issued(made) for segment in record.ahead]

    assert versions == list(range(1, len(versions) + 1))
    assert Action.TRAIN in ahead


def test_round_of_gossip_says_at_which_sites_its_groups_will_meet() -> None:
    made = SignedBench(*bench(sites=5).nodes.values())
    made.submit(make_request(method="gossip"))
    made.answer_until(lambda state: any(one.ordered.purpose == "aggregate" for one in state.open.values()))

    *_, before, now = issued(made)
    meet = [node for node, order in made.orders() if isinstance(order.work, AggregateWork)]
    assert len(meet) == 2
    assert [(one.action, one.node) for one in before.ahead] == [(Action.AGGREGATE, node) for node in meet]
    assert now.visits == tuple(made.state().open)
    made.answer_until(lambda state: any(one.ordered.purpose == "verify" for one in state.open.values()))
    assert Action.VERIFY in [segment.action for record in issued(made) for segment in record.ahead]


def test_order_that_is_sent_again_goes_by_the_version_that_stands() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)
    before = len(issued(made))

    made.wait(1.5)
    again = [message for receiver, message in made.sent if isinstance(message, VisitOrder) and receiver == node]

    assert len(again) > 1
    assert again[-1].visit == order.visit
    assert version_of(made, node, again[-1]) == version_of(made, node, order)
    assert len(issued(made)) == before


def test_restarted_centre_goes_on_with_the_version_that_stands() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)
    before = version_of(made, node, order)

    made.restart()
    node, order = the_order(made)

    assert version_of(made, node, order) == before
    assert made.state().route_version == before


def test_order_whose_purpose_the_owner_has_changed_is_sent_again_by_a_newer_version() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)
    before = version_of(made, node, order)

    made.give(ChangeAsked(job=JOB, request=changed(made.state().request, purpose="research")))
    made.wait(1.5)
    node, order = the_order(made)

    assert order.warrant.purpose == "research"
    assert version_of(made, node, order) == made.state().route_version > before


def test_order_that_its_site_calls_old_is_sent_by_the_newest_version_and_not_lost() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)
    version = version_of(made, node, order)
    made.sent.clear()

    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, reason="old", newest_route=version))

    assert made.state().lost == 0
    assert the_order(made)[1].visit == order.visit
    assert [message.visit for _, message in made.sent if isinstance(message, VisitOrder)] == [order.visit]


def test_a_site_that_claims_a_route_from_the_future_has_refused() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)

    made.say(node, VisitRefused(visit=order.visit, fence=order.fence, reason="old", newest_route=10**9))

    assert made.state().lost == 1


def test_log_tells_each_version_of_the_route() -> None:
    made = running()
    texts = [entry.text for entry in render_log(made.state(), str) if entry.kind == "route"]

    assert any("version 1 of the route: BIND" in text for text in texts)
    assert any("TRAIN" in text and "; then " in text for text in texts)


# --- at a terminal --------------------------------------------------------------------------------------------------


class Site:
    """A keeper that knows the centre's key, and its journal."""

    def __init__(self) -> None:
        self.journal: list[Any] = []
        self.start()

    def start(self) -> None:
        def check(order: VisitOrder) -> int:
            return check_order(order, NodeId("n0001"), DomainId("demo"), KEY.public_key()).version

        roles = Roles(data=DataNode({DataSetId("s1/records"): make_policy()}), computes=True)
        self.keeper = VisitKeeper(KeeperConfig(slots=2), roles, lambda report: "signed", check)
        replay(self.keeper, self.journal)

    def hear(self, order: VisitOrder) -> list[Effect]:
        effects = self.keeper.handle(Delivered(sender=CENTER, message=order), START_NS)
        for effect in effects:
            if isinstance(effect, Append):
                self.journal += effect.records
        return effects


def order_by(number: int, version: int) -> VisitOrder:
    from daitn.artifacts.itineraries import RouteTree, segment_of
    from daitn.descriptors.itinerary import Passage

    order = make_order(number)
    tree = RouteTree([segment_of(order, NodeId("n0001"))])
    route = Itinerary(domain=DomainId("demo"), job=JOB, version=version, segments=1, root=tree.root)
    return msgspec.structs.replace(order, route=Passage(token=sign_itinerary(KEY, route), place=0))


def test_order_without_a_signed_route_is_refused_counted_and_leaves_no_trace() -> None:
    site = Site()

    (refused,) = messages(VisitRefused, site.hear(make_order()))

    assert "came without a route" in refused.reason
    assert not refused.faults
    assert site.journal == []
    assert site.keeper.counters.shown() == {"routes_refused[unsigned]": 1}


def test_order_that_is_not_in_its_route_is_refused_and_counted() -> None:
    site = Site()
    order = msgspec.structs.replace(order_by(1, 1), fence=9)

    (refused,) = messages(VisitRefused, site.hear(order))

    assert "does not have this order" in refused.reason
    assert site.keeper.counters.shown() == {"routes_refused[not-in-it]": 1}


def test_order_by_an_older_version_is_refused_with_the_newest_even_after_a_restart() -> None:
    site = Site()
    assert any(isinstance(effect, FetchInputs) for effect in site.hear(order_by(2, 5)))
    site.start()

    (refused,) = messages(VisitRefused, site.hear(order_by(1, 4)))

    assert refused.newest_route == 5
    assert "version 4 of the route of job job-1 is an old one: version 5 was here" in refused.reason
    assert [record.route for record in site.journal if isinstance(record, VisitTaken)] == [5]


def test_order_by_the_same_or_a_newer_version_is_taken() -> None:
    site = Site()
    for number, version in ((1, 5), (2, 5), (3, 6)):
        assert any(isinstance(effect, FetchInputs) for effect in site.hear(order_by(number, version)))


def test_visit_that_was_taken_goes_on_whatever_route_its_order_comes_by_again() -> None:
    site = Site()
    site.hear(order_by(1, 5))
    site.hear(order_by(2, 6))

    again = site.hear(order_by(1, 5))

    assert not messages(VisitRefused, again)
    assert any(isinstance(effect, Send) for effect in again)


def test_budget_of_one_visit_ends_with_a_route_of_what_was_done() -> None:
    made = signed()
    made.submit(make_request(budget=Budget(visits=1)))
    made.answer_until(lambda state: state.visits >= 1)

    for node, order in made.orders():
        assert version_of(made, node, order) == made.state().route_version


def test_another_nodes_order_is_no_segment_here() -> None:
    made = signed()
    made.submit()
    made.answer_until(lambda state: state.visits >= 1)
    node, order = the_order(made)

    assert node != NodeId("n9999")
    with pytest.raises(PolicyError, match="n9999"):
        version_of(made, NodeId("n9999"), order)

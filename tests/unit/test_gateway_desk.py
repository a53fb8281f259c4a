"""Gateways: told whole states, again when behind, and hosts are told who they are."""

from __future__ import annotations

from typing import Any

from tests.builders import make_site
from tests.unit.test_deployment_desk import Domain, make_host

from daitn.assembly.terminal import concerns_gateway
from daitn.base.effects import Delivered, Effect, PeerVanished, Send, SetTimer, Started
from daitn.base.ids import CENTER, ArtifactId, ModelName, NodeId, OwnerId
from daitn.control_center.inference.commands import KeysListed
from daitn.descriptors.grant import Holder
from daitn.descriptors.latency import BUCKETS, bucket_of
from daitn.descriptors.places import RoundTrip
from daitn.descriptors.serving import ApiKey, ServedModel, ServingGoal
from daitn.descriptors.terminals import Role
from daitn.node.serving.counting import QueryCounts
from daitn.terminal.gateway import Gateway, OutcomesCounted, QueriesCounted, TakeKeys, TakeRoutes
from daitn.wire.center_serving import DemandTold, KeysGiven, QueriesOf, RoutesGiven, RoutesHeld
from daitn.wire.topology_tools import TerminalGathered

SIDES = ServedModel(model=ModelName("sides"), artifact=ArtifactId("a" * 64), owner=OwnerId("ada"), goal=ServingGoal())
GATE = NodeId("n0009")
KEY = ApiKey(digest="a" * 64, owner=OwnerId("app"), expires_unix_s=1e9)


def with_gateway() -> Domain:
    gate = make_site(9, data=(), compute=None, roles=(Role.GATEWAY,))
    domain = Domain(make_host(1), make_host(2), gate)
    domain.deploy("= 1 replicas")
    return domain


def sent(effects: list[Effect], kind: type) -> list[Any]:
    return [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, kind)]


def held(domain: Domain, routes: int = 0, keys: int = 0) -> list[Effect]:
    return domain.do(Delivered(sender=GATE, message=RoutesHeld(routes=routes, keys=keys)))


def test_gateway_is_told_routes_and_keys_until_it_has_them() -> None:
    domain = with_gateway()
    (node,) = domain.placed()
    domain.serve(node)
    domain.do(KeysListed(keys=(KEY,)))

    (routes,) = sent(held(domain), RoutesGiven)
    (keys,) = sent(held(domain), KeysGiven)
    assert [route.host.node for route in routes.models[0].routes] == [node]
    assert keys.keys == (KEY,)
    assert held(domain, routes.sequence, keys.sequence) == []
    assert sent(held(domain, routes.sequence + 10**9, keys.sequence), RoutesGiven)[0].sequence > routes.sequence + 10**9


def test_hosts_are_told_who_may_ask_and_nobody_else_is_given_routes() -> None:
    domain = with_gateway()

    assert domain.told[NodeId("n0001")].gateways == (GATE,)
    effects = domain.do(Delivered(sender=NodeId("n0001"), message=RoutesHeld(routes=0, keys=0)))
    assert sent(effects, RoutesGiven) == []
    assert domain.center.counters.of("messages_for_another_role") == 1


def test_gateway_takes_what_is_new_from_the_centre_only() -> None:
    gateway = Gateway()
    (tell, timer) = gateway.handle(Started(), 0)
    assert isinstance(tell, Send)
    assert isinstance(timer, SetTimer)

    given = RoutesGiven(sequence=5)
    assert gateway.handle(Delivered(sender=NodeId("n0001"), message=given), 0) == []
    assert gateway.counters.of("messages_not_from_center") == 1
    first = gateway.handle(Delivered(sender=CENTER, message=given), 0)
    again = gateway.handle(Delivered(sender=CENTER, message=given), 0)
    assert [type(one) for one in first] == [TakeRoutes, Send]
    assert [type(one) for one in again] == [Send]
    keys = gateway.handle(Delivered(sender=CENTER, message=KeysGiven(sequence=7, keys=(KEY,))), 0)
    assert keys[0] == TakeKeys(keys=(KEY,))
    assert sent(keys, RoutesHeld) == [RoutesHeld(routes=5, keys=7)]


def test_gateway_tells_what_it_is_asked_and_that_it_ends_and_then_nothing() -> None:
    gateway = Gateway()
    count = QueriesOf(model=ModelName("sides"), queries=3, bytes=360.0)

    assert sent(gateway.handle(QueriesCounted(seconds=2.0), 0), DemandTold) == []
    (told,) = sent(gateway.handle(QueriesCounted(seconds=2.0, counts=(count,)), 0), DemandTold)
    assert told.counts == (count,)
    after = [len(sent(gateway.handle(QueriesCounted(seconds=2.0), 0), DemandTold)) for _ in range(30)]
    assert after == [1] * 15 + [0] * 15


def test_queries_of_served_models_are_counted_and_told_at_once_where_no_host_answers() -> None:
    posted: list[Any] = []
    counts = QueryCounts(posted.append)
    for _ in range(3):
        counts.asked(ModelName("sides"), 120)
    for _ in range(2):
        counts.missing(ModelName("sides"))

    (told,) = posted
    assert [(one.model, one.queries, one.bytes) for one in told.counts] == [("sides", 3, 360.0)]


def test_queries_that_ended_are_told_by_how_long_they_took_also_where_none_came() -> None:
    posted: list[Any] = []
    counts = QueryCounts(posted.append)
    counts.asked(ModelName("sides"), 120)
    counts.tell()
    for seconds in (0.01, 0.01, None):
        counts.ended(SIDES, seconds)
    counts.tell()
    counts.tell()

    told = [[(one.queries, one.took) for one in each.counts] for each in posted if isinstance(each, QueriesCounted)]
    assert told == [[(1, {})], [(0, {bucket_of(0.01): 2, BUCKETS - 1: 1})], []]


def test_what_hands_count_reaches_the_gateways_core() -> None:
    assert concerns_gateway(QueriesCounted(seconds=1.0))
    assert concerns_gateway(OutcomesCounted(since=1, outcomes=()))


def test_gateways_are_told_of_each_other_while_they_can_be_reached() -> None:
    gates = [make_site(number, data=(), compute=None, roles=(Role.GATEWAY,)) for number in (8, 9)]
    domain = Domain(make_host(1), *gates)
    domain.deploy("= 1 replicas")

    def known() -> list[str]:
        (routes,) = sent(held(domain), RoutesGiven)
        return [one.node for one in routes.gateways]

    assert known() == ["n0008", "n0009"]
    effects = domain.do(PeerVanished(node=NodeId("n0008")))
    assert [one.node for one in sent(effects, RoutesGiven)[0].gateways] == ["n0009"]
    assert known() == ["n0009"]
    core = Gateway()
    given = RoutesGiven(sequence=7, gateways=(Holder(node=GATE),))
    taken = [one for one in core.handle(Delivered(sender=CENTER, message=given), 0) if isinstance(one, TakeRoutes)]
    assert [one.gateways for one in taken] == [(Holder(node=GATE),)]


def test_each_gateway_is_told_its_own_way_to_a_host_where_the_map_knows_it() -> None:
    gates = [make_site(number, data=(), compute=None, roles=(Role.GATEWAY,)) for number in (8, 9)]
    domain = Domain(make_host(1), *gates)
    domain.deploy("= 1 replicas")
    (node,) = domain.placed()
    measured = (RoundTrip(peer=node, seconds=0.12),)
    domain.center.knowledge.gathered.take(TerminalGathered(node=GATE, round_trips=measured), domain.now_ns)

    domain.serve(node)

    told = {}
    for gate in (GATE, NodeId("n0008")):
        (given,) = sent(domain.do(Delivered(sender=gate, message=RoutesHeld(routes=0, keys=0))), RoutesGiven)
        told[gate] = given.models[0].routes[0].path_s
    assert told == {GATE: 0.12, NodeId("n0008"): None}

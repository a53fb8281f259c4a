"""Deployment desk: what is placed where, who is told, and what happens when hosts fail, are slow, or are lost."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from tests.builders import make_site, named

from daitn.base.effects import (
    Append,
    Compute,
    Delivered,
    Effect,
    Event,
    PeerAppeared,
    PeerVanished,
    Send,
    SetTimer,
    Started,
    TimerFired,
    computed,
    replay,
)
from daitn.base.ids import ArtifactId, DomainId, ModelName, NodeId, OwnerId
from daitn.control_center.center import ControlCenter
from daitn.control_center.config import CenterConfig, CenterTools, Member
from daitn.control_center.inference.commands import DeployAsked, UndeployAsked
from daitn.control_center.inference.deployment_desk import WINDOW_TIMER
from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.latency import bucket_of
from daitn.descriptors.places import RoundTrip
from daitn.descriptors.serving import (
    EngineKind,
    HostDescriptor,
    ModelNeeds,
    Replica,
    ReplicaMeasured,
    ReplicaPhase,
    parse_goal,
)
from daitn.descriptors.terminals import NodeDescriptor, Role
from daitn.wire.center_serving import DemandTold, ModelsServed, QueriesOf, ServeModels
from daitn.wire.topology_tools import Describe, TerminalGathered

S = 1_000_000_000
MODEL = ModelName("sides")
PACKAGE = ArtifactId("a" * 64)
NEEDS = ModelNeeds(kind="graph", payload_bytes=1000, memory_bytes=100, signer="key")


def make_host(number: int, **changes: Any) -> NodeDescriptor:
    host = HostDescriptor(engines=(EngineKind.TORCH_GRAPH,), memory_bytes=changes.pop("memory_bytes", 250))
    host = msgspec.structs.replace(host, policy=changes.pop("policy", HostPolicy()))
    return make_site(number, data=(), compute=None, roles=(Role.HOST,), host=host, **changes)


def make_gate(number: int, region: str) -> NodeDescriptor:
    return make_site(number, data=(), compute=None, roles=(Role.GATEWAY,), region=region)


def demand(gateway: str, queries: int, took_s: float | None = None) -> Delivered:
    took = {} if took_s is None else {bucket_of(took_s): queries}
    counts = (QueriesOf(model=MODEL, queries=queries, bytes=120.0 * queries, took=took),) if queries else ()
    return Delivered(sender=NodeId(gateway), message=DemandTold(seconds=2.0, counts=counts))


class Domain:
    """A centre with hosts, driven by hand."""

    def __init__(self, *hosts: NodeDescriptor) -> None:
        self.now_ns = 1000 * S
        self.hosts = {host.node: host for host in hosts}
        self.records: list[Any] = []
        self.told: dict[NodeId, ServeModels] = {}
        self.center = self._center()
        self.do(Started())
        for host in hosts:
            self.do(PeerAppeared(node=host.node))
            self.do(Delivered(sender=host.node, message=Describe(descriptor=host, sequence=1, generated_unix_s=1000.0)))

    def _center(self) -> ControlCenter:
        def member(node: NodeId) -> Member | None:
            host = self.hosts.get(node)
            roles = ("host", "gateway", "verification")
            return None if host is None else Member(name=host.name, operator=host.operator, roles=roles)

        tools = CenterTools(
            issue=lambda grant: f"grant {grant.id}", sign_route=named, verify=lambda *_: True, member=member
        )
        return ControlCenter(CenterConfig(domain=DomainId("d")), tools)

    def do(self, event: Event, after_s: float = 0.0) -> list[Effect]:
        self.now_ns += int(after_s * S)
        effects = self.center.handle(event, self.now_ns)
        self.center.check_invariants()
        for effect in effects:
            if isinstance(effect, Append):
                self.records += effect.records
            if isinstance(effect, Send) and isinstance(effect.message, ServeModels):
                self.told[effect.receiver] = effect.message
        for effect in [one for one in effects if isinstance(one, Compute)]:
            effects += self.do(computed(effect))
        return effects

    def restart(self) -> None:
        self.center = self._center()
        self.told = {}
        replay(self.center, self.records)
        self.do(Started())

    def deploy(self, goal: str = "= 2 replicas", package: ArtifactId = PACKAGE) -> None:
        self.do(DeployAsked(model=MODEL, owner=OwnerId("ada"), artifact=package, goal=parse_goal(goal), needs=NEEDS))

    def serve(
        self, node: str, phase: ReplicaPhase = ReplicaPhase.SERVING, *, why: str = "", row_s: float = 0.001
    ) -> None:
        """The host says that it has done as it was told last."""
        told = self.told[NodeId(node)]
        replicas = tuple(
            Replica(
                model=order.model,
                artifact=order.artifact,
                phase=phase,
                why=why,
                measured=ReplicaMeasured(row_s=row_s, batch_s=row_s),
            )
            for order in told.orders
        )
        self.do(Delivered(sender=NodeId(node), message=ModelsServed(sequence=told.sequence, replicas=replicas)))

    def asked(self, seconds: int, took_s: float | None = None, **per_s: int) -> None:
        """Gateways are asked so much for a while, and tell it; placements are looked at meanwhile."""
        for _ in range(0, seconds, 2):
            self.now_ns += 2 * S
            for gateway, rate in per_s.items():
                self.do(demand(gateway, 2 * rate, took_s))
            self.do(TimerFired(name="placing"))

    def staying(self) -> set[str]:
        return set(self.center.inference.deployment.models[MODEL].staying)

    def placed(self) -> set[str]:
        return set(self.center.inference.deployment.models[MODEL].placed)

    def routes(self) -> set[str]:
        (served,) = self.center.inference.deployment.served()
        return {route.host.node for route in served.routes}

    def ordered(self) -> set[str]:
        return {node for node, told in self.told.items() if told.orders}


def test_model_goes_to_as_many_hosts_as_wanted_spread_over_regions() -> None:
    domain = Domain(
        make_host(1, region="north"), make_host(2, region="north", memory_bytes=200), make_host(3, region="south")
    )
    domain.deploy()

    assert domain.placed() == domain.ordered() == {"n0001", "n0003"}
    assert domain.routes() == set()
    domain.serve("n0001")
    assert domain.routes() == {"n0001"}
    (order,) = domain.told[NodeId("n0003")].orders
    assert order.package.grant == "grant model:sides:n0003"


def test_admission_lists_every_condition_that_fails() -> None:
    domain = Domain(make_host(1, memory_bytes=50), make_host(2, policy=HostPolicy(owners=("bob",))))
    goal = parse_goal("accuracy >= 90%, >= 2 replicas, <= 2 replicas")

    admission = domain.center.inference.deployment.judge(NEEDS, goal, OwnerId("ada"), {"accuracy": 0.8}, MODEL)

    failed = {one.code: str(one) for one in admission.failed()}
    assert set(failed) == {"memory", "replicas", "quality"}
    assert failed["memory"] == "memory: required 100 bytes, available 50 bytes at most"
    assert failed["quality"] == "quality: required accuracy >= 0.9, available 0.8 measured"


def test_weights_lie_at_hosts_of_the_operators_that_the_goal_names_and_licences_that_hosts_take() -> None:
    domain = Domain(
        make_host(1, operator="clinic"),
        make_host(2, operator="lab"),
        make_host(3, operator="clinic", policy=HostPolicy(licences=("MIT",))),
    )
    desk = domain.center.inference.deployment

    def judged(goal: str, licence: str = "") -> tuple[list[str], list[str]]:
        needs = msgspec.structs.replace(NEEDS, licence=licence)
        admission = desk.judge(needs, parse_goal(goal), OwnerId("ada"), {}, MODEL)
        return sorted(admission.candidates), [str(one) for one in admission.failed()]

    assert judged("operator clinic, = 1 replicas") == (["n0001"], [])
    assert judged("operator clinic, operator lab, = 2 replicas", "MIT") == (["n0001", "n0002", "n0003"], [])
    hosts, failed = judged("operator other clinic, = 1 replicas")
    assert hosts == []
    assert failed[0] == "operator: required other clinic, available clinic, lab"


def test_host_that_vanishes_is_not_asked_at_once_and_replaced_after_patience() -> None:
    domain = Domain(make_host(1), make_host(2), make_host(3))
    domain.deploy()
    for node in sorted(domain.placed()):
        domain.serve(node)
    lost, kept = sorted(domain.placed())

    domain.do(PeerVanished(node=NodeId(lost)), after_s=1)
    assert domain.routes() == {kept}
    assert lost in domain.placed()

    domain.do(TimerFired(name="hosting"), after_s=5)
    assert domain.placed() == {kept, "n0003"}

    domain.do(PeerAppeared(node=NodeId(lost)), after_s=1)
    assert domain.told[NodeId(lost)].orders == ()


def test_host_that_comes_back_in_time_keeps_its_replica_once_it_says_so() -> None:
    domain = Domain(make_host(1), make_host(2), make_host(3))
    domain.deploy("= 1 replicas")
    (node,) = domain.placed()
    domain.serve(node)

    domain.do(PeerVanished(node=NodeId(node)), after_s=1)
    domain.do(PeerAppeared(node=NodeId(node)), after_s=1)
    assert domain.routes() == set()  # its engines may be gone
    domain.serve(node)
    domain.do(TimerFired(name="hosting"), after_s=10)

    assert domain.placed() == domain.routes() == {node}


def test_host_that_failed_or_is_too_slow_is_not_asked_again_for_this_package() -> None:
    domain = Domain(make_host(1), make_host(2))
    domain.deploy("p95 <= 5 ms, = 1 replicas")
    (first,) = domain.placed()
    domain.serve(first, ReplicaPhase.FAILED, why="no memory")
    (second,) = domain.placed()
    assert second != first
    domain.serve(second, row_s=0.02)

    assert domain.placed() == set()
    model = domain.center.inference.deployment.models[MODEL]
    assert "20.0 ms" in model.failed[NodeId(second)]
    assert model.failed[NodeId(first)] == "no memory"

    domain.deploy("= 1 replicas", ArtifactId("b" * 64))
    assert len(domain.placed()) == 1


def test_host_that_is_behind_is_told_again_and_one_that_is_not_is_left_alone() -> None:
    domain = Domain(make_host(1))
    domain.deploy("= 1 replicas")
    told = domain.told.pop(NodeId("n0001"))

    old = Delivered(sender=NodeId("n0001"), message=ModelsServed(sequence=told.sequence - 1))
    domain.do(old)
    domain.do(old)
    assert domain.told[NodeId("n0001")].sequence == told.sequence
    domain.serve("n0001")
    domain.told.clear()
    domain.do(old)
    domain.told.clear()


def test_restarted_centre_knows_what_was_placed_and_asks_hosts_anew() -> None:
    domain = Domain(make_host(1), make_host(2))
    domain.deploy("= 1 replicas")
    (node,) = domain.placed()
    before = domain.told[NodeId(node)].sequence
    domain.serve(node)

    domain.restart()
    assert domain.placed() == {node}
    domain.do(PeerAppeared(node=NodeId(node)))
    domain.do(
        Delivered(
            sender=NodeId(node),
            message=ModelsServed(
                sequence=before,
                replicas=(Replica(model=MODEL, artifact=PACKAGE, phase=ReplicaPhase.SERVING),),
            ),
        ),
        after_s=1,
    )
    assert domain.told[NodeId(node)].sequence > before
    assert domain.routes() == {node}


def test_withdrawn_model_is_dropped_everywhere() -> None:
    domain = Domain(make_host(1))
    domain.deploy("= 1 replicas")
    domain.do(UndeployAsked(model=MODEL))

    assert domain.center.inference.deployment.served() == ()
    assert domain.told[NodeId("n0001")].orders == ()


def test_fewer_replicas_and_other_regions_are_followed_without_another_package() -> None:
    domain = Domain(make_host(1, region="north"), make_host(2, region="south"))
    domain.deploy("= 2 replicas")
    domain.deploy("= 1 replicas, region south")

    assert domain.staying() == {"n0002"}
    domain.do(TimerFired(name="hosting"), after_s=61)
    assert domain.placed() == {"n0002"}, "whether others answer or not"


def test_replica_that_moves_answers_until_another_does_and_ends_once_gateways_ask_it_no_more() -> None:
    domain = Domain(make_host(1, region="north"), make_host(2, region="south"))
    domain.deploy("= 1 replicas, region north")
    domain.serve("n0001")
    domain.deploy("= 1 replicas, region south")

    assert domain.placed() == domain.ordered() == {"n0001", "n0002"}
    assert domain.routes() == {"n0001"}
    domain.serve("n0002")
    assert domain.routes() == {"n0002"}
    assert domain.ordered() == {"n0001", "n0002"}, "what is under way there is answered"
    domain.do(TimerFired(name="hosting"), after_s=3.1)
    assert domain.placed() == domain.ordered() == {"n0002"}
    model = domain.center.inference.deployment.models[MODEL]
    assert model.replacements == 0
    domain.restart()
    assert domain.placed() == {"n0002"}


def test_model_follows_its_queries_and_stays_where_a_move_would_save_less_than_it_costs() -> None:
    gates = [make_gate(8, "north"), make_gate(9, "south")]
    domain = Domain(make_host(1, region="north"), make_host(2, region="south"), *gates)
    domain.deploy(">= 1 replicas, <= 1 replicas")
    domain.asked(60, n0008=12, n0009=10)
    domain.serve(*domain.staying())
    assert domain.staying() == {"n0001"}

    domain.asked(60, n0008=10, n0009=10)
    assert domain.staying() == {"n0001"}, "the other place is as good, and moving is not free"

    domain.asked(60, n0008=0, n0009=40)
    assert domain.staying() == {"n0002"}
    assert domain.routes() == {"n0001"}
    domain.serve("n0002")
    assert domain.routes() == {"n0002"}
    plan = domain.center.inference.deployment.placing.plans[MODEL]
    assert plan.cost_s <= plan.kept_cost_s
    assert plan.bound_s == pytest.approx(plan.cost_s), "proven"


def test_more_is_asked_than_one_replica_serves_and_another_one_is_placed() -> None:
    domain = Domain(make_host(1), make_host(2), make_host(3), make_gate(9, ""))
    domain.deploy(">= 1 replicas, <= 3 replicas")
    domain.serve(*domain.staying(), row_s=0.01)
    domain.asked(60, n0009=30)
    assert len(domain.staying()) == 1

    domain.asked(120, n0009=120)
    assert len(domain.staying()) == 2, "one computes a hundred a second, seven tenths of which it is given"


def test_answers_that_take_longer_than_the_goal_allows_get_more_replicas_which_go_again_once_they_are_quick() -> None:
    domain = Domain(make_host(1), make_host(2), make_host(3), make_gate(9, ""))
    domain.deploy("p95 <= 50 ms, >= 1 replicas, <= 3 replicas")
    domain.serve(*domain.staying(), row_s=0.01)
    desk = domain.center.inference.deployment
    domain.asked(60, 0.02, n0009=40)
    (shown,) = desk.demand.latencies(MODEL, desk.models[MODEL].goal, domain.now_ns)
    assert shown.kept
    assert shown.measured_s == pytest.approx(0.02, rel=0.2)
    assert len(domain.staying()) == 1

    domain.asked(60, 0.3, n0009=40)
    (shown,) = desk.demand.latencies(MODEL, desk.models[MODEL].goal, domain.now_ns)
    assert shown.kept is False
    assert len(domain.staying()) == 2, "one is planned to be busy for less of its time"
    for node in domain.staying():
        domain.serve(node, row_s=0.01)
    domain.asked(3600, 0.02, n0009=40)
    assert len(domain.staying()) == 1


def test_latency_is_not_judged_by_few_answers_and_lost_ones_count_as_slow() -> None:
    domain = Domain(make_host(1), make_gate(9, ""))
    domain.deploy("p95 <= 50 ms, p50 <= 5 s, = 1 replicas")
    desk = domain.center.inference.deployment
    goal = desk.models[MODEL].goal
    domain.do(demand("n0009", 99, 0.02))
    assert [one.kept for one in desk.demand.latencies(MODEL, goal, domain.now_ns)] == [None, True]
    domain.do(demand("n0009", 20, math.inf))
    tail, median = desk.demand.latencies(MODEL, goal, domain.now_ns)
    assert (tail.measured_s, tail.kept) == (None, False)
    assert (median.kept, median.answers) == (True, 117)


def test_goal_that_no_host_is_near_enough_for_is_refused_with_the_nearest() -> None:
    domain = Domain(make_host(1), make_host(2), make_gate(9, ""))
    desk, goal = domain.center.inference.deployment, parse_goal("p95 <= 10 ms, = 1 replicas")
    assert desk.judge(NEEDS, goal, OwnerId("ada"), {}, MODEL).admitted, "nobody has measured it"
    ways: list[RoundTrip] = []
    for node, seconds in (("n0001", 0.04), ("n0002", 0.02)):
        assert "n0002" in desk.judge(NEEDS, goal, OwnerId("ada"), {}, MODEL).candidates
        ways.append(RoundTrip(peer=NodeId(node), seconds=seconds))
        measured = TerminalGathered(node=NodeId("n0009"), round_trips=tuple(ways))
        domain.center.knowledge.gathered.take(measured, domain.now_ns)
    failed = desk.judge(NEEDS, goal, OwnerId("ada"), {}, MODEL).failed()[0]
    assert str(failed) == ("latency: required a host within 10 ms of a gateway, available the nearest is 20.0 ms away")


def test_model_nobody_asks_has_no_replica_where_its_goal_allows_that_and_gets_one_when_it_is_asked() -> None:
    domain = Domain(make_host(1), make_gate(9, ""))
    domain.deploy(">= 0 replicas, <= 1 replicas, idle 60 s")
    domain.do(TimerFired(name="placing"), after_s=5)
    assert domain.staying() == {"n0001"}, "it is tried once, whoever asks"
    domain.serve("n0001")

    domain.do(TimerFired(name="placing"), after_s=61)
    domain.do(TimerFired(name="hosting"), after_s=4)
    assert domain.placed() == domain.ordered() == domain.routes() == set()

    for _ in range(2):
        domain.do(demand("n0009", 1), after_s=30)
        assert domain.staying() == {"n0001"}
        domain.serve("n0001")
        assert domain.routes() == {"n0001"}
        domain.do(TimerFired(name="placing"), after_s=61)
        domain.do(TimerFired(name="hosting"), after_s=4)
        assert domain.placed() == set()


def test_demand_is_on_the_map_and_leaves_it_again() -> None:
    domain = Domain(make_host(1), make_gate(9, "south"))
    domain.deploy("p95 <= 50 ms, = 1 replicas")
    domain.asked(60, n0009=10)
    table = domain.center.knowledge.facts[Kind.QUERY]

    row = table.row_of("sides@south")
    assert row is not None
    assert table.value(row, "asked_per_s") == pytest.approx(10, rel=0.2)
    assert table.value(row, "asked_per_s_soon") == pytest.approx(10, rel=0.5)
    assert table.value(row, "latency_goal_s") == pytest.approx(0.05)
    domain.do(TimerFired(name="placing"), after_s=60)
    assert table.row_of("sides@south") is None


def test_demand_told_by_a_node_that_is_no_gateway_is_counted_and_not_believed() -> None:
    domain = Domain(make_host(1), make_host(2))
    domain.deploy("= 1 replicas")
    domain.do(demand("n0002", 1000))

    assert domain.center.counters.of("messages_for_another_role") == 1
    assert domain.center.inference.deployment.demand.demands({}, domain.now_ns) == ()


def test_what_a_host_serves_is_on_the_map_and_leaves_it_again() -> None:
    domain = Domain(make_host(1))
    domain.deploy("= 1 replicas")
    domain.serve("n0001")
    models = domain.center.knowledge.facts[Kind.MODEL]

    row = models.row_of("s1/sides")
    assert row is not None
    assert models.value(row, "model_accessible") is True
    assert models.value(row, "task") == "tensors"
    assert models.value(row, "service_s") == pytest.approx(0.001)

    domain.do(UndeployAsked(model=MODEL))
    told = domain.told[NodeId("n0001")]
    domain.do(Delivered(sender=NodeId("n0001"), message=ModelsServed(sequence=told.sequence)))
    assert models.row_of("s1/sides") is None


def passes(start_s: float, seconds: float) -> Access:
    """There for a while in every hour."""
    window = Window(start_unix_s=start_s, seconds=seconds, every_s=3600.0)
    return Access(kind=AccessKind.SATELLITE, windows=(window,))


def test_host_is_asked_nothing_outside_its_window_and_gateways_are_told_when_it_opens_and_closes():
    domain = Domain(make_host(1, access=passes(900.0, 300.0)), make_host(2))
    domain.deploy()
    for node in ("n0001", "n0002"):
        domain.serve(node)
    assert domain.routes() == {"n0001", "n0002"}

    timers = [one for one in domain.do(TimerFired(name=WINDOW_TIMER)) if isinstance(one, SetTimer)]
    (due_ns,) = [one.at_ns for one in timers if one.name == WINDOW_TIMER]
    assert due_ns == 1140 * S, "a minute before it closes"
    domain.do(TimerFired(name=WINDOW_TIMER), after_s=200)
    assert domain.routes() == {"n0002"}
    domain.do(TimerFired(name=WINDOW_TIMER), after_s=3300)
    assert domain.routes() == {"n0001", "n0002"}


def test_replica_is_brought_elsewhere_before_the_window_of_its_host_closes():
    domain = Domain(make_host(1, access=passes(900.0, 300.0)), make_host(2, access=passes(990.0, 40.0)))
    domain.deploy("= 1 replica")
    domain.serve("n0001")
    assert domain.placed() == {"n0001"}, "the other one's closes sooner"

    domain.hosts[NodeId("n0003")] = third = make_host(3)
    domain.do(PeerAppeared(node=third.node))
    domain.do(Delivered(sender=third.node, message=Describe(descriptor=third, sequence=1, generated_unix_s=1000.0)))
    domain.do(TimerFired(name="placing"), after_s=150)

    assert domain.staying() == {"n0003"}
    assert domain.routes() == {"n0001"}, "which answers until the new one does"
    domain.serve("n0003")
    assert domain.routes() == {"n0003"}

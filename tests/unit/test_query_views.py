"""Query views: which hosts a query may be sent to and why not, what is asked, deltas, and what weighs reports."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import START_NS, make_site
from tests.unit.test_deployment_desk import Domain, make_host

from daitn.base.effects import Compute, TimerFired
from daitn.base.errors import BugError, InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.base.units import NS_PER_S
from daitn.decision.query_route.standing import ranges_of, standing_of
from daitn.describe.reporting import registered_shape
from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.query_view import (
    HOSTS_MOST,
    HostCandidate,
    HostReason,
    QueryDemand,
    QueryRequest,
    QueryView,
    QueryViewDelta,
)
from daitn.descriptors.reporting import Reading
from daitn.descriptors.serving import (
    EngineKind,
    HostDescriptor,
    QueryGoal,
    Replica,
    ReplicaMeasured,
    ReplicaPhase,
)
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import Role
from daitn.descriptors.texts import TextTask
from daitn.descriptors.uncertainty import encode_deviations
from daitn.terminal.fact_reporter import measured_facts
from daitn.topology.knowledge_map import CONSENT_AGE_S, KnowledgeMap
from daitn.topology.orchestrator import TUNE_TIMER, ReadingsAccepted
from daitn.topology.query_adapter import QueryViewAdapter, apply_query_delta, query_delta
from daitn.topology.query_views import demands_of, make_query_view
from daitn.topology.thresholds import ThresholdsSought
from daitn.topology.view_updates import ViewUpdates
from daitn.wire.packed_facts import encode_records, record_dtype

HOST = HostDescriptor(engines=(EngineKind.TORCH_GRAPH,), memory_bytes=1000)


def make_replica() -> Replica:
    return Replica(model=ModelName("sides"), artifact=ArtifactId("a" * 64), phase=ReplicaPhase.SERVING)


class Hosts:
    """A map of hosts that serve one model each, with what is measured of them."""

    def __init__(self) -> None:
        self.knowledge = KnowledgeMap()
        self.now_ns = START_NS

    def add(
        self,
        number: int,
        model: str = "sides",
        *,
        service_s: float = 0.01,
        queue_s: float | None = None,
        round_trip_s: float | None = None,
        quality: dict[str, float] | None = None,
        **changes: Any,
    ) -> NodeId:
        site = make_site(number, data=(), compute=None, roles=(Role.HOST,), **({"host": HOST} | changes))
        self.knowledge.describe(site, 1, self.now_ns)
        replica = Replica(
            model=ModelName(model),
            artifact=ArtifactId("a" * 64),
            phase=ReplicaPhase.SERVING,
            measured=ReplicaMeasured(memory_bytes=100, row_s=service_s),
        )
        self.knowledge.hosted(site.node, {model: (replica, quality or {})}, self.now_ns)
        if round_trip_s is not None:
            self.knowledge.measured_round_trip(site.node, round_trip_s, 0.001, self.now_ns)
        if queue_s is not None:
            self.queue(number, queue_s, model)
        return site.node

    def queue(self, number: int, seconds: float, model: str = "sides") -> None:
        table = self.knowledge.facts[Kind.MODEL]
        row = table.row_of(f"s{number}/{model}")
        assert row is not None
        table.note(
            row,
            "model_state",
            {"model_queue_s": seconds},
            source=1,
            generated_ns=self.now_ns,
            received_ns=self.now_ns,
            deviations={"model_queue_s": 0.01},
        )

    def view(self, **request: Any) -> QueryView:
        return make_query_view(self.knowledge.facts, QueryRequest(**request), self.now_ns)


def names(view: QueryView) -> list[str]:
    return [one.thing for one in view.hosts]


def reasons(view: QueryView) -> dict[str, HostReason]:
    return {one.thing: one.reason for one in view.excluded}


def test_hosts_of_a_model_are_candidates_the_soonest_first():
    hosts = Hosts()
    hosts.add(1, service_s=0.02, queue_s=0.3)
    hosts.add(2, service_s=0.03, queue_s=0.1, round_trip_s=0.05, region="north")
    hosts.add(3, model="other")

    view = hosts.view(model="sides")

    assert names(view) == ["s2/sides", "s1/sides"]
    first = view.hosts[0]
    assert (first.model, first.host, first.region) == ("sides", "n0002", "north")
    assert first.completion_s == pytest.approx(0.18)
    assert first.deviation_s == pytest.approx(0.0099, abs=0.001)
    assert (view.made_at_ns, view.excluded_in_all) == (START_NS, 0)
    assert names(hosts.view()) == ["s3/other", "s2/sides", "s1/sides"]


def test_hosts_that_may_not_serve_are_named_with_the_reason():
    hosts = Hosts()
    quality = {"accuracy": 0.9, "accuracy@north": 0.7}
    hosts.add(1, region="north", quality=quality, queue_s=0.1)
    hosts.add(2, region="south", quality=quality)
    hosts.add(3, region="north")
    hosts.add(4, region="north", quality=quality | {"accuracy@north": 0.4})
    hosts.add(5, region="north", quality=quality, queue_s=9.0)
    hosts.knowledge.vanished(hosts.add(6, region="north", quality=quality))

    view = hosts.view(model="sides", goal=QueryGoal(region="north", field="north", quality_least=0.6, deadline_s=1.0))

    assert names(view) == ["s1/sides"]
    assert view.hosts[0].accuracy == pytest.approx(0.7)
    assert reasons(view) == {
        "s2/sides": HostReason.REGION,
        "s3/sides": HostReason.NOT_MEASURED,
        "s4/sides": HostReason.QUALITY,
        "s5/sides": HostReason.LATE,
        "s6/sides": HostReason.NOT_REACHABLE,
    }
    said = {one.thing: one.why for one in view.excluded}
    assert said["s4/sides"] == "accuracy in north is 0.400, asked for is 0.600"
    assert said["s2/sides"] == "its host is in south, asked for is north"


def test_accuracy_that_units_measured_stands_beside_what_a_host_reports_of_its_model():
    hosts = Hosts()
    node = hosts.add(1, quality={"accuracy": 0.9})
    intake, thing = hosts.knowledge.intake, "s1/sides"
    intake.begin(node, 7)
    intake.announce(node, Kind.MODEL, 0, [thing])
    told = measured_facts(thing, "model_state", {"model_queue_s": 0.25, "service_s": 0.02}, START_NS)
    group = group_named("model_state")
    record = np.zeros(1, record_dtype(group))
    record["sequence"], record["generated_ns"] = 1, START_NS
    for fact, value in zip(group.facts, told.values, strict=True):
        record[fact.name] = value
    record["deviations"] = encode_deviations([math.nan if math.isnan(one) else 0.0 for one in told.values])

    seen = intake.take_messages([node], [encode_records(group, record, sequence=1, incarnation=7)], START_NS)

    assert (seen.records, seen.counts) == (1, {})
    view = hosts.view(model="sides", goal=QueryGoal(quality_least=0.8))
    assert [(one.thing, one.queue_s) for one in view.hosts] == [(thing, pytest.approx(0.25))]
    assert view.hosts[0].accuracy == pytest.approx(0.9)
    hosts.knowledge.hosted(node, {"sides": (make_replica(), {"accuracy": 0.7})}, START_NS + 1)
    assert reasons(hosts.view(model="sides", goal=QueryGoal(quality_least=0.8))) == {thing: HostReason.QUALITY}


def test_tokens_of_a_second_are_told_of_models_that_continue_texts():
    hosts = Hosts()
    node = hosts.add(1)
    spoken = ReplicaMeasured(memory_bytes=100, row_s=0.1, batch_rows=33, batch_s=0.9)
    for tasks, tokens_per_s in (((TextTask.GENERATE,), pytest.approx(40)), ((TextTask.EMBED,), None)):
        model = f"texts-{tasks[0].value}"
        replica = msgspec.structs.replace(make_replica(), model=ModelName(model), tasks=tasks, measured=spoken)
        hosts.knowledge.hosted(node, {model: (replica, {})}, START_NS)
        table = hosts.knowledge.facts[Kind.MODEL]
        assert table.value(table.row_of(f"s1/{model}") or 0, "tokens_per_s") == tokens_per_s


def test_fact_of_another_group_is_our_bug():
    with pytest.raises(BugError, match="accuracy"):
        measured_facts("s1/sides", "model_state", {"accuracy": 1.0}, START_NS)


def test_hosts_outside_of_zone_and_price_are_named_with_what_they_are():
    hosts = Hosts()
    priced = {"host": msgspec.structs.replace(HOST, tariff=Tariff(price_per_hour=3600.0))}
    hosts.add(1, service_s=0.01, operator="clinic", **priced)
    hosts.add(2, service_s=0.01, operator="acme", **priced)
    hosts.add(3, service_s=0.05, operator="clinic", **priced)
    hosts.add(4, operator="clinic")

    view = hosts.view(model="sides", goal=QueryGoal(zone=("clinic", "unheard"), price_most=0.02))

    assert names(view) == ["s1/sides"]
    assert view.hosts[0].price == pytest.approx(0.01)
    assert reasons(view) == {"s2/sides": HostReason.ZONE, "s3/sides": HostReason.PRICE, "s4/sides": HostReason.PRICE}
    why = {one.thing: one.why for one in view.excluded}
    assert "is of acme" in why["s2/sides"]
    assert "0.05" in why["s3/sides"]
    assert "not stated" in why["s4/sides"]


def test_hosts_whose_consent_is_old_or_trust_too_little_are_in_no_view():
    hosts = Hosts()
    hosts.add(1)
    hosts.add(2)

    assert reasons(hosts.view(model="sides", trust_floor=0.99)) == {
        "s1/sides": HostReason.TRUST,
        "s2/sides": HostReason.TRUST,
    }
    hosts.now_ns += int((CONSENT_AGE_S + 1) * NS_PER_S)
    hosts.knowledge.heard(NodeId("n0002"), 1, hosts.now_ns)

    view = hosts.view(model="sides")

    assert names(view) == ["s2/sides"]
    assert reasons(view) == {"s1/sides": HostReason.CONSENT_OLD}


def test_host_whose_access_has_no_window_open_is_no_candidate_until_it_opens():
    hosts = Hosts()
    start_s = START_NS / NS_PER_S
    passes = Access(kind=AccessKind.SATELLITE, windows=(Window(start_unix_s=start_s, seconds=30.0, every_s=90.0),))
    node = hosts.add(1, access=passes)
    hosts.add(2)

    found = []
    for after_s in (10, 40, 95):
        hosts.now_ns = START_NS + after_s * NS_PER_S
        if after_s != 40:  # out of reach, it says nothing
            hosts.knowledge.heard(node, 1, hosts.now_ns)
        hosts.knowledge.heard(NodeId("n0002"), 1, hosts.now_ns)
        found.append((set(names(hosts.view(model="sides"))), reasons(hosts.view(model="sides"))))

    both = {"s1/sides", "s2/sides"}
    assert found == [(both, {}), ({"s2/sides"}, {"s1/sides": HostReason.CLOSED}), (both, {})]


def test_paths_are_those_from_where_it_is_asked():
    hosts = Hosts()
    far, near = hosts.add(1, round_trip_s=0.01), hosts.add(2, round_trip_s=0.2)
    gateway = make_site(9, data=(), compute=None, roles=(Role.GATEWAY,))
    hosts.knowledge.describe(gateway, 1, START_NS)
    for host, seconds in ((far, 0.5), (near, 0.002)):
        hosts.knowledge.measured_link(gateway.node, host, START_NS, round_trip_s=seconds)

    assert names(hosts.view(model="sides")) == ["s1/sides", "s2/sides"]
    assert names(hosts.view(model="sides", asked_from="s9")) == ["s2/sides", "s1/sides"]
    with pytest.raises(InputError, match="no terminal 'nowhere'"):
        hosts.view(model="sides", asked_from="nowhere")


def test_what_is_asked_of_the_network_is_on_the_map_and_leaves_it():
    hosts = Hosts()
    told = [
        QueryDemand(kind="sides", region="north", pattern="daily", asked_per_s=3.0, asked_per_s_peak=9.0),
        QueryDemand(kind="sides", region="south", asked_per_s=5.0, query_bytes=100.0, latency_goal_s=0.2),
        QueryDemand(kind="other", asked_per_s=math.nan, pattern="whenever"),
    ]
    hosts.knowledge.demanded(told, START_NS)

    book = hosts.knowledge.facts
    assert [(one.kind, one.region) for one in demands_of(book, "", "", START_NS)] == [
        ("sides", "south"),
        ("sides", "north"),
        ("other", ""),
    ]
    (north,) = demands_of(book, "sides", "north", START_NS + 2 * NS_PER_S)
    assert north == msgspec.structs.replace(told[0], age_s=2.0)
    assert demands_of(book, "", "", START_NS)[2].pattern is None
    assert demands_of(book, "nothing", "", START_NS) == ()
    assert hosts.view(model="sides").demands == demands_of(book, "sides", "", START_NS)

    hosts.knowledge.demanded(told[:1], START_NS)

    assert [one.region for one in demands_of(book, "", "", START_NS)] == ["north"]


# --- following ------------------------------------------------------------------------------------------------------


def held(hosts: Hosts, chosen: int = 1) -> QueryViewAdapter:
    view = hosts.view(model="sides")
    adapter = QueryViewAdapter()
    adapter.follow(view, standing_of(view, chosen))
    return adapter


def test_adapter_is_silent_while_the_choice_stands():
    hosts = Hosts()
    hosts.add(1, queue_s=0.1)
    hosts.add(2, queue_s=0.5)
    adapter = held(hosts)

    hosts.queue(1, 0.25)
    hosts.queue(2, 0.4)
    assert adapter.compare(hosts.view(model="sides")) is None
    hosts.add(3, queue_s=0.9)
    assert adapter.compare(hosts.view(model="sides")) is None

    hosts.queue(2, 0.2)
    now = hosts.view(model="sides")
    delta = adapter.compare(now)

    assert delta is not None
    assert {one.thing for one in delta.hosts} == {"s1/sides", "s2/sides", "s3/sides"}
    assert adapter.view is not None
    assert names(adapter.view) == names(now)


@pytest.mark.parametrize("what", ["gone", "sooner"])
def test_adapter_speaks_when_the_chosen_host_goes_or_another_is_sooner(what):
    hosts = Hosts()
    first = hosts.add(1, queue_s=0.1)
    hosts.add(2, queue_s=0.5)
    adapter = held(hosts)
    if what == "gone":
        hosts.knowledge.vanished(first)
    else:
        hosts.add(3, queue_s=0.05)

    assert adapter.compare(hosts.view(model="sides")) is not None


def test_adapter_tells_of_demand_that_moved_far_and_of_none_that_moved_little():
    hosts = Hosts()
    hosts.add(1)
    hosts.knowledge.demanded([QueryDemand(kind="sides", asked_per_s=10.0)], START_NS)
    adapter = held(hosts)

    hosts.knowledge.demanded([QueryDemand(kind="sides", asked_per_s=14.0)], START_NS)
    assert adapter.compare(hosts.view(model="sides")) is None
    hosts.knowledge.demanded([QueryDemand(kind="sides", asked_per_s=40.0)], START_NS)
    delta = adapter.compare(hosts.view(model="sides"))

    assert delta is not None
    assert [one.asked_per_s for one in delta.demands or ()] == [40.0]


def test_by_periodic_triggers_everything_is_told_once_a_period():
    hosts = Hosts()
    hosts.add(1, queue_s=0.1)
    hosts.add(2, queue_s=0.5)
    began = hosts.view(model="sides")
    adapter = QueryViewAdapter(ViewUpdates(by="periodic", period_s=2.0))
    adapter.follow(began, standing_of(began, 1))
    hosts.queue(1, 0.11)  # the choice stands

    def at(seconds: float) -> QueryView:
        made_at_ns = began.made_at_ns + round(seconds * 1e9)
        return msgspec.structs.replace(hosts.view(model="sides"), made_at_ns=made_at_ns)

    assert adapter.compare(at(1.9)) is None
    assert adapter.compare(at(2.0)) is not None
    hosts.queue(1, 0.9)
    assert adapter.compare(at(3.9)) is None


@st.composite
def views(draw: st.DrawFn) -> QueryView:
    seconds = draw(st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from([0.1, 0.2, 0.5])))
    hosts = [
        HostCandidate(
            thing=name,
            model="sides",
            host=NodeId(name),
            region="",
            path_s=None,
            service_s=value,
            queue_s=None,
            load_frac=None,
            accuracy=None,
            trust=None,
            reachable_frac=None,
            completion_s=value,
            deviation_s=0.0,
            age_s=draw(st.sampled_from([0.0, 1.0])),
        )
        for name, value in seconds.items()
    ]
    ordered = tuple(sorted(hosts, key=lambda one: (one.completion_s, one.thing)))
    demands = tuple(QueryDemand(kind=kind) for kind in draw(st.sets(st.sampled_from("xyz"))))
    return QueryView(version=draw(st.integers(1, 9)), made_at_ns=1, hosts=ordered, demands=demands)


@settings(deadline=None)
@given(old=views(), new=views(), chosen=st.integers(1, 3))
def test_delta_leads_from_one_view_to_the_other_and_silence_means_the_same_choice(old, new, chosen):
    validity = standing_of(old, chosen)
    if validity.holds(new):
        best = sorted(new.hosts, key=lambda one: one.completion_s)[: len(validity.chosen)]
        assert {one.thing for one in best} == set(validity.chosen)
    delta = query_delta(old, new)
    if delta is None:
        assert names(old) == names(new)
        return
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(delta), type=QueryViewDelta)
    reached = apply_query_delta(old, sent)

    assert [(one.thing, one.completion_s) for one in reached.hosts] == [
        (one.thing, one.completion_s) for one in new.hosts
    ]
    assert reached.demands == new.demands


# --- what reports are weighed by ------------------------------------------------------------------------------------


def test_ranges_give_queue_and_service_half_of_the_distance_each():
    hosts = Hosts()
    hosts.add(1, service_s=0.1, queue_s=0.1)
    hosts.add(2, service_s=0.1, queue_s=0.5)
    view = hosts.view(model="sides")
    validity = standing_of(view, 1)

    ranges = {(one.thing, one.fact): (one.low, one.high) for one in ranges_of(view, validity)}

    assert validity.boundary_s == pytest.approx(0.4)
    assert ranges[("s1/sides", "model_queue_s")][1] == pytest.approx(0.2)
    assert ranges[("s1/sides", "service_s")][1] == pytest.approx(0.2)
    assert ranges[("s2/sides", "model_queue_s")][0] == pytest.approx(0.4)
    assert ranges_of(view, standing_of(view, 2)) == ()


def test_before_reports_are_tuned_hosts_queues_are_weighed_by_how_near_they_are_to_another_choice():
    domain = Domain(make_host(1), make_host(2))
    domain.deploy("= 2 replicas")
    for node in domain.told:
        domain.serve(node, row_s=0.1)
    for number, queue_s in ((1, 0.1), (2, 0.5)):
        values = dict.fromkeys(registered_shape("model_state").facts, 0.0) | {"model_queue_s": queue_s}
        thing, told_ns = f"s{number}/sides", domain.now_ns
        domain.center.knowledge.facts[Kind.MODEL].note(
            domain.center.knowledge.facts[Kind.MODEL].row_of(thing) or 0,
            "model_state",
            {"model_queue_s": queue_s},
            source=1,
            generated_ns=told_ns,
            received_ns=told_ns,
        )
        reading = Reading(thing=thing, group="model_state", values=tuple(values.values()), measured_ns=told_ns)
        taken = ReadingsAccepted(site=NodeId(f"n000{number}"), readings=(reading,), wire_bytes=60)
        domain.center.orchestrator.handle(taken, told_ns)

    effects = domain.do(TimerFired(name=TUNE_TIMER), after_s=1.0)

    (sought,) = [one.problem for one in effects if isinstance(one, Compute)]
    assert isinstance(sought, ThresholdsSought)
    place = registered_shape("model_state").facts.index("model_queue_s")
    margins = {
        group.reading.thing: group.facts[place].margins for site in sought.sites.values() for group in site.groups
    }
    assert margins["s1/sides"][-1][0] == pytest.approx(0.1)
    assert margins["s2/sides"][-1][0] == pytest.approx(0.1)


def test_view_of_a_thousand_hosts_of_many_is_made_of_the_soonest():
    knowledge = KnowledgeMap()
    book = knowledge.facts
    terminals, models = book[Kind.TERMINAL], book[Kind.MODEL]
    stamps: dict[str, Any] = {"source": 0, "generated_ns": START_NS, "received_ns": START_NS}
    for number in range(HOSTS_MOST + 200):
        row = terminals.add(f"n{number}", 0)
        terminals.note(row, "identity", {"name": f"s{number}"}, **stamps)
        terminals.note(row, "reach", {"reachable": True}, **stamps)
        at = models.add(f"s{number}/sides", 0)
        models.note(at, "model_identity", {"terminal": row, "model": "sides"}, **stamps)
        models.note(at, "model_state", {"service_s": 1.0 + number}, **stamps)

    view = make_query_view(book, QueryRequest(model="sides"), START_NS)

    assert len(view.hosts) == HOSTS_MOST
    assert view.hosts[-1].completion_s == HOSTS_MOST

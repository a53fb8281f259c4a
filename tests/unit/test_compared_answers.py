"""Answers of two hosts held together: at gateways, in counts, and what the centre makes of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.builders import make_unit
from tests.unit.test_asking import carried
from tests.unit.test_deployment_desk import MODEL, PACKAGE, Domain, make_gate, make_host
from tests.unit.test_query_engine import ANY, make_model, make_route

from daitn.base.effects import Append, Delivered
from daitn.base.errors import UnavailableError
from daitn.base.ids import CENTER, NodeId, OperatorId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.control_center.inference.records import ReplicaTaken
from daitn.control_center.inference.refereeing import REFEREE_S
from daitn.control_center.node_records import NodeRecorded
from daitn.decision.answers_compared import Pair, odd_hosts
from daitn.descriptors.live import HostsCompared, ModelOutcomes
from daitn.descriptors.serving import EngineKind, HostDescriptor, QueryGoal, Replica, ReplicaPhase
from daitn.descriptors.terminals import NodeDescriptor
from daitn.node.serving import comparing
from daitn.node.serving.asking import Asking
from daitn.serving.closeness import answers_alike
from daitn.serving.sealing import HostSecret, seal_query
from daitn.serving.tensors import tensor_of, tensors_of
from daitn.wire.center_serving import ModelsServed, OutcomesTold
from daitn.wire.queries import QueryAnswer, QueryCall

INPUTS = (tensor_of("x", np.zeros((1, 2), np.float32)),)
RIGHT = QueryAnswer(outputs=tensors_of({"y": np.array([[2.0, -1.0]], np.float32)}))
WRONG = QueryAnswer(outputs=tensors_of({"y": np.array([[-1.0, 2.0]], np.float32)}))


def pairs(**counted: tuple[int, int]) -> dict[tuple[NodeId, NodeId], Pair]:
    return {(NodeId(name[0]), NodeId(name[1])): Pair(*pair) for name, pair in counted.items()}


# --- what is alike ----------------------------------------------------------------------------------------------------


def test_answers_are_alike_where_engines_round_differently_and_not_where_a_number_is_another() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    one = tensors_of({"y": scores, "class": scores.argmax(axis=1)})
    assert answers_alike(one, one)
    assert answers_alike(one, tensors_of({"y": scores * np.float32(1 + 1e-5), "class": scores.argmax(axis=1)}))
    shifted = scores.copy()
    shifted[3, 2] += 0.1
    for other in (
        {"y": shifted, "class": scores.argmax(axis=1)},
        {"y": scores, "class": scores.argmin(axis=1)},
        {"y": scores[:4], "class": scores.argmax(axis=1)},
        {"y": scores.astype(np.float64), "class": scores.argmax(axis=1)},
        {"z": scores, "class": scores.argmax(axis=1)},
        {"y": np.full_like(scores, np.nan), "class": scores.argmax(axis=1)},
    ):
        assert not answers_alike(one, tensors_of(other))
    half = tensors_of({"y": scores.astype(np.float16)})
    assert answers_alike(half, tensors_of({"y": (scores * 1.003).astype(np.float16)}))
    empty = tensors_of({"y": np.zeros((0, 2), np.float32)})
    assert answers_alike(empty, empty)
    none = tensors_of({"y": np.full((1, 2), np.nan, np.float32)})
    assert answers_alike(none, none)


# --- who is odd -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "odd", "undecided"),
    [
        ({"ab": (20, 0), "ac": (0, 5), "bc": (0, 4)}, {"c": ("a", "b")}, []),
        ({"ab": (20, 0), "ac": (0, 5)}, {}, [("a", "c")]),
        ({"ab": (0, 9)}, {}, [("a", "b")]),
        ({"ab": (9, 0), "cd": (9, 0), "ac": (0, 9), "bd": (0, 9)}, {}, [("a", "c"), ("b", "d")]),
        ({"ab": (20, 0), "ac": (0, 2), "bc": (0, 2)}, {}, []),
        ({"ab": (2, 0), "ac": (0, 5), "bc": (0, 4)}, {}, [("a", "c"), ("b", "c")]),
        ({"ab": (900, 3), "ac": (900, 2), "bc": (900, 5)}, {}, []),
        ({"ab": (20, 0), "bc": (20, 0), "ad": (2, 5), "bd": (0, 4), "ae": (0, 4)}, {"d": ("a", "b")}, [("a", "e")]),
        ({}, {}, []),
    ],
    ids=["one", "one against one", "two", "two against two", "too few", "few alike", "ties", "one of two", "none"],
)
def test_host_is_odd_where_a_larger_group_agrees_and_it_differs_from_two_of_them(
    counted: dict[str, tuple[int, int]], odd: dict[str, tuple[str, ...]], undecided: list[tuple[str, str]]
) -> None:
    found = odd_hosts(pairs(**counted))
    assert found.odd == odd
    assert list(found.undecided) == undecided


# --- at a gateway -----------------------------------------------------------------------------------------------------


class Gate:
    """A gateway before hosts of one model, some of which answer wrongly, or not at all."""

    def __init__(self, *hosts: str, wrong: str = "", dead: str = "") -> None:
        self.engine, self.counters = QueryRouteEngine(), Counters()
        self.engine.follow([make_model(*(make_route(host) for host in hosts))], time.monotonic_ns())
        self.asking = Asking(self.engine, carried(self._call), self.counters)
        self.wrong, self.dead = set(wrong), set(dead)
        self.calls = 0

    async def _call(self, host: NodeId, query: QueryCall, timeout_s: float) -> QueryAnswer:
        self.calls += 1
        if host in self.dead:
            raise UnavailableError("gone")
        return WRONG if host in self.wrong else RIGHT

    def ask(self, times: int, goal: QueryGoal = ANY) -> dict[tuple[str, str], tuple[int, int]]:
        """Ask so often; the counts that came of it."""

        async def story() -> None:
            for _ in range(times):
                await self.asking.ask("sides", INPUTS, 1, goal)
            for _ in range(20):
                await asyncio.sleep(0)

        asyncio.run(story())
        assert all(kept.table.under_way == 0 for kept in self.engine._kept.values()), "a slot was not given back"
        (told,) = self.asking.outcomes.told()
        assert told.answered == times, "what is compared is no query of a caller"
        return {one.hosts: (one.same, one.differing) for one in told.compared}


def test_now_and_then_a_query_is_asked_of_a_second_host_and_pairs_are_counted() -> None:
    gate = Gate("a", "b", "c", wrong="c")
    found = gate.ask(6000)
    compared = sum(sum(one) for one in found.values())
    assert 6000 / 300 <= compared <= 6000 / 100
    assert gate.calls == 6000 + compared
    for hosts, (same, differing) in found.items():
        assert (same == 0) == ("c" in hosts)
        assert (differing == 0) == ("c" not in hosts)
    assert gate.counters.of("answers_compared") + gate.counters.of("answers_unlike") == compared


def test_nothing_is_compared_where_there_is_one_host_or_the_other_does_not_answer() -> None:
    assert Gate("a").ask(1000) == {}
    assert Gate("a", "b", dead="b").ask(1000) == {}


def test_model_whose_hosts_changed_their_package_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate("a", "b")
    monkeypatch.setattr(comparing.Comparing, "due", lambda self, served: True)
    again = gate.asking._again
    monkeypatch.setattr(
        gate.asking,
        "_again",
        lambda query, served, first: again(query, msgspec.structs.replace(served, artifact="f" * 64), first),
    )
    assert gate.ask(50) == {}


# --- at the centre ----------------------------------------------------------------------------------------------------

GATE = make_gate(9, "north")


class Served:
    """A model on some hosts, and a gateway that compares them."""

    def __init__(self, replicas: int, hosts: int, *units: NodeDescriptor) -> None:
        self.domain = Domain(*(make_host(number) for number in range(1, hosts + 1)), GATE, *units)
        for unit in units:
            if unit.host is not None:
                self.domain.do(Delivered(sender=unit.node, message=ModelsServed(sequence=0, replicas=())))
        self.domain.deploy(f"= {replicas} replicas")
        self.serve()
        self.tell()

    def serve(self) -> None:
        for node in list(self.domain.told):
            if self.domain.told[node].orders:
                self.domain.serve(node)

    def tell(self, *counted: HostsCompared) -> list[str]:
        """The gateway has counted so much; texts of the alarms that are raised."""
        one = ModelOutcomes(model=MODEL, artifact=PACKAGE, answered=1, compared=counted)
        told = OutcomesTold(since=1, outcomes=(one,))
        effects = self.domain.do(Delivered(sender=GATE.node, message=told))
        records = [record for one in effects if isinstance(one, Append) for record in one.records]
        noted = [one for one in records if isinstance(one, NodeRecorded) and one.node == CENTER]
        return [entry.text for one in noted for entry in one.entries]  # type: ignore[union-attr]

    @property
    def placed(self) -> list[NodeId]:
        return sorted(self.domain.center.inference.deployment.models[MODEL].placed)


def compared(one: NodeId, other: NodeId, same: int, differing: int) -> HostsCompared:
    return HostsCompared(hosts=(one, other), same=same, differing=differing)


def test_odd_host_serves_the_model_no_more_another_does_and_its_trust_falls() -> None:
    served = Served(replicas=3, hosts=4)
    good, well, odd = served.placed
    knowledge = served.domain.center.knowledge
    before = knowledge.trust_book.score(odd, served.domain.now_ns)

    assert served.tell(compared(good, well, 9, 0), compared(good, odd, 0, 2), compared(well, odd, 0, 2)) == []
    assert served.placed == [good, well, odd], "two are not enough"
    (alarm,) = served.tell(compared(good, well, 9, 0), compared(good, odd, 0, 4), compared(well, odd, 1, 5))

    names = [knowledge.node(one).descriptor.name for one in (odd, good, well)]  # type: ignore[union-attr]
    assert all(name in alarm for name in names)
    assert "9 of 10 queries it answered otherwise" in alarm
    assert odd not in served.placed
    assert len(served.placed) == 3, "another host has it"
    (taken,) = [one for one in served.domain.records if isinstance(one, ReplicaTaken)]
    assert (taken.node, taken.failed) == (odd, True)
    assert knowledge.trust_book.score(odd, served.domain.now_ns) < before - 0.2
    assert "otherwise than" in knowledge.trust_book.changes(odd)[-1].why
    assert served.domain.center.counters.of("hosts_odd") == 1
    served.serve()
    assert served.tell(compared(good, well, 9, 0), compared(good, odd, 0, 4), compared(well, odd, 1, 5)) == []
    served.domain.restart()
    assert odd not in served.placed
    assert odd in served.domain.center.inference.deployment.models[MODEL].failed


def test_two_hosts_that_differ_are_both_named_once_and_both_serve_on() -> None:
    served = Served(replicas=2, hosts=3)
    one, other = served.placed
    (alarm,) = served.tell(compared(one, other, 1, 6))
    assert "6 of 7 queries unlike each other" in alarm
    assert "three replicas" in alarm
    assert served.tell(compared(one, other, 1, 9)) == []
    assert served.placed == [one, other]
    assert served.domain.center.inference.deployment.served()[0].routes
    assert served.domain.center.counters.of("hosts_odd") == 0


def test_pair_of_one_host_with_itself_or_of_hosts_that_left_says_nothing() -> None:
    served = Served(replicas=2, hosts=3)
    one, other = served.placed
    gone = NodeId("n0077")
    assert served.tell(compared(one, one, 0, 99), compared(one, other, 9, 0)) == []
    assert served.tell(compared(one, other, 9, 0), compared(gone, one, 0, 9), compared(gone, other, 0, 9)) == []
    assert served.placed == [one, other]


# --- a verification unit tells --------------------------------------------------------------------------------------


def referee(number: int, operator: str, memory_bytes: int = 250, **changes: Any) -> NodeDescriptor:
    """A unit that can have models loaded."""
    host = HostDescriptor(engines=(EngineKind.TORCH_GRAPH,), memory_bytes=memory_bytes)
    return make_unit(NodeId(f"n{number:04d}"), operator=OperatorId(operator), host=host, **changes)


UNIT = NodeId("n0050")


def orders(served: Served, node: NodeId) -> list[str]:
    told = served.domain.told.get(node)
    return [] if told is None else [order.model for order in told.orders]


def test_where_two_hosts_differ_a_unit_of_a_third_operator_computes_too_and_tells_which_is_wrong() -> None:
    served = Served(2, 2, referee(50, "audit"))
    good, odd = served.placed
    deployment = served.domain.center.inference.deployment
    assert orders(served, UNIT) == []

    (alarm,) = served.tell(compared(good, odd, 0, 4))
    assert "computes queries that are compared again, to tell" in alarm
    assert orders(served, UNIT) == [MODEL]
    assert deployment.served()[0].referee is None, "it has not loaded it yet"
    served.serve()
    (model,) = deployment.served()
    assert model.referee is not None
    assert (model.referee.host.node, model.referee.operator) == (UNIT, "audit")
    assert [route.host.node for route in model.routes] == [good, odd], "it answers no caller"

    assert served.tell(compared(good, odd, 0, 4), compared(good, UNIT, 3, 0), compared(odd, UNIT, 0, 2)) == []
    (alarm,) = served.tell(compared(good, odd, 0, 4), compared(good, UNIT, 4, 0), compared(odd, UNIT, 0, 4))
    assert "8 of 8 queries it answered otherwise than" in alarm
    assert served.placed == [good]
    assert odd in deployment.models[MODEL].failed
    assert (orders(served, UNIT), deployment.served()[0].referee) == ([], None), "it has done its work"


@pytest.mark.parametrize(
    "unit",
    [referee(50, "hospital1"), referee(50, "audit", memory_bytes=50), make_unit(UNIT, operator=OperatorId("audit"))],
    ids=["of the operator of one of them", "without the memory", "that loads no models"],
)
def test_unit_that_is_no_third_or_cannot_have_the_model_is_not_asked(unit: NodeDescriptor) -> None:
    served = Served(2, 2, unit)
    (alarm,) = served.tell(compared(*served.placed, 0, 4))
    assert "three replicas or more, or join a verification unit of another operator" in alarm
    assert orders(served, UNIT) == []


def test_unit_that_differs_from_both_fails_or_takes_too_long_gives_way_to_another() -> None:
    units = [NodeId(f"n{number:04d}") for number in (50, 51, 52)]
    served = Served(2, 2, *(referee(50 + number, f"audit{number}") for number in range(3)))
    one, other = served.placed
    asked: list[NodeId] = []
    base = (compared(one, other, 0, 4),)

    def now() -> NodeId | None:
        (unit,) = [node for node in units if orders(served, node)] or [None]  # type: ignore[list-item]
        return unit

    served.tell(*base)
    first = now()
    assert first is not None
    asked.append(first)
    served.tell(*base, compared(one, first, 0, 4), compared(other, first, 0, 4))
    second = now()
    assert second is not None
    asked.append(second)
    served.domain.serve(second, ReplicaPhase.FAILED, why="no room")
    served.tell(*base)
    third = now()
    assert third is not None
    asked.append(third)
    assert sorted(asked) == units
    served.domain.now_ns += int(REFEREE_S * 1e9)
    (alarm,) = served.tell(*base)
    assert now() is None
    assert "three replicas or more" in alarm, "nobody is left who could tell"
    assert served.tell(*base) == []
    assert served.placed == [one, other]


def test_centre_that_was_restarted_has_a_unit_let_go_of_what_it_was_to_compute() -> None:
    served = Served(2, 2, referee(50, "audit"))
    served.tell(compared(*served.placed, 0, 4))
    served.serve()
    sequence = served.domain.told[UNIT].sequence
    served.domain.restart()
    replica = Replica(model=MODEL, artifact=PACKAGE, phase=ReplicaPhase.SERVING)
    served.domain.do(Delivered(sender=UNIT, message=ModelsServed(sequence=sequence, replicas=(replica,))))
    assert orders(served, UNIT) == []
    assert served.domain.told[UNIT].sequence > sequence


@pytest.mark.parametrize("zone", [(), ("audit", "hosts"), ("hosts",)], ids=str)
def test_compared_queries_are_asked_of_the_unit_too_where_their_goal_allows_it(
    zone: tuple[str, ...],
) -> None:
    gate = Gate("a", "b", wrong="b")
    (model,) = gate.engine.models.values()
    unit = msgspec.structs.replace(make_route("unit"), operator="audit")
    routes = tuple(msgspec.structs.replace(route, operator="hosts") for route in model.routes)
    gate.engine.follow([msgspec.structs.replace(model, routes=routes, referee=unit)], time.monotonic_ns())
    found = gate.ask(400, msgspec.structs.replace(ANY, zone=zone))
    if zone == ("hosts",):
        assert set(found) == {("a", "b")}, "whoever may not see the query does not"
        return
    alike = found["a", "unit"][0]
    assert 400 / 30 <= alike <= 400 / 10, "what differs is decided soon"
    assert found["a", "unit"][1] == found["b", "unit"][0] == found["a", "b"][0] == 0
    assert found["b", "unit"][1] >= 4, "whoever answers first, the other is heard, too"


def test_secret_query_is_shown_to_no_unit() -> None:
    gate = Gate("a")
    (model,) = gate.engine.models.values()
    gate.engine.follow([msgspec.structs.replace(model, referee=make_route("unit"))], time.monotonic_ns())
    query, _ = seal_query(INPUTS, 1, {NodeId("a"): HostSecret(NodeId("a")).public}, "sides", model.artifact)

    async def story() -> None:
        for _ in range(200):
            await gate.asking.ask("sides", (), 1, ANY, secret=query)
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(story())
    assert gate.calls == 200

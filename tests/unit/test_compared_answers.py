"""Answers of two hosts held together: at gateways, in counts, and what the centre makes of them."""

from __future__ import annotations

import asyncio
import time

import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import carried
from tests.unit.test_deployment_desk import MODEL, PACKAGE, Domain, make_gate, make_host
from tests.unit.test_query_engine import ANY, make_model, make_route

from daitn.base.effects import Append, Delivered
from daitn.base.errors import UnavailableError
from daitn.base.ids import CENTER, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.control_center.inference.records import ReplicaTaken
from daitn.control_center.node_records import NodeRecorded
from daitn.decision.answers_compared import Pair, odd_hosts
from daitn.descriptors.live import HostsCompared, ModelOutcomes
from daitn.node.serving import comparing
from daitn.node.serving.asking import Asking
from daitn.serving.closeness import answers_alike
from daitn.serving.tensors import tensor_of, tensors_of
from daitn.wire.center_serving import OutcomesTold
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

    def ask(self, times: int) -> dict[tuple[str, str], tuple[int, int]]:
        """Ask so often; the counts that came of it."""

        async def story() -> None:
            for _ in range(times):
                await self.asking.ask("sides", INPUTS, 1, ANY)
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

    def __init__(self, replicas: int, hosts: int) -> None:
        self.domain = Domain(*(make_host(number) for number in range(1, hosts + 1)), GATE)
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

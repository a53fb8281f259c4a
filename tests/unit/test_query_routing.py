"""Query route engine and admission: who is asked, who is refused why, and what is learnt."""

from __future__ import annotations

from typing import Any

import pytest

from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_routing import EXPLORE, Choice, QueryRouteEngine
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import QueryGoal, ReplicaMeasured, Route, ServedModel, ServingGoal

S = 1_000_000_000
ANY = QueryGoal()


def make_route(node: str, *, row_s: float = 0.002, batch_s: float = 0.01, **changes: Any) -> Route:
    measured = ReplicaMeasured(row_s=row_s, batch_rows=32, batch_s=batch_s)
    return Route(host=Holder(node=NodeId(node)), measured=measured, **changes)


def make_model(*routes: Route, **quality: float) -> ServedModel:
    return ServedModel(
        model=ModelName("sides"),
        artifact=ArtifactId("a" * 64),
        owner=OwnerId("ada"),
        goal=ServingGoal(),
        quality=quality,
        routes=routes,
    )


def engine_with(*routes: Route, **quality: float) -> QueryRouteEngine:
    engine = QueryRouteEngine()
    engine.follow([make_model(*routes, **quality)])
    return engine


def ask(engine: QueryRouteEngine, now_s: float = 100.0, goal: QueryGoal = ANY, **given: Any) -> Choice | Refused:
    return engine.choose("sides", given.pop("rows", 1), goal, given.pop("left_s", 10.0), int(now_s * S), **given)


def node_of(found: Choice | Refused) -> str:
    assert isinstance(found, Choice), found
    return found.route.host.node


def answer(engine: QueryRouteEngine, choice: Choice, now_s: float, **said: float) -> None:
    values = {"rows": 1, "took_s": 0.004, "queued_s": 0.0, "engine_s": 0.002, "wait_s": 0.0} | said
    book = engine.book(choice)
    assert book is not None
    book.answered(now_ns=int(now_s * S), **values)  # type: ignore[arg-type]
    engine.done(choice)


def test_soonest_host_is_asked_and_slots_taken_meanwhile_count() -> None:
    engine = engine_with(make_route("quick"), make_route("slow", row_s=0.004, batch_s=0.05))

    nodes = [node_of(ask(engine)) for _ in range(6)]

    assert nodes[0] == "quick"
    assert "slow" in nodes, "a burst does not herd on one host"


def test_what_hosts_say_of_their_queue_is_believed_and_fades() -> None:
    engine = engine_with(make_route("one"), make_route("two"))
    first = ask(engine)
    assert isinstance(first, Choice)
    answer(engine, first, 100.0, wait_s=0.5)

    assert node_of(ask(engine, 100.01)) != first.route.host.node
    alone = engine_with(make_route("one"))
    choice = ask(alone)
    assert isinstance(choice, Choice)
    answer(alone, choice, 100.0, wait_s=0.5)
    now, later = ask(alone, 100.01), ask(alone, 101.0)
    assert isinstance(now, Choice)
    assert isinstance(later, Choice)
    assert now.predicted_s > 0.4 > 0.1 > later.predicted_s


def test_host_slower_than_it_measured_itself_is_found_out() -> None:
    engine = engine_with(make_route("liar", row_s=0.001), make_route("honest", row_s=0.003))
    for number in range(60):
        choice = ask(engine, 100 + number * 0.01)
        assert isinstance(choice, Choice)
        slow = choice.route.host.node == "liar"
        answer(engine, choice, 100 + number * 0.01, engine_s=0.02 if slow else 0.003, took_s=0.022 if slow else 0.005)

    assert node_of(ask(engine, 101.0)) == "honest"


def test_host_that_fails_is_left_out_for_a_while_that_doubles_and_tried_again() -> None:
    engine = engine_with(make_route("bad", row_s=0.001), make_route("good"))
    choice = ask(engine)
    assert node_of(choice) == "bad"
    assert isinstance(choice, Choice)
    book = engine.book(choice)
    assert book is not None
    book.failed(100 * S)
    engine.done(choice)

    assert node_of(ask(engine, 100.4)) == "good"
    assert node_of(ask(engine, 100.6)) == "bad"
    book.failed(int(100.6 * S))
    assert node_of(ask(engine, 101.5)) == "good"
    assert node_of(ask(engine, 101.7)) == "bad"


def test_query_is_not_sent_twice_to_one_host_and_ends_when_all_were_asked() -> None:
    engine = engine_with(make_route("one"), make_route("two"))

    assert node_of(ask(engine, tried=(NodeId("one"),))) == "two"
    refused = ask(engine, tried=(NodeId("one"), NodeId("two")))
    assert isinstance(refused, Refused)
    assert refused.reason is QueryRefusal.LOST


def test_where_all_fail_the_query_is_tried_all_the_same() -> None:
    engine = engine_with(make_route("only"))
    choice = ask(engine)
    assert isinstance(choice, Choice)
    book = engine.book(choice)
    assert book is not None
    book.failed(100 * S)

    found = ask(engine, 100.1)
    assert isinstance(found, Choice)
    assert "failed before" in found.why


def test_one_query_in_a_hundred_explores() -> None:
    engine = engine_with(make_route("quick", row_s=0.001), make_route("far", row_s=0.05, batch_s=0.5))
    nodes = []
    for number in range(2 * EXPLORE):
        choice = ask(engine, 100 + number * 0.01)
        assert isinstance(choice, Choice)
        nodes.append(node_of(choice))
        answer(engine, choice, 100 + number * 0.01)

    assert nodes.count("far") == 2


@pytest.mark.parametrize(
    ("goal", "left_s", "reason", "offer"),
    [
        (QueryGoal(quality_least=0.95), 10.0, QueryRefusal.QUALITY, "accuracy >= 0.9"),
        (QueryGoal(quality_least=0.5, field="cardiology"), 10.0, QueryRefusal.QUALITY, ""),
        (QueryGoal(region="south"), 10.0, QueryRefusal.REGION, ""),
        (QueryGoal(), 1e-6, QueryRefusal.LATE, "deadline >="),
    ],
)
def test_goal_that_cannot_be_kept_is_refused_with_its_reason_and_the_nearest_one(
    goal: QueryGoal, left_s: float, reason: QueryRefusal, offer: str
) -> None:
    refused = ask(engine_with(make_route("one", region="north"), accuracy=0.9), goal=goal, left_s=left_s)

    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert refused.offer.startswith(offer)


def test_unknown_model_and_one_without_hosts_are_told_apart() -> None:
    engine = engine_with()
    unknown = engine.choose("side", 1, QueryGoal(), 1.0, 0)
    nobody = ask(engine)

    assert isinstance(unknown, Refused)
    assert unknown.reason is QueryRefusal.UNKNOWN_MODEL
    assert "sides" in unknown.what
    assert isinstance(nobody, Refused)
    assert (nobody.reason, nobody.retry_after_s > 0) == (QueryRefusal.NO_HOST, True)


def test_what_was_learnt_of_a_host_outlives_a_change_of_routes() -> None:
    engine = engine_with(make_route("one"))
    choice = ask(engine)
    assert isinstance(choice, Choice)
    answer(engine, choice, 100.0, took_s=1.0)
    before = ask(engine, 100.1)
    engine.done(before)  # type: ignore[arg-type]
    engine.follow([make_model(make_route("one"), make_route("two"))])

    after = ask(engine, 100.1)
    assert isinstance(before, Choice)
    assert isinstance(after, Choice)
    assert dict(after.others)[NodeId("one")] == pytest.approx(before.predicted_s)

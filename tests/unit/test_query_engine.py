"""Query route engine and admission: who is asked, who is refused why, and what is learnt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice, QueryRouteEngine, TextAnswered
from daitn.decision.query_route.answer_length import TextSize
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import QueryGoal, ReplicaMeasured, Route, ServedModel, ServingGoal
from daitn.descriptors.texts import TextTask
from daitn.wire.queries import HostLoad, QueryAnswer

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


def engine_with(*routes: Route, now_s: float = 100.0, **quality: float) -> QueryRouteEngine:
    engine = QueryRouteEngine()
    engine.follow([make_model(*routes, **quality)], int(now_s * S))
    return engine


def ask(engine: QueryRouteEngine, now_s: float = 100.0, goal: QueryGoal = ANY, **given: Any) -> Choice | Refused:
    return engine.choose("sides", given.pop("rows", 1), goal, given.pop("left_s", 10.0), int(now_s * S), **given)


def chosen(found: Choice | Refused) -> Choice:
    assert isinstance(found, Choice), found
    return found


def node_of(found: Choice | Refused) -> str:
    return chosen(found).route.host.node


def answer(engine: QueryRouteEngine, choice: Choice, now_s: float, took_s: float = 0.004, **said: Any) -> None:
    load = said.pop("load", HostLoad())
    told = QueryAnswer(outputs=(), **({"engine_s": 0.002, "load": load} | said))
    engine.answered(choice, took_s, told, int(now_s * S))


def test_soonest_host_is_asked_and_slots_taken_meanwhile_count() -> None:
    engine = engine_with(make_route("quick"), make_route("slow", row_s=0.004, batch_s=0.05))

    nodes = [node_of(ask(engine)) for _ in range(6)]

    assert nodes[0] == "quick"
    assert "slow" in nodes, "a burst does not herd on one host"


def test_what_hosts_say_of_their_queue_is_believed_and_doubted_more_as_it_ages() -> None:
    engine = engine_with(make_route("one"), make_route("two"))
    first = chosen(ask(engine))
    answer(engine, first, 100.01, load=HostLoad(queries=50, work_s=2.0))

    assert all(node_of(ask(engine, 100.02)) != first.route.host.node for _ in range(5))
    alone = engine_with(make_route("one"))
    choice = chosen(ask(alone))
    answer(alone, choice, 100.01, load=HostLoad(queries=50, work_s=2.0))
    now, later = chosen(ask(alone, 100.02)), chosen(ask(alone, 110.0))
    assert now.predicted_s > 1.9
    assert later.late_s - later.predicted_s > 2 * (now.late_s - now.predicted_s)


def test_host_slower_than_it_measured_itself_is_found_out() -> None:
    engine = engine_with(make_route("liar", row_s=0.001), make_route("honest", row_s=0.003))
    for number in range(60):
        choice = chosen(ask(engine, 100 + number * 0.01))
        slow = choice.route.host.node == "liar"
        took_s = 0.022 if slow else 0.005
        answer(engine, choice, 100 + number * 0.01, took_s, engine_s=0.02 if slow else 0.003)

    assert [node_of(ask(engine, 101.0, tried=())) for _ in range(3)].count("honest") >= 2


def test_host_that_lies_about_its_load_pays_for_it_in_the_time_its_answers_take() -> None:
    """It says that nothing waits and that it took a millisecond: what is left of the time counts as its path."""
    engine = engine_with(make_route("liar"), make_route("honest"))
    for number in range(60):
        choice = chosen(ask(engine, 100 + number * 0.01))
        took_s = 0.3 if choice.route.host.node == "liar" else 0.005
        answer(engine, choice, 100 + number * 0.01, took_s, engine_s=0.001)

    assert [node_of(ask(engine, 101.0)) for _ in range(3)].count("honest") >= 2
    weighed = {one.replica: one for one in engine.explain(chosen(ask(engine, 101.0)))}
    assert weighed["liar"].path_s > 5 * weighed["honest"].path_s


def test_host_that_loses_queries_is_avoided_then_left_out_and_tried_again() -> None:
    engine = engine_with(make_route("bad", row_s=0.001), make_route("good"))
    engine.lost(chosen(ask(engine, tried=(NodeId("good"),))), 100 * S)
    nodes = [node_of(ask(engine, 100.01)) for _ in range(6)]
    assert nodes.count("good") >= 5, "one loss makes a host dearer, and leaves it open"
    for last in (False, True):
        assert engine.lost(chosen(ask(engine, tried=(NodeId("good"),))), 100 * S) is last

    weighed = {one.replica: one.held_back_by for one in engine.explain(chosen(ask(engine, 100.1)))}
    assert weighed == {"bad": "closed", "good": ""}
    assert chosen(ask(engine, 100.2, tried=(NodeId("good"),))).why == "soonest of those that are left"
    later = {one.replica: one.held_back_by for one in engine.explain(chosen(ask(engine, 110.0)))}
    assert later == {"bad": "", "good": ""}


def test_deadline_that_passes_counts_only_where_an_answer_so_late_would_count() -> None:
    engine, among = engine_with(make_route("one"), make_route("two")), (NodeId("two"),)
    for _ in range(20):
        assert not engine.overdue(chosen(ask(engine, tried=among)), 0.05, 100 * S)
    assert [engine.overdue(chosen(ask(engine, tried=among)), 0.5, 100 * S) for _ in range(5)] == [*[False] * 4, True]
    assert {node_of(ask(engine)) for _ in range(5)} == {"two"}


def talker(node: str, *, first_s: float = 0.2, token_s: float = 0.02, **changes: Any) -> Route:
    measured = ReplicaMeasured(row_s=first_s, batch_rows=4, batch_s=first_s + 3 * token_s)
    return Route(host=Holder(node=NodeId(node)), measured=measured, **({"concurrency": 32} | changes))


def text_engine(*routes: Route) -> QueryRouteEngine:
    engine = QueryRouteEngine()
    model = msgspec.structs.replace(make_model(*routes), tasks=(TextTask.GENERATE,))
    engine.follow([model], 100 * S)
    return engine


def tell(engine: QueryRouteEngine, choice: Choice, tokens: int, *, token_s: float = 0.02, at_s: float = 100.0) -> None:
    """The choice's host has answered with so many tokens."""
    told = TextAnswered(0.202, 0.0, 0.2, 0.2 + token_s * (tokens - 1), tokens, HostLoad())
    engine.answered_text(choice, told, int(at_s * S))
    engine.length_seen(choice, 10.0, tokens, cut=False)


def test_text_that_cannot_be_whole_in_its_time_is_refused_with_what_could_be_promised() -> None:
    engine = text_engine(talker("one"))
    found = ask(engine, left_s=1.0, text=TextSize(10.0, 2000))

    assert isinstance(found, Refused)
    assert found.reason is QueryRefusal.LATE
    offered_s = float(found.offer.removeprefix("deadline >= ").removesuffix(" s"))
    assert offered_s > 5
    assert chosen(ask(engine, left_s=offered_s + 0.01, text=TextSize(10.0, 2000))).predicted_s < offered_s
    assert chosen(ask(engine, left_s=1.0, text=TextSize(10.0, 30))).predicted_s < 1.0, "never longer than it may be"


def test_how_long_a_text_is_is_told_from_what_its_model_answered_before() -> None:
    engine = text_engine(talker("one"))
    for _ in range(30):
        tell(engine, chosen(ask(engine, text=TextSize(10.0, 2000))), 20)

    short = chosen(ask(engine, left_s=1.0, text=TextSize(10.0, 2000)))
    assert 0.4 < short.predicted_s < 1.0
    assert short.first_s < 0.3


def test_model_whose_answers_are_not_known_yet_is_tried_now_and_then_all_the_same() -> None:
    engine = text_engine(talker("one"))
    found = [ask(engine, left_s=1.0, text=TextSize(10.0, 2000)) for _ in range(16)]

    probes = [one for one in found if isinstance(one, Choice)]
    assert len(probes) == 2
    for choice in [*probes, *probes, *probes, *probes]:
        engine.length_seen(choice, 10.0, 40, cut=True)
    assert all(isinstance(ask(engine, left_s=1.0, text=TextSize(10.0, 2000)), Refused) for _ in range(32)), (
        "now it is known"
    )
    no_time = [ask(text_engine(talker("one")), left_s=0.1, text=TextSize(10.0, 2000)) for _ in range(16)]
    assert not any(isinstance(one, Choice) for one in no_time), "not even a first piece would come"


def test_long_answers_are_not_piled_up_at_one_host() -> None:
    engine = text_engine(talker("quick", token_s=0.01, concurrency=2), talker("slow", token_s=0.012, concurrency=2))
    nodes = [node_of(ask(engine, left_s=300.0, text=TextSize(10.0, 400))) for _ in range(16)]

    assert 6 <= nodes.count("quick") <= 10


def test_seconds_a_token_and_to_the_first_piece_are_learnt_apart_for_each_host() -> None:
    engine = text_engine(talker("liar", token_s=0.005), talker("honest", token_s=0.02))
    for number in range(80):
        choice = chosen(ask(engine, 100 + number, text=TextSize(10.0, 100)))
        slow = choice.route.host.node == "liar"
        tell(engine, choice, 60, token_s=0.1 if slow else 0.02, at_s=100.5 + number)

    assert [node_of(ask(engine, 200.0, text=TextSize(10.0, 100))) for _ in range(4)].count("honest") >= 3
    weighed = {one.replica: one for one in engine.explain(chosen(ask(engine, 200.0, text=TextSize(10.0, 100))))}
    assert weighed["liar"].service_s > 3 * weighed["honest"].service_s


def test_conversation_stays_where_its_beginning_was_read_by_what_that_is_seen_to_save_until_it_is_full_there() -> None:
    engine = text_engine(*(talker(name, first_s=0.1, concurrency=4) for name in ("one", "two", "three")))
    size, held = TextSize(8000.0, 20), set()

    def converse(session: str, at_s: float) -> str:
        choice = chosen(ask(engine, at_s, text=size, session=session))
        host = choice.route.host.node
        read_s = 0.4 if (session, host) in held else 1.7
        held.add((session, host))
        told = TextAnswered(read_s + 0.1, 0.0, read_s + 0.1, read_s + 0.5, 20, HostLoad())
        engine.answered_text(choice, told, int((at_s + 1) * S))
        engine.length_seen(choice, 8000.0, 20, cut=False)
        return host

    for number in range(120):
        converse(f"talk {number % 12}", 100.0 + 3 * number)
    last = {number: converse(f"talk {number}", 500.0 + 3 * number) for number in range(12)}
    again = [converse(f"talk {number}", 540.0 + 3 * number) == last[number] for number in range(12)]
    assert sum(again) >= 11, "but for one in a hundred that explores"
    host = last[0]
    busy = {node_of(ask(engine, 600.0, text=size, session="talk 0")) for _ in range(30)}
    assert busy > {host}, "given up where it would wait"


def test_loss_is_forgiven_with_time() -> None:
    engine = engine_with(make_route("one", row_s=0.001), make_route("two", row_s=0.004, batch_s=0.02))
    engine.lost(chosen(ask(engine, tried=(NodeId("two"),))), 100 * S)

    assert node_of(ask(engine, 100.1)) == "two"
    for second in range(101, 200):
        engine.withdrawn(chosen(ask(engine, second)))
    assert [node_of(ask(engine, 200.0)) for _ in range(3)].count("one") >= 1


def test_query_is_not_sent_twice_to_one_host_and_ends_when_all_were_asked() -> None:
    engine = engine_with(make_route("one"), make_route("two"))

    assert node_of(ask(engine, tried=(NodeId("one"),))) == "two"
    refused = ask(engine, tried=(NodeId("one"), NodeId("two")))
    assert isinstance(refused, Refused)
    assert refused.reason is QueryRefusal.LOST


def test_about_one_query_in_a_hundred_explores() -> None:
    engine = engine_with(make_route("quick", row_s=0.001), make_route("far", row_s=0.05, batch_s=0.5, path_s=0.1))
    nodes = []
    for number in range(1000):
        choice = chosen(ask(engine, 100 + number * 0.01))
        nodes.append(node_of(choice))
        answer(engine, choice, 100 + number * 0.01, 0.004 if nodes[-1] == "quick" else 0.16)

    assert 2 <= nodes.count("far") <= 40


def test_slots_are_spent_from_what_the_host_leased_and_asked_for_again_in_time() -> None:
    engine = engine_with(make_route("one"))
    first = chosen(ask(engine))
    assert (first.lease, first.wanted) == (0, 8)
    answer(engine, first, 100.0, load=HostLoad(lease=7, slots=3, lease_s=2.0))

    found = [chosen(ask(engine, 100.1)) for _ in range(5)]
    assert [one.lease for one in found] == [7, 7, 7, 0, 0], "what is beyond the lease is asked for without one"
    assert [bool(one.wanted) for one in found] == [True, False, False, False, False]
    assert chosen(ask(engine, 103.0)).lease == 0, "a lease ends by itself"


def test_sessions_stay_where_they_are_while_that_saves_something() -> None:
    engine = engine_with(make_route("one"), make_route("two"))
    homes: set[str] = set()
    for number in range(20):
        choice = chosen(ask(engine, 100 + number * 0.01, session="s", saves_s=0.01))
        homes.add(choice.route.host.node)
        answer(engine, choice, 100 + number * 0.01)

    assert len(homes) == 1


def test_every_choice_is_explained_with_every_host() -> None:
    choice = chosen(ask(engine_with(make_route("north", region="n"), make_route("south", region="s"))))
    weighed = QueryRouteEngine.explain(choice)

    assert {one.replica for one in weighed} == {"north", "south"}
    assert weighed[0].cost_s <= weighed[1].cost_s
    inside = chosen(
        ask(engine_with(make_route("a", region="n"), make_route("b", region="s")), goal=QueryGoal(region="s"))
    )
    assert [one.held_back_by for one in QueryRouteEngine.explain(inside)] == ["", "region"]


@pytest.mark.parametrize(
    ("goal", "left_s", "reason", "offer"),
    [
        (QueryGoal(quality_least=0.95), 10.0, QueryRefusal.QUALITY, "accuracy >= 0.9"),
        (QueryGoal(quality_least=0.5, field="cardiology"), 10.0, QueryRefusal.QUALITY, ""),
        (QueryGoal(region="south"), 10.0, QueryRefusal.REGION, "region = north"),
        (QueryGoal(zone=("clinic", "lab")), 10.0, QueryRefusal.ZONE, "zone = acme"),
        (QueryGoal(region="south", zone=("acme",)), 10.0, QueryRefusal.REGION, "region = north"),
        (QueryGoal(region="south", zone=("lab",)), 10.0, QueryRefusal.REGION, "region = north, zone = acme"),
        (QueryGoal(region="north", zone=("lab",)), 10.0, QueryRefusal.ZONE, "zone = acme"),
        (QueryGoal(price_most=0.001), 10.0, QueryRefusal.PRICE, "price <= 0.002"),
        (QueryGoal(), 1e-6, QueryRefusal.LATE, "deadline >="),
    ],
)
def test_goal_that_cannot_be_kept_is_refused_with_its_reason_and_the_nearest_one(
    goal: QueryGoal, left_s: float, reason: QueryRefusal, offer: str
) -> None:
    one = make_route("one", region="north", operator="acme", price_per_hour=3600.0)
    refused = ask(engine_with(one, accuracy=0.9), goal=goal, left_s=left_s)

    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert refused.offer.startswith(offer)


def test_hosts_outside_of_the_trust_zone_are_asked_by_no_query_that_names_it() -> None:
    routes = (
        make_route("near", operator="acme"),
        make_route("ours", row_s=0.05, batch_s=0.5, operator="clinic"),
        make_route("theirs", row_s=0.05, batch_s=0.5, operator="lab"),
    )
    engine = engine_with(*routes)
    goal = QueryGoal(zone=("clinic", "lab", "nobody"))

    first = chosen(ask(engine, goal=goal))
    second = chosen(ask(engine, goal=goal, tried=(NodeId(first.route.host.node),)))
    third = ask(engine, goal=goal, tried=(first.route.host.node, second.route.host.node))

    assert {first.route.host.node, second.route.host.node} == {"ours", "theirs"}
    assert isinstance(third, Refused)
    assert third.reason is QueryRefusal.LOST
    held = {one.replica: one.held_back_by for one in QueryRouteEngine.explain(first)}
    assert held == {"near": "zone", "ours": "", "theirs": ""}
    assert node_of(ask(engine)) == "near"


def test_price_counts_units_and_hosts_that_state_none_keep_no_bound() -> None:
    # 0.002 s for one row, 0.01 s for 32: an hour at 3600 units costs a unit of account a second.
    cheap = make_route("cheap", row_s=0.002, batch_s=0.033, price_per_hour=3600.0)
    dear = make_route("dear", row_s=0.001, batch_s=0.032, price_per_hour=36000.0)
    engine = engine_with(cheap, dear, make_route("silent", row_s=0.0005))
    bound = QueryGoal(price_most=0.005)

    found = chosen(ask(engine, goal=bound))

    assert node_of(ask(engine)) == "silent"
    assert found.route.host.node == "cheap"
    assert found.price == pytest.approx(0.002)
    assert {one.replica: one.held_back_by for one in QueryRouteEngine.explain(found)} == {
        "cheap": "", "dear": "price", "silent": "price",
    }  # fmt: skip
    large, text = ask(engine, goal=bound, rows=10), ask(engine, goal=bound, units=10)
    for refused in (large, text):
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.offer) == (QueryRefusal.PRICE, "price <= 0.011000000")
    assert chosen(ask(engine, goal=QueryGoal(price_most=0.011), units=10)).price == pytest.approx(0.011)
    nobody = ask(engine_with(make_route("silent")), goal=bound)
    assert isinstance(nobody, Refused)
    assert "states a price" in nobody.what


def test_new_tariff_counts_at_once_and_nothing_that_was_learnt_is_lost() -> None:
    engine = engine_with(make_route("one", price_per_hour=3600.0))
    for _ in range(20):
        answer(engine, chosen(ask(engine)), 100.0, 1.0)
    before = chosen(ask(engine, 100.1))
    engine.withdrawn(before)
    engine.follow([make_model(make_route("one", price_per_hour=7200.0))], int(100.1 * S))

    after = chosen(ask(engine, 100.1))
    assert after.price == pytest.approx(0.004)
    assert engine.explain(after)[0].path_s == engine.explain(before)[0].path_s
    assert isinstance(ask(engine, 100.1, QueryGoal(price_most=0.003)), Refused)


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
    for _ in range(20):
        answer(engine, chosen(ask(engine)), 100.0, 1.0)
    before = chosen(ask(engine, 100.1))
    engine.withdrawn(before)
    engine.follow([make_model(make_route("one"), make_route("two"))], int(100.1 * S))

    weighed = {one.replica: one.path_s for one in engine.explain(chosen(ask(engine, 100.1)))}
    assert weighed["one"] > 100 * weighed["two"]


def test_replica_that_measured_itself_anew_is_another_one() -> None:
    engine = engine_with(make_route("one"))
    for _ in range(20):
        answer(engine, chosen(ask(engine)), 100.0, 1.0)
    engine.follow([make_model(make_route("one", row_s=0.003))], int(100.1 * S))

    assert chosen(ask(engine, 100.1)).predicted_s < 0.1


def test_answer_for_a_host_that_is_no_route_any_more_teaches_nothing() -> None:
    engine = engine_with(make_route("one"))
    choice = chosen(ask(engine))
    engine.follow([], 100 * S)

    answer(engine, choice, 100.0)
    engine.withdrawn(choice)
    assert not engine.lost(choice, 100 * S)

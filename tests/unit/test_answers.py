"""Answers piece by piece: from host to gateway, over as many hosts as it takes, no more than the client takes."""

from __future__ import annotations

import asyncio
import functools
import time

import msgspec
import pytest
from tests.answer_world import MODEL, AnswerWorld, MemoryStream, Spelling, served, simulated, whole

from daitn.base.errors import InputError
from daitn.base.ids import NodeId
from daitn.control_center.inference.query_admission import QueryRefusal
from daitn.descriptors.offers import SimulatedFault
from daitn.descriptors.serving import QueryGoal
from daitn.descriptors.texts import Generation, TextBatch
from daitn.node.serving.answer_links import PIECES
from daitn.wire.answers import TextEnded, TextPiece, decode_to_host, encode_frame, join_frames

ASKED = Generation(prompt="tell me")
ANY = QueryGoal()


def run(check) -> None:  # type: ignore[no-untyped-def]
    async def all_of_it() -> None:
        async with asyncio.timeout(20):
            await check()

    asyncio.run(all_of_it())


def test_pieces_come_in_order_and_the_place_at_the_host_is_given_back() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling()
            host = world.add("one", engine)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert await whole(telling) == "".join(engine.words)
            assert isinstance(telling.ended, TextEnded)
            assert (telling.ended.tokens, telling.ended.simulated) == (20, True)
            assert [step.came for step in telling.steps] == ["answered"]
            assert host.answered == 1
            assert world.in_flight() == 0

    run(check)


def test_slow_client_holds_up_no_other_query_and_what_it_does_not_take_is_not_made() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling(words=500)
            world.add("one", engine)
            slow = await world.asking.ask(MODEL, ASKED, ANY)
            quick = await world.asking.ask(MODEL, ASKED, ANY)
            assert await whole(quick) == "".join(engine.words)
            assert engine.made <= 500 + PIECES + 1
            assert await whole(slow) == "".join(engine.words)

    run(check)


def test_client_that_is_gone_stops_the_work_at_the_host() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling(words=10_000)
            engine.step = asyncio.Semaphore(5)
            world.add("one", engine)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert await telling.next() == "w0 "
            telling.stop()
            while not engine.stopped:
                await asyncio.sleep(0)
            assert engine.made <= 6
            assert world.host_counters.of("answers_stopped") == 1
            assert world.in_flight() == 0

    run(check)


def test_gateway_that_is_gone_stops_everything_it_asked() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling(words=10_000)
            engine.step = asyncio.Semaphore(5)
            world.add("one", engine)
            for _ in range(3):
                await world.asking.ask(MODEL, ASKED, ANY)
            await world.links.close()
            while engine.stopped < 3:
                await asyncio.sleep(0)

    run(check)


def test_broken_stream_goes_on_at_another_host_by_its_tokens_without_a_word_twice() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            first, second = Spelling(), Spelling()
            first.step = asyncio.Semaphore(7)
            world.add("one", first)
            world.add("two", second)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            told = [await telling.next() for _ in range(7)]
            await world.fabric.cut("one")
            assert "".join(map(str, told)) + await whole(telling) == "".join(first.words)
            assert second.given[0].tokens == tuple(range(7))
            assert second.given[0].text == "".join(first.words[:7])
            assert [step.came for step in telling.steps] == ["lost", "answered"]
            assert world.counters.of("answers_resumed") == 1

    run(check)


def test_pieces_are_told_where_they_are_read_and_none_twice_whoever_takes_them() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling(words=200)
            world.add("one", engine)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            heard: list[str] = []
            returned = 0

            def tell(text: str) -> bool:
                if len(heard) % 7 == 6:  # a client that cannot take this one just now
                    return False
                heard.append(text)
                return True

            while (text := await telling.next(tell)) is not None:
                heard.append(text)
                returned += 1
            assert heard == engine.words
            assert 0 < returned < 200
            assert isinstance(telling.ended, TextEnded)
            assert world.in_flight() == 0

    run(check)


def test_answer_told_where_it_is_read_goes_on_elsewhere_when_its_host_is_lost_silent_or_wrong() -> None:
    async def check(how: str) -> None:
        async with AnswerWorld() as world:
            first, second = Spelling(), Spelling()
            first.step = asyncio.Semaphore(7)
            world.add("one", first)
            world.add("two", second)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            heard: list[str] = []

            def tell(text: str) -> bool:
                heard.append(text)
                if len(heard) == 6 and how == "wrong":
                    wrong = encode_frame(TextPiece(query=1, at=3, text="x"))
                    world.fabric.ends[NodeId("one")].arrived.put_nowait(join_frames([wrong]))
                elif len(heard) == 6 and how == "lost":
                    asyncio.get_running_loop().create_task(world.fabric.cut("one"))
                return True

            heard.append(str(await telling.next()))
            while (text := await telling.next(tell)) is not None:
                heard.append(text)
            assert "".join(heard) == "".join(first.words)
            assert [step.came for step in telling.steps] == ["lost", "answered"]
            assert len(second.given[0].tokens) in (6, 7)

    for how in ("lost", "silent", "wrong"):
        run(functools.partial(check, how))


@pytest.mark.parametrize("how", ["error", "hang", "death"])
def test_simulated_fault_in_the_middle_is_not_seen_by_the_client(how: str) -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            fault = SimulatedFault(every=1, after_tokens=3, how=how)  # type: ignore[arg-type]
            whole_one = await _alone(ASKED)
            world.add("one", simulated(fault=fault))
            world.add("two", simulated())
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert await whole(telling) == whole_one
            assert [step.came for step in telling.steps] == ["lost", "answered"]

    run(check)


async def _alone(asked: Generation) -> str:
    async with AnswerWorld() as world:
        world.add("one", simulated())
        return await whole(await world.asking.ask(MODEL, asked, ANY))


def test_answer_that_no_host_can_go_on_with_ends_with_its_reason() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            world.add("one", simulated(fault=SimulatedFault(every=1, after_tokens=2)))
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert len((await whole(telling)).split()) == 2
            assert telling.ended is None
            assert telling.refused is not None
            assert telling.refused.reason is QueryRefusal.LOST
            assert world.counters.of("queries_not_answered", "lost") == 1

    run(check)


@pytest.mark.parametrize("lie", ["garbage", "too much", "elsewhere"])
def test_host_that_breaks_the_rules_is_left_and_another_one_asked(lie: str) -> None:
    async def check() -> None:
        async with AnswerWorld() as world:

            async def liar(peer: NodeId, tag: str, stream: MemoryStream) -> None:
                (asked,) = decode_to_host((await stream.receive()) or b"")
                piece = encode_frame(TextPiece(query=asked.query, at=5 if lie == "elsewhere" else 0, text="x"))
                pieces = [encode_frame(TextPiece(query=asked.query, at=place, text="x")) for place in range(3 * PIECES)]
                said = {"garbage": b"\xc1", "too much": join_frames(pieces), "elsewhere": join_frames([piece])}[lie]
                await stream.send(said)
                await stream.receive()

            world.add("one", Spelling())
            world.fabric.hosts[NodeId("one")] = liar
            world.add("two", Spelling())
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            taken = "x" * (PIECES + 1) if lie == "too much" else ""
            assert await whole(telling) == taken + "".join(Spelling().words)
            assert [step.came for step in telling.steps] == ["lost", "answered"]
            assert world.counters.of("answers_missing") == 1

    run(check)


def test_node_that_is_no_gateway_is_not_answered() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            host = world.add("one", Spelling())
            host.gateways = frozenset()
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert telling.refused is not None
            assert world.host_counters.of("queries_refused", "not-a-gateway") == 1

    run(check)


def test_query_that_waits_longer_than_it_may_is_refused_before_it_costs_anything() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling()
            engine.concurrency, engine.step = 1, asyncio.Semaphore(1)
            host = world.add("one", engine)
            host.replicas[MODEL].work.mean_s = 100.0
            await world.asking.ask(MODEL, ASKED, ANY)
            telling = await world.asking.ask(MODEL, ASKED, QueryGoal(deadline_s=1.0))
            assert telling.refused is not None
            assert telling.refused.reason is QueryRefusal.BUSY
            assert telling.refused.retry_after_s > 50

    run(check)


def test_what_a_model_does_not_do_and_what_does_not_hold_together_is_refused_by_name() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            world.add("one", Spelling())
            telling = await world.asking.ask(MODEL, TextBatch(task="embed", texts=("a",)), ANY)
            assert telling.refused is not None
            assert telling.refused.reason is QueryRefusal.INPUT
            assert "does not embed: it generate" in telling.refused.what
            with pytest.raises(InputError, match="a prompt or a conversation"):
                await world.asking.ask(MODEL, Generation(), ANY)
            with pytest.raises(InputError, match="surrogate"):
                await world.asking.ask(MODEL, Generation(prompt="\ud800"), ANY)
            with pytest.raises(InputError, match="are carried"):
                await world.asking.ask(MODEL, TextBatch(task="embed", texts=("a" * 400_000,) * 6), ANY)

    run(check)


def test_vectors_and_labels_come_whole() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            world.add("one", simulated(width=8))
            for task, width in (("embed", 8), ("classify", 2)):
                telling = await world.asking.ask(MODEL, TextBatch(task=task, texts=("a", "b", "a")), ANY)  # type: ignore[arg-type]
                assert await telling.next() is None
                assert telling.batch is not None
                assert telling.batch.values.shape == (3, width)
                assert telling.batch.labels == (() if task == "embed" else ("no", "yes"))
                assert telling.batch.simulated

    run(check)


def test_deadline_ends_an_answer_with_its_reason() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling()
            engine.step = asyncio.Semaphore(2)
            world.add("one", engine)
            telling = await world.asking.ask(MODEL, ASKED, QueryGoal(deadline_s=0.2))
            assert await whole(telling) == "w0 w1 "
            assert telling.refused is not None
            assert telling.refused.reason in (QueryRefusal.LATE, QueryRefusal.LOST)

    run(check)


def test_deadlines_of_clients_leave_no_healthy_host_out() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            for node in ("one", "two", "three", "four"):
                world.add(node, simulated(words_most=100_000, token_s=0.005))

            async def one() -> None:
                telling = await world.asking.ask(MODEL, ASKED, QueryGoal(deadline_s=0.6))
                assert await whole(telling)
                assert telling.refused is not None
                assert [step.came for step in telling.steps] == ["overdue"]
                assert "tokens of the answer had come" in telling.refused.what

            await asyncio.gather(*(one() for _ in range(16)))
            assert world.counters.of("hosts_ejected") == world.counters.of("answers_missing") == 0
            assert world.counters.of("deadlines_passed") == 16
            assert world.in_flight() == 0

    run(check)


def test_deadline_that_a_text_cannot_keep_is_refused_before_any_host_hears_of_it() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            engine = Spelling()
            world.add("one", engine)
            asked = Generation(prompt="tell me", tokens_most=2000)
            goal = QueryGoal(deadline_s=1.0)
            measured = msgspec.structs.replace(world.routes[0].measured, batch_s=0.07)
            route = msgspec.structs.replace(world.routes[0], measured=measured)
            world.engine.follow([served(MODEL, route)], time.monotonic_ns())
            telling = await world.asking.ask(MODEL, asked, goal)
            assert telling.refused is not None
            assert telling.refused.reason is QueryRefusal.LATE
            assert telling.refused.offer.startswith("deadline >= ")
            assert not engine.given
            assert await whole(await world.asking.ask(MODEL, asked, ANY)) == "".join(engine.words)

    run(check)


def test_deadline_ends_an_answer_whose_pieces_still_come() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            world.add("one", simulated(words_most=100_000, token_s=0.005))
            telling = await world.asking.ask(MODEL, ASKED, QueryGoal(deadline_s=0.3))
            heard: list[str] = []
            while (text := await telling.next(lambda text: heard.append(text) is None)) is not None:
                heard.append(text)
            assert heard
            assert telling.ended is None
            assert telling.refused is not None

    run(check)

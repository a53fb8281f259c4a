"""Texts at a gateway: keys take turns, and a second host is asked where the first piece is late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.answer_world import MODEL, AnswerWorld, Spelling, whole
from tests.unit.test_answers import ANY, ASKED, run

from daitn.control_center.inference.query_admission import QueryRefusal
from daitn.descriptors.serving import QueryGoal
from daitn.descriptors.texts import Generation, TextBatch, Turn
from daitn.node.serving.counting import QueryCounts
from daitn.node.serving.telling import Patience
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.told_text import beginning_of

PATIENT = Patience(stall_s=5, first_least_s=5)


def turns_taken(world: AnswerWorld) -> int:
    return sum(world.asking._means.turns._under_way.values())


def test_texts_wait_for_their_turn_and_go_by_weight_and_priority_of_their_keys() -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            standings = {"many": (1.0, 1), "heavy": (4.0, 1), "high": (1.0, 0)}
            world.asking = TextAsking(
                world.engine, world.links, world.counters, PATIENT, standing=lambda key: standings[key]
            )
            engine = Spelling(words=1)
            engine.step, engine.concurrency = asyncio.Semaphore(0), 1
            world.add("one", engine)
            done: list[str] = []

            async def ask(key: str) -> None:
                await whole(await world.asking.ask(MODEL, ASKED, ANY, key))
                done.append(key)

            tasks = [asyncio.create_task(ask("many")) for _ in range(20)]
            await asyncio.sleep(0)
            tasks += [asyncio.create_task(ask(key)) for key in ("heavy", "heavy", "heavy", "high")]
            await asyncio.sleep(0)
            assert turns_taken(world) == 5, "as many as the host works on, and one on its way"
            assert world.counters.of("queries_waited") == 19
            for _ in tasks:
                engine.step.release()
            await asyncio.gather(*tasks)
            assert done[5] == "high"
            assert done[6:11].count("heavy") == 3
            assert turns_taken(world) == 0

    run(check)


def test_text_whose_turn_does_not_come_in_time_is_refused_and_whoever_leaves_gives_the_turn_back() -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            engine = Spelling()
            engine.step = asyncio.Semaphore(0)
            world.add("one", engine)
            held = [asyncio.create_task(world.asking.ask(MODEL, ASKED, ANY)) for _ in range(5)]
            await asyncio.sleep(0)
            late = await world.asking.ask(MODEL, ASKED, QueryGoal(deadline_s=0.1))
            assert late.refused is not None
            assert late.refused.reason is QueryRefusal.LATE
            assert late.tokens == 0
            waits = asyncio.create_task(world.asking.ask(MODEL, ASKED, ANY))
            await asyncio.sleep(0)
            for one in [*held, waits]:
                one.cancel()
            await asyncio.gather(*held, waits, return_exceptions=True)
            assert turns_taken(world) == world.in_flight() == 0

    run(check)


def test_late_first_piece_has_a_second_host_asked_and_whoever_speaks_first_goes_on() -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            hung, quick = Spelling(), Spelling()
            hung.step = asyncio.Semaphore(0)
            world.add("one", hung)
            world.add("two", quick)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert await whole(telling) == "".join(quick.words)
            assert telling.host == "two"
            assert [step.came for step in telling.steps] == ["withdrawn", "answered"]
            assert world.counters.shown() == {"queries_answered": 1, "queries_hedged": 1}
            while not hung.stopped:
                await asyncio.sleep(0)
            assert turns_taken(world) == world.in_flight() == 0

    run(check)


def test_second_copies_of_texts_are_paid_for_and_one_that_is_lost_leaves_the_other() -> None:
    async def check() -> None:
        async with AnswerWorld() as world:
            first, second = Spelling(), Spelling()
            first.step = second.step = asyncio.Semaphore(0)
            world.add("one", first)
            world.add("two", second)
            telling = await world.asking.ask(MODEL, ASKED, ANY)
            assert telling.refused is not None
            assert telling.refused.reason is QueryRefusal.LOST
            assert [step.came for step in telling.steps] == ["lost", "lost"]
            again = await world.asking.ask(MODEL, ASKED, ANY)
            assert again.refused is not None
            assert world.counters.of("queries_hedged") == 1, "one was saved up, two queries earn a tenth"
            assert turns_taken(world) == world.in_flight() == 0

    run(check)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_client_that_leaves_or_host_that_is_cut_while_two_are_asked_leaves_nothing_behind(how: str) -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            engines = [Spelling(), Spelling()]
            for name, engine in zip(("one", "two"), engines, strict=True):
                engine.step = asyncio.Semaphore(0)
                world.add(name, engine)
            asking = asyncio.create_task(world.asking.ask(MODEL, ASKED, ANY))
            while not engines[1].given:
                await asyncio.sleep(0)
            if how == "gone":
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                while not all(engine.stopped for engine in engines):
                    await asyncio.sleep(0)
            else:
                await world.fabric.cut("one")
                for _ in range(20):
                    engines[1].step.release()
                telling = await asking
                assert await whole(telling) == "".join(engines[1].words)
                assert [step.came for step in telling.steps] == ["lost", "answered"]
            assert turns_taken(world) == world.in_flight() == 0

    run(check)


def test_conversation_is_known_by_its_beginning_as_it_goes_on_and_told_from_others() -> None:
    def chat(*texts: str) -> Generation:
        roles = ("system", "user", "assistant", "user")
        return Generation(turns=tuple(Turn(role=role, text=text) for role, text in zip(roles, texts, strict=False)))  # type: ignore[arg-type]

    begun = beginning_of(chat("be brief", "hello"), b"salt")
    assert begun == beginning_of(chat("be brief", "hello", "yes?", "go on"), b"salt")
    others = (beginning_of(chat("be brief", "other"), b"salt"), beginning_of(chat("be brief", "hello"), b"other"))
    assert begun not in others
    assert "hello" not in begun
    assert beginning_of(Generation(prompt="p" * 5000), b"salt") == beginning_of(Generation(prompt="p" * 9000), b"salt")
    assert not beginning_of(Generation(prompt="short"), b"salt")
    assert not beginning_of(TextBatch(task="embed", texts=("a",)), b"salt")


def test_session_of_a_text_goes_where_it_went_before_while_nothing_else_is_sooner() -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            for name in ("one", "two"):
                world.add(name, Spelling(words=1))
            telling = await world.asking.ask(MODEL, ASKED, ANY, "", "mine")
            await whole(telling)
            assert world.engine._sessions[MODEL, "mine"] == telling.host

    run(check)


def test_texts_are_counted_by_their_bytes_where_their_model_is_served() -> None:
    async def check() -> None:
        async with AnswerWorld(patience=PATIENT) as world:
            posted: list[Any] = []
            counts = QueryCounts(posted.append)
            world.asking = TextAsking(world.engine, world.links, world.counters, PATIENT, counts=counts)
            world.add("one", Spelling(words=1))
            for asked in (ASKED, Generation(prompt="äh")):
                await whole(await world.asking.ask(MODEL, asked, ANY))
            (await world.asking.ask("nobody", ASKED, ANY)).stop()
            counts.tell()
            assert [(one.model, one.queries, one.bytes) for one in posted[0].counts] == [(MODEL, 2, 7.0 + 3.0)]

    run(check)

"""The laws of `serving.text_engine.TextEngine`, over every engine of texts there is."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import numpy as np
import pytest
from tests.answer_world import MODEL, QUICK, AnswerWorld
from tests.answer_world import simulated as simulated_engine
from tests.server_world import KEY, gateway

from daitn.base.errors import UnavailableError
from daitn.descriptors.offers import TextServerOffer
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask, Turn
from daitn.node.engines.simulated import SimulatedEngine
from daitn.node.engines.text_server import open_text_server
from daitn.serving.text_engine import Ended, Said, TextEngine


@asynccontextmanager
async def simulated() -> AsyncIterator[TextEngine]:
    engine = SimulatedEngine(QUICK)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def text_server() -> AsyncIterator[TextEngine]:
    """Our own gateway, joined as any other server would be."""
    with tempfile.NamedTemporaryFile("w") as key:
        key.write(str(KEY))
        key.flush()
        async with AnswerWorld() as world, gateway(world) as door:
            world.add("one", simulated_engine())
            offer = TextServerOffer(
                model=MODEL, address=door.address, tasks=("generate", "embed"), key_file=key.name, concurrency=4
            )
            engine = await open_text_server(offer)
            try:
                yield engine
            finally:
                await engine.close()


Making = Callable[[], AbstractAsyncContextManager[TextEngine]]
ENGINES: dict[str, Making] = {"simulated": simulated, "openai": text_server}


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Making:
    return ENGINES[request.param]


async def said(engine: TextEngine, asked: Generation, given: Given = Given()) -> tuple[list[Said], Ended]:  # noqa: B008
    pieces: list[Said] = []
    async for piece in engine.generate(asked, given):
        if isinstance(piece, Ended):
            return pieces, piece
        pieces.append(piece)
    raise AssertionError("it ended without saying so")


def text_of(pieces: list[Said]) -> str:
    return "".join(piece.text for piece in pieces)


ASKED = (
    Generation(prompt="once upon a time", tokens_most=12),
    Generation(turns=(Turn(role="system", text="be short"), Turn(role="user", text="hello")), tokens_most=9),
    Generation(prompt="once upon a time", tokens_most=12, temperature=1.0, top_p=0.9, seed=3),
)


@pytest.mark.parametrize("asked", ASKED, ids=("likeliest", "chat", "drawn"))
def test_the_same_query_gets_the_same_answer_and_may_be_taken_up_after_any_piece(make: Making, asked) -> None:
    async def check() -> None:
        async with make() as engine:
            pieces, ended = await said(engine, asked)
            again, _ = await said(engine, asked)
            assert text_of(again) == text_of(pieces)
            assert 1 <= ended.tokens <= asked.tokens_most
            assert ended.prompt_tokens > 0
            for cut in range(len(pieces)):
                tokens = tuple(token for piece in pieces[:cut] for token in piece.tokens)
                rest, end = await said(engine, asked, Given(tokens=tokens, text=text_of(pieces[:cut])))
                assert text_of(pieces[:cut]) + text_of(rest) == text_of(pieces)
                assert end == ended

    asyncio.run(check())


def test_answer_ends_before_a_stop_that_goes_over_two_pieces(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            asked = Generation(prompt="once upon a time", tokens_most=12)
            text = text_of((await said(engine, asked))[0])
            assert len(text) > 8
            for begin in (3, 5, 7):
                stop = text[begin : begin + 6]
                stopped = Generation(prompt="once upon a time", tokens_most=12, stops=("never said", stop))
                pieces, ended = await said(engine, stopped)
                assert text_of(pieces) == text[: text.index(stop)]
                assert ended.reason == "stop"

    asyncio.run(check())


def test_many_at_once_get_what_each_would_get_alone(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            alone = [text_of((await said(engine, asked))[0]) for asked in ASKED]
            together = await asyncio.gather(*(said(engine, asked) for asked in ASKED))
            assert [text_of(pieces) for pieces, _ in together] == alone

    asyncio.run(check())


def test_whoever_takes_no_more_leaves_the_engine_free(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            for _ in range(3 * engine.concurrency):
                async with aclosing(engine.generate(ASKED[0], Given())) as pieces:
                    async for _piece in pieces:
                        break
            assert (await said(engine, ASKED[0]))[1].tokens > 0

    asyncio.run(check())


def test_vectors_and_labels_are_rows_of_each_text_alike(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            for task in (TextTask.EMBED, TextTask.CLASSIFY):
                if task not in engine.tasks:
                    continue
                made = await engine.batch(TextBatch(task=task.value, texts=("one", "two", "one")))  # type: ignore[arg-type]
                assert made.values.dtype == np.float32
                assert made.values.shape[0] == 3
                np.testing.assert_allclose(made.values[0], made.values[2], atol=1e-6)
                assert not np.allclose(made.values[0], made.values[1], atol=1e-6)
                assert made.prompt_tokens >= 3
                if task is TextTask.CLASSIFY:
                    np.testing.assert_allclose(made.values.sum(axis=1), 1, atol=1e-5)
                    assert len(made.labels) == made.values.shape[1]

    asyncio.run(check())


def test_closed_engine_says_so(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            await engine.close()
            assert not engine.alive
            with pytest.raises(UnavailableError):
                await said(engine, ASKED[0])

    asyncio.run(check())

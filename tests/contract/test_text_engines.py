"""The laws of `serving.text_engine.TextEngine`, over every engine of texts there is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.answer_world import MODEL, QUICK, AnswerWorld
from tests.answer_world import simulated as simulated_engine
from tests.leaks import left_over, running_children
from tests.server_world import KEY, gateway

from daitn.base.effects import Event
from daitn.base.errors import InputError, UnavailableError
from daitn.base.metrics import Counters
from daitn.descriptors.offers import FolderOffer, TextServerOffer
from daitn.descriptors.serving import Replica, ReplicaPhase
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask, Turn
from daitn.node.engines.simulated import SimulatedEngine
from daitn.node.engines.text_server import open_text_server
from daitn.node.engines.transformers_folder import open_folder
from daitn.node.sandbox.launcher import Limits, Sandbox
from daitn.node.serving.answering import Answering
from daitn.node.serving.offering import Offering
from daitn.serving.text_engine import Ended, Said, TextEngine
from daitn.terminal.model_host import OfferChanged


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


def write_folder(folder: Path, task: TextTask) -> Path:
    """A tiny model with random weights, as transformers saves one."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaForCausalLM

    folder = folder / task.value
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
    }
    if task is TextTask.GENERATE:
        LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=119)).save_pretrained(folder)
    elif task is TextTask.EMBED:
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
    else:
        BertForSequenceClassification(BertConfig(**sizes, id2label={0: "no", 1: "yes"})).save_pretrained(folder)
    known = ["[UNK]", "once", "upon", "a", "time", "one", "two", "three", "be", "short", "hello", "user", ":"]
    known += [f"word{place}" for place in range(len(known), 120)]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}hello"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


ASKED = (
    Generation(prompt="once upon a time", tokens_most=12),
    Generation(turns=(Turn(role="system", text="be short"), Turn(role="user", text="hello")), tokens_most=9),
    Generation(prompt="once upon a time", tokens_most=12, temperature=1.0, top_p=0.9, seed=3),
)


async def law_same_again_and_taken_up_after_any_piece(engine: TextEngine) -> None:
    for asked in ASKED:
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


async def law_ends_before_a_stop_that_goes_over_two_pieces(engine: TextEngine) -> None:
    asked = Generation(prompt="once upon a time", tokens_most=12)
    text = text_of((await said(engine, asked))[0])
    assert len(text) > 12
    for begin in (3, 5, 7):
        stop = text[begin : begin + 6]
        stopped = Generation(prompt="once upon a time", tokens_most=12, stops=("never said", stop))
        pieces, ended = await said(engine, stopped)
        assert text_of(pieces) == text[: text.index(stop)]
        assert ended.reason == "stop"


async def law_many_at_once_get_what_each_gets_alone(engine: TextEngine) -> None:
    alone = [text_of((await said(engine, asked))[0]) for asked in ASKED]
    together = await asyncio.gather(*(said(engine, asked) for asked in ASKED))
    assert [text_of(pieces) for pieces, _ in together] == alone


async def law_whoever_takes_no_more_leaves_it_free(engine: TextEngine) -> None:
    for _ in range(3 * engine.concurrency):
        async with aclosing(engine.generate(ASKED[0], Given())) as pieces:
            async for _piece in pieces:
                break
    assert (await said(engine, ASKED[0]))[1].tokens > 0


async def law_rows_are_of_each_text_alike(engine: TextEngine) -> None:
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


SPEAKING = (
    law_same_again_and_taken_up_after_any_piece,
    law_ends_before_a_stop_that_goes_over_two_pieces,
    law_many_at_once_get_what_each_gets_alone,
    law_whoever_takes_no_more_leaves_it_free,
)


@pytest.mark.parametrize("law", [*SPEAKING, law_rows_are_of_each_text_alike], ids=lambda law: law.__name__)
def test_engine_keeps_the_law(make: Making, law) -> None:
    async def check() -> None:
        async with make() as engine:
            await law(engine)

    asyncio.run(check())


def test_closed_engine_says_so(make: Making) -> None:
    async def check() -> None:
        async with make() as engine:
            await engine.close()
            assert not engine.alive
            with pytest.raises(UnavailableError):
                await said(engine, ASKED[0])

    asyncio.run(check())


def test_folder_that_speaks_keeps_every_law_and_its_death_is_told(tmp_path: Path) -> None:
    """One child for all of it: it takes seconds to start."""
    before = running_children()
    offer = FolderOffer(model=MODEL, folder=str(write_folder(tmp_path, TextTask.GENERATE)), concurrency=3)

    async def check() -> None:
        engine = await open_folder(offer, Sandbox(Limits(memory_bytes=2 << 30)))
        try:
            for law in SPEAKING:
                await law(engine)
            with pytest.raises(InputError, match="the model takes 127"):
                await said(engine, Generation(prompt="once " * 200))
            with pytest.raises(InputError, match="does not embed"):
                await engine.batch(TextBatch(task="embed", texts=("a",)))
            long = Generation(prompt="once upon", tokens_most=100_000, temperature=1.5, seed=5)
            assert (await said(engine, long))[1].tokens <= 126
            assert engine.memory_bytes() > 0
            pieces = engine.generate(long, Given())
            await anext(pieces)
            os.kill(engine._started.leader, signal.SIGKILL)

            async def take_all() -> None:
                async for _ in pieces:
                    pass

            with pytest.raises(UnavailableError, match="killed"):
                await take_all()
            assert not engine.alive
        finally:
            await engine.close()

    asyncio.run(check())
    assert left_over(before) == []


@pytest.mark.parametrize("task", [TextTask.EMBED, TextTask.CLASSIFY])
def test_folder_that_judges_keeps_the_law_where_a_host_offers_it(task: TextTask, tmp_path: Path) -> None:
    offer = FolderOffer(model=MODEL, folder=str(write_folder(tmp_path, task)), task=task)
    said_of: asyncio.Queue[Replica] = asyncio.Queue()

    def post(event: Event) -> None:
        assert isinstance(event, OfferChanged)
        said_of.put_nowait(event.replica)

    async def check() -> None:
        async with AnswerWorld() as world:
            answering = Answering(world.fabric, Counters(), world.tensors)  # type: ignore[arg-type]
            sandbox = Sandbox(Limits(memory_bytes=2 << 30))
            offering = Offering((offer,), answering, Counters(), post, sandbox)
            await offering.start()
            try:
                assert (await said_of.get()).phase is ReplicaPhase.WARMING
                replica = await said_of.get()
                assert (replica.phase, replica.tasks) == (ReplicaPhase.SERVING, (task,))
                assert len(replica.artifact) == 64
                engine = answering.replicas[MODEL].engine
                await law_rows_are_of_each_text_alike(engine)
                many = await engine.batch(TextBatch(task=task.value, texts=("one two three",) + ("one",) * 40))  # type: ignore[arg-type]
                alone = await engine.batch(TextBatch(task=task.value, texts=("one",)))  # type: ignore[arg-type]
                np.testing.assert_allclose(many.values[1:], np.repeat(alone.values, 40, axis=0), atol=1e-5)
            finally:
                await offering.stop()
            lacking = FolderOffer(model=MODEL, folder=str(tmp_path))
            offering = Offering((lacking,), answering, Counters(), post, sandbox)
            await offering.start()
            failed = await said_of.get()
            assert (failed.phase, "is no model's folder" in failed.why) == (ReplicaPhase.FAILED, True)
            await offering.stop()

    asyncio.run(check())


def test_folder_that_is_no_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, TextTask.GENERATE)
    (folder / "model.safetensors").write_bytes(b"nothing")

    async def check() -> None:
        sandbox = Sandbox(Limits(memory_bytes=2 << 30))
        with pytest.raises(InputError, match="cannot be loaded"):
            await open_folder(FolderOffer(model=MODEL, folder=str(folder)), sandbox)
        with pytest.raises(InputError, match="no folder"):
            await open_folder(FolderOffer(model=MODEL, folder=str(tmp_path / "none")), sandbox)

    asyncio.run(check())

"""OpenAI's interface at the gateway's door, by the unmodified `openai` package over a loopback port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.answer_world import MODEL, AnswerWorld, Spelling, simulated

from daitn.base.ids import DomainId, ModelName, OwnerId
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.serving import ApiKey
from daitn.node.http.owner_token import OwnerToken
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import Door
from daitn.node.serving.openai_door import OpenAiDoor
from daitn.node.serving.ways import WayBook

openai = pytest.importorskip("openai")


@asynccontextmanager
async def door(world: AnswerWorld, terms: KeyTerms = KeyTerms()) -> AsyncIterator[Any]:  # noqa: B008  # a value
    """A client of the gateway; `base` and `key` for those who speak HTTP themselves."""

    texts = OpenAiDoor(world.engine, world.asking, WayBook())
    opened = Door(world.engine, Asking(world.engine, world.links.query, world.counters), world.counters, texts)
    secret = b"s" * 32
    token = OwnerToken(address="127.0.0.1:1", domain=DomainId("demo"), fingerprint=b"f" * 32, secret=secret)
    key = ApiKey(digest=digest_of_secret(secret), owner=OwnerId("app"), expires_unix_s=time.time() + 1000, terms=terms)
    opened.take_keys([key])
    await opened.start("127.0.0.1", 0)
    client = openai.AsyncOpenAI(base_url=opened.address + "/v1", api_key=str(token), max_retries=0, timeout=20)
    try:
        yield client
    finally:
        await client.close()
        await opened.stop()


def run(check, *engines: Any) -> None:  # type: ignore[no-untyped-def]
    """`check(client, world)` with a host for each engine."""

    async def all_of_it() -> None:
        async with asyncio.timeout(30), AnswerWorld() as world:
            for number, engine in enumerate(engines):
                world.add(f"host{number}", engine)
            async with door(world) as client:
                await check(client, world)

    asyncio.run(all_of_it())


SAY = [{"role": "developer", "content": "be short"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]


def test_models_are_listed_with_what_they_do() -> None:
    async def check(client: Any, _: AnswerWorld) -> None:
        (model,) = (await client.models.list()).data
        assert (model.id, model.owned_by) == (MODEL, "ada")
        assert (await client.models.retrieve(MODEL)).model_extra["daitn"]["tasks"] == ["generate", "embed", "classify"]
        with pytest.raises(openai.NotFoundError, match="talker"):
            await client.models.retrieve("talkre")

    run(check, simulated())


def test_chat_is_answered_whole_and_in_pieces_alike_and_says_that_it_is_simulated() -> None:
    async def check(client: Any, _: AnswerWorld) -> None:
        asked: dict[str, Any] = {"model": MODEL, "messages": SAY, "temperature": 0, "max_completion_tokens": 40}
        raw = await client.chat.completions.with_raw_response.create(**asked)
        whole = raw.parse()
        assert raw.headers["x-daitn-simulated"] == "1"
        assert raw.headers["x-daitn-host"] == "host0"
        assert whole.system_fingerprint == "daitn-simulated"
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        pieces = [piece async for piece in stream]
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == whole.choices[0].message.content
        assert pieces[0].choices[0].delta.role == "assistant"
        assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] in ("stop", "length")
        assert pieces[-1].usage == whole.usage
        assert {piece.system_fingerprint for piece in pieces} == {"daitn-simulated"}

    run(check, simulated())


def test_completion_ends_at_its_length_and_at_its_stop() -> None:
    async def check(client: Any, _: AnswerWorld) -> None:
        asked: dict[str, Any] = {"model": MODEL, "prompt": "one two", "temperature": 0}
        long = await client.completions.create(**asked, max_tokens=8)
        assert (long.choices[0].finish_reason, long.usage.completion_tokens) == ("length", 8)
        stop = long.choices[0].text.split()[3]
        short = await client.completions.create(**asked, max_tokens=8, stop=stop)
        assert (short.choices[0].finish_reason, len(short.choices[0].text.split())) == ("stop", 3)
        stream = await client.completions.create(**asked, max_tokens=8, stream=True)
        assert "".join([piece.choices[0].text async for piece in stream]) == long.choices[0].text

    run(check, simulated(words_most=100_000))


def test_vectors_are_given_as_asked_for() -> None:
    async def check(client: Any, _: AnswerWorld) -> None:
        encoded = await client.embeddings.create(model=MODEL, input=["a", "b"])
        plain = await client.embeddings.create(model=MODEL, input=["a", "b"], encoding_format="float")
        assert [len(one.embedding) for one in encoded.data] == [8, 8]
        assert encoded.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-6)
        with pytest.raises(openai.BadRequestError, match="have 8"):
            await client.embeddings.create(model=MODEL, input="a", dimensions=3)

    run(check, simulated(width=8))


def test_host_lost_in_the_middle_of_a_stream_is_not_seen() -> None:
    first, second = Spelling(), Spelling()

    async def check(client: Any, world: AnswerWorld) -> None:
        first.step = asyncio.Semaphore(5)
        stream = await client.chat.completions.create(model=MODEL, messages=SAY, stream=True)
        parts: list[str] = []
        async for piece in stream:
            parts.append(piece.choices[0].delta.content or "")
            if len(parts) == 5:
                await world.fabric.cut("host0")
        assert "".join(parts) == "".join(first.words)

    run(check, first, second)


def test_stream_that_cannot_go_on_ends_with_an_error() -> None:
    engine = Spelling()
    engine.step = asyncio.Semaphore(2)

    async def check(client: Any, world: AnswerWorld) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=SAY, stream=True)
        parts: list[str] = []

        async def take() -> None:
            async for piece in stream:
                parts.append(piece.choices[0].delta.content)

        with pytest.raises(openai.APIError, match=r"gave no answer|were asked"):
            await take()
        assert "".join(parts) == "w0 w1 "

    run(check, engine)


def test_client_that_leaves_in_the_middle_stops_the_work() -> None:
    engine = Spelling(words=100_000)

    async def check(client: Any, world: AnswerWorld) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=SAY, stream=True)
        async for _ in stream:
            break
        await stream.close()
        while not engine.stopped:
            await asyncio.sleep(0.01)
        assert world.in_flight() == 0

    run(check, engine)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"n": 2}, "n is 2"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: not served"),
        ({"logprobs": True}, "logprobs: not served"),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"extra_body": {"daitn": {"deadline_ms": -1}}}, "deadline_ms is -1"),
        ({"extra_body": {"daitn": {"colour": "red"}}}, "daitn.colour"),
    ],
)
def test_what_cannot_be_is_refused_by_name_with_the_standard_body(asked: dict[str, Any], told: str) -> None:
    async def check(client: Any, _: AnswerWorld) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**{"model": MODEL, "messages": SAY} | asked)
        assert told in caught.value.body["message"]
        assert caught.value.body["type"] == "invalid_request_error"

    run(check, simulated())


def test_key_asks_its_models_only_and_no_more_tokens_than_its_quota() -> None:
    async def all_of_it() -> None:
        terms = KeyTerms(models=(MODEL,), tokens_per_minute=10)
        async with asyncio.timeout(30), AnswerWorld() as world:
            world.add("host", simulated(words_most=100_000))
            world.add("another", simulated(), model=ModelName("other"))
            async with door(world, terms) as client:
                assert [model.id for model in (await client.models.list()).data] == [MODEL]
                with pytest.raises(openai.PermissionDeniedError, match="may not ask 'other'"):
                    await client.chat.completions.create(model="other", messages=SAY)
                for name in ("other", "talke"):  # nor is it told whether there is one
                    with pytest.raises(openai.PermissionDeniedError, match=f"may not ask '{name}'"):
                        await client.models.retrieve(name)
                told = await client.chat.completions.create(model=MODEL, messages=SAY, max_tokens=12)
                assert told.usage.total_tokens > 10
                with pytest.raises(openai.RateLimitError, match="10 tokens a minute") as spent:
                    await client.chat.completions.create(model=MODEL, messages=SAY, max_tokens=12)
                assert int(spent.value.response.headers["retry-after"]) >= 12
                assert world.counters.shown()["door_refused[quota]"] == 1

    asyncio.run(all_of_it())


def test_refusals_have_the_standard_body_and_say_when_to_come_back() -> None:
    async def check(client: Any, world: AnswerWorld) -> None:
        with pytest.raises(openai.NotFoundError) as lacking:
            await client.chat.completions.create(model="talkre", messages=SAY)
        assert lacking.value.code == "model_not_found"
        with pytest.raises(openai.UnprocessableEntityError) as low:
            await client.chat.completions.create(
                model=MODEL, messages=SAY, extra_headers={"x-daitn-min-accuracy": "0.9", "x-daitn-field": "cardiology"}
            )
        assert low.value.response.headers["x-daitn-reason"] == "quality"
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(
                model=MODEL, messages=SAY, extra_body={"daitn": {"deadline_ms": 0.001}}
            )
        assert late.value.status_code == 503
        with pytest.raises(openai.AuthenticationError) as strange:
            await client.with_options(api_key="wrong").models.list()
        assert strange.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError):
            await client.post("/nothing", cast_to=object)
        with pytest.raises(openai.BadRequestError, match="does not decode"):
            await client.post("/chat/completions", content=b"{not json", cast_to=object)

    run(check, simulated())

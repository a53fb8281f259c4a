"""Engine *openai*: another server behind OpenAI's interface, joined unchanged.

Chats are asked as chats and texts as completions, always in pieces. Such a server tells no tokens, so an answer that
another host began can be taken up only by having it said again and leaving out what was told: where the server says
something else this time, that is said, and nothing false is passed on.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.offers import TextServerOffer
from daitn.descriptors.serving import EngineKind
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask
from daitn.node.engines.server_calls import ServerCalls, ServerGoneError
from daitn.serving.text_engine import BatchMade, Ended, Said
from daitn.serving.text_out import TextOut

LINE_BYTES: Final = 256 * 1024
"""Longest line of a stream."""


class _Delta(msgspec.Struct, frozen=True, kw_only=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    delta: _Delta = _Delta()
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ServerPiece(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream, as far as it matters here."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Vector(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    embedding: list[float] | str


class ServerVectors(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with vectors."""

    data: list[_Vector]
    usage: _Usage = _Usage()


_piece: Final = msgspec.json.Decoder(ServerPiece)
_vectors: Final = msgspec.json.Decoder(ServerVectors)


class TextServerEngine:
    """See the module's docstring; made by `open_text_server`."""

    kind = EngineKind.TEXT_SERVER

    def __init__(self, offer: TextServerOffer, calls: ServerCalls) -> None:
        self._offer, self._calls = offer, calls
        self._model = offer.their_model or offer.model
        self.alive = True

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """See `TextEngine.tasks`."""
        return tuple(map(TextTask, self._offer.tasks))

    @property
    def concurrency(self) -> int:
        """See `TextEngine.concurrency`."""
        return self._offer.concurrency

    async def generate(self, asked: Generation, given: Given) -> AsyncGenerator[Said | Ended, None]:
        """See `TextEngine.generate`."""
        self._check()
        out = TextOut(asked.stops, given.text)
        text, usage, reason, pieces = "", _Usage(), "", 0
        async with aclosing(self._events(asked)) as events:
            async for event in events:
                usage = event.usage or usage
                for choice in event.choices[:1]:
                    new = choice.delta.content or choice.text or ""
                    pieces += bool(new)
                    text += new
                    reason = choice.finish_reason or reason
                length = min(len(text), len(given.text))
                if text[:length] != given.text[:length]:
                    raise UnavailableError("the server says something else than the answer began with")
                if told := out.take(text):
                    yield Said((), told)
                if out.stopped:
                    break
        if not reason and not out.stopped:
            raise UnavailableError("the server ended its stream in the middle")
        if told := out.take(text, last=True):
            yield Said((), told)
        whole = out.stopped or reason != "length"
        yield Ended(
            "stop" if whole else "length", max(0, usage.prompt_tokens), max(0, usage.completion_tokens) or pieces
        )

    async def batch(self, asked: TextBatch) -> BatchMade:
        """See `TextEngine.batch`."""
        self._check()
        if asked.task != "embed":
            raise InputError("a server behind this interface gives no labels")
        body = msgspec.json.encode({"model": self._model, "input": asked.texts, "encoding_format": "float"})
        try:
            async with self._calls.ask("POST", "/v1/embeddings", body) as answer:
                return decode_vectors(await self._calls.whole(answer), len(asked.texts))
        except ServerGoneError:
            self.alive = False
            raise

    def memory_bytes(self) -> int:
        """None here."""
        return 0

    async def close(self) -> None:
        """See `TextEngine.close`."""
        self.alive = False
        await self._calls.close()

    def _check(self) -> None:
        if not self.alive:
            raise UnavailableError("the server was lost", todo="the host looks for it again")

    async def _events(self, asked: Generation) -> AsyncGenerator[ServerPiece, None]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": asked.tokens_most,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if asked.stops:
            body["stop"] = asked.stops[:4]  # as many as the interface has; all of them are minded here
        if asked.turns:
            path = "/v1/chat/completions"
            body["messages"] = [{"role": turn.role, "content": turn.text} for turn in asked.turns]
        else:
            path = "/v1/completions"
            body["prompt"] = asked.prompt
        try:
            async with self._calls.ask("POST", path, msgspec.json.encode(body)) as answer:
                async for line in _lines(answer):
                    if line == b"data: [DONE]":
                        return
                    if line.startswith(b"data:"):
                        yield decode_piece(line[5:])
        except ServerGoneError:
            self.alive = False
            raise


def decode_piece(data: bytes) -> ServerPiece:
    """One event; UnavailableError where it is none, or says that the server failed."""
    try:
        piece = _piece.decode(data)
    except UNDECODABLE:
        raise UnavailableError("the server sends what is no piece of an answer") from None
    if piece.error is not None:
        raise UnavailableError("the server failed in the middle of its answer")
    return piece


def decode_vectors(data: bytes, count: int) -> BatchMade:
    """Vectors of `count` texts; UnavailableError where they are not that."""
    try:
        found = _vectors.decode(data)
        rows = {one.index: one.embedding for one in found.data}
        if sorted(rows) != list(range(count)):
            raise ValueError
        whole = [
            np.frombuffer(base64.b64decode(row, validate=True), "<f4") if isinstance(row, str) else row
            for row in (rows[place] for place in range(count))
        ]
        values = np.array(whole, np.float32)
        if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
            raise ValueError
    except (ValueError, *UNDECODABLE):
        raise UnavailableError(f"the server's answer is not {count} vectors of equal length") from None
    return BatchMade(values, (), max(0, found.usage.prompt_tokens))


async def open_text_server(offer: TextServerOffer) -> TextServerEngine:
    """The engine, once the server answers; UnavailableError while it does not."""
    calls = ServerCalls(offer)
    try:
        async with calls.ask("GET", "/v1/models") as answer:
            await calls.whole(answer)
    except BaseException:
        await calls.close()
        raise
    return TextServerEngine(offer, calls)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of a stream without their ends; UnavailableError for one that is too long."""
    rest = b""
    async for part in answer.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.strip()
        if len(rest) > LINE_BYTES:
            raise UnavailableError(f"the server sends a line of more than {LINE_BYTES} bytes")
    if rest.strip():
        yield rest.strip()

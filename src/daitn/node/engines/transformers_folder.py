"""Engine *transformers*: a folder with a model of texts, in a sandboxed child of its own (`sandbox.texts`).

The folder is the site's own: its operator named it in the offers. The child sees it read-only and nothing else, has no
network, and is bounded as children that serve packages are. A child that dies ends what is under way with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from daitn.base.errors import InputError, PeerError, UnavailableError
from daitn.descriptors.offers import FolderOffer
from daitn.descriptors.serving import EngineKind
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask
from daitn.node.sandbox.answers import explain_exit
from daitn.node.sandbox.launcher import BASE_PATH, Sandbox, Started
from daitn.node.sandbox.protocol import HEADER, Close, Failed, FailReason, Ready, answer_length
from daitn.node.sandbox.text_protocol import (
    Enough,
    FromTextChild,
    Judge,
    Judged,
    LoadTexts,
    Onward,
    Speak,
    Spoken,
    SpokenAll,
    ToTextChild,
    decode_text_answer,
    encode_text_frame,
)
from daitn.node.sandbox.vital import look_at
from daitn.serving.tensors import array_of
from daitn.serving.text_engine import BatchMade, Ended, Said

LOAD_S: Final = 600.0
"""Longest loading of a folder: 15 GB from a slow disk."""

SILENT_S: Final = 120.0
"""A child that has said nothing to a query for so long is ended: a token takes seconds at most."""

AHEAD: Final = 64
"""Tokens of a query that the child may be ahead of whoever takes them; then that query pauses."""

RECEIVE_BYTES: Final = 1 << 18


class TransformersEngine:
    """See the module's docstring; made by `open_folder`."""

    kind = EngineKind.TRANSFORMERS

    def __init__(self, offer: FolderOffer, started: Started) -> None:
        self._offer, self._started = offer, started
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Queue[FromTextChild | UnavailableError]] = {}
        self._numbers = 0
        self._saying = asyncio.Lock()
        self._fault: UnavailableError | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """See `TextEngine.tasks`."""
        return (self._offer.task,)

    @property
    def concurrency(self) -> int:
        """See `TextEngine.concurrency`."""
        return self._offer.concurrency

    @property
    def alive(self) -> bool:
        """See `TextEngine.alive`."""
        return self._fault is None

    async def load(self, folder: str) -> None:
        """Have the child read the folder, and hear it from then on. InputError where it is no model."""
        try:
            await self._say(LoadTexts(folder=folder, task=self._offer.task, threads=self._offer.threads))
            async with asyncio.timeout(LOAD_S):
                message = await self._receive()
        except TimeoutError:
            raise UnavailableError(f"the folder was not loaded within {LOAD_S:g} s") from None
        if isinstance(message, Failed):
            wrong = InputError if message.reason is FailReason.INPUT else UnavailableError
            raise wrong(f"the folder cannot be loaded: {message.what}", todo=message.todo)
        if not isinstance(message, Ready):
            raise UnavailableError(f"the child said {type(message).__name__} before it was ready")
        self._reader = asyncio.create_task(self._read())

    async def generate(self, asked: Generation, given: Given) -> AsyncGenerator[Said | Ended, None]:
        """See `TextEngine.generate`."""
        number, answers = self._begin()
        over = False
        try:
            await self._say(Speak(number=number, asked=asked, given=given, tokens=AHEAD))
            taken = 0
            while True:
                message = await self._next(answers)
                match message:
                    case Spoken():
                        yield Said((message.token,), message.text)
                        taken += 1
                        if taken == AHEAD // 2:
                            await self._say(Onward(number=number, tokens=taken))
                            taken = 0
                    case SpokenAll():
                        over = True
                        if message.text:
                            yield Said((), message.text)
                        yield Ended(message.reason, message.prompt_tokens, message.tokens)
                        return
                    case _:
                        raise self._wrong(message)
        finally:
            del self._waiting[number]
            if not over and self.alive:
                with contextlib.suppress(UnavailableError):
                    await self._say(Enough(number=number))

    async def batch(self, asked: TextBatch) -> BatchMade:
        """See `TextEngine.batch`."""
        number, answers = self._begin()
        try:
            await self._say(Judge(number=number, asked=asked))
            message = await self._next(answers)
            if not isinstance(message, Judged):
                raise self._wrong(message)
            return BatchMade(array_of(message.values), message.labels, message.prompt_tokens)
        finally:
            del self._waiting[number]

    def memory_bytes(self) -> int:
        """Private memory of the child."""
        return look_at(self._started.leader).memory_bytes

    async def close(self) -> None:
        """See `TextEngine.close`."""
        self._fail(UnavailableError("the engine was closed"))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        with contextlib.suppress(OSError):
            self._started.channel.send(encode_text_frame(Close()))
        await self._started.end()

    def _begin(self) -> tuple[int, asyncio.Queue[FromTextChild | UnavailableError]]:
        if self._fault is not None:
            raise UnavailableError(f"the engine has died: {self._fault.what}", todo="the host starts another one")
        self._numbers += 1
        self._waiting[self._numbers] = asyncio.Queue()
        return self._numbers, self._waiting[self._numbers]

    async def _next(self, answers: asyncio.Queue[FromTextChild | UnavailableError]) -> FromTextChild:
        try:
            async with asyncio.timeout(SILENT_S):
                message = await answers.get()
        except TimeoutError:
            self._fail(UnavailableError(f"the child said nothing for {SILENT_S:g} s"))
            self._started.kill()
            raise UnavailableError(f"the engine said nothing for {SILENT_S:g} s") from None
        if isinstance(message, UnavailableError):
            raise message
        if isinstance(message, Failed):
            wrong = InputError if message.reason is FailReason.INPUT else UnavailableError
            raise wrong(message.what, todo=message.todo)
        return message

    def _wrong(self, message: FromTextChild) -> UnavailableError:
        self._started.kill()
        return UnavailableError(f"the child said {type(message).__name__} out of turn")

    # --- the child --------------------------------------------------------------------------------------------------

    async def _say(self, message: ToTextChild) -> None:
        async with self._saying:
            try:
                await asyncio.get_running_loop().sock_sendall(self._started.channel, encode_text_frame(message))
            except OSError as error:
                raise UnavailableError(f"the child is gone: {error.strerror}") from None

    async def _read(self) -> None:
        try:
            while True:
                message = await self._receive()
                number = 0 if isinstance(message, Ready) else message.number
                if (answers := self._waiting.get(number)) is not None:
                    answers.put_nowait(message)
        except UnavailableError as error:
            self._fail(error)

    def _fail(self, fault: UnavailableError) -> None:
        self._fault = self._fault or fault
        for answers in self._waiting.values():
            answers.put_nowait(fault)

    async def _receive(self) -> FromTextChild:
        try:
            await self._fill(HEADER.size)
            length = answer_length(self._buffer[: HEADER.size])
            await self._fill(HEADER.size + length)
            body = self._buffer[HEADER.size : HEADER.size + length]
            del self._buffer[: HEADER.size + length]
            return decode_text_answer(body)
        except PeerError as error:
            self._started.kill()
            raise UnavailableError(f"the child broke the protocol: {error.what}") from None
        except EOFError:
            status, words = await self._started.end()
            raise UnavailableError(explain_exit(0, status, words).what) from None

    async def _fill(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        while len(self._buffer) < size:
            try:
                part = await loop.sock_recv(self._started.channel, RECEIVE_BYTES)
            except OSError:
                part = b""
            if not part:
                raise EOFError
            self._buffer += part


async def open_folder(offer: FolderOffer, sandbox: Sandbox) -> TransformersEngine:
    """The engine, its child loaded. InputError where the folder is no model, UnavailableError where no child can be
    started or it dies."""
    folder = Path(offer.folder)
    if not folder.is_dir():
        raise InputError(f"{offer.folder[:200]!r} is no folder")
    started = await sandbox.start(beside={BASE_PATH: folder}, threads=offer.threads, module="texts")
    engine = TransformersEngine(offer, started)
    try:
        await engine.load(sandbox.place(BASE_PATH, folder))
    except BaseException:
        await engine.close()
        raise
    return engine

"""Engine *simulated*: says what `serving.simulated` made, after the time that it takes, and fails as its offer says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from daitn.base.errors import UnavailableError
from daitn.descriptors.offers import SimulatedFault, SimulatedOffer
from daitn.descriptors.serving import EngineKind
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask
from daitn.serving.simulated import SimulatedAnswer, text_of, values_of
from daitn.serving.text_engine import BatchMade, Ended, Said
from daitn.serving.text_out import TextOut


class SimulatedEngine:
    """See the module's docstring. `wait`: sleeps, or what a test has in its place."""

    kind = EngineKind.SIMULATED

    def __init__(self, offer: SimulatedOffer, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._offer, self._wait = offer, wait
        self._under_way = 0
        self._asked = 0
        self._gone = asyncio.Event()

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """See `TextEngine.tasks`."""
        return self._offer.tasks

    @property
    def concurrency(self) -> int:
        """See `TextEngine.concurrency`."""
        return self._offer.concurrency

    @property
    def alive(self) -> bool:
        """See `TextEngine.alive`."""
        return not self._gone.is_set()

    async def generate(self, asked: Generation, given: Given) -> AsyncGenerator[Said | Ended, None]:
        """See `TextEngine.generate`."""
        answer = SimulatedAnswer(self._offer, asked)
        out = TextOut(asked.stops, given.text)
        tokens = list(given.tokens)
        most = min(answer.words, asked.tokens_most)
        fault = self._fault()
        self._under_way += 1
        try:
            while len(tokens) < most and not out.stopped:
                if fault is not None and len(tokens) >= fault.after_tokens:
                    await self._fail(fault)
                await self._pass(answer.wait_s(len(tokens), self._under_way - 1))
                tokens.append(answer.token(len(tokens)))
                new = out.take(text_of(tokens), last=len(tokens) == most)
                yield Said((tokens[-1],), new)
            whole = out.stopped or most == answer.words
            yield Ended("stop" if whole else "length", answer.prompt_tokens, len(tokens))
        finally:
            self._under_way -= 1

    async def batch(self, asked: TextBatch) -> BatchMade:
        """See `TextEngine.batch`."""
        tokens = sum(max(1, len(text.split())) for text in asked.texts)
        await self._pass(self._offer.first_s + self._offer.prompt_token_s * tokens)
        labels = self._offer.labels if asked.task == "classify" else ()
        return BatchMade(values_of(self._offer, asked), labels, tokens)

    def memory_bytes(self) -> int:
        """None worth telling."""
        return 0

    async def close(self) -> None:
        """See `TextEngine.close`."""
        self._gone.set()

    def _fault(self) -> SimulatedFault | None:
        self._asked += 1
        fault = self._offer.fault
        return fault if fault is not None and self._asked % fault.every == 0 else None

    async def _pass(self, seconds: float) -> None:
        if not self.alive:
            raise UnavailableError("the simulated engine has died", todo="the host starts another one")
        if seconds > 0:
            await self._wait(seconds)
        if not self.alive:
            raise UnavailableError("the simulated engine has died", todo="the host starts another one")

    async def _fail(self, fault: SimulatedFault) -> None:
        if fault.how == "hang":
            await self._gone.wait()
        if fault.how == "death":
            self._gone.set()
        raise UnavailableError(f"the simulated engine failed by its offer, after {fault.after_tokens} tokens")

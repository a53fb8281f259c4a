"""Queries that nobody waits for (paper II-B: any destination): taken, answered when hosts can, kept, and posted.

A query is on disk before it is acknowledged. Where no host is there, or all are busy or lost, it is tried again, after
longer and longer waits, until `x-daitn-within-s` is over; what it is refused for otherwise is its outcome. The outcome
is kept for `KEEP_S`; with `x-daitn-answer-to` it is posted or handed on besides, until it is taken or deleted.
A gateway that was restarted goes on with all of it. A client that is not sure repeats the query with its
`Idempotency-Key` and gets the name of the first one. Who may read an answer is whose key asked.

Computing a query twice is harmless (a model is a pure function), and an outcome is written once. A post may arrive
twice, where the receiver's word was lost: with one and the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from daitn.base.errors import DaitnError, InputError, PolicyError, UnavailableError
from daitn.base.metrics import Counters
from daitn.base.units import GIB
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.descriptors.destinations import Handed, Posted, parse_destination
from daitn.node.http.problems import conflict, unknown
from daitn.node.serving import inference_protocol as protocol
from daitn.node.serving.handing import Handing
from daitn.node.serving.later_store import Later, LaterStore
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.webhooks import Webhooks

WITHIN_S: Final = 3600.0
WITHIN_MOST_S: Final = 86_400.0
"""How long a query is tried where its client does not say, and at most."""

KEEP_S: Final = 86_400.0
"""How long an outcome is kept, unless its client forgets it before."""

AT_ONCE: Final = 32
"""Queries computed, and answers posted, at a time: the door's own come beside them."""

OF_AN_OWNER: Final = 1024
KEPT_MOST: Final = 16_384
KEPT_BYTES: Final = 1 * GIB
"""What is kept of one owner, of all, and in bytes."""

WAIT_S: Final = 1.0
WAIT_MOST_S: Final = 300.0
"""Between tries: doubled each time, up to this; drawn from its upper half, so that many do not come at once."""

SWEEP_S: Final = 30.0

TRIED_AGAIN: Final = frozenset((429, 503))
"""Refusals that another moment may change."""

AGAIN_CHARS: Final = 128

SEALED: Final = "x-daitn-sealed"
"""Among what is kept of a query's headers: it is encrypted for its hosts, and its answer for who asked. Said by the
door that it came by, and never by a client."""

TEXT: Final = "x-daitn-text"
"""The same of a text: which kind of request it is (`openai_protocol.Kind`)."""

_log = logging.getLogger(__name__)

Answerer = Callable[[Later], Awaitable[Reply]]
"""Answers a query as the door would now."""


class Came(NamedTuple):
    """A request as the door read it."""

    owner: str
    key: str
    """Digest of the key."""
    model: str
    version: str
    headers: Mapping[str, str]
    body: bytes


def wait_s(tries: int, draw: random.Random, told_s: float = 0.0) -> float:
    """Seconds before the next try, after so many; not less than whoever refused it said."""
    longest_s = min(WAIT_MOST_S, WAIT_S * 2.0 ** min(tries, 30))
    return max(min(told_s, WAIT_MOST_S), longest_s * (0.5 + draw.random() / 2))


class LaterQueries:
    """See the module's docstring. `answer`: as the door answers."""

    def __init__(
        self,
        store: LaterStore,
        webhooks: Webhooks,
        answer: Answerer,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        handing: Handing | None = None,
    ) -> None:
        self._handing = handing
        self._store, self._webhooks, self._answer, self._counters = store, webhooks, answer, counters
        self._clock, self._sleep = clock, sleep
        self._random = random.Random()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        """The public key of posts."""
        return self._webhooks.public

    async def start(self) -> None:
        """Go on with what was there."""
        for one in await asyncio.to_thread(self._store.open):
            self._go(one)
        if self._handing is not None:
            await self._handing.start(self._keep_handed)
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Leave what is not done on disk."""
        tasks = [*self._tasks.values(), *([self._sweeping] if self._sweeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.close()

    # --- the door -------------------------------------------------------------------------------------------------

    async def take(self, came: Came) -> Reply | Refused:
        """A query that is to be answered later: its name, or why it is not taken. InputError for what cannot be."""
        one = self._later(came)
        to = parse_destination(one.answer_to)
        if to is not None:
            try:
                await self._reach(to)
            except (PolicyError, UnavailableError) as error:
                self._counters.count("later_refused", "destination")
                return Refused(QueryRefusal.DESTINATION, error.what, offer="x-daitn-answer-to elsewhere, or none")
        mine, ours, nbytes = await asyncio.to_thread(self._store.held, came.owner)
        if mine >= OF_AN_OWNER or ours >= KEPT_MOST or nbytes + len(came.body) > KEPT_BYTES:
            self._counters.count("later_refused", "full")
            what = f"{mine} queries of yours are kept here ({OF_AN_OWNER} may be), {ours} of all, in {nbytes} bytes"
            return Refused(QueryRefusal.BUSY, what + "; fetch and forget some", 60.0)
        kept = await asyncio.to_thread(self._store.add, one)
        if kept.query != one.query and kept.digest != one.digest:
            self._counters.count("later_refused", "again")
            raise conflict("this Idempotency-Key was used for another query", todo="give each query one of its own")
        if kept.query == one.query:
            self._counters.count("later_taken")
            self._go(one)
        return self._acknowledged(kept)

    async def fetch(self, owner: str, query: str) -> Reply:
        """What came of a query; HttpError 404 where there is none of this owner."""
        one = await self._mine(owner, query)
        if one.status == 0:
            return self._acknowledged(one)
        told = {**one.told, "x-daitn-later": one.query, "x-daitn-kept-until": f"{one.expires_s:.0f}"}
        if one.answer_to:
            told["x-daitn-posted"] = one.delivered or "not yet"
        return Reply(one.status, one.answer, told, one.kind)

    async def forget(self, owner: str, query: str) -> Reply:
        """Its client needs a query no more."""
        one = await self._mine(owner, query)
        if (task := self._tasks.pop(one.query, None)) is not None:
            task.cancel()
        await asyncio.to_thread(self._store.forget, one.query)
        return Reply(200, msgspec.json.encode({"query": one.query, "state": "forgotten"}), {})

    async def _mine(self, owner: str, query: str) -> Later:
        one = await asyncio.to_thread(self._store.find, query[:64])
        if one is None or one.owner != owner or one.expires_s <= self._clock():
            raise unknown(
                "no such query of yours is kept at this gateway", todo="ask again, at the gateway that took it"
            )
        return one

    async def _reach(self, to: Posted | Handed) -> None:
        """Whether an answer can go there, as far as that can be told now; PolicyError, UnavailableError."""
        if isinstance(to, Posted):
            await self._webhooks.reach(to)
        elif self._handing is None:
            raise PolicyError("this gateway hands no answers on")
        else:
            self._handing.reach(to.node)

    async def _keep_handed(self, one: Later) -> str:
        """An answer that another gateway hands over: why it is not kept, or nothing."""
        known = await asyncio.to_thread(self._store.find, one.query)
        if known is not None:
            return "" if known.owner == one.owner else "another query has that name"
        mine, ours, nbytes = await asyncio.to_thread(self._store.held, one.owner)
        if mine >= OF_AN_OWNER or ours >= KEPT_MOST or nbytes + len(one.answer) > KEPT_BYTES:
            return f"{mine} answers of that owner are kept here, {ours} of all, in {nbytes} bytes"
        await asyncio.to_thread(self._store.add, one)
        return ""

    def _later(self, came: Came) -> Later:
        now_s = self._clock()
        again = came.headers.get("idempotency-key", "")
        if len(again) > AGAIN_CHARS:
            raise InputError(f"the Idempotency-Key has {len(again)} characters, {AGAIN_CHARS} are read")
        text = came.headers.get("x-daitn-within-s", "") or f"{WITHIN_S:g}"
        try:
            within_s = float(text)
        except ValueError:
            within_s = 0.0
        if not 0 < within_s <= WITHIN_MOST_S:
            raise InputError(f"x-daitn-within-s is {text[:40]!r}, not within 0 and {WITHIN_MOST_S:g}")
        kept = {name: value for name, value in came.headers.items() if name in _HEADERS}
        digest = hashlib.sha256(
            msgspec.msgpack.encode([came.model, came.version, sorted(kept.items()), came.body])
        ).hexdigest()
        return Later(
            query=f"later-{secrets.token_hex(12)}",
            owner=came.owner,
            key=came.key,
            again=again,
            digest=digest,
            model=came.model,
            version=came.version,
            headers=kept,
            asked=came.body,
            answer_to=came.headers.get("x-daitn-answer-to", ""),
            asked_s=now_s,
            until_s=now_s + within_s,
            expires_s=now_s + within_s + KEEP_S,
        )

    def _acknowledged(self, one: Later) -> Reply:
        said = {"query": one.query, "state": "under way" if one.status == 0 else "answered", "until": one.until_s}
        told = {"Location": f"/v2/later/{one.query}", "Retry-After": "1", "x-daitn-later": one.query}
        return Reply(202, msgspec.json.encode(said), told)

    # --- the work -------------------------------------------------------------------------------------------------

    def _go(self, one: Later) -> None:
        task = asyncio.get_running_loop().create_task(self._work(one))
        self._tasks[one.query] = task
        task.add_done_callback(lambda done: self._ended(one.query, done))

    def _ended(self, query: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(query) is task:
            del self._tasks[query]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a query that nobody waits for failed", exc_info=error)

    async def _work(self, one: Later) -> None:
        if one.status == 0:
            one = await self._compute(one)
        if one.answer_to and not one.delivered:
            await self._deliver(one)

    async def _compute(self, one: Later) -> Later:
        tries = 0
        while True:
            left_s = one.until_s - self._clock()
            reply = _late()
            if left_s > 0:
                async with self._room:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(left_s):
                            reply = await self._answer(one)
            pause_s = wait_s(tries, self._random, _told_s(reply))
            if reply.status not in TRIED_AGAIN or self._clock() + pause_s >= one.until_s:
                break
            tries += 1
            self._counters.count("later_tried_again")
            await self._sleep(pause_s)
        told = {name: value for name, value in reply.headers.items() if name != "Retry-After"}
        expires_s = self._clock() + KEEP_S
        await asyncio.to_thread(
            self._store.answered, one.query, reply.status, told, reply.content_type, reply.body, expires_s
        )
        return one._replace(
            status=reply.status, told=told, kind=reply.content_type, answer=reply.body, expires_s=expires_s
        )

    async def _deliver(self, one: Later) -> None:
        to = parse_destination(one.answer_to)
        assert to is not None
        tries, fault = 0, "nobody took it in time"
        while self._clock() < one.expires_s:
            told = {**one.told, "x-daitn-status": str(one.status)}
            try:
                async with self._room:
                    if isinstance(to, Posted):
                        await self._webhooks.post(to, one.query, one.answer, one.kind, told)
                    elif self._handing is not None:
                        await self._handing.hand(to.node, one)
            except PolicyError as error:
                fault = error.what
                break
            except DaitnError as error:
                fault = error.what
            else:
                self._counters.count("later_posted", "done")
                await asyncio.to_thread(self._store.delivered, one.query, "done")
                return
            self._counters.count("later_posted", "again")
            await self._sleep(wait_s(tries, self._random))
            tries += 1
        self._counters.count("later_posted", "given-up")
        await asyncio.to_thread(self._store.delivered, one.query, fault[:500])

    async def _sweep(self) -> None:
        while True:
            await self._sleep(SWEEP_S)
            for query in await asyncio.to_thread(self._store.expire, self._clock()):
                if (task := self._tasks.pop(query, None)) is not None:
                    task.cancel()


_HEADERS: Final = frozenset((protocol.HEADER.lower(), "x-daitn-session", SEALED, TEXT, *protocol.GOAL_WORDS.values()))
"""Of a request's headers, those that say what is asked; no key is kept."""


def _late() -> Reply:
    what = "it was not answered within the time its client gave"
    return Reply(503, msgspec.json.encode({"error": what}), {"x-daitn-reason": QueryRefusal.LATE.value})


def _told_s(reply: Reply) -> float:
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0

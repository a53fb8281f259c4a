"""The gateway's door, queries of tensors: from a body to a reply, by either way.

Those that `quick_door` reads come here as they are (`begin`). One that can be sent to a host at once is, and is told in
the turn of the loop in which its answer comes; only what has to wait for something is given a task: a turn, a quota,
another host, a pipeline. What comes by the general server is asked in that request's own task (`ask`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import Refused, unknown_model
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import ServedModel
from daitn.node.http.problems import HttpError
from daitn.node.serving import inference_protocol as protocol
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.asking import Asking, Begun
from daitn.node.serving.combining import Combining
from daitn.node.serving.feedback_door import HEADER as FEEDBACK
from daitn.node.serving.feedback_door import FeedbackDoor
from daitn.node.serving.key_book import KeyBook
from daitn.node.serving.quick_door import Plain, Reply
from daitn.node.serving.replies import refusal, told_of
from daitn.node.serving.ways import WayBook, trace_header
from daitn.serving.tensors import rows_of, tensors_of

QUERIES_TOLD: Final = 16
NOTICE_CHARS: Final = 1000
"""Of a combined answer's queries and notices, as many are told in headers."""

_log = logging.getLogger(__name__)


class QueryDoor:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        asking: Asking,
        combining: Combining,
        keys: KeyBook,
        ways: WayBook,
        feedback: FeedbackDoor,
        counters: Counters,
    ) -> None:
        self._engine, self._asking, self._combining = engine, asking, combining
        self._keys, self._ways, self._feedback, self._counters = keys, ways, feedback, counters

    def find(self, key: str, name: str, version: str) -> ServedModel | Reply:
        """A model or pipeline by its name, or what is said where there is none. HttpError: the key is for others."""
        self._keys.check(key, name)
        model = self._engine.models.get(ModelName(name)) or self._combining.described(name)
        if model is None:
            listed = (one.model for one in self._engine.models.values() if one.is_listed)
            return refusal(unknown_model(name, (*listed, *self._combining.pipelines)))
        if version not in ("", protocol.VERSION):
            self._counters.count("door_refused", "input")
            what = f"model {name} has version {protocol.VERSION}, not {version[:40]!r}"
            return Reply(404, error_body(what), {})
        return model

    def check(self, key: str, name: str, version: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What would be said to a query before any host hears of it; InputError, or None where nothing is wrong."""
        model = self.find(key, name, version)
        if isinstance(model, Reply):
            return model
        asked = _decoded(headers, body)
        if model.model in self._engine.models:
            rows_of(asked.arrays, model.inputs)
        return None

    async def ask(self, key: str, model: ServedModel, headers: Mapping[str, str], body: bytes) -> Reply:
        """A query with a key that opened the door. InputError where it does not fit; HttpError where the key's terms
        do not let it."""
        return await self._ask(key, model, headers, _decoded(headers, body))

    # --- the quick way ----------------------------------------------------------------------------------------------

    def begin(self, plain: Plain, told: Callable[[Reply], None]) -> Callable[[], None]:
        """Begin with a query: `told` is called once, at once where nothing has to be waited for. Whatever is wrong is
        told, as at the general way. What is returned stops it, if it is under way."""
        work = _Work(told)
        try:
            headers = plain.headers
            key = self._keys.admit(headers.get("authorization", ""), headers.get("x-api-key", ""))
            model = self.find(key, plain.model, plain.version)
            if not isinstance(model, Reply):
                asked = _decoded(headers, plain.body)
                self._begin(work, key, model, headers, asked)
                return work.stop
            reply = model
        except Exception as error:  # noqa: BLE001  # as `_wrong` has it
            reply = self._wrong(error)
        told(reply)
        return work.stop

    def _begin(
        self, work: _Work, key: str, model: ServedModel, headers: Mapping[str, str], asked: protocol.Infer
    ) -> None:
        """Send it, or give it a task where there is something to wait for or to refuse."""
        counted = self._keys.begin_now(key, model.model)
        begun = None
        if counted and model.model in self._engine.models:
            rows = rows_of(asked.arrays, model.inputs)
            begun = self._asking.begin(model.model, asked.inputs, rows, asked.goal, _session(headers))
        if begun is None:
            work.run(self._asked(key, model, headers, asked, counted=counted))
        else:
            self._follow(work, begun, key, model, headers, asked)

    def _follow(
        self, work: _Work, begun: Begun, key: str, model: ServedModel, headers: Mapping[str, str], asked: protocol.Infer
    ) -> None:
        def came(found: Asked) -> None:
            try:
                reply = self._reply(key, model, headers, asked, found)
            except Exception as error:  # noqa: BLE001  # as `_wrong` has it
                reply = self._wrong(error)
            work.told(reply)
            self._ways.keep(key, found)

        async def rest(going: Coroutine[Any, Any, Asked]) -> Reply:
            try:
                found = await going
                self._ways.keep(key, found)
                return self._reply(key, model, headers, asked, found)
            except Exception as error:  # noqa: BLE001  # as `_wrong` has it
                return self._wrong(error)

        work.begun = begun
        begun.then(came, lambda going: work.run(rest(going)))

    async def _asked(
        self, key: str, model: ServedModel, headers: Mapping[str, str], asked: protocol.Infer, *, counted: bool
    ) -> Reply:
        try:
            return await self._ask(key, model, headers, asked, counted=counted)
        except Exception as error:  # noqa: BLE001  # as `_wrong` has it
            return self._wrong(error)

    def _wrong(self, error: Exception) -> Reply:
        """What is told in place of an answer. Whoever asked must not wait for ever because of a bug of ours."""
        if isinstance(error, InputError):
            self._counters.count("door_refused", "input")
            return Reply(400, error_body(error.render()), {})
        if isinstance(error, HttpError):
            return Reply(error.status, error_body(error.what), told_of(error))
        _log.error("a query failed", exc_info=error)
        return Reply(500, error_body("the gateway failed; the reason is in its log"), {})

    # --- either way -------------------------------------------------------------------------------------------------

    async def _ask(
        self, key: str, model: ServedModel, headers: Mapping[str, str], asked: protocol.Infer, *, counted: bool = False
    ) -> Reply:
        """`counted`: the key's terms let it, and it was counted."""
        if not counted:
            await self._keys.begin(key, model.model)
        session = _session(headers)
        if model.model not in self._engine.models:
            return await self._ask_combined(key, model, asked, session)
        rows = rows_of(asked.arrays, model.inputs)
        found = await self._asking.ask(model.model, asked.inputs, rows, asked.goal, session, key)
        self._ways.keep(key, found)
        return self._reply(key, model, headers, asked, found)

    def _reply(
        self, key: str, model: ServedModel, headers: Mapping[str, str], asked: protocol.Infer, found: Asked
    ) -> Reply:
        """What a query that has ended is answered."""
        told = {"x-daitn-query": found.query}
        if headers.get("x-daitn-trace"):
            told["x-daitn-trace"] = trace_header(found)
        if isinstance(found.outcome, Refused):
            return refusal(found.outcome, told)
        told["x-daitn-host"] = found.host
        if found.price is not None:
            told["x-daitn-price"] = f"{found.price:.9f}"
        if found.model != model.model:
            told["x-daitn-version"] = "next"
        answered = self._engine.models.get(found.model, model)
        if answered.threshold != 0.5:
            told["x-daitn-threshold"] = f"{answered.threshold:g}"
        if headers.get(FEEDBACK):
            told |= self._feedback.remember(found, key, found.outcome.outputs)
        return _answered(*protocol.encode_answer(model, asked, found.outcome.outputs), told)

    async def _ask_combined(self, key: str, model: ServedModel, asked: protocol.Infer, session: str) -> Reply:
        """A pipeline: the queries that it became can be explained each by its name."""
        found = await self._combining.ask(model.model, asked.arrays, asked.goal, session, key)
        told = {"x-daitn-query": ", ".join(one.query for one in found.asked[:QUERIES_TOLD])}
        for one in found.asked:
            self._ways.keep(key, one)
        if found.notices:
            told["x-daitn-notice"] = "; ".join(found.notices)[:NOTICE_CHARS]
        if isinstance(found.outcome, Refused):
            return refusal(found.outcome, told)
        told["x-daitn-host"] = ", ".join(dict.fromkeys(one.host for one in found.asked[:QUERIES_TOLD] if one.host))
        return _answered(*protocol.encode_answer(model, asked, tensors_of(found.outcome)), told)


class _Work:
    """One query by the quick way: told once, or stopped."""

    __slots__ = ("_task", "_told", "begun")

    def __init__(self, told: Callable[[Reply], None]) -> None:
        self._told = told
        self._task: asyncio.Task[None] | None = None
        self.begun: Begun | None = None

    def told(self, reply: Reply) -> None:
        """It is over."""
        self._told(reply)

    def run(self, rest: Coroutine[Any, Any, Reply]) -> None:
        """It has to wait for something."""

        async def tell() -> None:
            self._told(await rest)

        self._task = asyncio.get_running_loop().create_task(tell())

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if self.begun is not None:
            self.begun.stop()
        if self._task is not None:
            self._task.cancel()


def _decoded(headers: Mapping[str, str], body: bytes) -> protocol.Infer:
    return protocol.decode_infer(body, headers.get(protocol.HEADER.lower()), headers)


def _session(headers: Mapping[str, str]) -> str:
    return headers.get("x-daitn-session", "")[: limits.NAME_CHARS]


def _answered(body: bytes, cut: int | None, told: dict[str, str]) -> Reply:
    if cut is None:
        return Reply(200, body, told)
    return Reply(200, body, {**told, protocol.HEADER: str(cut)}, "application/octet-stream")


def error_body(what: str) -> bytes:
    """The protocol's body of an error."""
    return msgspec.json.encode({"error": what})

"""Calls: one request, one answer, between two nodes on one plane.

A call holds a worker thread while it waits; the answer wakes the loop once. On the serving side a session thread counts
the call in, the loop runs the handler, the session's own thread sends the answer. Beyond INBOX_MESSAGES in hand the
caller is told `busy` at once, so that a flooded node stays honest instead of slow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from daitn.base.errors import BugError, DaitnError, InputError, PeerError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.limits import INBOX_MESSAGES
from daitn.base.names import check_name
from daitn.node.fabric import keys
from daitn.node.fabric.chunks import Refusal
from daitn.node.fabric.contract import PLANE_BYTES, CallHandler, FabricConfig, FabricCounters, Plane
from daitn.node.fabric.handoff import LoopMailbox, Workers
from daitn.node.fabric.session import Cancel, NoAnswerError, Pending, Question, Session, TimedOutError

GRACE_S: Final = 1.0
"""A call that its session has not ended this long after its timeout is given up on our side."""

QUICK_BYTES: Final = 16 * 1024
"""Control messages up to this size are sent from the loop itself: that saves two of seven thread changes (0.2 of
1.3 ms on a busy machine). Should the link be congested, the loop stands still once, for the 200 ms after which a
congested link is cut; bigger messages and the data plane, where congestion is normal, go through threads."""

BUSY: Final = Refusal(UnavailableError.kind, "busy")
FAILED: Final = Refusal(PeerError.kind, "the handler failed; the reason is in its log")

_log = logging.getLogger(__name__)


class Calls:
    """Both sides of calls for one node."""

    def __init__(
        self, config: FabricConfig, sessions: Mapping[Plane, Session], workers: Workers, counters: FabricCounters
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._workers = workers
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._inboxes: dict[Plane, Inbox] = {}

    async def call(self, receiver: NodeId, payload: bytes, plane: Plane, timeout_s: float) -> bytes:
        """See `Fabric.call`."""
        if len(payload) > PLANE_BYTES[plane]:
            raise InputError(f"message of {len(payload)} bytes is larger than {PLANE_BYTES[plane]} on {plane}")
        key = keys.message(self._config.domain, plane, check_name("receiver", receiver), self._config.node)
        session, cancel, deadline_s = self._sessions[plane], Cancel(), self._loop.time() + timeout_s

        def begin() -> Pending:
            left_s = deadline_s - self._loop.time()
            if left_s <= 0:
                raise TimedOutError(f"{receiver} was not asked in time: too many calls in flight")
            return session.begin(key, plane, payload, timeout_s=left_s, cancel=cancel)

        try:
            async with asyncio.timeout_at(deadline_s + GRACE_S):
                if _is_quick(plane, payload):
                    return await self._workers.run(begin().wait)
                return await self._workers.run(lambda: begin().wait())
        except NoAnswerError as fault:
            self._counters.calls_unserved += 1
            raise UnavailableError(f"{receiver} does not serve {plane}, or its link is cut", todo=fault.todo) from fault
        except (TimedOutError, TimeoutError) as fault:
            self._counters.calls_timed_out += 1
            session.soon(cancel.pull)
            raise UnavailableError(
                f"{receiver} did not answer within {timeout_s:g} s", todo="try again, or allow more time"
            ) from fault
        except UnavailableError as fault:
            self._counters.calls_busy += fault.what.endswith(f": {BUSY.what}")
            raise
        except asyncio.CancelledError:
            session.soon(cancel.pull)
            raise

    async def serve(self, handler: CallHandler, plane: Plane) -> None:
        """See `Fabric.serve`."""
        if plane in self._inboxes:
            raise BugError(f"{self._config.node} serves {plane} already")
        session = self._sessions[plane]
        inbox = self._inboxes[plane] = Inbox(self._config, session, plane, handler, self._counters)
        expression = keys.inbox(self._config.domain, plane, self._config.node)
        probe = keys.message(self._config.domain, plane, self._config.node, self._config.node)
        await self._workers.run(lambda: session.serve(expression, probe, INBOX_MESSAGES, inbox.receive))

    async def close(self) -> None:
        """Cancel the handlers that still run."""
        for inbox in self._inboxes.values():
            await inbox.close()


class Inbox:
    """The calls in hand on one plane: taken in on a session thread, handled on the loop."""

    def __init__(
        self, config: FabricConfig, session: Session, plane: Plane, handler: CallHandler, counters: FabricCounters
    ) -> None:
        self._config = config
        self._session = session
        self._plane = plane
        self._handler = handler
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        # Two counters, each written by one thread only, instead of a lock on every message.
        self._taken = 0
        self._done = 0
        self._arrivals: LoopMailbox[tuple[Question, NodeId, bytes]]
        self._arrivals = LoopMailbox(asyncio.get_running_loop(), self._begin)

    def receive(self, question: Question) -> None:
        """Take one call in, or refuse it; runs on the session's thread."""
        if self._taken - self._done >= INBOX_MESSAGES:
            self._counters.inbox_refused += 1
            question.refuse(BUSY)
            return
        try:
            sender = keys.sender_of_message(question.key, self._config.domain, self._plane, self._config.node)
            payload = question.payload()
            if len(payload) > PLANE_BYTES[self._plane]:
                raise PeerError(f"{sender} sent {len(payload)} bytes, more than {PLANE_BYTES[self._plane]}")
        except PeerError as fault:
            self._counters.inbox_malformed += 1
            question.refuse(Refusal(fault.kind, fault.what))
            return
        self._taken += 1
        self._arrivals.put((question, sender, payload))

    async def close(self) -> None:
        """Cancel what is being handled; callers are told that there is no answer."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, arrival: tuple[Question, NodeId, bytes]) -> None:
        if self._closed:
            arrival[0].drop()
            return
        task = asyncio.get_running_loop().create_task(self._handle(*arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, question: Question, sender: NodeId, payload: bytes) -> None:
        refusal = FAILED
        try:
            answer = await self._handler(sender, payload)
            if len(answer) <= PLANE_BYTES[self._plane]:
                if _is_quick(self._plane, answer):
                    question.answer(answer)
                else:
                    self._session.soon(lambda: question.answer(answer))
                return
            self._counters.handlers_failed += 1
            _log.error("answer of %d bytes to %s is larger than a message on %s", len(answer), sender, self._plane)
        except DaitnError as fault:
            refusal = Refusal(fault.kind, fault.what)
        except asyncio.CancelledError:
            self._session.soon(question.drop)
            raise
        except Exception:  # noqa: BLE001 - a handler's bug must not take the other callers' node down
            self._counters.handlers_failed += 1
            _log.exception("handler on %s failed for a call of %s", self._plane, sender)
        finally:
            self._done += 1
        self._session.soon(lambda: question.refuse(refusal))


def _is_quick(plane: Plane, payload: bytes) -> bool:
    return plane is Plane.CP and len(payload) <= QUICK_BYTES

"""One session to a router: the blocking primitives the fabric is made of, and the only place that speaks zenoh.

The rules that keep 1.10.2 out of trouble live here: client mode with explicit endpoints, no discovery, no shared
memory; every declaration has a bounded channel that a thread of ours drains, never a callback; nothing is asked of the
session from inside another's delivery; queries go to ALL without consolidation and are answered under their concrete
key. Puts go through the session, not through declared publishers: those look for subscribers first, which access
control hides from them, and then drop everything.

After the router was lost the session reconnects by itself (0.35 s after a `kill -9` with the router back at once) and
should declare everything again. Once in a hundred restarts, on a loaded machine, it did not: a liveliness subscription
stayed deaf for ever while the router listed the tokens. So whatever is declared is declared anew when a link is back.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import zenoh

from daitn.base.errors import UnavailableError
from daitn.node.fabric.chunks import Refusal, decode_refusal
from daitn.node.fabric.contract import FabricConfig, Plane
from daitn.node.fabric.keys import CHUNK_LANE, STREAM_LANE
from daitn.node.fabric.link_ledger import Entry
from daitn.node.fabric.router import transport_settings

RECONNECT_FIRST_MS: Final = 100
RECONNECT_LAST_MS: Final = 1000
"""Longest pause between attempts to reach a router again: a thousand nodes are then a thousand attempts a second."""

REPLIES: Final = 2
"""Answers kept per query; one is expected, a second would be a node that runs twice."""

TOKEN_EVENTS: Final = 8192
"""Presence changes waiting for their thread: all slots of a domain at once, after a router came back."""

GATHER_S: Final = 0.002
"""How long reports are gathered before they are handed on; they are facts about the world, not calls."""

PROBE_S: Final = 1.0
"""Longest wait for the router to confirm a declaration; without a link there is none, and none is needed yet."""

_PRIORITIES: Final = {
    str(Plane.CP): zenoh.Priority.INTERACTIVE_HIGH,
    str(Plane.RECORD): zenoh.Priority.DATA_HIGH,
    str(Plane.DP): zenoh.Priority.DATA,
    STREAM_LANE: zenoh.Priority.DATA,
    CHUNK_LANE: zenoh.Priority.DATA_LOW,
}

_log = logging.getLogger(__name__)


class NoAnswerError(UnavailableError):
    """Nobody serves the key, or who did has gone."""


class TimedOutError(UnavailableError):
    """Somebody serves the key, but did not answer in time."""


class Cancel:
    """Breaks the asks it was given to; from any thread, once."""

    def __init__(self) -> None:
        self._token = zenoh.CancellationToken()

    @property
    def cancelled(self) -> bool:
        """Whether it was pulled."""
        return bool(self._token.is_cancelled)

    def pull(self) -> None:
        """End all asks now and in future."""
        self._token.cancel()  # type: ignore[no-untyped-call]


class Tally:
    """Counts the payload of a session into the ledger's entry of the link that stands now; into none while it does
    not."""

    def __init__(self) -> None:
        self.entry: Entry | None = None

    def sent(self, count: int) -> None:
        """So many bytes went out."""
        if (entry := self.entry) is not None:
            entry.sent(count)

    def received(self, count: int) -> None:
        """So many bytes came in."""
        if (entry := self.entry) is not None:
            entry.received(count)


class Pending:
    """A query that was sent."""

    def __init__(self, key: str, replies: zenoh.Handler[zenoh.Reply], late_s: float, tally: Tally) -> None:
        self._key = key
        self._tally = tally
        self._replies = replies
        self._late_s = late_s

    def wait(self) -> bytes:
        """Block until it is answered: NoAnswerError, TimedOutError, or what a `Refusal` says."""
        with contextlib.suppress(zenoh.ZError):  # the session was closed meanwhile: no answer
            for reply in self._replies:
                content = _content(reply, self._key)
                self._tally.received(len(content))
                return content
        if time.monotonic() >= self._late_s:  # the router's timeout was a moment before the session's own
            raise TimedOutError(f"no answer at {self._key} in time", todo="try again, or allow more time")
        raise NoAnswerError(f"nobody answers at {self._key}", todo="see whether the node is present, and try again")


class Question:
    """A query that waits for its answer; answer, refuse or drop it exactly once."""

    def __init__(self, query: zenoh.Query, key: str, tally: Tally) -> None:
        self._query = query
        self._tally = tally
        self.key = key

    def payload(self) -> bytes:
        """What was asked."""
        payload = self._query.payload
        content = payload.to_bytes() if payload is not None else b""
        self._tally.received(len(content))
        return content

    def answer(self, content: bytes | memoryview) -> None:
        """Send the answer; dropped silently if the asker has gone."""
        self._tally.sent(len(content))
        with contextlib.suppress(zenoh.ZError), self._query as query:
            query.reply(self.key, content if isinstance(content, bytes) else bytes(content), express=True)

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal instead."""
        with contextlib.suppress(zenoh.ZError), self._query as query:
            query.reply_err(msgspec.msgpack.encode(refusal))

    def drop(self) -> None:
        """Give no answer: the asker is told at once that there is none."""
        with contextlib.suppress(zenoh.ZError):
            self._query.drop()  # type: ignore[no-untyped-call]


class _Declaration:
    """Something declared at the router, with how to declare it anew and what its threads do."""

    def __init__(self, declare: Callable[[], Any], receive: Callable[[Any], None], threads: int = 1) -> None:
        self.declare = declare
        self.receive = receive
        self.threads = threads
        self.handle: Any = None


class Session:
    """A connection to a router; the methods block and are for threads, the callbacks come on threads."""

    def __init__(self, config: FabricConfig) -> None:
        """Connect; UnavailableError if no router accepts within `config.open_timeout_s`."""
        text = msgspec.json.encode(session_settings(config)).decode()
        try:
            self._session = zenoh.open(zenoh.Config.from_json5(text))
        except zenoh.ZError as fault:
            raise UnavailableError(
                f"{config.node} reaches no router at {', '.join(config.routers)} within {config.open_timeout_s:g} s",
                todo="check that the router runs, its address, and that it belongs to the same domain's authority",
            ) from fault
        self.tally = Tally()
        self._tokens: list[zenoh.LivelinessToken] = []
        self._report_keys: dict[str, zenoh.KeyExpr] = {}
        self._declarations: list[_Declaration] = []
        self._declaring = threading.Lock()
        self._chores: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self._start(self._do_chores)

    def close(self) -> None:
        """End all declarations and threads; asks in flight end with UnavailableError."""
        self._chores.put(None)
        with contextlib.suppress(zenoh.ZError):
            self._session.close()  # type: ignore[no-untyped-call]

    def soon(self, chore: Callable[[], None]) -> None:
        """Run a short zenoh operation on the session's own thread, in order; never blocks the caller."""
        self._chores.put(chore)

    def begin(self, key: str, lane: str, payload: bytes, *, timeout_s: float, cancel: Cancel) -> Pending:
        """Send a query to the one node that serves `key`; the timeout runs inside zenoh.

        Returns at once unless the link is congested: then after at most WAIT_BEFORE_CLOSE_US, when it is cut.
        """
        try:
            replies = self._session.get(
                key,
                zenoh.handlers.FifoChannel(REPLIES),
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
                timeout=max(timeout_s, 0.001),
                congestion_control=zenoh.CongestionControl.BLOCK,
                priority=_PRIORITIES[lane],
                express=lane == Plane.CP,
                payload=payload,
                cancellation_token=cancel._token,
            )
        except zenoh.ZError as fault:
            raise UnavailableError(f"{key}: not sent, the session is closed or the call was cancelled") from fault
        self.tally.sent(len(payload))
        return Pending(key, replies, time.monotonic() + timeout_s * 0.95, self.tally)

    def ask(self, key: str, lane: str, payload: bytes, *, timeout_s: float, cancel: Cancel) -> bytes:
        """`begin` and wait for the answer."""
        return self.begin(key, lane, payload, timeout_s=timeout_s, cancel=cancel).wait()

    def serve(
        self, keys: str, probe: str, depth: int, on_question: Callable[[Question], None], *, threads: int = 1
    ) -> None:
        """Give each query under `keys` to `on_question` on `threads` threads; at most `depth` wait for them.

        Returns when the router knows: a query to `probe`, a key of `keys` that this node may ask, has been there after
        the declaration on the same link. Whoever is told of this node afterwards will reach it.
        """

        def declare() -> zenoh.Queryable[zenoh.Handler[zenoh.Query]]:
            return self._session.declare_queryable(keys, zenoh.handlers.FifoChannel(depth))

        def receive(queryable: Iterable[zenoh.Query]) -> None:
            for query in queryable:
                on_question(Question(query, str(query.key_expr), self.tally))

        self._declare(_Declaration(declare, receive, threads))
        with contextlib.suppress(zenoh.ZError):
            channel: zenoh.handlers.FifoChannel[zenoh.Reply] = zenoh.handlers.FifoChannel(REPLIES)
            far = zenoh.Locality.REMOTE  # not our own queryable: the router shall answer that there is nobody
            list(self._session.get(probe, channel, timeout=PROBE_S, allowed_destination=far))

    def put_latest(self, key: str, payload: bytes) -> None:
        """Publish a value that may be dropped."""
        self.tally.sent(len(payload))
        with contextlib.suppress(zenoh.ZError):
            self._session.put(
                key,
                payload,
                congestion_control=zenoh.CongestionControl.DROP,
                priority=zenoh.Priority.BACKGROUND,
            )

    def put_reports(self, key: str, payloads: Sequence[bytes]) -> None:
        """Publish values that may each be dropped, in order. The key is declared once: a long one on every message
        costs the router a third of what it can carry."""
        with contextlib.suppress(zenoh.ZError):
            declared = self._report_keys.get(key)
            if declared is None:
                declared = self._report_keys[key] = self._session.declare_keyexpr(key)
            for payload in payloads:
                self._session.put(
                    declared,
                    payload,
                    congestion_control=zenoh.CongestionControl.DROP,
                    priority=zenoh.Priority.BACKGROUND,
                )

    def subscribe_reports(
        self, keys: str, depth: int, most: int, on_values: Callable[[list[str], list[bytes]], None]
    ) -> None:
        """Give keys and payloads of what arrived under `keys` together, up to `most` at once, to `on_values`; beyond
        `depth` waiting the oldest are lost."""

        def declare() -> zenoh.Subscriber[zenoh.Handler[zenoh.Sample]]:
            return self._session.declare_subscriber(keys, zenoh.handlers.RingChannel(depth))

        def receive(subscriber: zenoh.Subscriber[zenoh.Handler[zenoh.Sample]]) -> None:
            channel = subscriber.handler  # outlives the subscriber, which may be declared anew
            while True:
                sample: zenoh.Sample | None = channel.recv()
                # Some more arrive meanwhile: without the pause there are ten in a batch and as many changes of thread.
                time.sleep(GATHER_S)
                names: list[str] = []
                payloads: list[bytes] = []
                while sample is not None:
                    names.append(str(sample.key_expr))
                    payloads.append(sample.payload.to_bytes())
                    sample = channel.try_recv() if len(names) < most else None
                on_values(names, payloads)

        self._declare(_Declaration(declare, receive))

    def subscribe(self, keys: str, depth: int, on_value: Callable[[str, bytes], None]) -> None:
        """Give (key, payload) of each value under `keys` to `on_value`; beyond `depth` waiting the oldest is lost."""

        def declare() -> zenoh.Subscriber[zenoh.Handler[zenoh.Sample]]:
            return self._session.declare_subscriber(keys, zenoh.handlers.RingChannel(depth))

        def receive(subscriber: Iterable[zenoh.Sample]) -> None:
            for sample in subscriber:
                content = sample.payload.to_bytes()
                self.tally.received(len(content))
                on_value(str(sample.key_expr), content)

        self._declare(_Declaration(declare, receive))

    def hold_token(self, key: str) -> None:
        """Show presence under `key` until the session ends."""
        self._tokens.append(self._session.liveliness().declare_token(key))

    def watch_tokens(self, keys: str, on_change: Callable[[str, bool], None]) -> None:
        """Give (key, present) for tokens under `keys`: those there now, then each change."""

        def declare() -> zenoh.Subscriber[zenoh.Handler[zenoh.Sample]]:
            channel: zenoh.handlers.FifoChannel[zenoh.Sample] = zenoh.handlers.FifoChannel(TOKEN_EVENTS)
            return self._session.liveliness().declare_subscriber(keys, channel, history=True)

        def receive(subscriber: Iterable[zenoh.Sample]) -> None:
            for sample in subscriber:
                on_change(str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        self._declare(_Declaration(declare, receive))

    def list_tokens(self, keys: str, timeout_s: float) -> set[str]:
        """The tokens under `keys` that the router knows now; UnavailableError if it did not tell all in time."""
        channel: zenoh.handlers.FifoChannel[zenoh.Reply] = zenoh.handlers.FifoChannel(TOKEN_EVENTS)
        tokens: set[str] = set()
        try:
            for reply in self._session.liveliness().get(keys, channel, timeout=timeout_s):
                if reply.ok is None:
                    raise UnavailableError(f"the tokens under {keys} were not listed in time")
                tokens.add(str(reply.ok.key_expr))
        except zenoh.ZError as fault:
            raise UnavailableError("the session is closed") from fault
        return tokens

    def watch_link(self, on_change: Callable[[bool], None]) -> None:
        """Give False when the link to the router is lost, True when it is back and everything is declared again."""
        listener = self._session.info.declare_transport_events_listener(zenoh.handlers.FifoChannel(64))

        def receive() -> None:
            for event in listener:
                up = event.kind == zenoh.SampleKind.PUT
                if up:
                    self.declare_again()
                on_change(up)

        self._start(receive)

    def declare_again(self) -> None:
        """Replace every declaration but the token by a fresh one; what waits in the old channels is still delivered."""
        with self._declaring:
            for declaration in self._declarations:
                # Undeclared first: two queryables at once would take the same call twice.
                declaration.handle.undeclare()
                self._open(declaration)

    def _declare(self, declaration: _Declaration) -> None:
        with self._declaring:
            self._declarations.append(declaration)
            self._open(declaration)

    def _open(self, declaration: _Declaration) -> None:
        handle = declaration.handle = declaration.declare()
        for _ in range(declaration.threads):
            self._start(lambda: declaration.receive(handle))

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            # A closed session ends its channels with ZError: that is how these threads stop.
            with contextlib.suppress(zenoh.ZError):
                work()

        thread = threading.Thread(target=run, name="fabric-session", daemon=True)
        self.threads = [*(other for other in self.threads if other.is_alive()), thread]
        thread.start()

    def _do_chores(self) -> None:
        while (chore := self._chores.get()) is not None:
            try:
                chore()
            except zenoh.ZError as fault:
                _log.debug("dropped on a closed session: %s", fault)


def session_settings(config: FabricConfig) -> dict[str, Any]:
    """A client session's configuration in the words of zenoh."""
    return {
        "mode": "client",
        "connect": {
            "endpoints": [f"tls/{router}" for router in config.routers],
            "timeout_ms": round(config.open_timeout_s * 1000),
            "exit_on_failure": True,
            "retry": {
                "period_init_ms": RECONNECT_FIRST_MS,
                "period_max_ms": RECONNECT_LAST_MS,
                "period_increase_factor": 2,
            },
        },
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "transport": transport_settings(config.authority, config.certificate, config.key, config.lease_s),
    }


def _content(reply: zenoh.Reply, key: str) -> bytes:
    if reply.ok is not None:
        return reply.ok.payload.to_bytes()
    assert reply.err is not None  # a reply is one or the other
    said = reply.err.payload.to_bytes()
    if said == b"Timeout":  # zenoh's own word; a refusal of ours is a msgpack array
        raise TimedOutError(f"no answer at {key} in time", todo="try again, or allow more time")
    raise decode_refusal(said).error(key.rpartition("/to/")[2].partition("/")[0])

"""Runs one core in the real world: events one at a time, effects in order, durable before spoken.

Everything happens on the event loop's thread. A commit takes one to five milliseconds, by the disk, and is done in
place, because whatever follows in the turn must not be begun before it; all other effects are started, never awaited.
While one commit is under way messages gather, and the facts of all their turns go into the next one, ahead of all that
the turns do: a hundred results of a round cost a few commits, not a hundred. To a crash that is as if each turn's
messages had been lost, which every core lives with; who sent a message is answered when its turn's facts are durable.
What those turns say to one node goes as one message.

An effect this module does not know is handed to `perform`, which the node gives.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from daitn.base.effects import (
    Append,
    CancelTimer,
    Compute,
    Core,
    Delivered,
    Effect,
    Event,
    Message,
    PeerAppeared,
    PeerVanished,
    Record,
    Send,
    SendFailed,
    SetTimer,
    Started,
    TimerFired,
    replay,
)
from daitn.base.errors import DaitnError, UnavailableError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.base.units import ns_to_seconds
from daitn.node.clock import NodeClock
from daitn.node.computing import Computing
from daitn.node.fabric.contract import Fabric, Plane
from daitn.node.journal import Journal
from daitn.wire.codec import TOGETHER_MOST, decode_all, encode, join
from daitn.wire.oam_records import RecordsKept, RecordsReported

TURNS_TOGETHER: Final = 64
"""Turns that share a commit at most: some ten milliseconds of a core, after which what the first of them has to say
should wait no longer."""

TOGETHER_BYTES: Final = 15 * 1024
"""Messages of one commit to one node go as one up to this size: what the fabric sends without a change of threads."""

SEND_S: Final = 2.0
"""How long a message may take to be handed over; the cores repeat what matters sooner than that."""

RECORD_PLANE: Final = (RecordsReported, RecordsKept)
"""Messages of the record plane; all others are control."""

_log = logging.getLogger(__name__)


class CoreRunner:
    """See the module's docstring. `stream` names the core's records in the journal."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        stream: str,
        fabric: Fabric,
        clock: NodeClock,
        perform: Callable[[Effect], None],
    ) -> None:
        self.core = core
        self.counters = Counters()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the error that stopped this core: a lost journal or a bug. The node must stop then."""
        self.written_ns = 0
        """When the last record was written that `restore` read, by the clock of then."""
        self._journal = journal
        self._stream = stream
        self._fabric = fabric
        self._clock = clock
        self._perform = perform
        self._queue: deque[Event] = deque()
        self._busy = False
        self._gathering: asyncio.Event | None = None
        """Set when what `post_soon` was given is durable; None: nothing of that waits."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._computing = Computing(self.post, self.spawn)

    def restore(self) -> int:
        """Rebuild the core from its journal; returns how many records that took."""
        records: list[Record] = []
        for entry in self._journal.entries(self._stream):
            records.append(entry.record)
            self.written_ns = entry.time_ns
        replay(self.core, records)
        return len(records)

    async def start(self) -> None:
        """Take up what was in flight, then listen to the fabric."""
        self.post(Started())
        await self._fabric.serve(self._receive, plane=Plane.CP)
        await self._fabric.serve(self._receive, plane=Plane.RECORD)
        self.spawn(self._watch_presence())

    async def stop(self) -> None:
        """Forget timers, stop what was started."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._computing.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def post(self, event: Event) -> None:
        """Give an event to the core; it is durable on return. Those that arise while one is handled wait their turn."""
        self._queue.append(event)
        self._take_turns()

    def post_soon(self, event: Event) -> asyncio.Event:
        """Give an event to the core together with others that have come by then. What is returned is set when its facts
        are durable, or the core has stopped (`check_going`)."""
        self._queue.append(event)
        if self._gathering is None:
            self._gathering = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._take_gathered)
        return self._gathering

    def _take_gathered(self) -> None:
        gathered, self._gathering = self._gathering, None
        try:
            self._take_turns()
        finally:
            if gathered is not None:
                gathered.set()

    def _take_turns(self) -> None:
        """All turns that wait, some at a time."""
        if self._busy or self.failed.done():
            return
        self._busy = True
        try:
            while self._queue:
                self._take_some()
        except DaitnError as error:
            _log.critical("%s stops: %s", self._stream, error)
            self.failed.set_exception(error)
        finally:
            self._busy = False

    def _take_some(self) -> None:
        """Turns of one commit. One that fails takes nothing from those before it: they are kept and performed."""
        records: list[Record] = []
        effects: list[Effect] = []
        try:
            for _ in range(min(len(self._queue), TURNS_TOGETHER)):
                for effect in self.core.handle(self._queue.popleft(), self._clock.now_ns()):
                    if isinstance(effect, Append):
                        records.extend(effect.records)
                    else:
                        effects.append(effect)
        finally:
            if records:
                self._journal.append(self._stream, records, time_ns=self._clock.now_ns())
            sent: dict[tuple[NodeId, Plane], list[Message]] = {}
            for effect in effects:
                if isinstance(effect, Send):
                    plane = Plane.RECORD if isinstance(effect.message, RECORD_PLANE) else Plane.CP
                    sent.setdefault((effect.receiver, plane), []).append(effect.message)
                else:
                    self._do(effect)
            for (receiver, plane), messages in sent.items():
                self._send_all(receiver, plane, messages)

    def check_going(self) -> None:
        """UnavailableError once the core has stopped: it may then know more than its journal does, and nobody may be
        told what a restart takes back."""
        if self.failed.done():
            raise UnavailableError("this node is stopping, what it did last is not kept", todo="ask again in a moment")

    def fail(self, error: BaseException) -> None:
        """Stop the node: something that must not go wrong did."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine beside the core until it ends or the runner stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of %s failed", self._stream, exc_info=error)
            self.fail(error)

    def _do(self, effect: Effect) -> None:
        match effect:
            case SetTimer(name=name, at_ns=at_ns):
                self._set_timer(name, at_ns)
            case CancelTimer(name=name):
                if (timer := self._timers.pop(name, None)) is not None:
                    timer.cancel()
            case Compute():
                self._computing.begin(effect)
            case _:
                self._perform(effect)

    def _set_timer(self, name: str, at_ns: int) -> None:
        if (old := self._timers.pop(name, None)) is not None:
            old.cancel()
        delay_s = max(0.0, ns_to_seconds(at_ns - self._clock.now_ns()))
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self._fire, name)

    def _fire(self, name: str) -> None:
        fired = self._timers[name]
        self._take_turns()  # of what came before: it may put this timer off
        if self._timers.get(name) is fired:
            del self._timers[name]
            self.post(TimerFired(name=name))

    def _send_all(self, receiver: NodeId, plane: Plane, messages: Sequence[Message]) -> None:
        """Messages of one commit for one node: several that are small go as one."""
        gathered: list[tuple[Message, bytes]] = []
        size = 0
        for message in messages:
            try:
                data = encode(message)
            except DaitnError as error:
                self.counters.count("messages_not_taken")
                _log.error("a %s for %s cannot be sent: %s", type(message).__name__, receiver, error)
                continue
            if gathered and (size + len(data) > TOGETHER_BYTES or len(gathered) == TOGETHER_MOST):
                self.spawn(self._send(receiver, plane, gathered))
                gathered, size = [], 0
            gathered.append((message, data))
            size += len(data)
        if gathered:
            self.spawn(self._send(receiver, plane, gathered))

    async def _send(self, receiver: NodeId, plane: Plane, gathered: Sequence[tuple[Message, bytes]]) -> None:
        try:
            await self._fabric.call(receiver, join([data for _, data in gathered]), plane=plane, timeout_s=SEND_S)
        except UnavailableError:
            for message, _ in gathered:
                self.counters.count("messages_not_sent")
                self.post_soon(SendFailed(receiver=receiver, message=message))
        except DaitnError as error:
            for message, _ in gathered:
                self.counters.count("messages_not_taken")
                _log.warning("%s did not take a %s: %s", receiver, type(message).__name__, error)

    async def _receive(self, sender: NodeId, payload: bytes) -> bytes:
        """Decode under limits, hand to the core; the empty answer only says that its turn is over."""
        try:
            messages = decode_all(payload)
        except DaitnError:
            self.counters.count("messages_undecodable")
            raise
        for message in messages:
            durable = self.post_soon(Delivered(sender=sender, message=message))
        await durable.wait()
        self.check_going()
        return b""

    async def _watch_presence(self) -> None:
        async for node, present in self._fabric.presence():
            self.post(PeerAppeared(node=node) if present else PeerVanished(node=node))

"""What the node uses: launch a child for a job, have it do runs, watch it, cancel it, and explain how it died.

A child is kept warm between visits of one job and never serves two jobs, so nothing of one owner can reach another. The
node does not wait on what a child says: the wall time is the node's clock, memory and processor time are read from
`/proc`, a cancelled child that does not stop in time is killed, and a child that breaks the protocol, or talks without
end, is killed too. That a child is alive during a step of minutes is seen by its process and its growing processor
time (`ChildHandle.vital`), not by messages it would have to find time for.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from daitn.base.errors import BugError, DaitnError, PeerError
from daitn.node.sandbox.answers import TODO, answer_fault, dead, explain_exit, plan_run
from daitn.node.sandbox.exchange_port import ExchangePort, ToRoom
from daitn.node.sandbox.launcher import BASE_PATH, REPLAY_PATH, VECTORS_PATH, Sandbox, Started
from daitn.node.sandbox.protocol import (
    BLAME,
    HEADER,
    Cancel,
    Close,
    Embed,
    Failed,
    FailReason,
    Finished,
    FromChild,
    PartOut,
    PartTaken,
    Progressed,
    Ready,
    Run,
    Setup,
    ToChild,
    answer_length,
    decode_answer,
    encode_frame,
)
from daitn.node.sandbox.protocol import Started as StepStarted
from daitn.node.sandbox.vital import Vital, look_at

__all__ = ["ChildHandle", "VisitError", "Vital", "embed", "launch", "plan_run"]

CANCEL_S: Final = 0.4
"""A child that has not stopped by then is killed, so that a cancel takes at most half a second."""
CLOSE_S: Final = 1.0
WARM_S: Final = 300.0
"""Longest a child may take to warm up: importing torch from a cold network disk has been seen to take a minute."""
EMBED_S: Final = 6 * 3600.0
"""Longest a column may take to encode: a million texts at 50 a second, which one core manages with a small encoder."""
WATCH_S: Final = 0.25
"""How often memory is looked at; a process fills 2 GB in that time."""
STOPPED_LOOKS: Final = 8
"""Looks in a row that may find the child stopped by a signal (2 s): the node renews the lease of a visit meanwhile, so
nobody else would ever end one that stays so."""
FRAMES_PER_WATCH: Final = 2000
"""Frames taken between two looks; an honest child sends five reports a second. Parts of an exchange are not counted:
a child can hand over no more than the slots it has, and gets them back as fast as its partners take them."""
FRAMES_PER_TURN: Final = 32
RECEIVE_BYTES: Final = 1 << 18


class VisitError(DaitnError):
    """A run or a setup has no result; `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        self.failed = failed
        self.blame = BLAME[failed.reason]
        super().__init__(failed.what, todo=failed.todo)


class Beside(NamedTuple):
    """What lies beside a table for the visits that use it; None: nothing."""

    vectors: Path | None = None
    """Folder of the activations of a frozen base."""
    replay: Path | None = None
    """Folder of a table of earlier records."""


NOTHING_BESIDE: Final = Beside()


async def launch(
    setup: Setup,
    *,
    sandbox: Sandbox,
    data: Path | None = None,
    beside: Beside = NOTHING_BESIDE,
    descriptors: Sequence[int] = (),
) -> ChildHandle:
    """Start a child and wait until it is warm.

    Args:
        setup: the path of its table is filled in here.
        data: folder of the mapped table, if there is one.
        beside: what lies beside that table for its visits.
        descriptors: payloads of `setup.records`; they stay the caller's to close.

    VisitError where package or records are unfit or the child dies; UnavailableError where none can be started.
    """
    places = {VECTORS_PATH: beside.vectors, REPLAY_PATH: beside.replay}
    there = {place: path for place, path in places.items() if path is not None}
    started = await sandbox.start(data, beside=there, threads=setup.threads, device=setup.device or "any")
    handle = ChildHandle(started, sandbox)
    if setup.table is not None:
        inside = {place: sandbox.place(place, path) for place, path in there.items()}
        vectors, replay = inside.get(VECTORS_PATH, ""), inside.get(REPLAY_PATH, "")
        table = msgspec.structs.replace(setup.table, path=started.data_path, vectors=vectors, replay=replay)
        setup = msgspec.structs.replace(setup, table=table)
    try:
        handle.ready = await handle.warm_up(setup, descriptors)
    except BaseException:
        await handle.kill()
        raise
    return handle


async def embed(ask: Embed, outputs: Sequence[int], *, sandbox: Sandbox, data: Path, base: Path) -> Ready:
    """Have a child encode text columns of the table at `data`, each into its descriptor of `outputs`; returns how many
    records there are and what each column took.

    VisitError where base or table are unfit or the child dies; UnavailableError where none can be started.
    """
    started = await sandbox.start(data, beside={BASE_PATH: base}, threads=ask.threads)
    handle = ChildHandle(started, sandbox)
    ask = msgspec.structs.replace(ask, table=started.data_path, base=sandbox.place(BASE_PATH, base))
    try:
        ready = await handle.warm_up(ask, outputs, EMBED_S * len(ask.columns))
    finally:
        await handle.kill()
    if len(ready.seconds) != len(ask.columns):
        raise PeerError(f"the child encoded {len(ready.seconds)} of {len(ask.columns)} columns")
    return ready


class ChildHandle:
    """One child. Made by `launch`; ended by `close` or `kill`, also after an error that left it dead."""

    ready: Ready

    def __init__(self, started: Started, sandbox: Sandbox) -> None:
        self._started = started
        self._limits = sandbox.limits
        self._channel: socket.socket = started.channel
        self._buffer = bytearray()
        self._number = 0
        self._busy = False
        self._warm = False
        self._ended: tuple[int, str] | None = None
        self._ending: asyncio.Task[tuple[int, str]] | None = None
        self._cause: Failed | None = None
        self._frames = 0
        self._stopped_looks = 0
        self._frames_in_turn = 0
        self._saying = asyncio.Lock()
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def alive(self) -> bool:
        """Whether another run can be asked for."""
        return self._ending is None and self._started.process.returncode is None

    @property
    def pid(self) -> int:
        """The first process inside, as the host numbers it."""
        return self._started.leader

    async def warm_up(self, setup: Setup | Embed, descriptors: Sequence[int], wall_s: float = WARM_S) -> Ready:
        """Used by `launch` and `embed`."""
        self._watch(wall_s)
        try:
            message = await self._ask(setup, descriptors)
        finally:
            self._unwatch()
        if isinstance(message, Failed):
            raise VisitError(message)
        if not isinstance(message, Ready):
            raise await self._garbage(f"the child said {type(message).__name__} before it was ready")
        self._warm = True
        return message

    async def run(
        self,
        run: Run,
        payload: int,
        output: int | None = None,
        *,
        controls: Sequence[int] = (),
        wall_s: float | None = None,
        on_progress: Callable[[Progressed], None] | None = None,
        on_started: Callable[[StepStarted], None] | None = None,
        exchange: ExchangePort | None = None,
    ) -> Finished:
        """Do one run (`plan_run`) on the model in descriptor `payload`; a training result goes into `output`.

        `controls`: with control variates, where the new one goes, then those that arrived. `exchange`: the streams of
        its partners, where the method exchanges within a step. All stay the caller's. `wall_s`: less than the limits'
        if given. VisitError says why there is no result; the child may then still be `alive` and warm. Cancelling the
        awaiting task kills the child.
        """
        if self._busy or not self.alive:
            raise BugError("a run was asked of a child that is " + ("busy" if self._busy else "dead"))
        self._busy = True
        self._number += 1
        room = None if exchange is None else exchange.room
        run = msgspec.structs.replace(run, number=self._number, room=room)
        descriptors = [payload] if output is None else [payload, output, *controls]
        if exchange is not None:
            exchange.attach(self._number, self._say)
            descriptors.append(exchange.area)
        self._watch(min(self._limits.wall_s, self._limits.wall_s if wall_s is None else wall_s))
        try:
            message = await self._ask(run, descriptors)
            while not isinstance(message, (Finished, Failed)):
                await self._pass_on(message, on_progress, on_started, exchange)
                message = await self._receive()
        except BaseException as error:
            if exchange is not None:
                await exchange.cancel()  # before the child has ended, which takes longer than partners should wait
            if not isinstance(error, VisitError):
                await self.kill()
            raise
        finally:
            self._unwatch()
            self._busy = False
        if message.number != run.number:
            raise await self._garbage(f"the child answered run {message.number} instead of {run.number}")
        if isinstance(message, Failed):
            raise VisitError(message)
        if fault := answer_fault(run, message):
            raise await self._garbage(fault)
        return message

    async def _pass_on(
        self,
        message: FromChild,
        on_progress: Callable[[Progressed], None] | None,
        on_started: Callable[[StepStarted], None] | None,
        exchange: ExchangePort | None,
    ) -> None:
        if isinstance(message, Ready) or message.number != self._number:
            raise await self._garbage(f"the child said {type(message).__name__} out of turn")
        if isinstance(message, Progressed):
            if on_progress is not None:
                on_progress(message)
        elif isinstance(message, StepStarted):
            if on_started is not None:
                on_started(message)
        elif isinstance(message, PartOut | PartTaken):
            if exchange is None:
                raise await self._garbage("the child wants to exchange tensors, the method does not")
            try:
                exchange.take(message)
            except PeerError as error:
                raise await self._garbage(error.what) from None

    def cancel(self) -> None:
        """Ask the run under way to stop; it ends as `Failed(cancelled)` within half a second, if need be by force."""
        if not self._busy or not self.alive:
            return
        failed = Failed(number=self._number, reason=FailReason.CANCELLED, what="the run was cancelled")
        try:
            frame = encode_frame(Cancel(number=self._number))
            if self._channel.send(frame) != len(frame):
                raise BlockingIOError
        except OSError:
            self._kill_because(failed)
            return
        self._timers.append(asyncio.get_running_loop().call_later(CANCEL_S, self._kill_because, failed))

    async def close(self) -> None:
        """Let the child end by itself, else kill it; afterwards nothing of it is left."""
        if self._ending is None and not self._busy:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._send(Close(), ())
                    await self._started.process.wait()
            except (TimeoutError, OSError):
                pass
        await self.kill()

    async def kill(self) -> None:
        """End the child at once; afterwards nothing of it is left. May be called again."""
        self._unwatch()
        self._started.kill()
        await self._wait()

    def vital(self) -> Vital:
        """Signs of life from `/proc`; 50 µs."""
        return look_at(self._started.leader)

    # --- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, wall_s: float) -> None:
        loop = asyncio.get_running_loop()
        failed = Failed(
            number=self._number,
            reason=FailReason.WALL_TIME,
            what=f"the run took longer than {wall_s:g} s",
            todo=TODO[FailReason.WALL_TIME],
        )
        self._timers = [loop.call_later(wall_s, self._kill_because, failed), loop.call_later(WATCH_S, self._look)]

    def _look(self) -> None:
        """Every quarter of a second: memory beyond what rlimits see, whether it goes on; talk is counted anew."""
        vital = self.vital()
        self._stopped_looks = self._stopped_looks + 1 if vital.stopped else 0
        if vital.memory_bytes > self._limits.memory_bytes:
            used = vital.memory_bytes
            what = f"the run uses {used} bytes of memory, this site gives {self._limits.memory_bytes}"
            self._kill_because(dead(self._number, FailReason.MEMORY, what))
        elif self._stopped_looks > STOPPED_LOOKS:
            what = f"the child was stopped from outside for {STOPPED_LOOKS * WATCH_S:g} s"
            self._kill_because(dead(self._number, FailReason.KILLED, what))
        else:
            self._frames = 0
            self._timers[1] = asyncio.get_running_loop().call_later(WATCH_S, self._look)

    def _unwatch(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _kill_because(self, failed: Failed) -> None:
        if self._cause is None:
            self._cause = failed
        self._started.kill()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)  # nothing more is heard, whoever still holds the other end

    async def _garbage(self, what: str) -> VisitError:
        self._kill_because(dead(self._number, FailReason.GARBAGE, what))
        await self._wait()
        return VisitError(self._cause or dead(self._number, FailReason.GARBAGE, what))

    async def _wait(self) -> tuple[int, str]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._started.wait())
        return await asyncio.shield(self._ending)

    async def _death(self) -> VisitError:
        """Why the child is gone: what we killed it for, else what its exit says."""
        self._started.kill()  # what it may have left behind
        status, words = await self._wait()
        if self._cause is not None:
            return VisitError(msgspec.structs.replace(self._cause, number=self._number))
        return VisitError(explain_exit(self._number, status, words, warm=self._warm))

    # --- talking ----------------------------------------------------------------------------------------------------

    async def _ask(self, message: ToChild, descriptors: Sequence[int]) -> FromChild:
        try:
            await self._send(message, descriptors)
        except OSError:
            raise await self._death() from None
        return await self._receive()

    async def _say(self, message: ToRoom) -> None:
        """A frame of an exchange."""
        await self._send(message, ())

    async def _send(self, message: ToChild, descriptors: Sequence[int]) -> None:
        async with self._saying:  # a run's exchange speaks beside the run
            await self._send_frame(message, descriptors)

    async def _send_frame(self, message: ToChild, descriptors: Sequence[int]) -> None:
        frame = memoryview(encode_frame(message, len(descriptors)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        while True:
            try:
                sent = self._channel.sendmsg([frame], rights)
                break
            except BlockingIOError:
                await _writable(self._channel)
        if sent < len(frame):
            await asyncio.get_running_loop().sock_sendall(self._channel, frame[sent:])

    async def _receive(self) -> FromChild:
        try:
            await self._fill(HEADER.size)
            length = answer_length(self._buffer[: HEADER.size])
            await self._fill(HEADER.size + length)
            body = self._buffer[HEADER.size : HEADER.size + length]
            del self._buffer[: HEADER.size + length]
            self._frames_in_turn += 1
            if self._frames_in_turn % FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)  # data that is already here is received without giving others a turn
            message = decode_answer(body)
            self._frames += not isinstance(message, PartOut | PartTaken)
            if self._frames > FRAMES_PER_WATCH:
                raise PeerError(f"the child sent more than {FRAMES_PER_WATCH} frames in {WATCH_S} s")
            return message
        except EOFError:
            raise await self._death() from None
        except PeerError as error:
            raise await self._garbage(error.what) from None

    async def _fill(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        while len(self._buffer) < size:
            try:
                part = await loop.sock_recv(self._channel, RECEIVE_BYTES)
            except OSError:
                part = b""
            if not part:
                raise EOFError
            self._buffer += part


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(channel.fileno(), _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(channel.fileno())

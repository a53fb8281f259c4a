"""A core run in the real world: turns that share a commit, and a journal that cannot be written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from daitn.base.effects import (
    Append,
    CancelTimer,
    Delivered,
    Effect,
    Event,
    Message,
    Record,
    Send,
    SendFailed,
    SetTimer,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError, PeerError, UnavailableError
from daitn.base.ids import JobId, NodeId, OwnerId, VisitId
from daitn.node.center_service import CenterService
from daitn.node.clock import NodeClock
from daitn.node.core_runner import TOGETHER_BYTES, TURNS_TOGETHER, CoreRunner
from daitn.node.fabric.contract import Fabric, Plane
from daitn.node.journal import Journal
from daitn.wire.center_tools import LeaseRenewed, VisitFailed
from daitn.wire.codec import decode_all, encode, join
from daitn.wire.oam_records import RecordsKept


class Seen(Record, frozen=True, kw_only=True, tag="seen-in-test"):
    """The only fact of `Noting`."""


class Noting:
    """Keeps a fact of every event, and knows it at once."""

    def __init__(self) -> None:
        self.known = 0
        self.jobs: dict[str, object] = {}

    def apply(self, record: Record) -> None:
        self.known += 1

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        self.known += 1
        return [Append(records=(Seen(),))]


class Full:
    """A journal on a disk that is full."""

    def append(self, stream: str, records: Sequence[Record], *, time_ns: int | None = None) -> int:
        raise UnavailableError("the journal cannot be written: no space left on device")


def test_what_the_journal_does_not_have_is_told_to_nobody() -> None:
    async def run() -> None:
        core = Noting()
        performed: list[Effect] = []
        runner = CoreRunner(core, cast(Journal, Full()), "center", cast(Fabric, None), NodeClock(), performed.append)
        service = CenterService(core, runner, None, None, None, None, None, None, None)  # type: ignore[arg-type]
        runner.check_going()
        assert service.jobs(OwnerId("ada")) == ()

        runner.post(Started())

        assert core.known == 1
        assert not performed
        with pytest.raises(UnavailableError, match="not kept"):
            service.jobs(OwnerId("ada"))
        with pytest.raises(UnavailableError, match="not kept"):
            service.status(OwnerId("ada"), JobId("a"))
        runner.post(Started())
        assert core.known == 1
        assert isinstance(runner.failed.exception(), UnavailableError)

    asyncio.run(run())


class Told(Event, frozen=True, kw_only=True):
    """Something that is noted and answered."""

    name: str
    effects: tuple[Effect, ...] = ()


class Answered(Effect, frozen=True, kw_only=True):
    """What the core does about `Told`."""

    name: str


class Telling:
    """Keeps a fact of everything it is told and answers it; a bug where it is told so."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.not_sent: list[Message] = []

    def apply(self, record: Record) -> None:
        raise NotImplementedError

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        if isinstance(event, SendFailed):
            self.not_sent.append(event.message)
            return []
        if isinstance(event, Delivered):
            self.heard.append(event.message)
            return [Append(records=(Seen(),))]
        if isinstance(event, TimerFired):
            return [Answered(name=f"fired {event.name}")]
        assert isinstance(event, Told)
        if event.name == "bug":
            raise BugError("told so")
        return [*event.effects, Append(records=(Seen(),)), Answered(name=event.name)]


class Counting:
    """A journal that counts the records of each commit."""

    def __init__(self) -> None:
        self.commits: list[int] = []

    def append(self, stream: str, records: Sequence[Record], *, time_ns: int | None = None) -> int:
        self.commits.append(len(records))
        return sum(self.commits)


class Carrying:
    """A fabric that notes what is sent, and loses it where it is told so."""

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, Plane, bytes]] = []
        self.lost = False

    async def call(self, receiver: NodeId, payload: bytes, *, plane: Plane, timeout_s: float) -> bytes:
        self.sent.append((receiver, plane, payload))
        if self.lost:
            raise UnavailableError("nobody there")
        return b""


def telling(journal: Counting, performed: list[Effect]) -> CoreRunner:
    return CoreRunner(Telling(), cast(Journal, journal), "center", cast(Fabric, None), NodeClock(), performed.append)


def test_what_has_come_by_the_same_time_shares_a_commit_and_is_answered_in_order_after_it() -> None:
    async def run() -> None:
        journal, performed = Counting(), list[Effect]()
        runner = telling(journal, performed)

        waits = [runner.post_soon(Told(name=str(number))) for number in range(TURNS_TOGETHER + 3)]
        assert not journal.commits
        await asyncio.wait_for(waits[-1].wait(), 5)

        assert journal.commits == [TURNS_TOGETHER, 3]
        assert performed == [Answered(name=str(number)) for number in range(TURNS_TOGETHER + 3)]

    asyncio.run(run())


def test_event_that_is_posted_is_durable_on_return_and_so_is_what_came_before_it() -> None:
    async def run() -> None:
        journal, performed = Counting(), list[Effect]()
        runner = telling(journal, performed)
        before = runner.post_soon(Told(name="before"))

        runner.post(Told(name="now"))

        assert journal.commits == [2]
        assert performed == [Answered(name="before"), Answered(name="now")]
        await asyncio.wait_for(before.wait(), 5)
        assert journal.commits == [2]

    asyncio.run(run())


def test_turn_that_fails_takes_nothing_from_those_before_it_and_stops_the_core() -> None:
    async def run() -> None:
        journal, performed = Counting(), list[Effect]()
        runner = telling(journal, performed)

        for name in ("good", "bug", "after"):
            gathered = runner.post_soon(Told(name=name))
        await asyncio.wait_for(gathered.wait(), 5)

        assert (journal.commits, performed) == ([1], [Answered(name="good")])
        with pytest.raises(UnavailableError, match="not kept"):
            runner.check_going()
        assert isinstance(runner.failed.exception(), BugError)

    asyncio.run(run())


def test_timer_that_a_waiting_event_puts_off_does_not_fire() -> None:
    async def run() -> None:
        journal, performed = Counting(), list[Effect]()
        runner = telling(journal, performed)
        runner.post(Told(name="set", effects=(SetTimer(name="lease", at_ns=0), SetTimer(name="other", at_ns=0))))
        off = Told(name="put off", effects=(CancelTimer(name="lease"),))

        asyncio.get_running_loop().call_soon(
            runner.post_soon, off
        )  # just before the timers, in the same turn of the loop
        for _ in range(3):
            await asyncio.sleep(0)

        assert performed[1:] == [Answered(name="put off"), Answered(name="fired other")]

    asyncio.run(run())


def renewed(number: int) -> LeaseRenewed:
    return LeaseRenewed(visit=VisitId(f"j/{number}"), fence=1, lease_s=1.0)


def test_what_turns_of_one_commit_say_to_a_node_goes_as_one_and_each_is_told_of_when_it_is_lost() -> None:
    async def run() -> None:
        fabric, core = Carrying(), Telling()
        runner = CoreRunner(core, cast(Journal, Counting()), "center", cast(Fabric, fabric), NodeClock(), [].append)
        north, south = NodeId("n0001"), NodeId("n0002")
        for number in range(3):
            says = [Send(receiver=north, message=renewed(number))]
            says += [Send(receiver=south, message=renewed(9))] if number == 1 else []
            says += [Send(receiver=north, message=RecordsKept(since_ns=1, up_to=1))] if number == 2 else []
            waits = runner.post_soon(Told(name=str(number), effects=tuple(says)))
        await asyncio.wait_for(waits.wait(), 5)
        await asyncio.sleep(0)

        assert [(receiver, plane) for receiver, plane, _ in fabric.sent] == [
            (north, Plane.CP),
            (south, Plane.CP),
            (north, Plane.RECORD),
        ]
        assert decode_all(fabric.sent[0][2]) == tuple(renewed(number) for number in range(3))
        assert decode_all(fabric.sent[1][2]) == (renewed(9),)

        fabric.lost = True
        runner.post(Told(name="again", effects=tuple(Send(receiver=north, message=renewed(one)) for one in range(2))))
        for _ in range(4):
            await asyncio.sleep(0)
        assert core.not_sent == [renewed(0), renewed(1)]
        assert runner.counters.of("messages_not_sent") == 2

    asyncio.run(run())


def test_what_is_too_much_for_one_message_goes_as_several() -> None:
    async def run() -> None:
        fabric = Carrying()
        runner = CoreRunner(Telling(), cast(Journal, Counting()), "c", cast(Fabric, fabric), NodeClock(), [].append)
        long = [VisitFailed(visit=VisitId(f"j/{one}"), fence=1, reason="x" * 4000, blame="bug") for one in range(8)]

        runner.post(Told(name="much", effects=tuple(Send(receiver=NodeId("n0001"), message=one) for one in long)))
        await asyncio.sleep(0)

        assert all(len(payload) <= TOGETHER_BYTES + 5 for _, _, payload in fabric.sent)
        assert [one for _, _, payload in fabric.sent for one in decode_all(payload)] == long
        assert len(fabric.sent) == 3

    asyncio.run(run())


def test_messages_that_came_as_one_are_each_a_turn_and_answered_once_all_are_durable() -> None:
    async def run() -> None:
        core, journal = Telling(), Counting()
        runner = CoreRunner(core, cast(Journal, journal), "center", cast(Fabric, None), NodeClock(), [].append)

        assert await runner._receive(NodeId("n0001"), join([encode(renewed(one)) for one in range(3)])) == b""

        assert (core.heard, journal.commits) == ([renewed(0), renewed(1), renewed(2)], [3])
        with pytest.raises(PeerError):
            await runner._receive(NodeId("n0001"), b"\x92")
        assert runner.counters.of("messages_undecodable") == 1

    asyncio.run(run())

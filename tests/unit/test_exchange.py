"""Exchanges between children: what arrives, in which order and bounds, and how each fault of a partner ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exchange_world import NUMBER, MemoryStream, ThreadChild, run_group, stream_pair

from daitn.base.errors import BugError, PeerError
from daitn.learning.numerics.exchange import PartnerError
from daitn.node.sandbox.exchange_port import ExchangePort
from daitn.node.sandbox.exchanging import HEAD_BYTES, PREFIX, ChildExchange, ExchangeHead, TensorHead
from daitn.node.sandbox.protocol import (
    IN_SLOTS,
    OUT_SLOTS,
    PART_BYTES,
    ExchangeRoom,
    PartIn,
    PartnerGone,
    PartOut,
    PartSent,
    PartTaken,
)


def run(works: list[Any]) -> list[Any]:
    return asyncio.run(asyncio.wait_for(run_group(works), 60))


# --- what arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 5])
def test_every_member_gets_what_every_member_gave_by_rank(members):
    def work(exchange: ChildExchange) -> list[Any]:
        found = []
        for step in range(4):
            mine = {"x": np.full(3, 10 * step + exchange.rank, dtype=np.float32), "n": np.arange(step)}
            theirs = exchange.exchange(f"step/{step}", mine)
            found.append([(one["x"].tolist(), one["n"].tolist()) for one in theirs])
        return found

    expected = [[([10.0 * step + rank] * 3, list(range(step))) for rank in range(members)] for step in range(4)]

    assert run([work] * members) == [expected] * members


def test_tensors_larger_than_all_slots_go_both_ways_at_once():
    size = (OUT_SLOTS + IN_SLOTS + 20) * PART_BYTES // 8

    def work(exchange: ChildExchange) -> bool:
        mine = np.arange(size, dtype=np.int64) + exchange.rank
        theirs = exchange.exchange("large", {"x": mine}, alike=True)[1 - exchange.rank]["x"]
        return bool(np.array_equal(theirs, np.arange(size) + 1 - exchange.rank))

    assert run([work, work]) == [True, True]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool"]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=6,
    )
)
def test_tensors_of_any_type_and_shape_arrive_as_they_were(kinds):
    rng = np.random.default_rng(0)
    given_ = {f"t{n}": (rng.normal(size=shape) * 9).astype(dtype) for n, (dtype, shape) in enumerate(kinds)}

    def work(exchange: ChildExchange) -> Any:
        theirs = exchange.exchange("any", given_, alike=True)[1 - exchange.rank]
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in theirs.items()}

    same = {name: (array.dtype, array.shape, array.tobytes()) for name, array in given_.items()}
    assert run([work, work]) == [same, same]


def test_one_member_may_give_nothing_while_another_gives_much():
    def forward(exchange: ChildExchange) -> float:
        exchange.exchange("forward", {"x": np.ones((64, 300, 100), dtype=np.float32)})
        return float(exchange.exchange("backward", {})[1]["g"].sum())

    def backward(exchange: ChildExchange) -> float:
        x = exchange.exchange("forward", {})[0]["x"]
        exchange.exchange("backward", {"g": 2 * x})
        return float(x.sum())

    assert run([forward, backward]) == [2 * 64 * 300 * 100, 64 * 300 * 100]


# --- bounds -------------------------------------------------------------------------------------------------------


def test_partner_that_takes_nothing_stops_the_sender_within_the_credits():
    async def main() -> None:
        mine, theirs = stream_pair()
        port = ExchangePort(0, {1: mine})
        child = ThreadChild(port)
        sending = asyncio.ensure_future(
            child.run(lambda exchange: exchange.exchange("flood", {"x": np.zeros(64 * PART_BYTES, dtype=np.uint8)}))
        )
        while theirs.arrived.qsize() < 8:
            await asyncio.sleep(0.001)
        for _ in range(200):
            await asyncio.sleep(0)
        assert theirs.arrived.qsize() <= 8
        assert not sending.done()
        await mine.cancel()
        with pytest.raises(PartnerError, match="is gone"):
            await sending
        await port.cancel()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_sender_whose_partner_vanishes_after_giving_its_own_share_does_not_wait_for_slots():
    async def main() -> None:
        mine, theirs = stream_pair()
        port = ExchangePort(0, {1: mine})
        child = ThreadChild(port)

        def work(exchange: ChildExchange) -> None:
            exchange.exchange("t", {"x": np.zeros(64 * PART_BYTES, dtype=np.uint8)})
            exchange.exchange("u", {})

        sending = asyncio.ensure_future(child.run(work))
        await theirs.send(part_of(ExchangeHead("t", ())))
        while theirs.arrived.qsize() < 8:
            await asyncio.sleep(0.001)
        await theirs.cancel()
        with pytest.raises(PartnerError, match="is gone"):
            await sending
        await port.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_parts_beyond_the_room_wait_in_the_stream_until_the_child_takes_some():
    async def main() -> None:
        mine, theirs = stream_pair()
        port = ExchangePort(0, {1: mine})
        frames: list[Any] = []

        async def say(message: Any) -> None:
            frames.append(message)

        port.attach(NUMBER, say)
        for _ in range(IN_SLOTS + 3):
            theirs.other.arrived.put_nowait(b"part")
        while len(frames) < IN_SLOTS:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert [type(frame) for frame in frames] == [PartIn] * IN_SLOTS
        assert len({frame.slot for frame in frames}) == IN_SLOTS
        port.take(PartTaken(number=NUMBER, slot=frames[0].slot))
        while len(frames) < IN_SLOTS + 1:
            await asyncio.sleep(0)
        assert frames[-1].slot == frames[0].slot
        await port.cancel()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_memory_of_a_room_cannot_be_made_shorter():
    async def main() -> None:
        port = ExchangePort(0, {1: MemoryStream()})
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(port.area, 1)
        await port.cancel()

    asyncio.run(main())


# --- a child that lies to its node --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [PartOut(number=1, slot=OUT_SLOTS, size=1)],
        [PartOut(number=1, slot=0, size=1), PartOut(number=1, slot=0, size=1)],
        [PartTaken(number=1, slot=OUT_SLOTS)],
        [PartTaken(number=1, slot=0)],
    ],
    ids=["a slot of the partners", "a slot twice", "a slot that holds nothing", "a slot of its own"],
)
def test_child_that_speaks_of_slots_that_are_not_its_own_breaks_the_protocol(frames):
    async def main() -> None:
        port = ExchangePort(0, {1: MemoryStream()})
        for frame in frames[:-1]:
            port.take(frame)
        with pytest.raises(PeerError, match="slot"):
            port.take(frames[-1])
        await port.cancel()

    asyncio.run(main())


# --- a partner that is lost ---------------------------------------------------------------------------------------


def test_partner_that_fails_ends_the_exchange_of_all_others():
    def fails(exchange: ChildExchange) -> None:
        exchange.exchange("first", {})
        raise ValueError("this member breaks")

    def goes_on(exchange: ChildExchange) -> None:
        exchange.exchange("first", {})
        exchange.exchange("second", {})

    found = run([goes_on, fails, goes_on])

    assert [type(one) for one in found] == [PartnerError, ValueError, PartnerError]
    assert found[0].rank == 1


def test_partner_that_ends_early_is_missed_only_by_who_still_waits_for_it():
    def short(exchange: ChildExchange) -> str:
        exchange.exchange("first", {"x": np.ones(PART_BYTES * 3, dtype=np.uint8)})
        return "done"

    def long(exchange: ChildExchange) -> None:
        exchange.exchange("first", {})
        exchange.exchange("second", {})

    found = run([short, long])

    assert found[0] == "done"
    assert isinstance(found[1], PartnerError)
    assert "ended its side" in str(found[1])


def test_partner_at_another_tag_is_told_apart():
    found = run([lambda exchange: exchange.exchange("a", {}), lambda exchange: exchange.exchange("b", {})])

    assert any(isinstance(one, PartnerError) and "is at" in str(one) for one in found)


def test_partner_with_other_shapes_is_refused_before_memory_is_taken():
    def small(exchange: ChildExchange) -> None:
        exchange.exchange("g", {"x": np.zeros(2, dtype=np.float32)}, alike=True)

    def large(exchange: ChildExchange) -> None:
        exchange.exchange("g", {"x": np.zeros(3, dtype=np.float32)}, alike=True)

    found = run([small, large])

    assert any(isinstance(one, PartnerError) and "other tensors" in str(one) for one in found)


# --- a partner that sends garbage ---------------------------------------------------------------------------------


class Script:
    """A node that has already said everything: parts in slots, then perhaps that the partner is gone."""

    def __init__(self, parts: list[bytes]) -> None:
        self.room = ExchangeRoom(rank=0, members=2)
        self.area = os.memfd_create("script")
        os.ftruncate(self.area, self.room.nbytes)
        self.parts = list(parts)
        self.free = list(self.room.slots_of(1))
        self.exchange = ChildExchange(self.room, self.area, NUMBER, self)

    def say(self, message: Any) -> None:
        if isinstance(message, PartOut):
            self.exchange.take(PartSent(number=NUMBER, slot=message.slot))
        else:
            self.free.append(message.slot)

    def listen(self, *, wait: bool) -> bool:
        if not wait:
            return False
        if self.parts and self.free:
            part, slot = self.parts.pop(0), self.free.pop(0)
            os.pwrite(self.area, part, slot * PART_BYTES)
            self.exchange.take(PartIn(number=NUMBER, rank=1, slot=slot, size=len(part)))
        else:
            self.exchange.take(PartnerGone(number=NUMBER, rank=1, why="is gone"))
        return True

    def close(self) -> None:
        self.exchange.close()
        os.close(self.area)


def part_of(head: Any, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = msgspec.msgpack.encode(head)
    return (len(encoded) if length is None else length).to_bytes(PREFIX, "little") + encoded + data


def feed(parts: list[bytes], **mine: Any) -> Any:
    script = Script(parts)
    try:
        return script.exchange.exchange("t", mine)[1]
    finally:
        script.close()


X = TensorHead("x", "float32", (2,))
GARBAGE = {
    "no head": [b"\x00\x00\x00\x00rest"],
    "a head longer than its part": [part_of(ExchangeHead("t", (X,)), length=HEAD_BYTES)],
    "a head that is no map of ours": [part_of(["t", "x"])],
    "bytes": [b"\xff" * 100],
    "a part of one byte": [b"\x01"],
    "a type that cannot be exchanged": [part_of(ExchangeHead("t", (TensorHead("x", "bfloat16", (2,)),)), bytes(8))],
    "two tensors of one name": [part_of(ExchangeHead("t", (X, X)), bytes(16))],
    "an absurd shape": [part_of(ExchangeHead("t", (TensorHead("x", "float64", (2**40, 2**40)),)))],
    "a negative shape": [part_of(["t", [["x", "float32", [-1]]]])],
    "more than announced": [part_of(ExchangeHead("t", (X,)), bytes(9))],
    "more than announced, later": [part_of(ExchangeHead("t", (X,)), bytes(4)), bytes(5)],
    "less than announced": [part_of(ExchangeHead("t", (X,)), bytes(4))],
    "another tag": [part_of(ExchangeHead("u", (X,)), bytes(8))],
    "nothing": [],
}


@pytest.mark.parametrize("parts", GARBAGE.values(), ids=GARBAGE)
def test_garbage_of_a_partner_is_told_as_its_fault(parts):
    with pytest.raises(PartnerError) as caught:
        feed(parts)
    assert caught.value.rank == 1


def test_well_formed_parts_are_taken_however_they_are_cut():
    whole = part_of(ExchangeHead("t", (X,)), np.array([1, 2], dtype=np.float32).tobytes())
    head = len(whole) - 8

    for cut in range(head, len(whole)):
        parts = [whole[:cut], whole[cut:]] if cut < len(whole) else [whole]
        assert feed(parts)["x"].tolist() == [1.0, 2.0]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=4))
def test_hostile_parts_never_raise_anything_but_a_partners_fault(parts):
    with contextlib.suppress(PartnerError):
        feed(parts)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60),
    st.integers(0, 80),
    st.integers(0, 255),
    st.integers(0, 60),
)
def test_a_flipped_byte_is_a_partners_fault_or_another_number(data, place, value, more):
    whole = bytearray(part_of(ExchangeHead("t", (X,)), bytes(8)) + data[:more])
    whole[place % len(whole)] = value
    with contextlib.suppress(PartnerError):
        feed([bytes(whole)])


def test_tensors_of_ours_that_cannot_be_sent_are_our_bug():
    with pytest.raises(BugError, match="complex"):
        feed([], x=np.zeros(2, dtype=np.complex64))
    with pytest.raises(BugError, match="tensors"):
        feed([], **{f"t{number}": np.zeros(1) for number in range(1025)})

"""The child's half of an exchange: tensors into slots of the room, parts of the partners out of it.

An exchange is a sequence of bytes to every partner: the length of a head, the head (tag, names, types, shapes), then
the tensors one behind the other, cut into parts of at most `PART_BYTES`. A new exchange begins a new part. While the
child waits for a slot to write it takes what has come, so two members that send much to each other never block one
another; beyond the exchange it is in it takes nothing, so a partner that runs ahead fills its slots and then waits.

Partners' bytes are foreign: a head is decoded under limits, and what it announces is compared with what was asked for
before memory is taken.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Final, Protocol

import msgspec
import numpy as np

from daitn.artifacts.manifest import DType
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError
from daitn.base.units import GIB, KIB
from daitn.descriptors.contract import Name
from daitn.learning.numerics.exchange import Array, PartnerError, Tensors
from daitn.node.sandbox.protocol import (
    OUT_SLOTS,
    PART_BYTES,
    ExchangeRoom,
    PartIn,
    PartnerGone,
    PartOut,
    PartSent,
    PartTaken,
)

HEAD_BYTES: Final = 256 * KIB
"""Largest head, so that it is whole in the first part: a thousand tensors of 200 bytes each."""

EXCHANGE_TENSORS: Final = 1024
"""Tensors in one exchange; methods put many small ones together."""

EXCHANGE_BYTES: Final = 4 * GIB
"""Largest exchange of one member: the gradients of a billion parameters. Less where the memory limit says so."""

PREFIX: Final = 4
"""Bytes that say how long the head is, little-endian."""

_DTYPES: Final[dict[str, str]] = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip


class TensorHead(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: row-major, little-endian."""

    name: Name
    dtype: DType
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**40)], ...], msgspec.Meta(max_length=16)]


class ExchangeHead(msgspec.Struct, frozen=True, array_like=True):
    """What follows it."""

    tag: Name
    tensors: Annotated[tuple[TensorHead, ...], msgspec.Meta(max_length=EXCHANGE_TENSORS)]


_decoder: Final = msgspec.msgpack.Decoder(ExchangeHead)


class Talk(Protocol):
    """How a child speaks with its node during a run."""

    def say(self, message: PartOut | PartTaken) -> None:
        """Send a frame."""
        ...

    def listen(self, *, wait: bool) -> bool:
        """Take in what the node said; with `wait`, at least one frame. False if there was none. Raises if told to stop.

        Frames of the exchange are given to `ChildExchange.take`.
        """
        ...


class ChildExchange:
    """See the module's docstring and `learning.numerics.exchange.Exchange`. One run's; closed at its end."""

    def __init__(self, room: ExchangeRoom, area: int, number: int, talk: Talk) -> None:
        """`area`: descriptor of the room's memory; stays the caller's."""
        if os.fstat(area).st_size != room.nbytes:
            raise BugError(f"the room has {os.fstat(area).st_size} bytes, {room.nbytes} were announced")
        self._room = room
        self._number = number
        self._talk = talk
        self._map = mmap.mmap(area, room.nbytes)
        self._area = memoryview(self._map)
        self._free = deque(range(OUT_SLOTS))
        self._inboxes = {rank: _Inbox(rank) for rank in room.ranks()}
        self.moved_bytes = 0

    @property
    def rank(self) -> int:
        """See `Exchange.rank`."""
        return self._room.rank

    @property
    def members(self) -> int:
        """See `Exchange.members`."""
        return self._room.members

    def close(self) -> None:
        """Unmap the room."""
        self._area = memoryview(b"")
        with suppress(BufferError):  # an error on its way still looks into it; then it goes with that error
            self._map.close()

    def take(self, message: PartSent | PartIn | PartnerGone) -> None:
        """A frame of the node."""
        if isinstance(message, PartSent):
            self._free.append(message.slot)
        elif isinstance(message, PartIn):
            self._inboxes[message.rank].waiting.append((message.slot, message.size))
        else:
            self._inboxes[message.rank].gone = message.why

    def exchange(self, tag: str, tensors: Tensors, *, alike: bool = False) -> tuple[Tensors, ...]:
        """See `Exchange.exchange`. InputError and BugError for tensors of ours that cannot be sent."""
        arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        for inbox in self._inboxes.values():
            inbox.begin(tag, _heads(arrays) if alike else None)
        self._send(_pieces(tag, arrays))
        while not self._take_waiting():
            self._talk.listen(wait=True)
        own: dict[int, Tensors] = {self.rank: arrays}
        own |= {rank: inbox.tensors() for rank, inbox in self._inboxes.items()}
        return tuple(own[rank] for rank in range(self.members))

    def _send(self, pieces: Iterator[memoryview]) -> None:
        slot, filled = self._claim(), 0
        for piece in pieces:
            while piece:
                if filled == PART_BYTES:
                    self._talk.say(PartOut(number=self._number, slot=slot, size=filled))
                    slot, filled = self._claim(), 0
                count = min(len(piece), PART_BYTES - filled)
                start = slot * PART_BYTES + filled
                self._area[start : start + count] = piece[:count]
                piece, filled = piece[count:], filled + count
                self.moved_bytes += count
        self._talk.say(PartOut(number=self._number, slot=slot, size=filled))

    def _claim(self) -> int:
        """A slot to write; takes what comes while there is none."""
        if self._talk.listen(wait=False):
            self._take_waiting()
        while not self._free:
            self._talk.listen(wait=True)
            self._take_waiting()
        return self._free.popleft()

    def _take_waiting(self) -> bool:
        """Take the parts that wait and belong to this exchange; whether it is complete. PartnerError where one is not
        and will not be."""
        complete = True
        for inbox in self._inboxes.values():
            while inbox.waiting and not inbox.complete:
                slot, size = inbox.waiting.popleft()
                inbox.fill(self._area[slot * PART_BYTES : slot * PART_BYTES + size])
                self.moved_bytes += size
                self._talk.say(PartTaken(number=self._number, slot=slot))
            if not inbox.complete and inbox.gone and not inbox.waiting:
                raise PartnerError(inbox.rank, f"partner {inbox.rank} {inbox.gone}")
            complete = complete and inbox.complete
        return complete


class _Inbox:
    """What one partner sends: parts that wait, and the exchange that is being put together.

    Its memory is kept from exchange to exchange, since fresh pages cost more than the copy into them.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.waiting: deque[tuple[int, int]] = deque()
        self.gone = ""
        self.complete = False
        self._tag = ""
        self._alike: tuple[TensorHead, ...] | None = None
        self._head: ExchangeHead | None = None
        self._memory: Array = np.empty(0, dtype=np.uint8)
        self._size = 0
        self._filled = 0

    def begin(self, tag: str, alike: tuple[TensorHead, ...] | None) -> None:
        self._tag, self._alike = tag, alike
        self._head, self.complete = None, False

    def fill(self, part: memoryview) -> None:
        """The next bytes. PartnerError where they are not what is expected."""
        if self._head is None:
            part = self._open(part)
        if len(part) > self._size - self._filled:
            raise self._fault(f"sent {len(part) - self._size + self._filled} bytes more than its exchange has")
        if part:
            self._memory[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
        self.complete = self._filled == self._size

    def _open(self, part: memoryview) -> memoryview:
        """Decode and check the head at the beginning of an exchange; what is behind it."""
        length = int.from_bytes(part[:PREFIX], "little")
        if not 0 < length <= min(HEAD_BYTES, len(part) - PREFIX):
            raise self._fault(f"announces a head of {length} bytes in a part of {len(part)}")
        try:
            head = _decoder.decode(part[PREFIX : PREFIX + length])
        except UNDECODABLE as error:
            raise self._fault(f"sent a head that does not decode: {str(error)[:200]}") from None
        size = sum(_padded(_size(tensor)) for tensor in head.tensors)
        if head.tag != self._tag:
            raise self._fault(f"is at {head.tag[:80]!r}, this member at {self._tag!r}")
        if len({tensor.name for tensor in head.tensors}) < len(head.tensors) or size > EXCHANGE_BYTES:
            raise self._fault(f"sent {len(head.tensors)} tensors of {size} bytes, or two of one name")
        if any(tensor.dtype not in _DTYPES for tensor in head.tensors):
            raise self._fault("sent a tensor of a type that cannot be exchanged")
        self._head, self._size, self._filled = head, size, 0
        if self._alike is not None and head.tensors != self._alike:
            raise self._fault(f"sent other tensors: {_difference(head.tensors, self._alike)}")
        if len(self._memory) < size:
            self._memory = np.empty(size, dtype=np.uint8)
        return part[PREFIX + length :]

    def tensors(self) -> Tensors:
        """What was put together."""
        assert self._head is not None
        found: dict[str, Array] = {}
        offset = 0
        for tensor in self._head.tensors:
            size = _size(tensor)
            data = self._memory[offset : offset + size]
            found[tensor.name] = data.view(_DTYPES[tensor.dtype]).reshape(tensor.shape)
            offset += _padded(size)
        return found

    def _fault(self, what: str) -> PartnerError:
        return PartnerError(self.rank, f"partner {self.rank} {what}")


def _size(tensor: TensorHead) -> int:
    size = np.dtype(_DTYPES.get(tensor.dtype, "|u1")).itemsize
    for length in tensor.shape:
        size *= length
    return size


def _padded(size: int) -> int:
    """Tensors begin at multiples of eight bytes, so that they can be computed with where they lie."""
    return size + -size % 8


def _difference(theirs: tuple[TensorHead, ...], ours: tuple[TensorHead, ...]) -> str:
    """Where two lists of tensors first differ."""
    for one, other in zip(theirs, ours, strict=False):
        if one != other:
            here = f"{other.name!r} {other.dtype} {list(other.shape)}"
            return f"{one.name[:80]!r} {one.dtype} {list(one.shape)}, here {here}"
    return f"{len(theirs)} of them, here {len(ours)}"


def _heads(arrays: Tensors) -> tuple[TensorHead, ...]:
    return tuple(TensorHead(name, array.dtype.name, array.shape) for name, array in arrays.items())  # type: ignore[arg-type]


def _pieces(tag: str, arrays: Tensors) -> Iterator[memoryview]:
    """The bytes of an exchange, in order."""
    head = msgspec.msgpack.encode(ExchangeHead(tag, _heads(arrays)))
    size = sum(array.nbytes for array in arrays.values())
    unknown = sorted({array.dtype.name for array in arrays.values()} - set(_DTYPES))
    if len(head) > HEAD_BYTES or len(arrays) > EXCHANGE_TENSORS or size > EXCHANGE_BYTES or unknown:
        raise BugError(
            f"exchange {tag[:80]!r} has {len(arrays)} tensors of {size} bytes, types {', '.join(unknown) or 'known'}; "
            f"the limits are {EXCHANGE_TENSORS} and {EXCHANGE_BYTES}"
        )
    yield memoryview(len(head).to_bytes(PREFIX, "little") + head)
    for array in arrays.values():
        if array.nbytes:
            yield array.reshape(-1).view(np.uint8).data
            yield memoryview(bytes(_padded(array.nbytes) - array.nbytes))

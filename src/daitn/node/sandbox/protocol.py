"""What node and child say to each other: length-prefixed msgpack frames over a pair of Unix sockets.

Models never pass through frames: a payload travels as a file descriptor (SCM_RIGHTS) and is mapped, a result is
written into a descriptor that the node laid out beforehand, and tensors that are exchanged within a step lie in memory
that both map (`ExchangeRoom`), of which frames only say which part is whose. The child is not trusted, since a foreign
model computes in it: its frames are decoded under limits, descriptors from it are refused, and what does not decode
ends it. The node is trusted by the child. A child serves one job, one `Run` is under way at a time, and every answer
bears its number.

Frame: body length (4 bytes, little-endian), number of descriptors (1 byte), body. Descriptors come with the header.
"""

from __future__ import annotations

import math
import struct
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from daitn.artifacts.manifest import TensorEntry, TravellingState
from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError, PeerError
from daitn.base.ids import DataSetId
from daitn.base.units import MIB
from daitn.descriptors.contract import Name
from daitn.descriptors.serving import NamedTensor
from daitn.descriptors.splitting import CUTS_MOST, CutCost
from daitn.descriptors.trials import TRIES_MOST, TriedOut
from daitn.descriptors.work import CurvePoint, EvaluateWork, Measurement, TaughtBy, TrainWork

FRAME_BYTES: Final = 96 * MIB
"""Largest frame: a graph of 32 MiB with a tokenizer of 32 MiB and 100,000 entries of a manifest."""
ANSWER_BYTES: Final = 32 * MIB
"""Largest frame taken from a child: a state with 100,000 cursors; everything else is below 1 MiB."""
PART_BYTES: Final = 1 * MIB
"""Largest part of an exchange, and the size of a slot: halves of a stream's largest message, so that writing, sending
and reading go on at the same time within one tensor of some megabytes."""
OUT_SLOTS: Final = 8
"""Parts a child may have on their way out at once: the credit it has towards its node."""
IN_SLOTS: Final = 8
"""Parts of one partner that may wait in the room for the child to take them."""
DESCRIPTORS: Final = 250
"""File descriptors in one frame; Linux passes at most 253."""
HEADER: Final = struct.Struct("<IB")
WHAT_CHARS: Final = 2000
"""Longest text of a failure."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=limits.ARTIFACT_BYTES)]


class FailReason(StrEnum):
    """Why a run has no result."""

    INPUT = "input"
    """The package, its tensors or the records do not fit: the owner's or the data owner's matter."""
    NOT_FINITE = "not-finite"
    """Loss or weights became NaN or infinite."""
    MEMORY = "memory"
    """The visit needs more memory than this site gives."""
    CPU_TIME = "cpu-time"
    WALL_TIME = "wall-time"
    CANCELLED = "cancelled"
    KILLED = "killed"
    """The process was killed from outside."""
    CRASHED = "crashed"
    """The process died of a fault of its own (segmentation fault, abort)."""
    GARBAGE = "garbage"
    """The process broke the protocol."""
    PARTNER = "partner"
    """Another member of the visit's group was lost, or sent what cannot be used."""
    UNAVAILABLE = "unavailable"
    """Something this site lacks: a device, a library, the process itself."""
    BUG = "bug"


BLAME: Final[dict[FailReason, str]] = {
    FailReason.INPUT: "input",
    FailReason.NOT_FINITE: "input",
    FailReason.MEMORY: "input",
    FailReason.CPU_TIME: "input",
    FailReason.WALL_TIME: "input",
    FailReason.CANCELLED: "policy",
    FailReason.KILLED: "unavailable",
    FailReason.CRASHED: "input",
    FailReason.GARBAGE: "input",
    FailReason.PARTNER: "partner",
    FailReason.UNAVAILABLE: "unavailable",
    FailReason.BUG: "bug",
}
"""Who must act, in the words of `base.errors`."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="frame"):
    """Anything that is said."""


class TableData(msgspec.Struct, frozen=True, kw_only=True):
    """A mapped table, bound into the sandbox at `path` (without a sandbox: its path on the host)."""

    dataset: DataSetId
    path: str
    vectors: str = ""
    """Folder of the activations of a frozen base, where the contract asks for any."""
    replay: str = ""
    """A second table: what the site keeps of earlier records; empty: nothing."""


class TensorData(msgspec.Struct, frozen=True, kw_only=True):
    """Records as tensors of role `record`; their payload comes as a descriptor, in the order of the list."""

    dataset: DataSetId
    entries: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=1000)]
    payload_bytes: Bytes


class ControlData(msgspec.Struct, frozen=True, kw_only=True):
    """A control variate as it arrived; its payload comes as a descriptor, in the order of the list."""

    whose: Literal["shared", "own"]
    entries: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)]
    payload_bytes: Bytes


class Setup(_Frame, frozen=True, kw_only=True, tag="setup"):
    """Node → child, once: what the job's model is and which records it will see. Answered by `Ready` or `Failed`."""

    contract: bytes
    kind: Literal["graph", "transformers"]
    parts: dict[str, bytes]
    tensors: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()
    """The package's tensors (a manifest's); a graph knows its own."""
    table: TableData | None = None
    """Records to train on: a table, or the first of `records`."""
    records: Annotated[tuple[TensorData, ...], msgspec.Meta(max_length=DESCRIPTORS)] = ()
    """Records to train on, or the samples of a test set."""
    device: str = ""
    """Empty: the best there is."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """The job's seed: the order of records follows from it."""
    onnx: bool = False
    """A serving child: compute with ONNX Runtime, on what is exported from the graph."""


class ExchangeRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Shared memory of a run that exchanges tensors: its last descriptor, made and sealed by the node.

    It holds `OUT_SLOTS` slots of `PART_BYTES` that the child writes, then `IN_SLOTS` for each partner in the order of
    their ranks. A slot belongs to one side at a time, and frames hand it over.
    """

    rank: Annotated[int, msgspec.Meta(ge=0, lt=limits.GROUP_MEMBERS)]
    members: Annotated[int, msgspec.Meta(ge=2, le=limits.GROUP_MEMBERS)]

    @property
    def nbytes(self) -> int:
        """Size of the memory."""
        return PART_BYTES * (OUT_SLOTS + IN_SLOTS * (self.members - 1))

    def ranks(self) -> tuple[int, ...]:
        """The partners."""
        return tuple(rank for rank in range(self.members) if rank != self.rank)

    def slots_of(self, rank: int) -> range:
        """Where parts of a partner arrive."""
        first = OUT_SLOTS + IN_SLOTS * (rank - (rank > self.rank))
        return range(first, first + IN_SLOTS)


class EmbedColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One text column to encode: cut at `length` tokens, pooled into `width` numbers a text."""

    column: Name
    length: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)]
    pooling: Literal["mean", "first"]
    width: Annotated[int, msgspec.Meta(ge=1, le=65_536)]


class Embed(_Frame, frozen=True, kw_only=True, tag="embed"):
    """Node → child, instead of `Setup`: encode text columns of the data with the site's base, and end.

    The vectors of each go into its descriptor, float16, row by row. Answered by `Ready`, whose `records` says how many
    rows each has and whose `seconds` how long each took.
    """

    base: str = ""
    """Folder of the base inside; filled in where the child is started, as `table` is."""
    table: str = ""
    columns: Annotated[tuple[EmbedColumn, ...], msgspec.Meta(min_length=1, max_length=DESCRIPTORS)]
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1


class Run(_Frame, frozen=True, kw_only=True, tag="run"):
    """Node → child: do this, on the model in the first descriptor. Answered by `Finished` or `Failed`.

    A training run has a second descriptor, writable and `output_bytes` long, into which the result is written as
    `output` says (`learning.numerics.slots.plan_result`). Further ones, in this order: with control variates one that
    the new variate is written into as `control_output` says, and one for each of `controls`; its `room`, where it
    exchanges.
    """

    number: Count
    work: TrainWork | EvaluateWork
    entries: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)]
    payload_bytes: Bytes
    state: TravellingState = TravellingState()
    output: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()
    output_bytes: Bytes = 0
    controls: Annotated[tuple[ControlData, ...], msgspec.Meta(max_length=2)] = ()
    control_output: Annotated[tuple[TensorEntry, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()
    control_bytes: Bytes = 0
    room: ExchangeRoom | None = None

    @property
    def descriptors(self) -> int:
        """How many descriptors come with it."""
        if not isinstance(self.work, TrainWork):
            return 1
        control = 1 + len(self.controls) if self.work.training.control_variates else 0
        return 2 + control + (self.room is not None)


class Infer(_Frame, frozen=True, kw_only=True, tag="infer"):
    """Node → serving child: what the model says to this. Answered by `Inferred` or `Failed`."""

    number: Count
    inputs: Annotated[tuple[NamedTensor, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)]


class Cancel(_Frame, frozen=True, kw_only=True, tag="cancel"):
    """Node → child: stop the run under way. Answered by `Failed(cancelled)`; silence for 0.4 s ends the process."""

    number: Count


class Close(_Frame, frozen=True, kw_only=True, tag="close"):
    """Node → child: nothing more will come; end."""


Slot = Annotated[int, msgspec.Meta(ge=0, lt=OUT_SLOTS + IN_SLOTS * limits.GROUP_MEMBERS)]
Rank = Annotated[int, msgspec.Meta(ge=0, lt=limits.GROUP_MEMBERS)]
PartSize = Annotated[int, msgspec.Meta(ge=1, le=PART_BYTES)]


class PartOut(_Frame, frozen=True, kw_only=True, tag="part_out"):
    """Child → node: the slot holds so many bytes for every partner; it is the node's until `PartSent`."""

    number: Count
    slot: Slot
    size: PartSize


class PartSent(_Frame, frozen=True, kw_only=True, tag="part_sent"):
    """Node → child: the slot may be written again."""

    number: Count
    slot: Slot


class PartIn(_Frame, frozen=True, kw_only=True, tag="part_in"):
    """Node → child: the slot holds the next bytes from a partner; it is the child's until `PartTaken`."""

    number: Count
    rank: Rank
    slot: Slot
    size: PartSize


class PartTaken(_Frame, frozen=True, kw_only=True, tag="part_taken"):
    """Child → node: the slot may be filled again."""

    number: Count
    slot: Slot


class PartnerGone(_Frame, frozen=True, kw_only=True, tag="partner_gone"):
    """Node → child: nothing more will come from that partner, because of this."""

    number: Count
    rank: Rank
    why: Annotated[str, msgspec.Meta(max_length=WHAT_CHARS)]


class Ready(_Frame, frozen=True, kw_only=True, tag="ready"):
    """Child → node: model and data are at hand. `device`: where it will compute."""

    warm_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    device: Name
    records: Count
    seconds: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=0, le=1e6)], ...], msgspec.Meta(max_length=DESCRIPTORS)
    ] = ()
    """After an `Embed`: what each of its columns took, without the loading of the base. Otherwise none."""


class Started(_Frame, frozen=True, kw_only=True, tag="started"):
    """Child → node: the first step begins now."""

    number: Count
    first_step_unix_ns: Count


class Progressed(_Frame, frozen=True, kw_only=True, tag="progress"):
    """Child → node, at most five times a second."""

    number: Count
    done: Count
    of: Count
    loss: float | None


class TrainNumbers(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """What a training visit came to: see `TrainOutcome`."""

    batches: Count
    records: Count
    loss_first: float | None
    loss_last: float | None
    update_norm: Annotated[float, msgspec.Meta(ge=0)]


class EvaluateNumbers(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """What was measured: see `EvaluateOutcome`."""

    measurements: Annotated[tuple[Measurement, ...], msgspec.Meta(max_length=1024)]
    overfits: bool | None = None
    batch_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    curve: Annotated[tuple[CurvePoint, ...], msgspec.Meta(max_length=16)] = ()
    cuts: Annotated[tuple[CutCost, ...], msgspec.Meta(max_length=CUTS_MOST)] = ()
    taught: Annotated[tuple[TaughtBy, ...], msgspec.Meta(max_length=limits.SITES_PER_ORDER)] = ()
    tried: Annotated[tuple[TriedOut, ...], msgspec.Meta(max_length=TRIES_MOST)] = ()
    measure_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds of measuring alone, without preflight and trial."""


class Finished(_Frame, frozen=True, kw_only=True, tag="finished"):
    """Child → node: done; a training result lies in the output descriptor."""

    number: Count
    numbers: TrainNumbers | EvaluateNumbers
    state: TravellingState
    load_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    work_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    write_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    last_step_unix_ns: Count = 0
    """When the last training step ended: where a hop begins."""


class Inferred(_Frame, frozen=True, kw_only=True, tag="inferred"):
    """Serving child → node: the model's named outputs, and how long it took."""

    number: Count
    outputs: Annotated[tuple[NamedTensor, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)]
    work_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Failed(_Frame, frozen=True, kw_only=True, tag="failed"):
    """Child → node: no result, why, and what to do. Number 0: during the setup. Also made by the node for a death."""

    number: Count
    reason: FailReason
    what: Annotated[str, msgspec.Meta(max_length=WHAT_CHARS)]
    todo: Annotated[str, msgspec.Meta(max_length=WHAT_CHARS)] = ""
    partner: Rank | None = None
    """Which partner, where `reason` is `PARTNER`."""


ToChild = Setup | Embed | Run | Infer | Cancel | Close | PartSent | PartIn | PartnerGone
FromChild = Ready | Started | Progressed | Finished | Inferred | Failed | PartOut | PartTaken

_encoder: Final = msgspec.msgpack.Encoder()
_to_child: Final = msgspec.msgpack.Decoder(ToChild)
_from_child: Final = msgspec.msgpack.Decoder(FromChild)


def encode_frame(message: ToChild | FromChild, descriptors: int = 0) -> bytes:
    """Header and body. BugError where it is larger than a frame may be."""
    body = _encoder.encode(message)
    limit = FRAME_BYTES if isinstance(message, (Setup, Run, Infer)) else ANSWER_BYTES
    if len(body) > limit or descriptors > DESCRIPTORS:
        raise BugError(
            f"frame {type(message).__name__} has {len(body)} bytes and {descriptors} descriptors, "
            f"the limits are {limit} and {DESCRIPTORS}"
        )
    return HEADER.pack(len(body), descriptors) + body


def decode_order(body: bytes | bytearray) -> ToChild:
    """The node's frame, at the child; PeerError where it does not decode."""
    try:
        message: ToChild = _to_child.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"the node's frame does not decode: {error}") from None
    return message


def decode_answer(body: bytes | bytearray) -> FromChild:
    """A child's frame; PeerError where it does not decode or has numbers that cannot be."""
    try:
        message: FromChild = _from_child.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"the child's frame does not decode: {str(error)[:200]}") from None
    if isinstance(message, Finished) and isinstance(message.numbers, TrainNumbers):
        numbers = message.numbers
        told = [one for one in (numbers.loss_first, numbers.loss_last) if one is not None]
        if not all(map(math.isfinite, (*told, numbers.update_norm))):
            raise PeerError("the child reports losses or an update that are not finite")
    return message


def answer_length(header: bytes | bytearray) -> int:
    """Length of the body that follows a child's header; PeerError beyond the limit, or where it sends descriptors."""
    length, descriptors = HEADER.unpack(header)
    if length > ANSWER_BYTES or descriptors:
        raise PeerError(f"the child announces a frame of {length} bytes with {descriptors} descriptors")
    return int(length)

"""The codec: control messages as MessagePack, bounded before they are built.

Size and depth are checked on the bytes; types, counts and ranges by msgspec while decoding, against the closed union
of the link modules here. Anything else is the peer's fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.effects import Message
from daitn.base.errors import BugError, PeerError
from daitn.wire.center_serving import (
    DemandTold,
    KeysGiven,
    ModelsServed,
    OutcomesTold,
    QuotasAsked,
    QuotasGiven,
    RoutesGiven,
    RoutesHeld,
    ServeModels,
)
from daitn.wire.center_tools import (
    JobsEnded,
    JobsHeld,
    LeaseRenewed,
    ReleaseArtifacts,
    ResultAccepted,
    ResultFenced,
    VisitCancel,
    VisitFailed,
    VisitOrder,
    VisitPrepare,
    VisitProgress,
    VisitRefused,
    VisitResult,
)
from daitn.wire.center_topology import QuestionAnswered, QuestionAsked
from daitn.wire.oam_records import RecordsKept, RecordsReported
from daitn.wire.terminal_tools import (
    Leaving,
    Left,
    LinksPlanned,
    LinksReported,
    MachineReported,
    MeasuredReported,
    NeighborsGiven,
    Probe,
    ProbeAnswered,
)
from daitn.wire.topology_tools import (
    Describe,
    DescribeAgain,
    Described,
    FactsAsked,
    FactsTold,
    Heartbeat,
    ReportingTuned,
    RosterAnnounced,
    RosterKept,
    TerminalGathered,
    TerminalNoticed,
    ToolsAt,
    TuneReporting,
)

AnyMessage = (
    VisitOrder
    | VisitPrepare
    | VisitRefused
    | VisitProgress
    | LeaseRenewed
    | VisitResult
    | VisitFailed
    | ResultAccepted
    | ResultFenced
    | VisitCancel
    | ReleaseArtifacts
    | ServeModels
    | ModelsServed
    | RoutesGiven
    | KeysGiven
    | RoutesHeld
    | DemandTold
    | OutcomesTold
    | QuotasAsked
    | QuotasGiven
    | JobsHeld
    | JobsEnded
    | Describe
    | Described
    | Heartbeat
    | DescribeAgain
    | RosterAnnounced
    | RosterKept
    | FactsAsked
    | FactsTold
    | TuneReporting
    | ReportingTuned
    | QuestionAsked
    | QuestionAnswered
    | ToolsAt
    | TerminalNoticed
    | TerminalGathered
    | Leaving
    | Left
    | Probe
    | ProbeAnswered
    | MeasuredReported
    | NeighborsGiven
    | LinksReported
    | LinksPlanned
    | MachineReported
    | RecordsReported
    | RecordsKept
)

TOGETHER_MOST: Final = 64
"""Messages that travel as one at most: as many as turns share a commit."""

Together = Annotated[tuple[AnyMessage, ...], msgspec.Meta(min_length=2, max_length=TOGETHER_MOST)]

T = TypeVar("T")

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyMessage)
_all_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(AnyMessage | Together)


def encode(message: Message) -> bytes:
    """Bytes of a message; BugError if it is larger than a control message may be (bulk belongs into chunks)."""
    data = _encoder.encode(message)
    if len(data) > limits.MESSAGE_BYTES:
        raise BugError(f"{type(message).__name__} has {len(data)} bytes, the limit is {limits.MESSAGE_BYTES}")
    return data


def join(encoded: Sequence[bytes]) -> bytes:
    """Encoded messages for one receiver as one; the bytes of a single one as they are. For `decode_all`."""
    return encoded[0] if len(encoded) == 1 else _encoder.encode([msgspec.Raw(one) for one in encoded])


def decode(data: bytes) -> Message:
    """The message in `data`; PeerError saying where it does not fit. O(len(data)), which is bounded first."""
    message: Message = _decode(_decoder, data)
    return message


def decode_all(data: bytes) -> tuple[Message, ...]:
    """The message in `data`, or the messages that were joined, at most `TOGETHER_MOST`. Errors as `decode`: one that
    does not fit spoils those that came with it."""
    found: Message | tuple[Message, ...] = _decode(_all_decoder, data)
    return found if isinstance(found, tuple) else (found,)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    if len(data) > limits.MESSAGE_BYTES:
        raise PeerError(f"message of {len(data)} bytes, the limit is {limits.MESSAGE_BYTES}")
    try:
        return decoder.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"message does not decode: {error}") from None

"""The codec: control messages as MessagePack, bounded before they are built.

Size and depth are checked on the bytes; types, counts and ranges by msgspec while decoding, against the closed union
of the link modules here. Anything else is the peer's fault.
"""

from __future__ import annotations

from typing import Final

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

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """Bytes of a message; BugError if it is larger than a control message may be (bulk belongs into chunks)."""
    data = _encoder.encode(message)
    if len(data) > limits.MESSAGE_BYTES:
        raise BugError(f"{type(message).__name__} has {len(data)} bytes, the limit is {limits.MESSAGE_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """The message in `data`; PeerError saying where it does not fit. O(len(data)), which is bounded first."""
    if len(data) > limits.MESSAGE_BYTES:
        raise PeerError(f"message of {len(data)} bytes, the limit is {limits.MESSAGE_BYTES}")
    try:
        message: Message = _decoder.decode(data)
    except UNDECODABLE as error:
        raise PeerError(f"message does not decode: {error}") from None
    return message

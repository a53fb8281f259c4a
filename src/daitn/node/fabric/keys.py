"""The key scheme: every key names the domain, the plane, the receiver and, last, the sender.

    daitn/<domain>/<lane>/to/<receiver>/from/<sender>      a message; lane: cp, dp, dp/chunk,
                                                           dp/stream, oam/record
    daitn/<domain>/oam/telemetry/<sender>/<topic>          a latest value
    daitn/<domain>/oam/report/<sender>                     a report: many, each once, may be dropped
    daitn/<domain>/live/<node>                             presence

The router compares the sender segment with the certificate of the link (`access`), so who reads a key knows who wrote
it. Chunks and streams have lanes of their own below the data plane: their own queue and their own priority.
"""

from __future__ import annotations

import re
from typing import Final

from daitn.base.errors import PeerError
from daitn.base.ids import DomainId, NodeId
from daitn.node.fabric.contract import Plane

CHUNK_LANE: Final = f"{Plane.DP}/chunk"
STREAM_LANE: Final = f"{Plane.DP}/stream"
LANES: Final = (str(Plane.CP), str(Plane.DP), CHUNK_LANE, STREAM_LANE, str(Plane.RECORD))
"""Every prefix under which messages travel from one node to one other."""

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def message(domain: DomainId, lane: str, receiver: str, sender: str) -> str:
    """The key of a message; `*` as receiver or sender makes the expression for all of them."""
    return f"daitn/{domain}/{lane}/to/{receiver}/from/{sender}"


def inbox(domain: DomainId, lane: str, receiver: NodeId) -> str:
    """The expression a node serves: everything sent to it on one lane."""
    return message(domain, lane, receiver, "*")


def telemetry(domain: DomainId, sender: str, topic: str) -> str:
    """The key of a latest value; `*` for all senders or topics."""
    return f"daitn/{domain}/oam/telemetry/{sender}/{topic}"


def report(domain: DomainId, sender: str) -> str:
    """The key of a node's reports; `*` for all nodes."""
    return f"daitn/{domain}/oam/report/{sender}"


def presence(domain: DomainId, node: str) -> str:
    """The key of a node's liveliness token; `*` for all nodes."""
    return f"daitn/{domain}/live/{node}"


def sender_of_message(key: str, domain: DomainId, lane: str, receiver: NodeId) -> NodeId:
    """Who sent the message with this key to `receiver`; PeerError if the key is no such message's."""
    prefix, _, sender = key.rpartition("/")
    if prefix != f"daitn/{domain}/{lane}/to/{receiver}/from" or _SEGMENT.fullmatch(sender) is None:
        raise PeerError(f"key {key[:200]!r} is not a message to {receiver}")
    return NodeId(sender)


def source_of_telemetry(key: str, domain: DomainId) -> tuple[NodeId, str]:
    """(sender, topic) of a latest value; PeerError if the key is none."""
    prefix = f"daitn/{domain}/oam/telemetry/"
    sender, _, topic = key.removeprefix(prefix).partition("/")
    if not key.startswith(prefix) or _SEGMENT.fullmatch(sender) is None or _SEGMENT.fullmatch(topic) is None:
        raise PeerError(f"key {key[:200]!r} is not a latest value of {domain}")
    return NodeId(sender), topic


def source_of_report(key: str, domain: DomainId) -> NodeId:
    """Who reported under this key; PeerError if the key is no report's."""
    prefix = f"daitn/{domain}/oam/report/"
    sender = key.removeprefix(prefix)
    if not key.startswith(prefix) or _SEGMENT.fullmatch(sender) is None:
        raise PeerError(f"key {key[:200]!r} is not a report of {domain}")
    return NodeId(sender)


def node_of_presence(key: str, domain: DomainId) -> NodeId:
    """Whose token has this key; PeerError if the key is no token's."""
    prefix = f"daitn/{domain}/live/"
    node = key.removeprefix(prefix)
    if not key.startswith(prefix) or _SEGMENT.fullmatch(node) is None:
        raise PeerError(f"key {key[:200]!r} is not a presence token of {domain}")
    return NodeId(node)

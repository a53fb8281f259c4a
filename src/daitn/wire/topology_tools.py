"""Link topology–tools, control plane: what the map is made from (paper, II-A, DRRT-tool CP).

Terminals describe themselves when they join and when something changed, and say regularly that it still holds. The
descriptor's digest in each heartbeat is what keeps consent and identity fresh without sending them again.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.effects import Message
from daitn.descriptors.terminals import NodeDescriptor


class Describe(Message, frozen=True, kw_only=True, tag="describe"):
    """Terminal → topology: all that I am. Repeated until `Described` with this sequence."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    generated_unix_s: float
    descriptor: NodeDescriptor


class Described(Message, frozen=True, kw_only=True, tag="described"):
    """Topology → terminal: the map holds this sequence."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Terminal → topology: the description with `sequence` still holds. One that the map does not hold is asked for."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    busy_slots: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0


class DescribeAgain(Message, frozen=True, kw_only=True, tag="describe_again"):
    """Topology → terminal: the map does not hold your description (restart, loss); send it."""

    known_sequence: Annotated[int, msgspec.Meta(ge=0)] = 0

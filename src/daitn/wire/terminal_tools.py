"""Link terminal–tools, control plane: a terminal comes and goes (paper, II-A, terminal-tool CP).

Joining itself is enrolment, an HTTPS endpoint of its own, because before it there is no certificate to speak with.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.effects import Message


class Leaving(Message, frozen=True, kw_only=True, tag="leaving"):
    """Terminal → communication service: I leave for good; take me off the map. Repeated until `Left`."""

    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Left(Message, frozen=True, kw_only=True, tag="left"):
    """Communication service → terminal: done; your slot is retired and never given out again."""

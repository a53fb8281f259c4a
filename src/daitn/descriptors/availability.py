"""What was seen of a node's presence: how long it was there and not, and how often that changed."""

from __future__ import annotations

from typing import Annotated

import msgspec

Amount = Annotated[float, msgspec.Meta(ge=0)]


class UpTime(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a node's presence; older observations fade."""

    up_s: Amount = 0.0
    down_s: Amount = 0.0
    failures: Amount = 0.0
    repairs: Amount = 0.0
    is_up: bool = True
    since_s: Amount = 0.0
    """Unix time of the last change, or of when it was last taken into account."""

"""The step that follows the mean of a round: what an aggregator makes of it, and a unit that tries hyper-parameters."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class ServerStep(msgspec.Struct, frozen=True, kw_only=True):
    """How an aggregator goes on from the mean of a round, all decided. See `learning.numerics.server_step`."""

    optimizer: Literal["momentum", "nesterov", "adam", "yogi", "scaffold"]
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    second_moment: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.99
    adaptivity: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    """Change of a weight per round below which steps are no longer made larger (Adam, Yogi)."""

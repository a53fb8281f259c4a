"""Flap damping: who goes up and down too often counts as down until it has been steady for a while.

RFC 2439 (route flap damping), at the origin only, as RFC 7196 and the experience behind it advise: whoever first knows
of the change damps it, nobody damps what others report. Each fall adds a penalty, which halves every half-life. Above
`suppress` the subject counts as down whatever it is; below `reuse` it counts as what it is again. A ceiling bounds how
long that can take. RFC 7196's 6 falls to suppress instead of the 2 to 3 that vendors set: those hit ordinary restarts.

Pure arithmetic on one record for each subject; who has the clock says when. All calls O(1).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from daitn.base.errors import InputError
from daitn.base.units import ns_to_seconds, seconds_to_ns


class DampingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fall counts 1. Defaults: RFC 7196 in units of a penalty of 1000, its times."""

    suppress: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 6.0
    """Above this penalty the subject counts as down."""
    reuse: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 0.75
    """Below this penalty it counts as what it is."""
    half_life_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 900.0
    hold_most_s: Annotated[float, msgspec.Meta(gt=0, le=604_800)] = 3600.0
    """However often it fell: this long after the last fall it counts as what it is."""

    def __post_init__(self) -> None:
        if self.reuse >= self.suppress:
            raise InputError(
                f"damping reuses at {self.reuse:g} and suppresses at {self.suppress:g}",
                todo="set `reuse` below `suppress`: else a subject is released by the fall that suppressed it",
            )
        if self.ceiling < self.suppress:
            raise InputError(
                f"damping that holds for {self.hold_most_s:g} s at most never reaches {self.suppress:g}",
                todo=f"set `hold_most_s` to at least "
                f"{self.half_life_s * math.log2(self.suppress / self.reuse):g}, or a shorter half-life",
            )

    @property
    def ceiling(self) -> float:
        """The penalty from which `hold_most_s` of decay leads to `reuse` (RFC 2439, 4.2)."""
        return float(self.reuse * 2.0 ** min(500.0, self.hold_most_s / self.half_life_s))


class FlapDamper:
    """One subject's record: penalty as of a moment, and whether it is suppressed."""

    __slots__ = ("_at_ns", "_config", "_penalty", "_suppressed")

    def __init__(self, config: DampingConfig) -> None:
        self._config = config
        self._penalty = 0.0
        self._at_ns = 0
        self._suppressed = False

    def penalty(self, now_ns: int) -> float:
        """What is left of all falls. A clock that went back fades nothing."""
        age_s = ns_to_seconds(max(0, now_ns - self._at_ns))
        return float(self._penalty * 0.5 ** (age_s / self._config.half_life_s))

    def fell(self, now_ns: int) -> bool:
        """The subject went down: whether it is suppressed now."""
        suppressed = self.suppressed(now_ns)
        self._penalty = min(self._config.ceiling, self.penalty(now_ns) + 1.0)
        self._at_ns = max(self._at_ns, now_ns)
        self._suppressed = suppressed or self._penalty > self._config.suppress
        return self._suppressed

    def suppressed(self, now_ns: int) -> bool:
        """Whether it counts as down whatever it is."""
        if self._suppressed and self.penalty(now_ns) < self._config.reuse:
            self._suppressed = False
        return self._suppressed

    def released_ns(self, now_ns: int) -> int | None:
        """When it will count as what it is, if it does not fall again; None where it is not suppressed."""
        if not self.suppressed(now_ns):
            return None
        wait_s = self._config.half_life_s * math.log2(self._penalty / self._config.reuse)
        return max(now_ns, self._at_ns + seconds_to_ns(wait_s)) + 1

    def forgotten(self, now_ns: int) -> bool:
        """Whether nothing of it needs to be kept: no more than a tenth of a fall is left."""
        return not self.suppressed(now_ns) and self.penalty(now_ns) < 0.1

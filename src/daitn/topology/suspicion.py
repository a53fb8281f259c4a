"""Suspicion: how sure one can be that a node has failed, from how long it has been silent and how it usually speaks.

φ-accrual (Hayashibara, Défago, Yared, Katayama: The φ accrual failure detector, SRDS 2004): instead of one deadline for
all, each node's gaps between signs of life are kept, and φ = −log10 of the chance that a gap lasts longer than the
present silence (their equations 1 to 4, normal distribution). φ = 1 errs once in ten, φ = 8 once in a hundred million.
Who asks decides: a query goes elsewhere at a low φ, a training run is taken over at a high one.

We differ in three things. A node not yet known is given the gap it was told to keep (as Akka does). The deviation has a
floor, because a quiet machine's gaps are so even that a single late thread would look like death. And silence counts
from a pause that is always allowed, the domain's patience: a busy machine stops now and then for longer than its
history says.

Visits have leases and are not judged by this; see `control_center.training`. Cost: O(1) for each sign of life and φ.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from daitn.base.units import ns_to_seconds

GAPS: Final = 200
"""Gaps remembered: the newest few minutes of a heartbeat each second. The authors keep 1,000 of 0.1 s."""

PHI_MOST: Final = 300.0
"""As far as a double reaches; more says no more."""


class Standing(StrEnum):
    """What silence makes of a node (SWIM's three states, by φ)."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    """Decisions that can choose another do."""
    FAILED = "failed"
    """Its facts do not count; it is not reachable."""


class SuspicionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which φ on, and how evenness is bounded."""

    suspect_phi: Annotated[float, msgspec.Meta(gt=0, le=PHI_MOST)] = 1.0
    failed_phi: Annotated[float, msgspec.Meta(gt=0, le=PHI_MOST)] = 8.0
    deviation_least_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    """Floor of the deviation, as a share of the mean gap: a thread that is late by a quarter of a beat is nothing."""
    pause_beats: Annotated[float, msgspec.Meta(ge=0, le=100)] = 6.0
    """Beats that may be missed before silence counts at all: one and a half patiences, at four beats a patience. Even
    nodes then fail after two patiences, which was the fixed limit."""


class GapHistory:
    """How one node speaks: the last `GAPS` gaps, their sums, and when it last did."""

    __slots__ = ("_beat_ns", "_gaps", "_heard_ns", "_squares", "_sum")

    def __init__(self, beat_s: float, now_ns: int) -> None:
        self._gaps: deque[float] = deque([beat_s], maxlen=GAPS)
        self._sum, self._squares = beat_s, beat_s * beat_s
        self._heard_ns = self._beat_ns = now_ns

    def beat(self, now_ns: int) -> None:
        """A regular sign of life. A clock that went back gives no gap."""
        gap_s = ns_to_seconds(now_ns - self._beat_ns)
        if gap_s > 0:
            if len(self._gaps) == GAPS:
                old = self._gaps[0]
                self._sum, self._squares = self._sum - old, self._squares - old * old
            self._gaps.append(gap_s)
            self._sum, self._squares = self._sum + gap_s, self._squares + gap_s * gap_s
        self._beat_ns = now_ns
        self.heard(now_ns)

    def resumed(self, now_ns: int) -> None:
        """It speaks again after it had failed: that silence is no gap of a node that lives."""
        self._beat_ns = now_ns
        self.heard(now_ns)

    def heard(self, now_ns: int) -> None:
        """Any other sign of life: ends the silence, and says nothing of the beat."""
        self._heard_ns = max(self._heard_ns, now_ns)

    @property
    def mean_s(self) -> float:
        """Mean gap."""
        return self._sum / len(self._gaps)

    def deviation_s(self, config: SuspicionConfig) -> float:
        """Standard deviation of the gaps, not below its floor."""
        variance = max(0.0, self._squares / len(self._gaps) - self.mean_s**2)
        return max(math.sqrt(variance), config.deviation_least_frac * self.mean_s)

    def silent_s(self, now_ns: int) -> float:
        """Seconds since anything came from it."""
        return ns_to_seconds(max(0, now_ns - self._heard_ns))

    def phi(self, now_ns: int, config: SuspicionConfig) -> float:
        """Suspicion, 0 to `PHI_MOST`; grows with silence and only with it."""
        late_s = self.silent_s(now_ns) - self.mean_s * (1 + config.pause_beats)
        return phi_of(late_s / self.deviation_s(config))

    def standing(self, now_ns: int, config: SuspicionConfig) -> Standing:
        """The state that its φ means."""
        phi = self.phi(now_ns, config)
        if phi >= config.failed_phi:
            return Standing.FAILED
        return Standing.SUSPECT if phi >= config.suspect_phi else Standing.ALIVE

    def fails_after_s(self, config: SuspicionConfig) -> float:
        """Silence after which it counts as failed, as its gaps are now: the quantile by bisection, O(50)."""
        low, high = -10.0, 40.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if phi_of(middle) < config.failed_phi else (low, middle)
        return max(0.0, self.mean_s * (1 + config.pause_beats) + high * self.deviation_s(config))


def phi_of(deviations: float) -> float:
    """−log10 of the chance that a normal value lies this many deviations or more above its mean.

    Beyond 30 deviations, where `erfc` nears the end of the doubles, by three terms of its asymptotic series.
    """
    if deviations < FAR:
        return max(0.0, -math.log10(0.5 * math.erfc(deviations / math.sqrt(2.0))))
    square = deviations * deviations
    tail = square / 2 + math.log(deviations * math.sqrt(2 * math.pi)) - math.log1p(3 / square**2 - 1 / square)
    return min(PHI_MOST, max(PHI_FAR, tail / math.log(10.0)))


FAR: Final = 30.0
PHI_FAR: Final = -math.log10(0.5 * math.erfc(FAR / math.sqrt(2.0)))
"""Where the two formulas meet: without it φ would fall by a billionth there."""

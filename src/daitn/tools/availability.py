"""Availability: how likely a node is there at a moment to come, from what was seen of it and what its access plans.

Failures and repairs as a two-state Markov process: with a rate of failing f and of coming back r, a node that is up now
is up after t seconds with probability

    r / (f + r) + f / (f + r) · exp(-(f + r) · t)                  (Trivedi, Probability and Statistics, 2nd ed., 8.2.1)

Rates are counts over time observed, so a node that was never missed is forecast to stay. Planned windows are known, not
estimated: outside them the forecast is 0, and an absence outside them is not counted as a failure.
"""

from __future__ import annotations

import math
from typing import Final

from daitn.descriptors.access import Access, done_at, is_open, open_frac
from daitn.descriptors.availability import UpTime

TRUSTED_UP_S: Final = 3600.0
"""An hour that a node is taken to have been up before it was ever seen: one failure in the first minute is not yet a
node that fails every minute."""

REPAIR_S: Final = 60.0
"""How long an absence lasts, as long as none has ended: that of a process that is started again by hand."""

FADING: Final = 0.5
"""What of the history still counts after `MEMORY_S`."""

MEMORY_S: Final = 86_400.0


def observe(known: UpTime, is_up: bool, at_s: float, access: Access) -> UpTime:
    """A node was seen to be there, or not; the time since the last observation counts with what it was then.

    Absences that the access plans for count neither as time down nor as failures.
    """
    elapsed_s = max(0.0, at_s - known.since_s)
    kept = FADING ** (elapsed_s / MEMORY_S)
    up_s, down_s = known.up_s * kept, known.down_s * kept
    failures, repairs = known.failures * kept, known.repairs * kept
    if known.is_up:
        up_s += elapsed_s
        failures += not is_up and is_open(access, at_s)
    else:
        down_s += elapsed_s * open_frac(access, known.since_s, at_s)
        repairs += is_up
    return UpTime(
        up_s=up_s, down_s=down_s, failures=failures, repairs=repairs, is_up=is_up, since_s=max(at_s, known.since_s)
    )


def forecast(known: UpTime, access: Access, now_s: float, at_s: float) -> float:
    """Probability that the node is there at `at_s` (Unix seconds, not before `now_s`): 0 outside its windows."""
    return _stays(known, max(0.0, at_s - now_s)) if is_open(access, at_s) else 0.0


def forecast_span(known: UpTime, access: Access, now_s: float, seconds: float) -> float:
    """Share of the next `seconds` in which the node can be counted on: the planned share times the mean of the
    forecast."""
    planned = open_frac(access, now_s, now_s + seconds)
    steady, rate, now = _long_run(known)
    mean = steady if rate * seconds <= 0 else steady + (now - steady) * -math.expm1(-rate * seconds) / (rate * seconds)
    return planned * (mean if rate > 0 else now)


def share_up(known: UpTime, access: Access, now_s: float) -> float | None:
    """Share of the time observed until now in which the node was there, the newest counting most; absences that its
    access plans left out. None where no time has passed yet."""
    seen = observe(known, known.is_up, now_s, access)
    total_s = seen.up_s + seen.down_s
    return seen.up_s / total_s if total_s > 0 else None


def through_at(access: Access, now_s: float, transfer_bytes: float, bytes_per_s: float) -> float:
    """When a transfer begun now would be through, at that rate or the access's own limit, over its windows."""
    rate = min(bytes_per_s, access.bytes_per_s) if access.bytes_per_s > 0 else bytes_per_s
    return done_at(access, now_s, transfer_bytes / rate) if rate > 0 else math.inf


def _long_run(known: UpTime) -> tuple[float, float, float]:
    """Share of time up in the long run, the rate at which the present is forgotten, and what is now."""
    fails = known.failures / (known.up_s + TRUSTED_UP_S)
    returns = (known.repairs + 1) / (known.down_s + REPAIR_S)
    rate = fails + returns
    return returns / rate, rate, 1.0 if known.is_up else 0.0


def _stays(known: UpTime, seconds: float) -> float:
    steady, rate, now = _long_run(known)
    return steady + (now - steady) * math.exp(-rate * seconds)

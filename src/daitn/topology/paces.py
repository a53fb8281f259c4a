"""Paces of visits: what others measured of a site's compute, which bounds what the site claims of itself.

Paper II-A, G-KRRM: facts of compute are claims of whoever has it. The one measure that the network has of its own is
work: a verification unit trained a batch of the same model in its preflight, a visit trains batches at the site. How
the two compare, times the unit's speed, is the speed that the visit bears out. The unit's own claims are bounded like
everybody's, and nothing is compared but batches of one job, so no model's cost has to be known.

A visit can only be slower than its site: loading, writing, and whatever else runs there. So the best of the last
`PACES` counts, short visits say nothing, and nothing is said before there were `PACES_LEAST`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

VISIT_LEAST_S: Final = 1.0
"""A shorter visit says nothing of speed: loading a model and writing it weigh too much in it."""

PACES: Final = 8
"""Visits remembered for each node: a site that became slower is found out after as many."""

PACES_LEAST: Final = 3
"""Fewer say nothing: one of them may have been beside other work."""


class VisitPace(msgspec.Struct, frozen=True, kw_only=True):
    """What one training visit shows. Speeds are 0 where they cannot be told from it."""

    batch_s: float
    """Seconds per batch, loading and writing included."""
    seconds: float
    """Of the whole visit's work."""
    flops: float = 0.0
    """FLOP/s that it bears out."""
    memory_bytes_per_s: float = 0.0
    """Bytes per second of memory that it bears out."""


class Paces:
    """See the module's docstring. One node's; O(`PACES`)."""

    def __init__(self) -> None:
        self._flops: deque[float] = deque(maxlen=PACES)
        self._memory: deque[float] = deque(maxlen=PACES)

    def take(self, pace: VisitPace) -> dict[str, float]:
        """Facts of the group `measured` that are known now, with one visit more."""
        known = {"batch_seconds": pace.batch_s}
        if pace.seconds >= VISIT_LEAST_S:
            for fact, kept, speed in (
                ("measured_flops", self._flops, pace.flops),
                ("measured_memory_bytes_per_s", self._memory, pace.memory_bytes_per_s),
            ):
                if speed > 0:
                    kept.append(speed)
                if len(kept) >= PACES_LEAST:
                    known[fact] = max(kept)
        return known

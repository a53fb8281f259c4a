"""Forgetting, measured: how far a model is below the best that it was measured at before, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daitn.descriptors.request import UNIT_METRICS
from daitn.descriptors.work import Measurement

SHOWN_MOST = 5
"""Fields named in one line of a log."""


def forgotten(looks: Iterable[Sequence[Measurement]], now: Sequence[Measurement]) -> dict[str, float]:
    """Figure → how far it fell from its best over earlier `looks`, for figures between 0 and 1 that fell; 0.1 is ten
    points. Only what is measured now counts. O(figures)."""
    best: dict[str, float] = {}
    for look in looks:
        for one in look:
            if one.value == one.value:
                best[one.name] = max(one.value, best.get(one.name, one.value))
    fell: dict[str, float] = {}
    for one in now:
        metric = one.name.partition("@")[0].partition("[")[0]
        if metric in UNIT_METRICS and one.value < best.get(one.name, one.value):
            fell[one.name] = best[one.name] - one.value
    return fell


def said_of(fell: dict[str, float]) -> str:
    """`forgotten since its best: accuracy@low 0.10`; empty where nothing is."""
    worst = sorted(fell.items(), key=lambda one: (-one[1], one[0]))[:SHOWN_MOST]
    named = ", ".join(f"{name} {value:.2f}" for name, value in worst if value >= 0.005)
    return f"forgotten since its best: {named}" if named else ""

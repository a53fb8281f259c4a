"""Second opinions: whether two verification units found the same of one model, and which of three is the odd one out.

Paper II-A has one verification unit decide what a model is worth. Who runs it then decides alone: a unit that always
says 100 % has any model taken for good. Units are measuring the same model on the same records, so what an honest one
finds another finds too, but for the last digits. One of three that stands alone is found by that; of two that differ it
cannot be told which one is wrong, and no rule here pretends to.

What it does not do: find units that lie together, or by less than their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from daitn.base.ids import NodeId, OperatorId
from daitn.descriptors.work import Measurement

COMPARE_EVERY: Final = 8
"""Measured models from one that two units look at to the next: an eighth more measurements, and the last before a goal
counts as reached."""

Opinion = tuple[OperatorId, tuple[Measurement, ...]]
"""What a unit found, and who runs it."""


def difference(one: Sequence[Measurement], other: Sequence[Measurement]) -> str:
    """The first figure in which two measurements of one model differ beyond their joint interval; empty: none does.

    The half width of the joint interval is the root of the sum of both squares. On the same records that is wide, since
    what varies between samples does not vary here; so nobody honest is ever caught by it.
    """
    found = {figure.name: figure for figure in other}
    for figure in one:
        second = found.get(figure.name)
        if second is None or not (figure.records and second.records):
            continue
        if math.isnan(figure.value) and math.isnan(second.value):
            continue
        joint = math.hypot((figure.high - figure.low) / 2, (second.high - second.low) / 2)
        if not abs(figure.value - second.value) <= (joint if math.isfinite(joint) else 0.0):
            return f"{figure.name} {figure.value:.3f} and {second.value:.3f}, at most {joint:.3f} apart is chance"
    return ""


def odd_one_out(opinions: Mapping[NodeId, Opinion]) -> NodeId | None:
    """The one unit that differs from all others, where these are of two operators at least and find the same."""
    for unit, (_, figures) in opinions.items():
        others = [one for node, one in opinions.items() if node != unit]
        operators = {operator for operator, _ in others}
        agreed = not any(difference(one, other) for _, one in others for _, other in others)
        if len(operators) >= 2 and agreed and all(difference(figures, one) for _, one in others):
            return unit
    return None

"""Ways: how the hosts of a query were chosen, for whoever asked it and nobody else.

The last ones are remembered as they were (`query_engine.Weighing`), and explained only when somebody wants to know.
What a query asked or was answered is not among it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec

from daitn.control_center.inference.kept_model import UNPRICED
from daitn.control_center.inference.query_admission import Refused
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.decision.query_route.explaining import ReplicaWeighed
from daitn.descriptors.query_way import HostWeighed, StepShown, Way
from daitn.node.serving.asked_query import Asked
from daitn.wire.queries import QueryAnswer

WAYS_KEPT: Final = 512
"""Queries of a gateway whose ways are remembered: with 64 hosts each they take 7 MB."""

HEADER_CHARS: Final = 6000
"""Longest trace in a header: many clients take 8 KiB of headers."""


_ANSWERED: Final = QueryAnswer(outputs=())


class WayBook:
    """The last queries' ways, by name and by the key that asked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, Asked]] = OrderedDict()

    def keep(self, key: str, asked: Asked) -> None:
        """Remember a query that has ended; its answer is let go."""
        if not isinstance(asked.outcome, Refused):
            asked = Asked(asked.query, _ANSWERED, asked.steps, asked.took_s)
        self._kept[asked.query] = (key, asked)
        if len(self._kept) > WAYS_KEPT:
            self._kept.popitem(last=False)

    def way(self, key: str, query: str) -> Way | None:
        """A query's way, if this key asked it and it is remembered."""
        kept = self._kept.get(query)
        return way_of(kept[1]) if kept is not None and kept[0] == key else None


def way_of(asked: Asked) -> Way:
    """The explanation of a query that has ended; milliseconds for a hundred hosts."""
    steps = tuple(
        StepShown(
            host=step.host,
            why=step.choice.why,
            predicted_ms=_ms(step.choice.predicted_s),
            came=step.came,
            hosts=tuple(_shown(one) for one in QueryRouteEngine.explain(step.choice)),
        )
        for step in asked.steps
    )
    outcome = asked.outcome.reason.value if isinstance(asked.outcome, Refused) else "answered"
    return Way(query=asked.query, took_ms=_ms(asked.took_s), outcome=outcome, steps=steps)


def trace_header(asked: Asked) -> str:
    """The same in one header: of each step as many hosts as fit, the best first."""
    way = way_of(asked)
    most = max((len(step.hosts) for step in way.steps), default=0)
    while True:
        shown = [_with_count(step, most) for step in way.steps]
        told = msgspec.json.encode(
            {"query": way.query, "took_ms": way.took_ms, "outcome": way.outcome, "steps": shown}
        ).decode("ascii")
        if len(told) <= HEADER_CHARS or most == 0:
            return told
        most //= 2


def _with_count(step: StepShown, most: int) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.to_builtins(step)
    said["hosts"] = said["hosts"][:most]
    if most < len(step.hosts):
        said["hosts_left_out"] = len(step.hosts) - most
    return said


def _shown(one: ReplicaWeighed) -> HostWeighed:
    return HostWeighed(
        host=one.replica,
        held_back_by=one.held_back_by,
        cost_ms=_ms(one.cost_s),
        path_ms=_ms(one.path_s),
        queue_ms=_ms(one.queue_s),
        service_ms=_ms(one.service_s),
        deviation_ms=_ms(one.deviation_s),
        report_age_s=round(one.report_age_s, 3),
        price=one.price if one.price < UNPRICED else None,
        correct=one.correct,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

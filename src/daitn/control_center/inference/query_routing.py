"""Query route engine (QIRCE, paper II-B): which host answers a query, from what was learnt of each.

Predicted completion = path + queue + service. The path to a host and how much faster or slower it is than it measured
itself are learnt from every answer; the queue is what the host said last, less the time since, plus what this gateway
has sent it meanwhile: a slot is reserved at the moment of choice, so that queries that come together do not herd. What
is not known, or was learnt long ago, counts with its uncertainty. One query in a hundred goes to the host that was not
heard of for longest. A host that fails is left out for a while that doubles; it is tried again by one query.

Pure: time is given, nothing is awaited. One engine per gateway; gateways share nothing, and what another one sends to a
host is seen in what the host says of its queue.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, admissible, unknown_model
from daitn.descriptors.serving import QueryGoal, ReplicaMeasured, Route, ServedModel

PATH_S: Final = 0.002
"""Round trip to a host before one was measured: within a site it is less, between sites more."""

WEIGHT: Final = 0.1
"""Of the newest answer in what is learnt: ten answers make a habit."""

STALE_S: Final = 5.0
"""What was learnt so long ago counts with twice its uncertainty."""

EXPLORE: Final = 100
"""One query of so many goes to the host that was not heard of for longest."""

EJECTED_S: Final = 0.5
EJECTED_MOST_S: Final = 30.0
"""A host that fails is left out for that long, doubling with each failure in a row."""


class Choice(NamedTuple):
    """Where a query goes, and why."""

    model: ModelName
    artifact: ArtifactId
    route: Route
    predicted_s: float
    why: str
    others: tuple[tuple[NodeId, float], ...]
    """What was predicted of each host that was considered."""


class HostBook:
    """What one gateway has learnt of one model at one host."""

    def __init__(self, measured: ReplicaMeasured) -> None:
        self.in_flight = 0
        self.path_s, self.path_deviation_s = PATH_S, PATH_S
        self.factor, self.factor_deviation = 1.0, 0.5
        self.wait_s = 0.0
        self.heard_ns = 0
        self.failures = 0
        self.ejected_until_ns = 0
        each_s = max(0.0, measured.batch_s - measured.row_s) / max(1, measured.batch_rows - 1)
        self._each_s, self._base_s = each_s, max(1e-6, measured.row_s - each_s)
        self._rows_most = max(1, measured.batch_rows)

    def engine_s(self, rows: int) -> float:
        """How long some rows take in its engine, as it measured itself and as was observed."""
        return self.factor * self.planned_s(rows)

    def planned_s(self, rows: int) -> float:
        """How long some rows take in its engine, as it measured itself."""
        return -(-rows // self._rows_most) * self._base_s + rows * self._each_s

    def predicted_s(self, rows: int, concurrency: int, now_ns: int) -> float:
        """Completion of a query asked now, one deviation on the safe side."""
        age_s = (now_ns - self.heard_ns) / 1e9 if self.heard_ns else math.inf
        doubt = 2.0 if age_s > STALE_S else 1.0
        ahead = max(0, self.in_flight - concurrency + 1)
        queue_s = max(max(0.0, self.wait_s - age_s), ahead * self.engine_s(1) / concurrency)
        service_s = self.engine_s(rows) + doubt * self.factor_deviation * self.planned_s(rows)
        return self.path_s + doubt * self.path_deviation_s + queue_s + service_s

    def answered(self, rows: int, took_s: float, queued_s: float, engine_s: float, wait_s: float, now_ns: int) -> None:
        """An answer came."""
        self.heard_ns, self.wait_s = now_ns, wait_s
        self.failures, self.ejected_until_ns = 0, 0
        path_s = max(0.0, took_s - queued_s - engine_s)
        self.path_deviation_s += WEIGHT * (abs(path_s - self.path_s) - self.path_deviation_s)
        self.path_s += WEIGHT * (path_s - self.path_s)
        ratio = engine_s / self.planned_s(rows)
        self.factor_deviation += WEIGHT * (abs(ratio - self.factor) - self.factor_deviation)
        self.factor += WEIGHT * (ratio - self.factor)

    def refused(self, wait_s: float, now_ns: int) -> None:
        """The host said that it cannot now, and how long one would wait."""
        self.heard_ns, self.wait_s = now_ns, wait_s

    def failed(self, now_ns: int) -> bool:
        """It did not answer; whether it is left out from now on."""
        self.failures += 1
        seconds = min(EJECTED_MOST_S, EJECTED_S * 2 ** min(10, self.failures - 1))
        self.ejected_until_ns = now_ns + int(seconds * 1e9)
        return True


class QueryRouteEngine:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.models: dict[ModelName, ServedModel] = {}
        self._books: dict[tuple[ModelName, ArtifactId, NodeId], HostBook] = {}
        self._queries = 0

    def follow(self, models: Sequence[ServedModel]) -> None:
        """These models may be asked from now on. What was learnt of hosts that stay is kept."""
        self.models = {model.model: model for model in models}
        books: dict[tuple[ModelName, ArtifactId, NodeId], HostBook] = {}
        for model in models:
            for route in model.routes:
                key = (model.model, model.artifact, route.host.node)
                books[key] = self._books.get(key) or HostBook(route.measured)
        self._books = books

    def choose(
        self, name: str, rows: int, goal: QueryGoal, left_s: float, now_ns: int, tried: Collection[NodeId] = ()
    ) -> Choice | Refused:
        """The host for a query of so many rows that is to be answered within `left_s`; a slot there is reserved until
        `done`. `tried`: hosts that this query was sent to already. O(routes)."""
        model = self.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self.models)
        routes = admissible(model, goal)
        if isinstance(routes, Refused):
            return routes
        left = [route for route in routes if route.host.node not in tried]
        if not left:
            return Refused(QueryRefusal.LOST, f"all {len(routes)} hosts of {name} were asked", 1.0)
        live = [route for route in left if self._book(model, route).ejected_until_ns <= now_ns]
        predicted = [
            (self._book(model, route).predicted_s(rows, route.concurrency, now_ns), route) for route in live or left
        ]
        best_s, best = min(predicted, key=lambda one: (one[0], one[1].host.node))
        why = "soonest" if live else "soonest of those that failed before"
        if best_s > left_s:
            what = f"the soonest host of {name} is predicted to answer in {best_s:.3f} s, {left_s:.3f} s are left"
            return Refused(QueryRefusal.LATE, what, best_s, f"deadline >= {best_s:.3f} s")
        self._queries += 1
        if self._queries % EXPLORE == 0 and len(predicted) > 1:
            oldest_s, oldest = min(predicted, key=lambda one: self._book(model, one[1]).heard_ns)
            if oldest_s <= left_s:
                best_s, best, why = oldest_s, oldest, "not heard of for longest"
        self._book(model, best).in_flight += 1
        others = tuple((route.host.node, seconds) for seconds, route in predicted)
        return Choice(model.model, model.artifact, best, best_s, why, others)

    def done(self, choice: Choice) -> None:
        """The reserved slot is free again, however it ended; called once for each choice."""
        book = self.book(choice)
        if book is not None:
            book.in_flight = max(0, book.in_flight - 1)

    def book(self, choice: Choice) -> HostBook | None:
        """What is learnt of the host of a choice; None where it is no route any more."""
        return self._books.get((choice.model, choice.artifact, choice.route.host.node))

    def _book(self, model: ServedModel, route: Route) -> HostBook:
        return self._books[model.model, model.artifact, route.host.node]

"""Live book: how models do while they are asked, from what gateways count (`wire.center_serving.OutcomesTold`).

Gateways tell totals since their process began, so nothing is lost with a message; what counts here is what was added
to them since they were told last. The first word of a gateway is where counting begins: after a restart of the centre
nothing is counted twice. Of judged answers the newest `WINDOW_ROWS` count most: older ones fade as new ones come, so
that a model whose world has changed is seen to fall. Nothing is durable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.decision.answers_compared import Pair
from daitn.decision.canary_judging import Seen
from daitn.decision.live_accuracy import fell, fitting_temperature, fitting_threshold, wilson
from daitn.descriptors.live import TEMPERATURES, THRESHOLDS, FieldOutcomes, LiveField, LiveShown, ModelOutcomes
from daitn.wire.center_serving import OutcomesTold

WINDOW_ROWS: Final = 2000.0
"""Rows that count of one field, older ones less and less."""

PAIRS_MOST: Final = 1024
"""Pairs of hosts of one model; what is told of more is not counted."""

FIELDS_MOST: Final = 64
"""Fields of one model; what comes under more names is not counted."""

_SHARED: Final = 2 * (len(THRESHOLDS) + 1)

Key = tuple[NodeId, ModelName, ArtifactId]


class _Field:
    """Judged rows of one model in one field, faded."""

    def __init__(self) -> None:
        self.rows = self.right = 0.0
        self.surprise = [0.0] * len(TEMPERATURES)
        self.shared = [0.0] * _SHARED

    def add(self, rows: float, right: float, surprise: list[float], shared: list[float]) -> None:
        keep = max(0.0, 1 - rows / WINDOW_ROWS)
        weight = min(1.0, WINDOW_ROWS / rows)
        self.rows = keep * self.rows + weight * rows
        self.right = keep * self.right + weight * right
        self.surprise = [keep * old + weight * new for old, new in zip(self.surprise, surprise, strict=True)]
        self.shared = [keep * old + weight * new for old, new in zip(self.shared, shared, strict=True)]


class _Model:
    """One package."""

    def __init__(self) -> None:
        self.answered = self.lost = 0
        self.rows = self.right = 0
        """Judged, of all fields, none faded."""
        self.fields: dict[str, _Field] = {}
        self.pairs: dict[tuple[NodeId, NodeId], Pair] = {}
        """Of hosts whose answers were compared."""


class LiveBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._told: dict[Key, ModelOutcomes] = {}
        self._since: dict[NodeId, int] = {}
        self._models: dict[ArtifactId, _Model] = {}

    def take(self, gateway: NodeId, told: OutcomesTold, served: Mapping[ArtifactId, object]) -> None:
        """What a gateway counted. `served`: packages that are deployed; of others nothing is kept."""
        first = gateway not in self._since
        if self._since.get(gateway) != told.since:
            for key in [key for key in self._told if key[0] == gateway]:
                del self._told[key]
            self._since[gateway] = told.since
        for one in told.outcomes:
            if one.artifact not in served:
                continue
            key = (gateway, one.model, one.artifact)
            before = self._told.get(key, ModelOutcomes(model=one.model, artifact=one.artifact))
            self._told[key] = one
            if not first:
                self._add(before, one)

    def forget(self, served: Collection[ArtifactId]) -> None:
        """Packages that are deployed no longer are forgotten."""
        for artifact in [one for one in self._models if one not in served]:
            del self._models[artifact]
        for key in [key for key in self._told if key[2] not in served]:
            del self._told[key]

    def seen(self, artifact: ArtifactId) -> Seen:
        """All that was counted of a package."""
        model = self._models.get(artifact) or _Model()
        return Seen(rows=model.rows, right=model.right, answered=model.answered, lost=model.lost)

    def pairs(self, artifact: ArtifactId) -> Mapping[tuple[NodeId, NodeId], Pair]:
        """How a package's hosts answered beside each other, the lesser first."""
        model = self._models.get(artifact)
        return {} if model is None else model.pairs

    def forget_host(self, artifact: ArtifactId, node: NodeId) -> None:
        """A host serves a package no more: what was compared with it is of the past."""
        if (model := self._models.get(artifact)) is not None:
            model.pairs = {hosts: pair for hosts, pair in model.pairs.items() if node not in hosts}

    def shown(
        self, artifact: ArtifactId, measured: Mapping[str, float], temperature: float = 1.0, threshold: float = 0.5
    ) -> LiveShown:
        """How a package does. `measured`: by verification units, as `accuracy` or `accuracy@field`; `temperature` and
        `threshold`: that its answers are read with."""
        model = self._models.get(artifact)
        if model is None:
            return LiveShown(temperature=temperature, threshold=threshold)
        fields: list[LiveField] = []
        for name, field in sorted(model.fields.items()):
            was = measured.get(f"accuracy@{name}" if name else "accuracy", measured.get("accuracy"))
            now = wilson(field.rows, field.right)
            fields.append(
                LiveField(
                    field=name,
                    rows=field.rows,
                    accuracy=now.value,
                    low=now.low,
                    high=now.high,
                    measured=was,
                    fell=fell(field.rows, field.right, was),
                )
            )
        return LiveShown(
            answered=model.answered,
            lost=model.lost,
            fields=tuple(fields),
            temperature=temperature,
            threshold=threshold,
        )

    def temperature(self, artifact: ArtifactId, now: float) -> float:
        """By which a package's scores fit its judged answers best; `now`: by which they are divided so far."""
        model = self._models.get(artifact)
        if model is None:
            return now
        told = [field for field in model.fields.values() if any(field.surprise)]
        sums = [sum(each) for each in zip(*(field.surprise for field in told), strict=True)] if told else []
        return fitting_temperature(sum(field.rows for field in told), sums, now)

    def threshold(self, artifact: ArtifactId, now: float) -> float:
        """From which share of the second of two classes telling that one fits a package's judged answers best; `now`:
        from which it is told so far. Counts of all fields together."""
        model = self._models.get(artifact)
        if model is None:
            return now
        told = [field.shared for field in model.fields.values()]
        return fitting_threshold([sum(each) for each in zip(*told, strict=True)], now)

    def _add(self, before: ModelOutcomes, now: ModelOutcomes) -> None:
        model = self._models.setdefault(now.artifact, _Model())
        model.answered += max(0, now.answered - before.answered)
        model.lost += max(0, now.lost - before.lost)
        compared = {one.hosts: Pair(one.same, one.differing) for one in before.compared}
        for pair in now.compared:
            was = compared.get(pair.hosts, Pair(0, 0))
            hosts = (min(pair.hosts), max(pair.hosts))
            if hosts[0] != hosts[1] and (hosts in model.pairs or len(model.pairs) < PAIRS_MOST):
                so_far = model.pairs.get(hosts, Pair(0, 0))
                same, differing = max(0, pair.same - was.same), max(0, pair.differing - was.differing)
                model.pairs[hosts] = Pair(so_far.same + same, so_far.differing + differing)
        known = {one.field: one for one in before.judged}
        for one in now.judged:
            old = known.get(one.field, FieldOutcomes(field=one.field))
            rows, right = one.rows - old.rows, one.right - old.right
            if rows <= 0 or not 0 <= right <= rows:
                continue
            if one.field not in model.fields and len(model.fields) >= FIELDS_MOST:
                continue
            field = model.fields.setdefault(one.field, _Field())
            surprise = _added(old.surprise, one.surprise, len(TEMPERATURES))
            field.add(rows, right, surprise, _added(old.shared, one.shared, _SHARED))
            model.rows += rows
            model.right += right


def _added(before: tuple[float, ...], now: tuple[float, ...], entries: int) -> list[float]:
    if len(now) != entries:
        return [0.0] * entries
    old = before if len(before) == len(now) else (0.0,) * len(now)
    return [max(0.0, new - was) for new, was in zip(now, old, strict=True)]

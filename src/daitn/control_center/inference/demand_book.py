"""Demand book: what is asked of each model, from where, how often, and how often soon (query patterns, paper II-B).

Gateways count what they are asked and tell it every few seconds (`DemandTold`); each count moves a level and a trend
(C. Holt 1957, with the time between counts), and the forecast is the level where the trend leads within
`FORECAST_S`, which is about what placing a model takes. What a silent gateway told is worth nothing after `SILENT_S`.
Nothing is durable: after a restart gateways tell it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from daitn.base import limits
from daitn.base.ids import ModelName, NodeId
from daitn.descriptors.latency import LatencyShown, Took, quantile_of
from daitn.descriptors.query_view import QueryDemand
from daitn.descriptors.serving import ServingGoal
from daitn.wire.center_serving import DemandTold

LEVEL_S: Final = 20.0
"""Counts of about so long make a level: a burst of a second moves no model."""

TREND_S: Final = 120.0

FORECAST_S: Final = 60.0
"""How far ahead a forecast looks: fetching, starting and warming a model up take that long."""

SILENT_S: Final = 30.0
"""What a gateway told so long ago counts no more: it tells every two seconds."""

LATENCY_S: Final = 120.0
"""Answers count by how long they took for about so long."""

BEYOND: Final = 5.0
"""So many answers lie beyond a quantile before it is believed: a hundred, for p95."""

BURSTY: Final = 3.0
"""A pattern is called bursty where its peak is so many times its level."""


class _Series:
    """One model at one gateway."""

    def __init__(self, now_ns: int) -> None:
        self.level = self.trend = self.peak = 0.0
        self.mean_bytes = 0.0
        self.told_ns = now_ns
        self.asked_ns = now_ns
        """When it was asked last."""
        self.took: dict[int, float] = {}

    def take(self, queries: int, seconds: float, mean_bytes: float, took: Took, now_ns: int) -> None:
        kept = math.exp(-seconds / LATENCY_S)
        self.took = {bucket: count * kept for bucket, count in self.took.items() if count * kept > 0.01}
        for bucket, count in took.items():
            self.took[bucket] = self.took.get(bucket, 0.0) + count
        rate = queries / seconds
        before = self.level
        weight = 1.0 - math.exp(-seconds / LEVEL_S)
        self.level += weight * (rate - self.level) + (1 - weight) * self.trend * seconds
        self.level = max(self.level, 0.0)
        drift = 1.0 - math.exp(-seconds / TREND_S)
        self.trend += drift * ((self.level - before) / seconds - self.trend)
        self.peak = max(rate, self.peak * math.exp(-seconds / TREND_S))
        if queries:
            self.asked_ns = now_ns
            self.mean_bytes += 0.1 * (mean_bytes - self.mean_bytes) if self.mean_bytes else mean_bytes
        self.told_ns = now_ns

    def forecast(self) -> float:
        """Where the trend leads, by half at most: what a beginning promises is mostly not kept."""
        return min(max(self.level + self.trend * FORECAST_S, 0.5 * self.level), 1.5 * self.level)

    def spread(self) -> float:
        """By how much a forecast of the same demand differs by chance (a standard deviation), where queries come
        independently of each other: a level is a mean over twice `LEVEL_S`, and the trend goes up and down with it."""
        return (1.0 + FORECAST_S / TREND_S) * math.sqrt(self.level / (2 * LEVEL_S))


class Asked(NamedTuple):
    """What one gateway asks of a model."""

    gateway: NodeId
    region: str
    asked_per_s: float
    forecast_per_s: float
    spread_per_s: float
    """By chance, of the forecast."""


class DemandBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._series: dict[tuple[ModelName, NodeId], _Series] = {}
        self._regions: dict[NodeId, str] = {}
        self._asked_ns: dict[ModelName, int] = {}

    def take(self, gateway: NodeId, region: str, told: DemandTold, models: Iterable[ModelName], now_ns: int) -> None:
        """A gateway counted. Of models that are not served nothing is kept: their names are whatever callers send."""
        known = set(models)
        self._regions[gateway] = region
        counts = {one.model: one for one in told.counts if one.model in known}
        for model in known:
            series = self._series.get((model, gateway))
            one = counts.get(model)
            if series is None and one is None:
                continue
            if series is None:
                series = self._series[model, gateway] = _Series(now_ns)
            queries = one.queries if one is not None else 0
            mean_bytes = one.bytes / max(1, queries) if one is not None else 0.0
            series.take(queries, told.seconds, mean_bytes, {} if one is None else one.took, now_ns)
            if queries:
                self._asked_ns[model] = now_ns
        for key in [key for key in self._series if key[0] not in known]:
            del self._series[key]
        self._asked_ns = {model: at for model, at in self._asked_ns.items() if model in known}

    def asked(self, model: ModelName, now_ns: int) -> tuple[Asked, ...]:
        """What is asked of a model now, and soon, by gateway."""
        return tuple(
            Asked(gateway, self._regions.get(gateway, ""), series.level, series.forecast(), series.spread())
            for (name, gateway), series in sorted(self._series.items())
            if name == model and now_ns - series.told_ns < SILENT_S * 1e9
        )

    def latencies(self, model: ModelName, goal: ServingGoal, now_ns: int) -> tuple[LatencyShown, ...]:
        """Each latency that was asked for, and how it is over all gateways that speak."""
        took: dict[int, float] = {}
        for (name, _), series in self._series.items():
            if name == model and now_ns - series.told_ns < SILENT_S * 1e9:
                for bucket, count in series.took.items():
                    took[bucket] = took.get(bucket, 0.0) + count
        answers = sum(took.values())
        shown: list[LatencyShown] = []
        for target in goal.latency:
            found = quantile_of(took, target.quantile) if answers * (1 - target.quantile) >= BEYOND else None
            shown.append(
                LatencyShown(
                    target=str(target),
                    measured_s=found if found is not None and found < math.inf else None,
                    answers=round(answers),
                    kept=None if found is None else found <= target.most_s,
                )
            )
        return tuple(shown)

    def asked_ns(self, model: ModelName) -> int:
        """When a model was asked last; 0: not since this process began."""
        return self._asked_ns.get(model, 0)

    def demands(self, goals: Mapping[ModelName, ServingGoal], now_ns: int) -> tuple[QueryDemand, ...]:
        """All of it as the map shows it: by model and region. `goals`: of models that have one."""
        wanted_s = {str(name): min((one.most_s for one in goal.latency), default=None) for name, goal in goals.items()}
        found: dict[tuple[str, str], list[_Series]] = {}
        for (model, gateway), series in self._series.items():
            if now_ns - series.told_ns < SILENT_S * 1e9:
                found.setdefault((str(model), self._regions.get(gateway, "")), []).append(series)
        return tuple(
            QueryDemand(
                kind=model[: limits.NAME_CHARS],
                region=region,
                pattern="bursty"
                if sum(one.peak for one in all_) > BURSTY * sum(one.level for one in all_)
                else "steady",
                asked_per_s=sum(one.level for one in all_),
                asked_per_s_peak=sum(one.peak for one in all_),
                asked_per_s_soon=sum(one.forecast() for one in all_),
                query_bytes=max(one.mean_bytes for one in all_),
                latency_goal_s=wanted_s.get(model),
                age_s=None,
            )
            for (model, region), all_ in sorted(found.items())
        )

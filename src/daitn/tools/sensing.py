"""Sensing service: what of new data a site sees: how fast records arrive, and how far they have drifted (paper, II-A).

Data nodes append records; `node.data_watch` notices and reads them again. This core keeps the exact account, which
never leaves the site (its owner sees it with `daitn data sensing`). What the network gets of it is made from released
statistics alone (`describe.dynamics`), so it costs no privacy budget and comes no more often than releases do.

The arrival rate is the Theil–Sen slope over the newest readings (Sen, "Estimates of the regression coefficient based on
Kendall's tau", 1968): a bulk load or a day without records moves it little. Drift is the population stability index of
the labels among what came since the first reading, against what was there then (Siddiqi, "Credit risk scorecards",
2006): symmetric, no parameter but the labels themselves; above 0.25 the data is not what it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Annotated, Final

import msgspec

from daitn.base.effects import Effect, Event
from daitn.base.errors import BugError
from daitn.base.ids import DataSetId
from daitn.base.units import ns_to_seconds
from daitn.tools.service import ServiceView

READINGS: Final = 64
"""Newest readings kept of a data set; the slope is over all pairs of them."""

DATA_SETS: Final = 1000

DAY_S: Final = 86_400.0

SMOOTH: Final = 0.5
"""Added to each count, so that a label that was never seen does not make drift infinite (Jeffreys)."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class DataMeasured(Event, frozen=True, kw_only=True):
    """A data set was read: how many records it has, and how many of each label. `appended`: only records were added
    since it was read before; else it is another data set from now on."""

    dataset: DataSetId
    rows: int
    labels: dict[str, int]
    appended: bool


class DataRemoved(Event, frozen=True, kw_only=True):
    """A data set is not on the shelf any more."""

    dataset: DataSetId


class SensedData(msgspec.Struct, frozen=True, kw_only=True):
    """One data set, exactly: for its owner, never for the network."""

    dataset: DataSetId
    rows: Count
    appended: Count
    """Records that came since the first reading."""
    readings: Count
    arrival_per_day: float | None
    """None: it was read once, or without time between."""
    drift: float | None
    """Population stability index of what came against what was there; None: nothing came, or there are no labels."""


class Sensed(ServiceView, frozen=True, kw_only=True, tag="sensing"):
    """All data sets of the site."""

    data: tuple[SensedData, ...]


class _Series:
    """Readings of one data set, since it is this one."""

    def __init__(self, rows: int, labels: Mapping[str, int], now_ns: int) -> None:
        self.first_rows, self.first_labels = rows, dict(labels)
        self.rows, self.labels = rows, dict(labels)
        self.readings: list[tuple[int, int]] = [(now_ns, rows)]
        self.count = 1

    def add(self, rows: int, labels: Mapping[str, int], now_ns: int) -> None:
        self.rows, self.labels = rows, dict(labels)
        self.readings = [*self.readings[1 - READINGS :], (now_ns, rows)]
        self.count += 1


class SensingService:
    """See the module's docstring."""

    name: Final = "sensing"

    def __init__(self) -> None:
        self._data: dict[DataSetId, _Series] = {}

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case DataMeasured(dataset=dataset, rows=rows, labels=labels, appended=appended):
                known = self._data.get(dataset)
                if known is not None and appended and rows >= known.rows:
                    known.add(rows, labels, now_ns)
                elif known is not None or len(self._data) < DATA_SETS:
                    self._data[dataset] = _Series(rows, labels, now_ns)
            case DataRemoved(dataset=dataset):
                self._data.pop(dataset, None)
            case _:
                pass
        return []

    def view(self) -> Sensed:
        """All data sets, exactly. O(`READINGS`²) for each."""
        return Sensed(data=tuple(_sensed(dataset, series) for dataset, series in sorted(self._data.items())))

    def check_invariants(self) -> None:
        """BugError where a series of appended records shrinks, or too much is kept."""
        for dataset, series in self._data.items():
            rows = [count for _, count in series.readings]
            if rows != sorted(rows) or len(rows) > READINGS:
                raise BugError(f"the readings of {dataset} are no series of appends")


def arrival_per_day(readings: list[tuple[int, int]]) -> float | None:
    """Theil–Sen slope of (nanoseconds, records), in records a day. O(readings²)."""
    slopes = [
        (later - earlier) / ns_to_seconds(then_ns - at_ns) * DAY_S
        for place, (at_ns, earlier) in enumerate(readings)
        for then_ns, later in readings[place + 1 :]
        if then_ns > at_ns
    ]
    return median(slopes) if slopes else None


def stability_index(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Population stability index of two histograms: Σ (a - b) · ln(a / b) over their shares; 0 where they are alike."""
    names = sorted(set(before) | set(after))
    if not names:
        return 0.0
    left = [max(0.0, before.get(name, 0.0)) + SMOOTH for name in names]
    right = [max(0.0, after.get(name, 0.0)) + SMOOTH for name in names]
    shares = [(one / sum(left), other / sum(right)) for one, other in zip(left, right, strict=True)]
    return sum((other - one) * math.log(other / one) for one, other in shares)


def _sensed(dataset: DataSetId, series: _Series) -> SensedData:
    came = {name: count - series.first_labels.get(name, 0) for name, count in series.labels.items()}
    is_drift_known = series.rows > series.first_rows and bool(series.first_labels)
    return SensedData(
        dataset=dataset,
        rows=series.rows,
        appended=series.rows - series.first_rows,
        readings=series.count,
        arrival_per_day=arrival_per_day(series.readings),
        drift=stability_index(series.first_labels, came) if is_drift_known else None,
    )

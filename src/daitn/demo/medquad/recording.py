"""What this demonstration saw beside the jobs: what was cached where, and what the report says per field."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from daitn.demo.medquad.sites import INSTITUTES
from daitn.demo.recording import JobRecord, Recording
from daitn.descriptors.outcome import Prediction
from daitn.descriptors.work import Measurement


class CachedAt(msgspec.Struct, frozen=True, kw_only=True):
    """One column that a site has encoded: how many texts, how large, how long it took."""

    site: str
    column: str
    length: int
    records: int
    width: int
    size_bytes: int
    seconds: float
    stays: str


class MedquadRecording(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `base`: digest of the encoder, empty where one was trained from nothing."""

    run: Recording
    base: str
    cached: tuple[CachedAt, ...]
    activations_left: int
    """Files of activations still at a site after the jobs had ended: 0."""
    samples_left: int
    """Samples of held-out records still with the notary, or prepared for it at a site, after the jobs had ended: 0."""


class FieldRow(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a job: untrained, trained, what training added, what was predicted."""

    field: str
    untrained: Measurement | None
    reached: Measurement | None
    predicted: Prediction | None

    @property
    def gained(self) -> Gain | None:
        """Difference of the two figures, in points of 1."""
        if self.untrained is None or self.reached is None:
            return None
        return gain(self.untrained, self.reached)


class Gain(NamedTuple):
    """A difference of two figures with its 95 % interval."""

    value: float
    low: float
    high: float


def gain(before: Measurement, after: Measurement) -> Gain:
    """What came to a figure, with the interval of a difference made of the intervals of its parts (R. G. Newcombe,
    "Interval estimation for the difference between independent proportions", 1998, method 10).

    Both are measured on the same records, and hits on them go together, so in truth it is narrower than this.
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Gain(value, value - below, value + above)


def asked_fields(record: JobRecord) -> int:
    """How many of `field_rows`, from the first on, are what the job asked for."""
    return len({target.name for target in record.status.request.targets})


def field_rows(record: JobRecord) -> tuple[FieldRow, ...]:
    """The job's own fields first, then the nine institutes, so that forgetting shows."""
    status = record.status
    names = ["accuracy@core", "accuracy@broad", *(f"accuracy@{one.name}" for one in INSTITUTES)]
    wanted = [target.name for target in status.request.targets]
    predictions = status.verdict.predictions if status.verdict is not None else ()
    ordered = dict.fromkeys([*wanted, *names])

    def find(found: tuple[Any, ...], name: str) -> Any:
        return next((one for one in found if one.name == name), None)

    return tuple(
        FieldRow(
            field=name.partition("@")[2] or "all",
            untrained=find(status.untrained, name),
            reached=find(status.reached, name),
            predicted=find(predictions, name),
        )
        for name in ordered
    )

"""What this demonstration saw beside the jobs: what was cached where, and what the report says per field."""

from __future__ import annotations

from typing import Any

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


class FieldRow(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a job: untrained, trained, what training added, what was predicted."""

    field: str
    untrained: Measurement | None
    reached: Measurement | None
    predicted: Prediction | None

    @property
    def gained(self) -> float | None:
        """Difference of the two figures, in points of 1."""
        if self.untrained is None or self.reached is None:
            return None
        return self.reached.value - self.untrained.value


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

"""What a training visit shows of its site's compute, beside what its job's preflight took at the unit."""

from __future__ import annotations

from daitn.decision.facts import Preflight
from daitn.descriptors.trials import PREFLIGHT_RECORDS
from daitn.descriptors.work import Outcome, TrainOutcome, TrainWork, Work
from daitn.topology.paces import VisitPace


def pace_of(work: Work, outcome: Outcome, preflight: Preflight | None) -> VisitPace | None:
    """How fast a visit was; None where it did not train. Speeds are told of plain training alone: partners, noise and
    terms of loss that the preflight had not would be held against the site."""
    if not isinstance(work, TrainWork) or not isinstance(outcome, TrainOutcome) or outcome.batches <= 0:
        return None
    batch_s = outcome.seconds / outcome.batches
    pace = VisitPace(batch_s=batch_s, seconds=outcome.seconds)
    if preflight is None or preflight.batch_seconds <= 0 or batch_s <= 0 or not _plain(work):
        return pace
    # A larger batch than the unit's is so much more work at most; a smaller one is taken for as much.
    times = preflight.batch_seconds * max(1.0, work.training.batch_size / PREFLIGHT_RECORDS) / batch_s
    return VisitPace(
        batch_s=batch_s,
        seconds=outcome.seconds,
        flops=preflight.unit_flops * times,
        memory_bytes_per_s=preflight.unit_memory_bytes_per_s * times,
    )


def _plain(work: TrainWork) -> bool:
    training = work.training
    alone = work.group is None and work.private is None and work.masking is None and work.compression is None
    more = training.elastic or training.distillation or training.control_variates or training.proximal
    return alone and not more

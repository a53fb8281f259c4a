"""Progress: what the owner of a job is shown of it, made of the job's state and of visits under way.

Paper II-A: OAM collects, the control centre decides. A status is a picture and not a new fact; it is made anew each
time somebody looks. Its counters only grow, because they count records of the journal, and a result that never came
back, or was rolled back, has its own counter instead of lessening another.

A value that is not a number (a field without records at the verification unit) is left out here, since it says nothing
and JSON has no word for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from daitn.base.ids import NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.open_visits import OpenVisit
from daitn.decision.keeping import measurement_of
from daitn.descriptors.job import JobStatus, TargetState, Whereabouts
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.request import Target
from daitn.descriptors.work import AggregateWork, EvaluateWork, Measurement, ShareWork, TrainWork, Work

UNBOUNDED: Final = sys.float_info.max
"""Stands for an interval's side that has no bound: JSON has no infinity."""

ORDERED: Final = "ordered"
"""Phase of a visit whose site has not spoken of it yet; the others are `wire.center_tools.VisitPhase`."""


def job_status(machine_state: JobState, names: Callable[[NodeId], str]) -> JobStatus:
    """The job now; `names` gives a node's own name. O(targets × measurements + visits under way)."""
    state = machine_state
    untrained, reached = finite(state.untrained), finite(state.best_measurements)
    return JobStatus(
        job=state.job,
        owner=state.owner,
        name=state.request.name,
        phase=state.phase,
        reason=state.reason,
        submitted_unix_s=ns_to_seconds(state.submitted_ns),
        ended_unix_s=None if state.ended_ns is None else ns_to_seconds(state.ended_ns),
        request=state.request,
        verdict=state.verdict,
        refusals=tuple(state.refusals),
        plan=state.plan,
        targets=tuple(target_state(target, reached, untrained) for target in state.request.targets),
        untrained=untrained,
        reached=reached,
        model=state.best,
        visits=state.visits,
        rounds=state.rounds,
        verifications=state.verifications,
        rolled_back=state.rolled_back,
        lost=state.lost,
        transfer_bytes=state.transfer_bytes,
        price=state.charges.price,
        energy_joules=state.charges.energy_joules,
        now=tuple(_whereabouts(visit, names) for visit in state.open.values()),
        log_length=len(state.log),
    )


def target_state(target: Target, reached: Sequence[Measurement], untrained: Sequence[Measurement]) -> TargetState:
    """How the best model stands against one target. `sure`: the bound of its interval that is worse reaches it too."""
    found, before = measurement_of(target, reached), measurement_of(target, untrained)
    bound = None if found is None else found.low if target.sense == ">=" else found.high
    return TargetState(
        name=target.name,
        wanted=f"{target.sense} {target.value:g}",
        reached=None if found is None else found.value,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        met=found is not None and target.met_by(found.value),
        sure=bound is not None and target.met_by(bound),
        untrained=None if before is None else before.value,
    )


def finite(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """The measurements that are numbers, each side of their intervals at most `UNBOUNDED`."""
    return tuple(
        msgspec.structs.replace(one, low=_side(one.low, -UNBOUNDED), high=_side(one.high, UNBOUNDED))
        for one in measurements
        if math.isfinite(one.value)
    )


def dataset_of(work: Work) -> str:
    """The data set a piece of work touches; empty for verification and averaging."""
    match work:
        case TrainWork(dataset=dataset) | ShareWork(dataset=dataset):
            return dataset
        case AgreeWork(dataset=dataset) | SealWork(dataset=dataset) | UnmaskWork(dataset=dataset):
            return dataset
        case EvaluateWork() | AggregateWork():
            return ""


def _whereabouts(visit: OpenVisit, names: Callable[[NodeId], str]) -> Whereabouts:
    ordered, progress = visit.ordered, visit.progress
    loss = progress.loss if progress is not None else None
    return Whereabouts(
        visit=ordered.visit,
        kind=ordered.purpose,
        node=ordered.node,
        node_name=names(ordered.node),
        dataset=dataset_of(ordered.work),
        phase=ORDERED if progress is None else progress.phase.value,
        done=0 if progress is None else progress.done,
        of=0 if progress is None else progress.of,
        loss=loss if loss is not None and math.isfinite(loss) else None,
        why=ordered.why,
    )


def _side(value: float, unbounded: float) -> float:
    return value if math.isfinite(value) else unbounded

"""The journal of a terminal: what a visit keeper's state is rebuilt from."""

from __future__ import annotations

from typing import Final

from daitn.base.effects import Record
from daitn.base.ids import DataSetId, JobId, VisitId
from daitn.terminal.roles import held_data
from daitn.wire.center_tools import VisitFailed, VisitOrder, VisitResult


class VisitTaken(Record, frozen=True, kw_only=True, tag="visit_taken"):
    """An order was taken on."""

    visit: VisitId
    job: JobId
    fence: int
    dataset: DataSetId | None = None
    """Data set held here that it uses."""
    at_ns: int = 0
    route: int = 0
    """The version of the job's route by which it came."""


class VisitEnded(Record, frozen=True, kw_only=True, tag="visit_ended"):
    """The work ended; this message is owed to the centre."""

    visit: VisitId
    owed: VisitResult | VisitFailed


class VisitClosed(Record, frozen=True, kw_only=True, tag="visit_closed"):
    """Nothing is owed any more. `why`: acknowledged, fenced, cancelled, lapsed."""

    visit: VisitId
    why: str
    at_ns: int = 0


class EvaluationCounted(Record, frozen=True, kw_only=True, tag="evaluation_counted"):
    """A verification unit measured a model of this job."""

    job: JobId


def taken_by(order: VisitOrder, route: int, at_ns: int) -> VisitTaken:
    """What is recorded of an order that came by this version of its job's route."""
    return VisitTaken(
        visit=order.visit, job=order.job, fence=order.fence, dataset=held_data(order), at_ns=at_ns, route=route
    )


KEEPER_RECORDS: Final = (VisitTaken, VisitEnded, VisitClosed, EvaluationCounted)

"""Counting facts: records of jobs that are refusals and losses, counted as they happen and not when replayed."""

from __future__ import annotations

from daitn.base.effects import Record
from daitn.base.metrics import BLAMES, Counters
from daitn.control_center.training.records import (
    DoubtRefuted,
    JobPhased,
    MakerRefuted,
    ModelJudged,
    SiteBarred,
    SitesSetAside,
    UnitsCompared,
    VisitLost,
)
from daitn.descriptors.job import Phase


def count_fact(counters: Counters, record: Record) -> None:
    """Count one new fact, if it is one that operators watch."""
    match record:
        case VisitLost(blame=blame):
            counters.count("visits_lost", blame if blame in (*BLAMES, "over", "slow") else "bug")
        case ModelJudged(keep=False):
            counters.count("models_rolled_back")
        case MakerRefuted(fault=fault):
            counters.count("makers_refuted", fault)
        case DoubtRefuted():
            counters.count("doubts_refuted")
        case SitesSetAside(aside=aside) if record.model is not None:
            counters.count("data_sets_set_aside", by=len(aside))
        case UnitsCompared(difference=difference):
            counters.count("units_compared")
            if difference:
                counters.count("units_disagreed")
        case SiteBarred():
            counters.count("data_sets_barred")
        case JobPhased(phase=Phase.REFUSED):
            counters.count("jobs_refused")
        case _:
            pass

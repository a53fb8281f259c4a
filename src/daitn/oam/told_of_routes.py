"""How the log tells of a job's route: each version that was signed, segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from daitn.base.ids import DataSetId, NodeId
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import RouteIssued
from daitn.descriptors.itinerary import Action, Segment, action_of, dataset_of

NAMED_MOST = 4
"""Segments of one kind, one after the other, that are told each; of more only how many there are."""


def say_route(state: JobState, record: RouteIssued, names: Callable[[NodeId], str]) -> str:
    """`version 7 of the route: train a/d at a (visit 12) → then verify at u → train b/d at b`. O(segments)."""
    under_way = [
        Segment(
            action=action_of(ordered.work),
            node=ordered.node,
            dataset=dataset_of(ordered.work),
            visit=ordered.visit,
            fence=ordered.fence,
        )
        for ordered in (state.ordered[visit] for visit in record.visits)
    ]
    now = " → ".join(_told(under_way, names))
    ahead = " → ".join(_told(record.ahead, names))
    return f"version {record.version} of the route: {now}{f'; then {ahead}' if ahead else ''}"


def _told(segments: list[Segment] | tuple[Segment, ...], names: Callable[[NodeId], str]) -> Iterator[str]:
    for action, found in groupby(segments, key=lambda one: one.action):
        alike = list(found)
        if len(alike) > NAMED_MOST:
            yield f"{_verb(action)} at {len(alike)} places"
        else:
            yield from (_one(segment, names) for segment in alike)


def _one(segment: Segment, names: Callable[[NodeId], str]) -> str:
    on = _data(segment.dataset)
    visit = f" (visit {segment.visit.rpartition('/')[2]})" if segment.visit is not None else ""
    return f"{_verb(segment.action)}{on} at {names(segment.node)}{visit}"


def _data(dataset: DataSetId | None) -> str:
    return "" if dataset is None else f" {dataset}"


def _verb(action: Action) -> str:
    return action.value.upper()

"""Access windows while visits are ordered: nobody is sent a visit that would not be through before its window closes.

Paper II-A: terminals may be reached by any access network, and of some it is known in advance when they are there
([decision 0060](../../../../docs/decisions/0060-windows-are-planned-with.md)). What a visit takes is estimated as for
plans: by the time of a batch as it was measured at the site, else as the unit's trial says, and by its line.

A site whose windows are all shorter than a visit is asked for a shorter one, where visits may differ in length and one
of `VISIT_BATCHES_LEAST` batches would be through. Otherwise it is asked all the same: its transfer goes on from window
to window, and whether its estimate is right only a visit tells.
"""

from __future__ import annotations

import math

import msgspec

from daitn.base.units import NS_PER_S
from daitn.control_center.training.job_state import JobState
from daitn.decision.costs import TIME_MARGIN, batch_seconds, visit_seconds
from daitn.decision.visit_length import VISIT_BATCHES_LEAST, planned_batches
from daitn.descriptors.access import Access, open_span
from daitn.descriptors.view import Candidate, TrainingView
from daitn.topology.knowledge_map import KnowledgeMap


def through_in_time(view: TrainingView, state: JobState, knowledge: KnowledgeMap, now_ns: int) -> TrainingView:
    """The view without candidates that should wait for their next window. O(candidates × windows); nothing where no
    access has windows."""
    plan, size = state.plan, state.package.total_bytes
    if plan is None:
        return view

    def waits(candidate: Candidate) -> bool:
        access = _with_windows(candidate, knowledge)
        if not access:
            return False
        batches = planned_batches(plan, candidate.records)
        shortest = min(batches, VISIT_BATCHES_LEAST) if plan.epochs else batches
        return any(
            closes_before(one, now_ns / NS_PER_S, TIME_MARGIN * visit_seconds(candidate, some, size, state.preflight))
            for some in {batches, shortest}
            for one in access
        )

    left = tuple(one for one in view.candidates if not waits(one))
    return view if len(left) == len(view.candidates) else msgspec.structs.replace(view, candidates=left)


def batches_in_window(candidate: Candidate, batches: int, state: JobState, knowledge: KnowledgeMap, now_ns: int) -> int:
    """As many of a visit's batches as would be through before the window of its site closes. All of them where all
    visits are as long as each other, and where not even `VISIT_BATCHES_LEAST` would be through. O(windows)."""
    access = _with_windows(candidate, knowledge)
    if state.plan is None or not state.plan.epochs or not access:
        return batches
    now_s = now_ns / NS_PER_S
    spans = [span for one in access if (span := open_span(one, now_s)) is not None and span[0] <= now_s]
    left_s = min((end - now_s for _, end in spans), default=math.inf) / TIME_MARGIN
    left_s -= visit_seconds(candidate, 0, state.package.total_bytes, state.preflight)
    fitting = left_s * candidate.share / max(1e-9, batch_seconds(candidate, state.preflight))
    return math.floor(fitting) if VISIT_BATCHES_LEAST <= fitting < batches else batches


def closes_before(access: Access, now_s: float, needed_s: float) -> bool:
    """Whether what takes so long would not be through in the window that is open now, and would be in the next one."""
    span = open_span(access, now_s)
    if span is None or now_s + needed_s <= span[1]:
        return False
    following = open_span(access, span[1])
    return following is not None and following[1] - following[0] >= needed_s


def _with_windows(candidate: Candidate, knowledge: KnowledgeMap) -> list[Access]:
    """How the nodes of a candidate are attached, as far as that has windows."""
    return [
        facts.descriptor.access
        for node in {candidate.data_node, candidate.compute_node}
        if (facts := knowledge.node(node)) is not None and facts.descriptor.access.windows
    ]

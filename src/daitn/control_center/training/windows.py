"""Access windows while visits are ordered: nobody is sent a visit that would not be through before its window closes.

Paper II-A: terminals may be reached by any access network, and of some it is known in advance when they are there
([decision 0060](../../../../docs/decisions/0060-windows-are-planned-with.md)). What a visit takes is estimated as for
plans: by the time of a batch as it was measured at the site, else as the unit's trial says, and by its line.

A site whose windows are all shorter than a visit is asked all the same: its transfer goes on from window to window, and
whether its estimate is right only a visit tells.
"""

from __future__ import annotations

import msgspec

from daitn.base.units import NS_PER_S
from daitn.control_center.training.job_state import JobState
from daitn.decision.costs import TIME_MARGIN, visit_seconds
from daitn.decision.visit_length import planned_batches
from daitn.descriptors.access import Access, open_span
from daitn.descriptors.view import Candidate, TrainingView
from daitn.topology.knowledge_map import KnowledgeMap


def through_in_time(view: TrainingView, state: JobState, knowledge: KnowledgeMap, now_ns: int) -> TrainingView:
    """The view without candidates that should wait for their next window. O(candidates × windows); nothing where no
    access has windows."""
    plan = state.plan
    if plan is None:
        return view

    def waits(candidate: Candidate) -> bool:
        access = [
            facts.descriptor.access
            for node in {candidate.data_node, candidate.compute_node}
            if (facts := knowledge.node(node)) is not None and facts.descriptor.access.windows
        ]
        if not access:
            return False
        batches = planned_batches(plan, candidate.records)
        needed_s = TIME_MARGIN * visit_seconds(candidate, batches, state.package.total_bytes, state.preflight)
        return any(closes_before(one, now_ns / NS_PER_S, needed_s) for one in access)

    left = tuple(one for one in view.candidates if not waits(one))
    return view if len(left) == len(view.candidates) else msgspec.structs.replace(view, candidates=left)


def closes_before(access: Access, now_s: float, needed_s: float) -> bool:
    """Whether what takes so long would not be through in the window that is open now, and would be in the next one."""
    span = open_span(access, now_s)
    if span is None or now_s + needed_s <= span[1]:
        return False
    following = open_span(access, span[1])
    return following is not None and following[1] - following[0] >= needed_s

"""Who holds which artifact of a job no longer: part of the job's state, and called by it only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.records import CopiesLetGo

if TYPE_CHECKING:
    from daitn.control_center.training.job_state import JobState


def drop_holder(state: JobState, artifact: ArtifactId, node: NodeId) -> None:
    """Records are then asked for again, and samples that their unit has not fetched yet."""
    if node in (nodes := state.holders.get(artifact, [])):
        nodes.remove(node)
    state.records = {key: given for key, given in state.records.items() if given != (artifact, node)}
    state.sampled.drop(artifact, node)


def note_copies_let_go(state: JobState, record: CopiesLetGo) -> None:
    """A node lets go of what others hold, too: there may be room now for what had none."""
    for artifact in record.artifacts:
        drop_holder(state, artifact, record.node)
    state.trail.cramped = False

"""Deltas of training views: what leads from one to another, and the view once it is applied. S candidates."""

from __future__ import annotations

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.view import Candidate, TrainingView, ViewDelta

PairKey = tuple[DataSetId, NodeId]


def delta_between(old: TrainingView, new: TrainingView) -> ViewDelta | None:
    """What leads from one view to another; None where only version and age differ. O(S)."""
    before = {pair_key(one): one for one in old.candidates}
    after = {pair_key(one): one for one in new.candidates}
    changed = tuple(one for key, one in after.items() if not _equal(before.get(key), one))
    gone = tuple(key for key in before if key not in after)
    delta = ViewDelta(
        since=old.version,
        version=new.version,
        made_at_ns=new.made_at_ns,
        candidates=changed,
        gone=gone,
        excluded=None if old.excluded == new.excluded else new.excluded,
        verifiers=None if old.verifiers == new.verifiers else new.verifiers,
        aggregators=None if old.aggregators == new.aggregators else new.aggregators,
    )
    told = (delta.excluded, delta.verifiers, delta.aggregators)
    return delta if changed or gone or any(one is not None for one in told) else None


def apply_delta(view: TrainingView, delta: ViewDelta) -> TrainingView:
    """The view once a delta is applied: replaced in their places, new ones last. O(S)."""
    changed = {pair_key(one): one for one in delta.candidates}
    gone = set(delta.gone)
    kept = [changed.pop(key, one) for one in view.candidates if (key := pair_key(one)) not in gone]
    return TrainingView(
        version=delta.version,
        made_at_ns=delta.made_at_ns,
        candidates=(*kept, *changed.values()),
        excluded=view.excluded if delta.excluded is None else delta.excluded,
        verifiers=view.verifiers if delta.verifiers is None else delta.verifiers,
        aggregators=view.aggregators if delta.aggregators is None else delta.aggregators,
    )


def pair_key(candidate: Candidate) -> PairKey:
    """Which candidate it is."""
    return candidate.dataset, candidate.compute_node


def _equal(old: Candidate | None, new: Candidate) -> bool:
    """Whether nothing but its age changed: a fact that was confirmed is no news."""
    return old is not None and (old == new or msgspec.structs.replace(old, age_s=new.age_s) == new)

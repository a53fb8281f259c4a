"""The aggregator's numbers: the mean of updates that lie in the store, written where the next artifact will be, and the
step of a server optimizer that follows from it.

Runs in a thread of the node: no foreign code takes part. Streaming over mapped files, so memory does not grow with the
model.
"""

from __future__ import annotations

import logging
import mmap
import time
from contextlib import ExitStack

import msgspec

from daitn.artifacts.layout import Layout
from daitn.artifacts.manifest import Lineage, Manifest
from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId
from daitn.base.metrics import Counters
from daitn.descriptors.work import AggregateOutcome, AggregateWork
from daitn.learning.numerics.aggregate import Update, average_sound, merge_states, most_alike, plan_average
from daitn.learning.numerics.differences import Difference, move_by_differences
from daitn.learning.numerics.server_step import Area, control_moves, plan_state, take_step
from daitn.node.compressed_averaging import open_updates
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder

_log = logging.getLogger(__name__)


def aggregate(store: ChunkStore, counters: Counters, order: VisitOrder, work: AggregateWork) -> AggregateOutcome:
    """The mean of the updates that can be averaged; those that cannot are named, and cost nobody else the round."""
    began = time.monotonic()
    _log.info("visit %s first step at %d", order.visit, time.time_ns())
    stack = ExitStack()
    try:
        manifests = [store.manifest(update.model) for update in work.updates]
        updates = most_alike(open_updates(store, order, work, manifests, stack))
        layout = plan_average(updates)
        state: ArtifactId | None = None
        with store.new_output(layout.payload_bytes, job=order.job) as output:
            if layout.payload_bytes:
                with mmap.mmap(output.fileno(), layout.payload_bytes) as mean, memoryview(mean) as view:
                    updates = average_sound(updates, layout, view)
                    records = sum(update.weight for update in updates)
                    if work.buffered:
                        move_from_bases(store, work, updates, Area(layout.entries, view))
                    state = step_from_mean(store, order, work, Area(layout.entries, view), records)
            kept = {update.name for update in updates}
            left_out = tuple(one.model for one in work.updates if one.model not in kept)
            parents = tuple(one.model for one in work.updates if one.model in kept)
            manifests = [store.manifest(model) for model in parents]
            like = manifests[0]
            if like.kind == "compressed" and work.base is not None:
                like = store.manifest(work.base)
            draft = msgspec.structs.replace(
                like,
                tensors=layout.entries,
                payload_bytes=layout.payload_bytes,
                chunks=(),
                state=merge_states([manifest.state for manifest in manifests]),
                lineage=Lineage(job=order.job, visit=order.visit, parents=parents),
            )
            adopted = store.adopt(output, draft, pin=order.job)
        del updates
    finally:
        stack.close()
    if left_out:
        _log.warning("visit %s: updates left out, not finite or of other tensors: %s", order.visit, left_out)
        counters.count("updates_left_out", by=len(left_out))
    return AggregateOutcome(model=adopted.artifact, seconds=time.monotonic() - began, state=state, left_out=left_out)


def state_draft(order: VisitOrder, name: str, layout: Layout, model: ArtifactId) -> Manifest:
    """The manifest of what is remembered of a visit that began from `model`, without its chunks."""
    return Manifest(
        kind="state",
        name=name,
        parts=(),
        tensors=layout.entries,
        payload_bytes=layout.payload_bytes,
        chunks=(),
        lineage=Lineage(job=order.job, visit=order.visit, parents=(model,)),
    )


def move_from_bases(store: ChunkStore, work: AggregateWork, updates: list[Update], mean: Area) -> None:
    """Write over the mean of a buffer's updates what they make of the model that is moved."""
    if work.base is None:
        raise BugError("a buffer was to be added to no model")
    wanted = {one.model: one for one in work.updates}
    needed = dict.fromkeys([work.base, *(base for one in work.updates if (base := one.base) is not None)])
    maps = {model: store.read_tensor_map(model) for model in needed}
    try:
        areas = {model: Area(store.manifest(model).tensors, found.payload) for model, found in maps.items()}
        differences = [
            Difference(update=update, base=areas[base], discount=wanted[ArtifactId(update.name)].discount)
            for update in updates
            if (base := wanted[ArtifactId(update.name)].base) is not None
        ]
        move_by_differences(differences, areas[work.base], mean)
        del areas, differences
    finally:
        for found in maps.values():
            found.close()


def step_from_mean(
    store: ChunkStore, order: VisitOrder, work: AggregateWork, mean: Area, records: float
) -> ArtifactId | None:
    """Turn the mean into the next model where the order says so; the artifact of what the optimizer remembers.

    `records`: those of the updates in the mean.
    """
    if work.server is None or work.base is None:
        return None
    base = store.read_tensor_map(work.base)
    before = store.read_tensor_map(work.state) if work.state is not None else None
    try:
        origin = Area(store.manifest(work.base).tensors, base.payload)
        layout = plan_state(origin.entries, work.server)
        with store.new_output(layout.payload_bytes, job=order.job) as output:
            known = None
            if before is not None and work.state is not None:
                known = Area(store.manifest(work.state).tensors, before.payload)
            with mmap.mmap(output.fileno(), layout.payload_bytes) as area, memoryview(area) as view:
                moves = control_moves(work.control, records) if work.control is not None else None
                take_step(work.server, origin, mean, known, Area(layout.entries, view), moves)
            draft = state_draft(order, f"what {work.server.optimizer} remembers", layout, work.base)
            return store.adopt(output, draft, pin=order.job).artifact
    finally:
        for mapped in (base, before):
            if mapped is not None:
                mapped.close()

"""The aggregator in a masked round: first a sum of updates that it cannot read, later the model that the sum makes.

Between the two it knows nothing but numbers that look drawn at random; with the shares that the sites then tell, one
sum comes out, and no update. Runs in a thread of the node, streaming over mapped files; memory: the sum, once.
"""

from __future__ import annotations

import mmap
import time

import msgspec
import numpy as np

from daitn.artifacts.layout import plan_layout
from daitn.artifacts.manifest import Lineage, Manifest
from daitn.base.errors import BugError, PeerError
from daitn.base.ids import ArtifactId
from daitn.base.metrics import Counters
from daitn.descriptors.work import AggregateOutcome, AggregateWork
from daitn.learning.masking.opening import unmask
from daitn.learning.masking.ring import Ring, add_update, ring_of, write_mean
from daitn.learning.numerics.aggregate import merge_states
from daitn.learning.numerics.server_step import Area
from daitn.node.averaging import step_from_mean
from daitn.node.masked_visits import masked_layout
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder


def add_masked(store: ChunkStore, counters: Counters, order: VisitOrder, work: AggregateWork) -> AggregateOutcome:
    """The sum of masked updates. Those that are none, or of another length than most, are left out and named."""
    began = time.monotonic()
    manifests = {update.model: store.manifest(update.model) for update in work.updates}
    lengths = {model: _length(manifest) for model, manifest in manifests.items()}
    counts = [length for length in lengths.values() if length is not None]
    if not counts:
        raise PeerError("no update of the round is a masked one", todo="begin another round")
    usual = max(counts, key=counts.count)
    kept = [model for model, length in lengths.items() if length == usual]
    left_out = tuple(model for model in manifests if model not in kept)
    total = np.zeros(usual, dtype=np.uint32)
    for model in kept:
        with store.read_tensor_map(model) as area:
            _add(total, area.payload, manifests[model])
    draft = Manifest(
        kind="masked",
        name=f"masked sum of {len(kept)} updates",
        parts=(),
        tensors=masked_layout(usual).entries,
        payload_bytes=masked_layout(usual).payload_bytes,
        chunks=(),
        state=merge_states([manifests[model].state for model in kept]),
        lineage=Lineage(job=order.job, visit=order.visit, parents=tuple(kept)),
    )
    with store.new_output(draft.payload_bytes, job=order.job) as output:
        output.write_at(0, total.data.cast("B"))
        adopted = store.adopt(output, draft, pin=order.job)
    if left_out:
        counters.count("updates_left_out", by=len(left_out))
    return AggregateOutcome(model=adopted.artifact, seconds=time.monotonic() - began, left_out=left_out)


def open_sum(store: ChunkStore, order: VisitOrder, work: AggregateWork) -> AggregateOutcome:
    """The model that the mean of a masked sum makes of the round's base, and the server's step from there."""
    began = time.monotonic()
    if work.unmasking is None or work.base is None:
        raise BugError(f"visit {order.visit} has no sum to open")
    (summed,) = work.updates
    sum_manifest, base = store.manifest(summed.model), store.manifest(work.base)
    with store.read_tensor_map(summed.model) as area:
        total = ring_of(area.payload, sum_manifest.tensors).copy()
    unmask(total, work.unmasking)
    layout = plan_layout([entry for entry in base.tensors if entry.role != "optimizer"])
    state: ArtifactId | None = None
    with store.new_output(layout.payload_bytes, job=order.job) as output:
        if layout.payload_bytes:
            with mmap.mmap(output.fileno(), layout.payload_bytes) as mean, memoryview(mean) as view:
                with store.read_tensor_map(work.base) as origin:
                    _write(Area(base.tensors, origin.payload), total, work, Area(layout.entries, view))
                state = step_from_mean(store, order, work, Area(layout.entries, view), summed.weight)
        draft = msgspec.structs.replace(
            base,
            tensors=layout.entries,
            payload_bytes=layout.payload_bytes,
            chunks=(),
            state=sum_manifest.state,
            lineage=Lineage(job=order.job, visit=order.visit, parents=(work.base, summed.model)),
        )
        adopted = store.adopt(output, draft, pin=order.job)
    return AggregateOutcome(model=adopted.artifact, seconds=time.monotonic() - began, state=state)


def _length(manifest: Manifest) -> int | None:
    """Numbers of a masked update; None for anything else."""
    whole = manifest.kind == "masked" and len(manifest.tensors) == 1 and len(manifest.tensors[0].shape) == 1
    return manifest.tensors[0].shape[0] if whole else None


def _add(total: Ring, payload: memoryview, manifest: Manifest) -> None:
    add_update(total, ring_of(payload, manifest.tensors))


def _write(base: Area, total: Ring, work: AggregateWork, mean: Area) -> None:
    """In a frame of its own: arrays over the files are gone when it ends, so that they can be closed."""
    opening = work.unmasking
    assert opening is not None
    write_mean(base, total, opening.weight, len(opening.summed), opening.fixed, mean)

"""A site's part in compressed updates: a trained model leaves it as its compressed change, and what that leaves out
stays.

The residual of a data set is an artifact that this node alone may read: durable like all others, counted in the quota,
kept for its job and gone with it. Its name is told to nobody. The trained model itself is a file without a name that
ends with the visit.
"""

from __future__ import annotations

import mmap

from daitn.artifacts.layout import Layout
from daitn.artifacts.manifest import Lineage, Manifest, TravellingState
from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId
from daitn.descriptors.compression import Compression
from daitn.descriptors.work import TrainWork
from daitn.learning.numerics.compression import plan_residual, plan_update, write_update
from daitn.learning.numerics.server_step import Area
from daitn.node.arrivals import check_output
from daitn.node.store import ChunkStore, OutputFile
from daitn.wire.center_tools import VisitOrder


def adopt_compressed(
    store: ChunkStore,
    order: VisitOrder,
    work: TrainWork,
    trained: OutputFile,
    layout: Layout,
    state: TravellingState,
    lineage: Lineage,
) -> tuple[ArtifactId, int]:
    """The artifact of the visit's compressed update, and how many bytes smaller than the model it is.

    InputError where the model, or its change with the residual, is not finite. Two passes over both models. The new
    residual is there before the old one goes: a node that dies between finds the newer one.
    """
    if work.compression is None:
        raise BugError(f"visit {order.visit} has nothing to compress with")
    check_output(trained, layout.entries, layout.payload_bytes)
    base = store.manifest(work.model)
    sent, left = plan_update(base.tensors, work.compression), plan_residual(base.tensors)
    known = residual_of(store, order, work.dataset, left)
    before = store.manifest(known).state.steps if known is not None else 0
    with (
        store.new_output(sent.payload_bytes, job=order.job) as update,
        store.new_output(left.payload_bytes, job=order.job) as residual,
    ):
        if layout.payload_bytes:
            made = Area(layout.entries, _mapped(trained, layout.payload_bytes))
            areas = (
                Area(sent.entries, _mapped(update, sent.payload_bytes)),
                Area(left.entries, _mapped(residual, left.payload_bytes)),
            )
            _compress(store, work, work.compression, made, known, *areas)
        draft = Manifest(
            kind="compressed",
            name=f"compressed update of {work.dataset}",
            parts=(),
            tensors=sent.entries,
            payload_bytes=sent.payload_bytes,
            chunks=(),
            state=state,
            lineage=lineage,
        )
        adopted = store.adopt(update, draft, pin=order.job).artifact
        kept = Manifest(
            kind="state",
            name=_residual_name(work.dataset),
            parts=(),
            tensors=left.entries,
            payload_bytes=left.payload_bytes,
            chunks=(),
            state=TravellingState(steps=before + 1),
            lineage=Lineage(job=order.job, visit=order.visit, dataset=work.dataset),
        )
        store.adopt(residual, kept, servable=False, pin=order.job)
    if known is not None:
        store.unpin(known, order.job)
        store.release(known)
    return adopted, max(0, base.payload_bytes - sent.payload_bytes)


def residual_of(store: ChunkStore, order: VisitOrder, dataset: str, layout: Layout) -> ArtifactId | None:
    """What is left of the job's earlier updates of a data set; None where there is nothing, or another model's."""
    held = [(store.manifest(one), one) for one in store.pinned_for(order.job)]
    name = _residual_name(dataset)
    found = [
        (manifest.state.steps, one)
        for manifest, one in held
        if manifest.kind == "state" and manifest.name == name and manifest.tensors == layout.entries
    ]
    return max(found)[1] if found else None


def _residual_name(dataset: str) -> str:
    return f"residual of {dataset}"


def _compress(
    store: ChunkStore,
    work: TrainWork,
    compression: Compression,
    made: Area,
    known: ArtifactId | None,
    sent: Area,
    left: Area,
) -> None:
    arrived = store.read_tensor_map(work.model)
    earlier = store.read_tensor_map(known) if known is not None else None
    try:
        base = Area(store.manifest(work.model).tensors, arrived.payload)
        before = Area(left.entries, earlier.payload) if earlier is not None else None
        write_update(base, made, before, compression, sent, left)
    finally:
        for one in (arrived, earlier):
            if one is not None:
                one.close()


def _mapped(output: OutputFile, size: int) -> memoryview:
    """A file's bytes; unmapped when the last array over them is gone."""
    return memoryview(mmap.mmap(output.fileno(), size)) if size else memoryview(b"")

"""The aggregator and compressed updates: each is read with the model that it was trained from, and is a trained model
again, in a file of its own that ends with the visit. What follows does not know that it was ever compressed.
"""

from __future__ import annotations

import mmap
from contextlib import ExitStack

from daitn.artifacts.manifest import Manifest
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.learning.numerics.aggregate import Update, UpdateRefusedError
from daitn.learning.numerics.compression import plan_restored, restore_model
from daitn.learning.numerics.server_step import Area
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder


def open_updates(
    store: ChunkStore, order: VisitOrder, work: AggregateWork, manifests: list[Manifest], stack: ExitStack
) -> list[Update]:
    """The updates of a work, those that are compressed as the models they stand for; without those that cannot be read.

    All stays mapped until `stack` is closed. UpdateRefusedError where none can be read. Room: a model for each
    compressed update, which is what it takes where nothing is compressed.
    """
    updates: list[Update] = []
    refused: UpdateRefusedError | None = None
    for update, manifest in zip(work.updates, manifests, strict=True):
        area = Area(manifest.tensors, stack.enter_context(store.read_tensor_map(update.model)).payload)
        if manifest.kind == "compressed":
            try:
                area = _restored(store, order, work, update, manifest, area, stack)
            except UpdateRefusedError as error:
                refused = error
                continue
        updates.append(
            Update(
                name=update.model,
                weight=update.weight,
                entries=area.entries,
                payload=area.payload,
                state=manifest.state,
            )
        )
    if refused is not None and not updates:
        raise refused
    return updates


def _restored(
    store: ChunkStore,
    order: VisitOrder,
    work: AggregateWork,
    update: UpdateRef,
    manifest: Manifest,
    sent: Area,
    stack: ExitStack,
) -> Area:
    origin = update.base or work.base
    if work.compression is None or origin is None:
        raise UpdateRefusedError(update.model, "", "it is compressed, and no compression was agreed on")
    if manifest.lineage.parents != (origin,):
        raise UpdateRefusedError(update.model, "", f"it was not trained from {origin[:16]}")
    entries = store.manifest(origin).tensors
    layout = plan_restored(entries)
    output = stack.enter_context(store.new_output(layout.payload_bytes, job=order.job))
    view = memoryview(mmap.mmap(output.fileno(), layout.payload_bytes) if layout.payload_bytes else b"")
    with store.read_tensor_map(origin) as base:
        restored = Area(layout.entries, view)
        restore_model(update.model, Area(entries, base.payload), sent, work.compression, restored)
    return restored

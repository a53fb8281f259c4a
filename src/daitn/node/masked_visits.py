"""A site's part in masked rounds: its keys and shares, and trained models that leave it as masked updates only.

The trained model lies in a file that nobody else can name, and that is gone when the visit ends; what the store takes
up, and serves, is the update with its masks. Nothing of a round is written to the disk.
"""

from __future__ import annotations

import logging
import mmap
import threading

import numpy as np

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest, TravellingState
from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId, JobId
from daitn.base.metrics import Counters
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    MaskWork,
    SealOutcome,
    SealWork,
    UnmaskOutcome,
    UnmaskWork,
)
from daitn.descriptors.work import TrainWork
from daitn.learning.masking.ring import MASKED, count_elements, ring_of, write_update
from daitn.learning.masking.site import SiteMasks
from daitn.learning.numerics.server_step import Area
from daitn.node.store import ChunkStore, OutputFile
from daitn.wire.center_tools import VisitOrder

_log = logging.getLogger(__name__)


class MaskedVisits:
    """See the module's docstring. For threads: one at a time is at the secrets."""

    def __init__(self, store: ChunkStore, masks: SiteMasks, counters: Counters) -> None:
        self._store = store
        self._masks = masks
        self._counters = counters
        self._lock = threading.Lock()

    def answer(self, job: JobId, work: MaskWork) -> AgreeOutcome | SealOutcome | UnmaskOutcome:
        """Keys, sealed shares, or shares that open a sum; errors as in `SiteMasks`."""
        with self._lock:
            match work:
                case AgreeWork(round=name):
                    return AgreeOutcome(keys=self._masks.agree(name, job))
                case SealWork(round=name, members=members):
                    return SealOutcome(sealed=self._masks.seal(name, members))
                case UnmaskWork(round=name, summed=summed):
                    return UnmaskOutcome(shares=self._masks.unmask(name, summed))

    def forget(self, job: JobId) -> None:
        """The job is over, and its secrets with it."""
        with self._lock:
            self._masks.forget(job)

    def adopt(
        self,
        order: VisitOrder,
        work: TrainWork,
        trained: OutputFile,
        layout: Layout,
        state: TravellingState,
        lineage: Lineage,
        records: int,
    ) -> ArtifactId:
        """The artifact of the visit's masked update. InputError where it is not finite; errors as in `SiteMasks.mask`.

        Two passes over both models and a key stream for each member.
        """
        masking = work.masking
        if masking is None:
            raise BugError(f"visit {order.visit} has nothing to mask with")
        base = self._store.manifest(work.model)
        hidden = masked_layout(count_elements(base.tensors))
        with (
            self._store.read_tensor_map(work.model) as arrived,
            self._store.new_output(hidden.payload_bytes, job=order.job) as output,
        ):
            with (
                mmap.mmap(trained.fileno(), layout.payload_bytes, prot=mmap.PROT_READ) as file,
                memoryview(file) as made,
                mmap.mmap(output.fileno(), hidden.payload_bytes) as area,
                memoryview(area) as view,
            ):
                norm = self._write(
                    masking.fixed.share_of(max(1, records)), work, base, arrived.payload, made, layout, view
                )
            if norm > masking.fixed.norm_most:
                _log.warning(
                    "visit %s: update of norm %.3g made as short as %.3g", order.visit, norm, masking.fixed.norm_most
                )
                self._counters.count("updates_clipped")
            draft = Manifest(
                kind="masked",
                name=f"masked update of {work.dataset}",
                parts=(),
                tensors=hidden.entries,
                payload_bytes=hidden.payload_bytes,
                chunks=(),
                state=state,
                lineage=lineage,
            )
            return self._store.adopt(output, draft, pin=order.job).artifact

    def _write(
        self,
        share: float,
        work: TrainWork,
        base: Manifest,
        arrived: memoryview,
        made: memoryview,
        layout: Layout,
        view: memoryview,
    ) -> float:
        """In a frame of its own: arrays over the files are gone when it ends, so that they can be closed."""
        masking = work.masking
        assert masking is not None
        update = np.empty(count_elements(base.tensors), dtype=np.uint32)
        norm = write_update(Area(base.tensors, arrived), Area(layout.entries, made), share, masking.fixed, update)
        with self._lock:
            self._masks.mask(masking, update)
        ring_of(view, masked_layout(len(update)).entries)[:] = update
        return norm


def masked_layout(elements: int) -> Layout:
    """Layout of a masked update, or sum, of so many numbers."""
    return plan_layout([TensorSpec(name=MASKED, dtype="int32", shape=(elements,), role="parameter")])

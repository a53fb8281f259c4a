"""`daitn` as `benchmarks.federated` calls it where there is no memory for a child of every site: sites of a node share.

A warm child holds 0.15 GB of its own, most of it torch. Given `CHILDREN`, a node keeps as many for training; the first
sites of a job each have one, the others take turns at those, on the records of whoever came first. All sites' tables
are alike, so what is trained, sent, checked, signed and averaged for a site costs what it would. Each site's rate is a
little different, as else two would make the same model, which is the mark of one that sends an older one again.
Everything else is the product's own command. The product never shares them: a child sees the data of its own visit and
of no other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from daitn.artifacts.manifest import Manifest
from daitn.base.ids import DataSetId, JobId
from daitn.cli.main import main
from daitn.descriptors.work import TrainWork
from daitn.node import terminal_node
from daitn.node.child_pool import ChildPool
from daitn.node.sandbox.protocol import Finished

CHILDREN: Final = "DAITN_BENCHMARK_CHILDREN"
"""Environment: children for training of a node; none set: one for each site."""
RATE_STEP: Final = 0.001
"""By so much do the rates of two sites of a node differ."""


class SharingPool(ChildPool):
    """See the module's docstring."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._leads: dict[JobId, list[tuple[DataSetId, Path]]] = {}
        self._led_by: dict[tuple[JobId, DataSetId], tuple[DataSetId, Path]] = {}

    def _lead(self, job: JobId, dataset: DataSetId, table: Path) -> tuple[DataSetId, Path]:
        if (job, dataset) not in self._led_by:
            leads, most = self._leads.setdefault(job, []), int(os.environ[CHILDREN])
            if len(leads) < most:
                leads.append((dataset, table))
            self._led_by[job, dataset] = leads[len(self._led_by) % len(leads)]
        return self._led_by[job, dataset]

    async def warm_training(
        self,
        job: JobId,
        manifest: Manifest,
        parts: dict[str, bytes],
        dataset: DataSetId,
        table: Path,
        *more: Any,
        **named: Any,
    ) -> None:
        """Of whoever leads."""
        dataset, table = self._lead(job, dataset, table)
        await super().warm_training(job, manifest, parts, dataset, table, *more, **named)

    async def train(
        self,
        job: JobId,
        manifest: Manifest,
        parts: dict[str, bytes],
        work: TrainWork,
        table: Path | None,
        *more: Any,
        **named: Any,
    ) -> Finished:
        """By the child of whoever leads, on its records."""
        assert table is not None
        dataset, table = self._lead(job, work.dataset, table)
        place = list(self._led_by).index((job, work.dataset))
        training = msgspec.structs.replace(
            work.training, learning_rate=work.training.learning_rate * (1 + RATE_STEP * place)
        )
        work = msgspec.structs.replace(work, dataset=dataset, training=training)
        return await super().train(job, manifest, parts, work, table, *more, **named)


if __name__ == "__main__":
    if os.environ.get(CHILDREN):
        setattr(terminal_node, ChildPool.__name__, SharingPool)
    main()

"""Central training: what could be had if all hospitals gave their records to one place. Done here, outside the network.

The demonstration may read every site's files because it made them; nobody in the network can. The same columns, splits,
test samples, batches and rates as in the network, so that only one thing differs: all records lie together.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from daitn.base.ids import DataSetId
from daitn.decision.keeping import score
from daitn.demo.hospitals.data import SiteFiles, contract_of
from daitn.demo.hospitals.models import make_model
from daitn.demo.hospitals.sites import Kind
from daitn.demo.recording import Baseline
from daitn.describe.fit import fit
from daitn.describe.splits import sample_rows, training_rows
from daitn.descriptors.contract import DataContract
from daitn.descriptors.request import Target
from daitn.descriptors.work import Measurement, Training
from daitn.learning.records import Records, encode_records
from daitn.node.readers.sources import open_reader
from daitn.node.site_files import load_column_map, load_policy


class Pooled(NamedTuple):
    """All sites' training records as one set, and the samples a verification unit would hold, site by site."""

    training: Records
    samples: tuple[Records, ...]


def pool(kind: Kind, files: Sequence[SiteFiles]) -> Pooled:
    """Read, map and encode the files of all sites that hold this kind."""
    contract = contract_of(kind)
    training: list[Records] = []
    samples: list[Records] = []
    with tempfile.TemporaryDirectory(prefix="daitn-central-") as folder:
        for one in files:
            if one.dataset == kind:
                reader, policy = open_reader(one.data), load_policy(one.policy)
                column_map = load_column_map(one.column_map)
                table = fit(contract, reader.columns(), reader.read(), column_map, Path(folder), bytes(32)).table
                name = DataSetId(f"{one.site}/{kind}")
                training.append(encode_records(table, contract, training_rows(table, contract), name))
                samples.append(encode_records(table, contract, sample_rows(table, contract, policy), name))
        return Pooled(_join(training, contract), tuple(samples))


def _join(sets: Sequence[Records], contract: DataContract) -> Records:
    labels = [one.labels for one in sets if one.labels is not None]
    return Records(
        inputs={spec.name: np.concatenate([one.inputs[spec.name] for one in sets]) for spec in contract.inputs},
        labels=np.concatenate(labels),
        fields=np.concatenate([one.fields for one in sets]),
        groups=np.arange(sum(one.size for one in sets)),
        dataset=DataSetId(f"all/{contract.name}"),
    )


def train_centrally(
    kind: Kind,
    files: Sequence[SiteFiles],
    training: Training,
    visits: int,
    looks: int,
    targets: Sequence[Target],
    seed: int,
) -> Baseline:
    """Train the owner's model on everything with `visits` times `training.batches` batches.

    It is measured `looks` times on the way, as often as the network looked, and the best counts, as it did there.
    """
    import torch

    from daitn.learning.numerics.evaluate import evaluate
    from daitn.learning.numerics.sources import MemorySlice
    from daitn.learning.numerics.train import ModelState, Seeds, train
    from daitn.learning.tasks import numerics_for

    began = time.monotonic()
    torch.set_num_threads(1)
    pooled, contract, model = pool(kind, files), contract_of(kind), make_model(kind, seed)
    numerics, state = numerics_for(contract.task, contract), ModelState()
    source, names = MemorySlice(pooled.training.dataset, pooled.training), [target.name for target in targets]
    best: tuple[Measurement, ...] = ()
    ends = [round(visits * look / max(1, looks)) for look in range(1, max(1, looks) + 1)]
    for begin, end in pairwise([0, *ends]):
        if end > begin:
            part = msgspec.structs.replace(training, batches=training.batches * (end - begin))
            state = train(model, numerics, source, part, state, seeds=Seeds(job=seed, visit=seed)).state
        found = evaluate(model, numerics, pooled.samples, names)
        best = max(best, found, key=lambda one: score(targets, one)) if best else found
    return Baseline(
        name="central",
        what="all records in one place; by the demonstration itself from the files, outside the network",
        inside=False,
        visits=0,
        batches=visits * training.batches,
        seconds=time.monotonic() - began,
        measurements=best,
    )

"""Records of a data set as an artifact for one receiver: a sample for a verification unit, or all to train on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from daitn.artifacts.layout import TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest
from daitn.base.errors import InputError
from daitn.describe.splits import sample_rows, training_rows
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.work import ShareOutcome, ShareWork
from daitn.learning.records import encode_records, records_to_tensors
from daitn.node.activations import SiteActivations
from daitn.node.datasets import DataShelf
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder


def share(
    store: ChunkStore,
    shelf: DataShelf,
    activations: SiteActivations,
    order: VisitOrder,
    work: ShareWork,
    parts: Mapping[str, bytes],
) -> ShareOutcome:
    """Records as tensors, for one receiver: an artifact that only a grant to that receiver opens. `parts`: of the
    package whose contract says which tensors. InputError where the data set has none to give."""
    name = work.dataset.partition("/")[2]
    entry = shelf.entry(name)
    contract = decode_contract(parts["contract"], "the package's contract")
    table = shelf.table(name)
    rows = training_rows(table, contract) if work.kind == "records" else sample_rows(table, contract, entry.policy)
    if not len(rows):
        raise InputError(f"data set {name!r} has no records to give", todo="raise sample_frac in its policy")
    tokenizer = parts.get("tokenizer")
    tokenizers = None if tokenizer is None else {digest_of(tokenizer): tokenizer}
    vectors = activations.vectors(name, contract)
    records = encode_records(table, contract, rows, work.dataset, tokenizers, vectors)
    arrays = {key: np.ascontiguousarray(array) for key, array in records_to_tensors(records).items()}
    specs = [
        TensorSpec(name=key, dtype=str(array.dtype), shape=array.shape, role="record")  # type: ignore[arg-type]
        for key, array in arrays.items()
    ]
    layout = plan_layout(specs)
    draft = Manifest(
        kind="records" if work.kind == "records" else "sample",
        name=name,
        parts=(),
        tensors=layout.entries,
        payload_bytes=layout.payload_bytes,
        chunks=(),
        # Without the visit: the same records are the same artifact, whichever unit they are given to.
        lineage=Lineage(job=order.job, dataset=work.dataset, data_version=entry.version),
    )
    adopted = store.put_artifact(
        draft,
        {"contract": parts["contract"]},
        {key: array.data for key, array in arrays.items()},
        pin=order.job,
    )
    return ShareOutcome(
        artifact=adopted.artifact,
        records=len(rows),
        data_version=entry.version,
        activations_bytes=sum(one.nbytes for one in vectors.values()),
        activations_stay="keep" if entry.policy.cache_activations == "keep" else "job",
    )

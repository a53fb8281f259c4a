"""Model cards: what a finished job yields beside its model, for whoever uses it, answers for it, or makes it again."""

from __future__ import annotations

import msgspec

from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.descriptors.job import Phase, TargetState
from daitn.descriptors.request import Request
from daitn.descriptors.work import Measurement, SampleRef, Training


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One visit that the model comes from: what it made of which models, on which version of which data."""

    visit: VisitId
    node: NodeId
    node_name: str
    dataset: DataSetId | str
    """Empty where models were averaged."""
    data_version: str
    models_in: tuple[ArtifactId, ...]
    model_out: ArtifactId
    batches: int = 0
    signature: str = ""
    """Of the site, over its report; the job's log has the bytes under it."""


class DataUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the model learnt from one data set."""

    dataset: DataSetId
    node_name: str
    versions: tuple[str, ...]
    """Of its records, in the order in which they were used."""
    records: int
    """Training records there at the last visit; of private training, which does not tell it, 1."""
    visits: int
    batches: int
    epsilon: float | None = None
    """What private training has cost it in this job, at `ModelCard.delta`."""


class OwnersChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the request while the job ran, by its owner."""

    unix_s: float
    changes: tuple[str, ...]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job: the goal and what was reached, what the model comes from, what that cost, and how to make
    it again."""

    job: JobId
    name: str
    owner: OwnerId
    purpose: str
    phase: Phase
    reason: str
    submitted_unix_s: float
    ended_unix_s: float
    package: ArtifactId
    """The submitted model."""
    model: ArtifactId
    """The one that was delivered."""
    contract: str
    """Digest of the data contract."""
    targets: tuple[TargetState, ...]
    untrained: tuple[Measurement, ...]
    reached: tuple[Measurement, ...]
    test_set: tuple[SampleRef, ...]
    """The held-out records that figures were measured on."""
    method: str
    training: Training | None
    data: tuple[DataUse, ...]
    """What the delivered model learnt from; visits that were rolled back are not among it."""
    lineage: tuple[Step, ...]
    """From the submitted model to the delivered one."""
    visits: int
    """All that were accepted, those rolled back included."""
    rolled_back: int
    transfer_bytes: int
    price: float
    energy_joules: float
    epsilon: float | None
    """Differential privacy of the training, of the data set that it cost most; None: no noise was added, and none can
    be claimed."""
    changes: tuple[OwnersChange, ...]
    rerun: Request
    """The request with method, hyper-parameters and data sets pinned as they were: the same job anew."""
    delta: float | None = None
    """That `epsilon` is for."""

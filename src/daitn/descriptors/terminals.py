"""What terminals say about themselves: data sets, compute, verification, and the node that carries them.

Every value a terminal publishes is one it may publish: counts and histograms here are already differentially private
or coarse. Units are in the names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from daitn.base.ids import DataSetId, NodeId, OperatorId
from daitn.descriptors.access import Access
from daitn.descriptors.contract import Column, FieldRule, Name
from daitn.descriptors.descriptions import DESCRIPTIONS_MOST, Description, Spread
from daitn.descriptors.policy import PolicySummary
from daitn.descriptors.serving import HostDescriptor
from daitn.descriptors.tariff import Tariff

Count = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Speed = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
"""As far as the registry of facts goes: an absurd claim is a description that counts for what is believed of it."""

Frac = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Role(StrEnum):
    """What a node can be; it carries any set of these."""

    DATA = "data"
    COMPUTE = "compute"
    VERIFICATION = "verification"
    AGGREGATOR = "aggregator"
    HOST = "host"
    """Serves models (MDFP)."""
    GATEWAY = "gateway"
    """Answers queries over HTTP by asking hosts."""
    TOOLS = "tools"
    """Manages the services of the tools layer for the domain, instead of the control centre."""


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts per named value, with the standard deviation of the noise on each (0: exact, agreed to by policy)."""

    counts: dict[str, Count]
    noise_std: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    epsilon: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Privacy budget spent on this release; 0 where nothing private was measured."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of records with a fault, rounded to percent before they leave."""

    missing_frac: Frac = 0.0
    duplicate_frac: Frac = 0.0
    out_of_vocabulary_frac: Frac = 0.0
    dropped_frac: Frac = 0.0


class Dynamics(msgspec.Struct, frozen=True, kw_only=True):
    """How a data set changes, by its releases over these days."""

    over_days: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    arrival_per_day: Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
    """Records; below 0 where there were fewer, or noise says so."""
    arrival_std_per_day: Annotated[float, msgspec.Meta(ge=0, le=1e15)] | None = None
    """Of the noise; None: not known."""
    drift: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    """Population stability index of the labels; above 0.25 the data is not what it was. None: no labels."""
    drift_noise: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """What noise alone makes of it, in the mean."""


class DataDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A data set as the network sees it (terms follow MLCommons Croissant where it has the word)."""

    dataset: DataSetId
    version: str
    """Digest of the mapped data, keyed by a secret of the site, so that it tells versions apart and nothing else."""
    contract_name: Name
    columns: tuple[Column, ...]
    group: str
    fields: tuple[FieldRule, ...]
    records: Count
    """Training records, after the held-out groups have been set aside; differentially private."""
    records_std: Spread = 0.0
    """Standard deviation of the noise in `records`; 0: none, or not told."""
    groups: Count
    groups_std: Spread = 0.0
    labels: Histogram | None
    field_counts: Histogram | None
    quality: Quality
    descriptions: Annotated[tuple[Description, ...], msgspec.Meta(max_length=DESCRIPTIONS_MOST)] = ()
    """What else its owner lets it say of its records: sketches, moments, quantiles, synthetic records."""
    record_bytes: Count
    """Mean size of one record as tensors."""
    dynamics: Dynamics | None = None
    """From releases alone; None until there were two."""
    newest_day: str = ""
    """ISO date of the newest record, to the day; empty where records carry no date."""
    policy: PolicySummary


class ComputeDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can compute with. It measures its own `flops`; to others they are a claim, and count as far as visits
    bear them out (`topology.taking`)."""

    slots: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    cores: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    memory_bytes: Count
    storage_bytes: Count
    """Room for an artifact now, after evicting what may go."""
    flops: Speed
    store_bytes: Count = 0.0
    """Room there would be if nothing in the store were in use; a smaller value than `storage_bytes` says nothing."""
    memory_bytes_per_s: Speed = 0.0
    """Copied by one thread, as the node measured it; 0: not measured."""
    processor: Annotated[str, msgspec.Meta(max_length=128)] = ""
    accelerators: tuple[str, ...] = ()
    sandbox: tuple[str, ...] = ()
    """What is enforced on a visit here: `no-network`, `read-only`, `memory`, `cpu`, `wall-time`, `namespaces`."""
    wait_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    tariff: Tariff = Tariff()
    """What its operator charges for a visit, and what that draws."""


class VerificationDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification unit (MPVU) can do."""

    evaluations_per_job: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    """How often it answers for one job before its test set counts as worn out."""
    public_key: str


class NodeDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One node and all it carries."""

    node: NodeId
    name: Name
    operator: OperatorId
    region: str = ""
    roles: tuple[Role, ...]
    direct: tuple[str, ...] = ()
    """Addresses of its direct data-plane listener; empty: reachable through the router only."""
    access: Access = Access()
    """How it reaches the network, and when."""
    public_key: str
    """Ed25519 key (hex) that signs this node's visit reports."""
    data: tuple[DataDescriptor, ...] = ()
    compute: ComputeDescriptor | None = None
    verification: VerificationDescriptor | None = None
    host: HostDescriptor | None = None
    bases: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    """Digests of the frozen bases that lie here, for contracts with embedded inputs."""
    version: str = ""

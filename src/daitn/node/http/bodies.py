"""Bodies of the owner's HTTP interface: what clients send and get, as far as it is not a descriptor already.

Server and clients use these very types, so the two cannot drift apart; the OpenAPI document is made from them. The
models of FastAPI (pydantic) are not used: a second definition of each descriptor would be one too many.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.artifacts.manifest import Digest
from daitn.base import limits
from daitn.base.ids import ArtifactId, NodeId
from daitn.descriptors.access import Access
from daitn.descriptors.contract import Name
from daitn.descriptors.host_policy import Licence
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.machine import Hardware, WorkProcess
from daitn.descriptors.places import Place, RoundTrip
from daitn.descriptors.serving import ServingGoal
from daitn.descriptors.stages import SplitAsked
from daitn.descriptors.terminals import NodeDescriptor, Role
from daitn.descriptors.trust import TrustChange
from daitn.descriptors.versions import CanaryWanted, Retraining
from daitn.wire.oam import Counted

CHUNKS_ASKED: Final = 8192
"""Chunks in one question which are missing: 660 kB of JSON, within a control message's limit."""

PAGE: Final = 1000
"""Most jobs or log entries in one answer; a reader asks again from where it ended."""

KEY_CHARS: Final = 200
"""Longest idempotency key."""

ChunkSize = Annotated[int, msgspec.Meta(ge=1, le=limits.CHUNK_BYTES)]


class ChunksAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digest and size of each chunk of a package about to be uploaded."""

    chunks: Annotated[tuple[tuple[Digest, ChunkSize], ...], msgspec.Meta(max_length=CHUNKS_ASKED)]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong: who must act (`kind`), the fault in one sentence, the next step, and the ids it speaks of."""

    kind: str
    what: str
    todo: str = ""
    ids: dict[str, str] = {}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is not a success."""

    error: ErrorBody


class MissingChunks(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the chunks asked for have to be uploaded."""

    missing: tuple[str, ...]


class DeployBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be served: the package's id, the name it is asked by, and the goal. `split`: in stages, each at a host
    of its own."""

    model: Name
    package: Digest
    goal: ServingGoal = ServingGoal()
    licence: Licence = ""
    """Under which its provider gives it; hosts may ask for certain ones."""
    split: SplitAsked | None = None
    canary: CanaryWanted | None = None
    """Tried beside the version that is served, with a share of its queries."""
    retrain: Retraining | None = None
    """Trained on by itself where judged answers show that it has got worse."""


class PackageStored(msgspec.Struct, frozen=True, kw_only=True):
    """A package is complete, checked and kept."""

    artifact: ArtifactId


class FactOnMap(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that changes fast, as the map holds it."""

    name: str
    """As in `descriptors.facts`."""
    value: float | bool | str
    unit: str
    age_s: float
    """Since it was measured."""
    stale: bool
    """Not confirmed since the control centre began."""


class NodeOnMap(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the control centre knows it; `age_s`: seconds since it last confirmed what it said."""

    descriptor: NodeDescriptor
    reachable: bool
    age_s: float
    trust: float
    trust_changes: tuple[TrustChange, ...] = ()
    """The latest, oldest first; for operators only, since reasons name jobs."""
    facts: tuple[FactOnMap, ...] = ()
    """What is known of it that changes fast; what is not known is left out."""


class NodeTools(msgspec.Struct, frozen=True, kw_only=True):
    """What the services of the tools layer know of a node."""

    node: NodeId
    name: str
    place: Place | None
    """Where it is in the network, None before it was placed."""
    round_trips: tuple[RoundTrip, ...]
    to_center_s: float | None
    """Round trip to the control centre, measured or estimated."""
    carried_bytes: int
    probe_bytes: int
    access: Access
    availability: float
    """Share of the next hour for which it can be counted on."""
    machine: Hardware | None
    machine_age_s: float
    load_frac: float | None
    """Share of its cores in use, as the map has it; None where the node does not tell."""
    slots_free: int | None
    load_age_s: float | None
    processes: tuple[WorkProcess, ...]


class ToolsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The tools layer of a domain: who manages its services, and what they know of each node."""

    managed_by: NodeId
    nodes: tuple[NodeTools, ...]


class ProcessCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What one process counted since it began; `base.metrics.METRICS` says what a rise of each means."""

    node: NodeId
    name: str
    counted: Counted


class JoinTokenAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator wants to let a site join."""

    operator: Name
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=8)] = (Role.DATA, Role.COMPUTE)
    valid_s: Annotated[float, msgspec.Meta(gt=0, le=31 * 86_400)] = 86_400.0


class OwnerTokenAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator wants to let a model owner in."""

    owner: Name
    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)] = ("train",)
    valid_s: Annotated[float, msgspec.Meta(gt=0, le=10 * 366 * 86_400)] = 366 * 86_400.0
    terms: KeyTerms | None = None
    """What it may ask of models, where it has the scope `ask`."""


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """A token: shown once, kept nowhere."""

    token: str


class TokenNamed(msgspec.Struct, frozen=True, kw_only=True):
    """An owner's token in the book; `id` tells nothing about its secret."""

    id: str
    owner: str
    scopes: tuple[str, ...]
    created_unix_s: float
    expires_unix_s: float
    revoked_unix_s: float | None
    terms: KeyTerms = KeyTerms()
    """What it may ask of models."""


class ExpelAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator wants a node gone."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""

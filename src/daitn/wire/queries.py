"""Link gateway–host, data plane: a query, its answer, or why there is none (paper, II-B: queries travel to models).

They travel in frames of the stream that gateway and host keep between them (`wire.answers`). The sender is proven by
its certificate, and a host answers only gateways that the control centre named. Nothing of a query is logged or kept.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId, ModelName
from daitn.descriptors.serving import NamedTensor
from daitn.wire.secret_queries import KeyStatement, Sealed, SealedPart

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Tensors = Annotated[tuple[NamedTensor, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)]

RefusalReason = Literal["input", "busy", "late", "not-served", "lost"]
"""`input`: the query can be answered by nobody; `busy`, `late`, `not-served`: nothing was spent, ask elsewhere or
later; `lost`: work was begun and lost."""


class HostLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of one model there with whatever it says: how busy it is, and which slots are the gateway's."""

    queries: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 0
    """That wait or are computed."""
    work_s: Seconds = 0.0
    """How long one engine alone would work on them."""
    pace: Annotated[float, msgspec.Meta(ge=0.01, le=100.0)] = 1.0
    """How many times as long as when the host measured itself work takes now."""
    lease: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """A batch of slots that is the gateway's from when it asked (`QueryCall.wanted`), in place of the last; 0: none."""
    slots: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 0
    lease_s: Seconds = 0.0


class QueryCall(msgspec.Struct, frozen=True, kw_only=True, tag="query_call"):
    """Gateway → host: what does this very model say to this, within this time."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    artifact: ArtifactId
    left_s: Seconds
    """Time left when it was sent."""
    lease: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Whose slot this query takes; 0: none, it is taken only where a slot is free that nobody was promised."""
    wanted: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 0
    """Slots that the gateway would like to hold from now on; 0: it asks for none."""
    inputs: Tensors
    sealed: SealedPart | None = None
    """In place of `inputs`: a secret query."""


class KeyCall(msgspec.Struct, frozen=True, kw_only=True, tag="key_call"):
    """Gateway → host: with which key may queries be encrypted for you? Answered by `KeyTold`."""


class KeyTold(msgspec.Struct, frozen=True, kw_only=True, tag="key_told"):
    """Host → gateway: with this one, as long as I run."""

    statement: KeyStatement


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="query_answer"):
    """Host → gateway: the outputs, and what the gateway learns from for the next choice."""

    outputs: Tensors
    sealed: Sealed = b""
    """In place of `outputs`, to a secret query."""
    queued_s: Seconds = 0.0
    """It waited so long."""
    engine_s: Seconds = 0.0
    """Its batch took so long in the engine."""
    batch_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of that batch's rows that were this query's."""
    load: HostLoad = HostLoad()


class QueryRefused(msgspec.Struct, frozen=True, kw_only=True, tag="query_refused"):
    """Host → gateway: no answer, and why; when to come back."""

    reason: RefusalReason
    what: Annotated[str, msgspec.Meta(max_length=2000)]
    retry_after_s: Seconds = 0.0
    load: HostLoad = HostLoad()

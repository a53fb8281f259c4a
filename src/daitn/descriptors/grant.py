"""Grants: every transfer on the data plane happens under one, and the holder checks it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId, DomainId, GrantId, JobId, NodeId, VisitId

GRANT_S: Final = 86_400
"""How long a grant lives. It ends by each holder's own clock: with an hour a site whose clock is ahead by two would
refuse every transfer; so a clock may be off by less than this. Longer costs little: a grant is for one artifact, which
its requester was meant to have, and who was expelled has a certificate for no longer."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A node that holds an artifact, and its direct data-plane addresses, if it has any."""

    node: NodeId
    direct: tuple[str, ...] = ()


class Lacking(msgspec.Struct, frozen=True, kw_only=True):
    """Who was named as a holder of an artifact and answered that it does not hold it."""

    artifact: ArtifactId
    holders: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=limits.HOLDERS)]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Who may fetch which artifact, or exchange tensors with which visit, for which job, until when (Unix seconds)."""

    id: GrantId
    domain: DomainId
    artifact: ArtifactId
    """Empty where the grant is for an exchange."""
    requester: NodeId
    job: JobId
    expires_unix_s: int
    visit: VisitId = VisitId("")
    """The visit with whose child that of the requester's visit may exchange tensors; empty: it is for an artifact."""
    by: VisitId = VisitId("")
    """The requester's visit, where the grant is for an exchange."""

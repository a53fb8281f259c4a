"""Identifiers: one NewType per noun, so that a job id cannot be passed where a visit id is meant.

Ids are short printable strings. Those that name content (`ArtifactId`, `ChunkId`) are BLAKE3 digests in hexadecimal;
those that name a thing in one domain are given by its control centre and never reused.
"""

from __future__ import annotations

from typing import NewType

DomainId = NewType("DomainId", str)
"""A knowledge autonomous system (K-AS): `[a-z0-9-]{1,32}`."""

NodeId = NewType("NodeId", str)
"""A process in a domain, which is also its slot: `c0` for the control centre, `n0001` … for enrolled nodes."""

OwnerId = NewType("OwnerId", str)
"""Who submits jobs: the name an API token was issued to."""

OperatorId = NewType("OperatorId", str)
"""The organisation that runs a node, as given when its join token was made; policies speak of it."""

JobId = NewType("JobId", str)
VisitId = NewType("VisitId", str)
"""One piece of work at one terminal for one job: `<job>/<number>`; a retry elsewhere is a new visit."""

DataSetId = NewType("DataSetId", str)
"""A data set in a domain: `<node name>/<data set name>`."""

ArtifactId = NewType("ArtifactId", str)
"""BLAKE3 digest (64 hex digits) of an artifact's manifest bytes."""

ChunkId = NewType("ChunkId", str)
"""BLAKE3 digest (64 hex digits) of a chunk's bytes."""

GrantId = NewType("GrantId", str)

ModelName = NewType("ModelName", str)
"""A model that a domain serves, by the name its provider deployed it under."""

CENTER = NodeId("c0")
"""The slot of a domain's control centre."""

"""Configuration of a control centre, and what it needs from its world to be a pure core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from daitn.base.ids import DomainId, NodeId
from daitn.describe.damping import DampingConfig
from daitn.descriptors.grant import Grant
from daitn.descriptors.itinerary import Itinerary
from daitn.topology.view_updates import ViewUpdates


class CenterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One knob for time: `patience_s`. Leases, heartbeats and retries follow from it."""

    domain: DomainId
    patience_s: Annotated[float, msgspec.Meta(ge=0.2, le=3600)] = 4.0
    """How long the network waits for a silent site before it goes on without it."""
    running_jobs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    """Jobs that run at the same time; more are queued, by priority, fair share and age."""
    running_jobs_per_owner: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32
    """Jobs of one owner that run at the same time; more of them are queued, while others' run."""
    report_bytes_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e10)] = 20_000.0
    """What reports of facts from all nodes, and tuning them, may take in the mean over an hour. The default is a
    percent of a 16 Mbit/s link."""
    views: ViewUpdates = ViewUpdates()
    """How views of running jobs are kept up to date."""
    damping: DampingConfig = DampingConfig()
    """When a node that comes and goes is asked after others."""
    direct: tuple[str, ...] = ()
    """The centre's own direct data-plane addresses, for fetching submitted packages."""

    askers: tuple[NodeId, ...] = ()
    """Nodes that are other domains' centres, or ask for them: the map answers their questions, and nobody else's."""

    @property
    def lease_s(self) -> float:
        """How long a terminal may work on without hearing from the centre."""
        return self.patience_s

    @property
    def heartbeat_s(self) -> float:
        """Between two signs of life of a terminal: four fit into a lease."""
        return self.patience_s / 4


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Who a slot was given to at enrolment: what a node may say of itself is bounded by it."""

    name: str
    operator: str
    roles: tuple[str, ...]


class CenterTools(msgspec.Struct, frozen=True, kw_only=True):
    """Pure functions with a secret in them, given from outside: `issue` signs a grant, `sign_route` a version of a
    route, `verify` checks a signature (hex public key, bytes, hex signature)."""

    issue: Callable[[Grant], str]
    sign_route: Callable[[Itinerary], str]
    verify: Callable[[str, bytes, str], bool]
    member: Callable[[NodeId], Member | None]
    """Who holds a slot now; None for one that was never given out, left or burned. Quick: from memory."""

"""Jobs as their owners see them: phase, progress, and the log that explains each decision."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from daitn.base.ids import ArtifactId, JobId, NodeId, OwnerId, VisitId
from daitn.descriptors.outcome import Verdict
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Request
from daitn.descriptors.work import Measurement


class Phase(StrEnum):
    """Where a job is; `REFUSED`, `DELIVERED`, `EXHAUSTED`, `CANCELLED` and `FAILED` are final."""

    ASSESSING = "assessing"
    REFUSED = "refused"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"
    FAILED = "failed"


FINAL_PHASES = frozenset({Phase.REFUSED, Phase.DELIVERED, Phase.EXHAUSTED, Phase.CANCELLED, Phase.FAILED})


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """A target and how the best model so far stands. `met`: the point estimate reaches it; `sure`: its bound does."""

    name: str
    wanted: str
    reached: float | None
    low: float | None
    high: float | None
    met: bool
    sure: bool
    untrained: float | None


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """A visit in progress: what is being done where, how far it is."""

    visit: VisitId
    kind: str
    node: NodeId
    node_name: str
    dataset: str
    phase: str
    done: int
    of: int
    loss: float | None
    why: str


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One job at one moment. Counters never go back."""

    job: JobId
    owner: OwnerId
    name: str
    phase: Phase
    reason: str
    submitted_unix_s: float
    ended_unix_s: float | None
    request: Request
    verdict: Verdict | None
    plan: Plan | None
    targets: tuple[TargetState, ...]
    untrained: tuple[Measurement, ...]
    reached: tuple[Measurement, ...]
    model: ArtifactId | None
    """The best model so far."""
    visits: int
    """Accepted training visits."""
    rounds: int
    verifications: int
    rolled_back: int
    lost: int
    transfer_bytes: int
    now: tuple[Whereabouts, ...]
    log_length: int
    refusals: tuple[Verdict, ...] = ()
    """Verdicts on what was first asked, where the owner had counter-offers taken at once; `verdict` is on the last."""
    price: float = 0.0
    """Charged so far by the tariffs of the sites that state one, in the domain's unit of account."""
    energy_joules: float = 0.0
    """Drawn so far at the sites that state their power."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's log: a closed event kind, its subject and cause in words, and the facts behind it."""

    number: int
    unix_s: float
    kind: str
    text: str
    visit: VisitId | None = None
    node: NodeId | None = None
    measurements: tuple[Measurement, ...] = ()
    proof: str = ""
    """JSON of the signed visit report: data version, graph, model in, model out, signature."""

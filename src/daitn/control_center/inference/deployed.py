"""A deployed model as the deployment desk keeps it: what its provider wants, where it was placed, where it failed."""

from __future__ import annotations

from collections import deque
from typing import Final

from daitn.base.errors import BugError
from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.records import (
    CanaryEnded,
    DeploymentRecord,
    ModelCalibrated,
    ModelDeployed,
    ModelWithdrawn,
    ReplicaLeaving,
    ReplicaPlaced,
    ReplicaTaken,
    RetrainingBegun,
    RetrainingEnded,
)
from daitn.descriptors.serving import Replica, ReplicaPhase

TAKEN_KEPT: Final = 32
"""Replicas taken away that are remembered for people, newest last."""

VERSIONS_KEPT: Final = 8
"""New versions whose end is remembered for people."""


class Deployed:
    """See the module's docstring. `placed`: since when, by host; `leaving`: those of them that are let go."""

    def __init__(self, record: ModelDeployed, placed: dict[NodeId, int]) -> None:
        self.owner = record.owner
        self.artifact = record.artifact
        self.goal = record.goal
        self.needs = record.needs
        self.quality = record.quality
        self.canary = record.canary
        self.temperature = 1.0
        """By which scores are divided where it counts how sure an answer is."""
        self.threshold = 0.5
        """Share of the second of two classes from which that one is told where answers are joined."""
        self.versions: deque[CanaryEnded] = deque(maxlen=VERSIONS_KEPT)
        """What became of new versions that were tried."""
        self.retrain = record.retrain
        self.retraining: RetrainingBegun | None = None
        """Under way."""
        self.retrained = record.retrained
        """Jobs that trained under what its provider agreed to."""
        self.retrained_ns: int | None = None
        """When the last one for this package ended."""
        self.checked: dict[str, float] = {}
        """What a unit measured of this package last, on fresh samples."""
        self.retrainings: deque[RetrainingEnded] = deque(maxlen=VERSIONS_KEPT)
        self.deployed_ns = record.at_ns
        self.placed = dict(placed)
        self.leaving: dict[NodeId, int] = {}
        self.quiet_ns: dict[NodeId, int] = {}
        """Leaving hosts that gateways were told to ask no more, and since when."""
        self.because: dict[NodeId, str] = {}
        self.failed: dict[NodeId, str] = {}
        """Hosts that could not serve this package, and why; they are not asked again until it is deployed anew."""
        self.taken: deque[ReplicaTaken] = deque(maxlen=TAKEN_KEPT)
        self.replacements = 0
        self.referee: NodeId | None = None
        """A verification unit that computes compared queries again while hosts differ. As little durable as what is
        counted of hosts."""

    @property
    def carriers(self) -> frozenset[NodeId]:
        """Whoever is to have it loaded."""
        return frozenset(self.placed) | ({self.referee} if self.referee is not None else frozenset())

    @property
    def staying(self) -> tuple[NodeId, ...]:
        """Hosts that are to serve it on."""
        return tuple(node for node in self.placed if node not in self.leaving)

    def place(self, record: ReplicaPlaced) -> None:
        """A host is to serve it, from now on or on."""
        self.placed.setdefault(record.node, record.at_ns)
        self.leaving.pop(record.node, None)
        self.quiet_ns.pop(record.node, None)
        self.because[record.node] = record.why

    def leave(self, record: ReplicaLeaving) -> None:
        """A host is to serve it until others do."""
        self.leaving[record.node] = record.at_ns
        self.because[record.node] = record.why

    def take(self, record: ReplicaTaken) -> None:
        """A host is not to serve it any more."""
        self.placed.pop(record.node, None)
        self.taken.append(record)
        self.because.pop(record.node, None)
        self.quiet_ns.pop(record.node, None)
        self.replacements += self.leaving.pop(record.node, None) is None
        if record.failed:
            self.failed[record.node] = record.why

    def follow(self, before: Deployed) -> None:
        """It takes the place of what was served under its name: what people are told goes on."""
        self.versions.extend(before.versions)
        self.retrainings.extend(before.retrainings)
        self.retraining = before.retraining
        if before.artifact == self.artifact:
            self.temperature, self.threshold = before.temperature, before.threshold
            self.checked = before.checked

    def too_slow(self, replica: Replica) -> str:
        """Why a replica that was warmed up cannot keep the goal, whatever the load; empty if it can."""
        if replica.phase is not ReplicaPhase.SERVING:
            return ""
        for target in self.goal.latency:
            if replica.measured.row_s > target.most_s:
                return f"{target}: one row takes {replica.measured.row_s * 1000:.1f} ms in the engine, measured alone"
        return ""


def apply_record(models: dict[ModelName, Deployed], record: DeploymentRecord) -> None:
    """One fact of the models that are deployed."""
    match record:
        case ModelDeployed(model=model):
            before = models.get(model)
            same = before is not None and before.artifact == record.artifact
            models[model] = Deployed(record, before.placed if before is not None and same else {})
            if before is not None:
                models[model].follow(before)
        case ReplicaPlaced(model=model):
            models[model].place(record)
        case ReplicaLeaving(model=model):
            models[model].leave(record)
        case ReplicaTaken(model=model):
            models[model].take(record)
        case ModelWithdrawn(model=model):
            models.pop(model, None)
        case CanaryEnded(model=model) if model in models:
            models[model].versions.append(record)
        case ModelCalibrated(model=model) if model in models:
            models[model].temperature, models[model].threshold = record.temperature, record.threshold
        case RetrainingBegun(model=model) if model in models:
            models[model].retraining = record
        case RetrainingEnded(model=model) if model in models:
            models[model].retraining = None
            models[model].retrained_ns = record.at_ns
            models[model].retrained += record.trained
            models[model].checked = record.checked
            models[model].retrainings.append(record)
        case CanaryEnded() | ModelCalibrated() | RetrainingBegun() | RetrainingEnded():
            pass
        case _:
            raise BugError(f"nobody has a rule for {type(record).__name__} of deployed models")

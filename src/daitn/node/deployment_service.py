"""The providers' door of a control centre: models deployed, shown and withdrawn, done on the core of this node.

A model is judged before it is taken on, on the map of that moment: what is refused is told every reason, and leaves
nothing behind. The figures of verification units come from this domain's jobs: a package that is the best model of one
has been measured; of any other nothing is known, whatever its provider says.
"""

from __future__ import annotations

from daitn.artifacts.graph import decode_graph_pair
from daitn.base import limits
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.base.names import check_name
from daitn.base.units import NS_PER_S
from daitn.control_center.center import ControlCenter
from daitn.control_center.inference.commands import DeployAsked, UndeployAsked
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.deployment_desk import DeploymentDesk
from daitn.descriptors.serving import (
    ModelNeeds,
    ModelPhase,
    ModelStatus,
    ReplicaMeasured,
    ReplicaPhase,
    ReplicaShown,
    ServingGoal,
    check_goal,
)
from daitn.node.clock import NodeClock
from daitn.node.core_runner import CoreRunner
from daitn.node.store import ChunkStore
from daitn.serving.catalogue import needs_of


class DeploymentService:
    """See the module's docstring."""

    def __init__(self, core: ControlCenter, runner: CoreRunner, store: ChunkStore, clock: NodeClock) -> None:
        self._core, self._runner, self._store, self._clock = core, runner, store, clock
        self.counters = Counters()

    @property
    def _desk(self) -> DeploymentDesk:
        self._runner.check_going()
        return self._core.inference.deployment

    def deploy(self, owner: OwnerId, model: str, artifact: ArtifactId, goal: ServingGoal) -> ModelStatus:
        """Take a package on under a name, or refuse it with every reason. The same name again is another package or
        goal for it. InputError for what cannot be right, PolicyError for a name that is somebody else's."""
        name = ModelName(check_name("model", model))
        check_goal(goal)
        if not self._store.holds(artifact):
            raise InputError(f"package {artifact[:16]} is not here", todo="upload it first")
        known = self._desk.models.get(name)
        if known is not None and known.owner != owner:
            raise PolicyError(f"model {name} is {known.owner}'s", todo="choose another name")
        if known is None and len(self._desk.models) >= limits.MODELS_SERVED:
            raise PolicyError(f"{limits.MODELS_SERVED} models are served, the limit", todo="undeploy one")
        needs, measured = self._needs(artifact), self.measured(artifact)
        admission = self._desk.judge(needs, goal, owner, measured, name)
        if not admission.admitted:
            self.counters.count("models_refused")
            return ModelStatus(
                model=name,
                owner=owner,
                artifact=artifact,
                phase=ModelPhase.REFUSED,
                goal=goal,
                reasons=tuple(str(one) for one in admission.failed()),
            )
        quality = {target.name: measured[target.name] for target in goal.quality}
        if "accuracy" in measured:
            quality["accuracy"] = measured["accuracy"]
        self._runner.post(
            DeployAsked(model=name, owner=owner, artifact=artifact, goal=goal, needs=needs, quality=quality)
        )
        return self.status(owner, name)

    def undeploy(self, owner: OwnerId, model: str) -> ModelStatus:
        """Serve it no longer; what is being computed is still answered."""
        status = self.status(owner, model)
        self._runner.post(UndeployAsked(model=status.model))
        return ModelStatus(
            model=status.model,
            owner=owner,
            artifact=status.artifact,
            phase=ModelPhase.WITHDRAWN,
            goal=status.goal,
            deployed_unix_s=status.deployed_unix_s,
        )

    def status(self, owner: OwnerId, model: str) -> ModelStatus:
        """One model now; InputError if it is not this owner's."""
        deployed = self._desk.models.get(ModelName(model))
        if deployed is None or deployed.owner != owner:
            raise InputError(f"{owner} has no model {model[:80]!r}", todo="daitn models")
        return self._status(ModelName(model), deployed)

    def models(self, owner: OwnerId) -> tuple[ModelStatus, ...]:
        """The owner's models, by name."""
        return tuple(self._status(name, one) for name, one in sorted(self._desk.models.items()) if one.owner == owner)

    def measured(self, artifact: ArtifactId) -> dict[str, float]:
        """What verification units of this domain measured of a package, by target name."""
        for machine in self._core.jobs.values():
            state = machine.state
            if state.best == artifact and state.best_measurements:
                return {one.name: one.value for one in state.best_measurements}
        return {}

    def _needs(self, artifact: ArtifactId) -> ModelNeeds:
        manifest = self._store.manifest(artifact)
        if manifest.kind != "graph":
            raise InputError(
                f"a package of kind {manifest.kind!r} cannot be served yet", todo="export the module as a graph"
            )
        return needs_of(manifest, decode_graph_pair(self._store.part(artifact, "graph")))

    def _status(self, name: ModelName, deployed: Deployed) -> ModelStatus:
        replicas = tuple(self._replica(name, node) for node in deployed.placed)
        serving = sum(one.reachable and one.phase == ReplicaPhase.SERVING for one in replicas)
        phase = ModelPhase.SERVING if serving >= deployed.goal.replicas_least else ModelPhase.SHORT
        if not serving:
            idle = deployed.goal.replicas_least == 0 and not deployed.staying
            phase = ModelPhase.IDLE if idle else ModelPhase.PLACING
        reasons = [f"{record.node}: {record.why}" for record in deployed.taken]
        return ModelStatus(
            model=name,
            owner=deployed.owner,
            artifact=deployed.artifact,
            phase=phase,
            goal=deployed.goal,
            reasons=tuple(reasons),
            replicas=replicas,
            replacements=deployed.replacements,
            deployed_unix_s=deployed.deployed_ns / NS_PER_S,
        )

    def _replica(self, name: ModelName, node: NodeId) -> ReplicaShown:
        facts, replica = self._core.knowledge.node(node), self._desk.replica(node, name)
        return ReplicaShown(
            node=node,
            name="" if facts is None else facts.descriptor.name,
            phase="ordered" if replica is None else replica.phase.value,
            reachable=facts is not None and facts.reachable,
            why="" if replica is None else replica.why,
            because=self._desk.models[name].because.get(node, ""),
            measured=ReplicaMeasured() if replica is None else replica.measured,
        )

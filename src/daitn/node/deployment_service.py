"""The providers' door of a control centre: models deployed, shown and withdrawn, done on the core of this node.

A model is judged before it is taken on, on the map of that moment: what is refused is told every reason, and leaves
nothing behind. The figures of verification units come from this domain's jobs: a package that is the best model of one
has been measured; of any other nothing is known, whatever its provider says.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.artifacts.graph import decode_graph_pair
from daitn.artifacts.graph_schema import GraphPair
from daitn.artifacts.graph_stages import cut_stage, weigh_profile
from daitn.base import limits
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.base.names import check_name
from daitn.base.units import NS_PER_S
from daitn.control_center.center import ControlCenter
from daitn.control_center.inference.commands import (
    CanaryAsked,
    DeployAsked,
    DeployStagesAsked,
    StagePlanned,
    UndeployAsked,
)
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.deployment_desk import DeploymentDesk
from daitn.control_center.inference.stage_planning import plan_stages
from daitn.control_center.inference.staged import canary_of, parts_of, whole_of
from daitn.decision.hosting import HostCondition
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
from daitn.descriptors.stages import SplitAsked, check_profile
from daitn.descriptors.versions import Canary, CanaryShown, CanaryWanted, Retraining
from daitn.node.clock import NodeClock
from daitn.node.core_runner import CoreRunner
from daitn.node.store import ChunkStore
from daitn.serving.catalogue import CHILD_BYTES, WEIGHT_COPIES, needs_of

PHASES: Final = (ModelPhase.PLACING, ModelPhase.IDLE, ModelPhase.SHORT, ModelPhase.SERVING)
"""From the least far to the farthest."""


class DeploymentService:
    """See the module's docstring."""

    def __init__(self, core: ControlCenter, runner: CoreRunner, store: ChunkStore, clock: NodeClock) -> None:
        self._core, self._runner, self._store, self._clock = core, runner, store, clock
        self.counters = Counters()

    @property
    def _desk(self) -> DeploymentDesk:
        self._runner.check_going()
        return self._core.inference.deployment

    def deploy(
        self,
        owner: OwnerId,
        model: str,
        artifact: ArtifactId,
        goal: ServingGoal,
        split: SplitAsked | None = None,
        canary: CanaryWanted | None = None,
        retrain: Retraining | None = None,
        better: str = "",
        licence: str = "",
    ) -> ModelStatus:
        """Take a package on under a name, or refuse it with every reason. The same name again is another package or
        goal for it. With `split` it is served in stages, with `canary` tried beside the version that is served,
        with `retrain` trained on by itself where it gets worse. `better`: how a unit found a new version better;
        its `licence`, where none is given, is that of the version which is served. InputError for what cannot be
        right, PolicyError for a name that is somebody else's."""
        if canary is not None and split is not None:
            raise InputError("a new version is tried whole, not in stages", todo="deploy it without a canary")
        name = ModelName(check_name("model", model))
        check_goal(goal)
        if not self._store.holds(artifact):
            raise InputError(f"package {artifact[:16]} is not here", todo="upload it first")
        if retrain is not None:
            self._check_retraining(owner, artifact, split, canary)
        self._check_name(owner, name, 1 if split is None else max(1, split.stages))
        pair = self._graph(artifact)
        needs, measured = needs_of(self._store.manifest(artifact), pair), self.measured(artifact)
        planned: tuple[StagePlanned, ...] = ()
        beside = name
        if canary is not None:
            beside, goal = self._beside(owner, name, goal, needs)
            licence = licence or self._desk.models[name].needs.licence
        needs = msgspec.structs.replace(needs, licence=licence)
        if split is None:
            failed = self._desk.judge(needs, goal, owner, measured, beside).failed()
        else:
            failed, planned = self._staged(owner, name, needs, goal, split, measured, pair)
        if failed:
            self.counters.count("models_refused")
            return ModelStatus(
                model=name,
                owner=owner,
                artifact=artifact,
                phase=ModelPhase.REFUSED,
                goal=goal,
                reasons=tuple(str(one) for one in failed),
            )
        quality = {target.name: measured[target.name] for target in goal.quality}
        if "accuracy" in measured:
            quality["accuracy"] = measured["accuracy"]
        if planned:
            self._check_name(owner, name, len(planned))
            self._runner.post(
                DeployStagesAsked(
                    model=name, owner=owner, artifact=artifact, goal=goal, stages=planned, quality=quality
                )
            )
        elif canary is not None:
            self._runner.post(
                CanaryAsked(
                    model=name,
                    owner=owner,
                    artifact=artifact,
                    goal=goal,
                    needs=needs,
                    share=canary.share,
                    hours=canary.hours,
                    quality=quality,
                    better=better,
                )
            )
        else:
            self._runner.post(
                DeployAsked(
                    model=name,
                    owner=owner,
                    artifact=artifact,
                    goal=goal,
                    needs=needs,
                    quality=quality,
                    retrain=retrain,
                )
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
        parts = parts_of(self._desk.models, model)
        if not parts or next(iter(parts.values())).owner != owner:
            raise InputError(f"{owner} has no model {model[:80]!r}", todo="daitn models")
        return self._status(ModelName(model), parts)

    def models(self, owner: OwnerId) -> tuple[ModelStatus, ...]:
        """The owner's models, by name."""
        models = self._desk.models
        names = sorted(
            {whole_of(name, one) for name, one in models.items() if one.owner == owner and one.canary is None}
        )
        return tuple(self._status(name, parts_of(models, name)) for name in names)

    def measured(self, artifact: ArtifactId) -> dict[str, float]:
        """What verification units of this domain measured of a package, by target name."""
        for machine in self._core.jobs.values():
            state = machine.state
            if state.best == artifact and state.best_measurements:
                return {one.name: one.value for one in state.best_measurements}
        return {}

    def _check_retraining(
        self, owner: OwnerId, artifact: ArtifactId, split: SplitAsked | None, canary: CanaryWanted | None
    ) -> None:
        """InputError where a model cannot be trained on by itself."""
        if split is not None or canary is not None:
            what = "a model in stages" if split is not None else "a new version that is tried"
            raise InputError(f"{what} is not trained on by itself", todo="deploy it whole, or without --retrain")
        if self._desk.judging.retraining.maker(owner, artifact) is None:
            raise InputError(
                f"no job of {owner} in this domain made package {artifact[:16]}, so nothing says how to train it on",
                todo="deploy what a job delivered, or without --retrain",
            )
        if "accuracy" not in self.measured(artifact):
            raise InputError(
                f"nobody measured the accuracy of package {artifact[:16]}, so it cannot be seen to get worse",
                todo="train with a target of accuracy, or deploy it without --retrain",
            )

    def _graph(self, artifact: ArtifactId) -> GraphPair:
        manifest = self._store.manifest(artifact)
        if manifest.kind != "graph":
            raise InputError(
                f"a package of kind {manifest.kind!r} cannot be served yet", todo="export the module as a graph"
            )
        return decode_graph_pair(self._store.part(artifact, "graph"))

    def _beside(
        self, owner: OwnerId, name: ModelName, goal: ServingGoal, needs: ModelNeeds
    ) -> tuple[ModelName, ServingGoal]:
        """Under which name a new version of a model is placed, and its goal: the model's own, where none is given."""
        models = self._desk.models
        served = models.get(name)
        if served is None or served.owner != owner:
            raise InputError(f"there is no model {name!r} of {owner} to try a version beside", todo="deploy it first")
        if served.needs.inputs != needs.inputs:
            raise InputError(
                f"the version that is served takes {_inputs(served.needs)}, the new one {_inputs(needs)}",
                todo="deploy it by another name",
            )
        beside = ModelName(check_name("model", Canary(model=name, share=1.0).name))
        if beside in models and models[beside].canary is None:
            raise PolicyError(f"{beside} is a model of {models[beside].owner}", todo="rename one of them")
        return beside, served.goal if goal == ServingGoal() else goal

    def _check_name(self, owner: OwnerId, name: ModelName, count: int) -> None:
        """PolicyError where a name is somebody else's, or is a stage's, or there would be too many models."""
        models = self._desk.models
        theirs = [one.owner for one in parts_of(models, name).values() if one.owner != owner]
        if theirs:
            raise PolicyError(f"model {name} is {theirs[0]}'s", todo="choose another name")
        if name in models and (stage := models[name].needs.stage) is not None:
            raise PolicyError(f"{name} is stage {stage.number} of model {stage.model}", todo="choose another name")
        if name in models and (canary := models[name].canary) is not None:
            raise PolicyError(f"{name} is a new version of model {canary.model}", todo="choose another name")
        others = len(models) - len(parts_of(models, name))
        if others + count > limits.MODELS_SERVED:
            raise PolicyError(f"{limits.MODELS_SERVED} models and stages are served, the limit", todo="undeploy one")

    def _staged(
        self,
        owner: OwnerId,
        name: ModelName,
        needs: ModelNeeds,
        goal: ServingGoal,
        split: SplitAsked,
        measured: dict[str, float],
        pair: GraphPair,
    ) -> tuple[tuple[HostCondition, ...], tuple[StagePlanned, ...]]:
        """What is in the way of serving a model in stages; else those."""
        profile = weigh_profile(pair, check_profile(split.profile))
        if goal.replicas_least == 0:
            raise InputError("a model in stages keeps a replica of each", todo="ask for >= 1 replicas")
        desk = self._desk
        admission = desk.judge(needs, goal, owner, measured, name)
        failed = tuple(one for one in admission.failed() if one.code == "quality")
        planned = plan_stages(
            name,
            owner,
            needs,
            goal,
            msgspec.structs.replace(split, profile=profile),
            desk.hosts(parts_of(desk.models, name)),
            self._core.knowledge,
            desk.gateways,
            base_bytes=CHILD_BYTES,
            copies=WEIGHT_COPIES,
        )
        stages = tuple(one for one in planned if isinstance(one, StagePlanned))
        for one in stages:
            if one.needs.stage is not None:
                cut_stage(pair, one.needs.stage.begin, one.needs.stage.end)  # said here, not by hosts later
        return failed + tuple(one for one in planned if isinstance(one, HostCondition)), stages

    def _status(self, name: ModelName, parts: dict[ModelName, Deployed]) -> ModelStatus:
        first = next(iter(parts.values()))
        shown = {
            part: tuple(self._replica(part, deployed, node) for node in deployed.placed)
            for part, deployed in parts.items()
        }
        phases = {_phase(deployed, shown[part]) for part, deployed in parts.items()}
        # A model is as far as the stage that is least far.
        phase = next(one for one in PHASES if one in phases)
        reasons = [f"{record.node}: {record.why}" for deployed in parts.values() for record in deployed.taken]
        return ModelStatus(
            model=name,
            owner=first.owner,
            artifact=first.artifact,
            phase=phase,
            goal=first.goal,
            reasons=tuple(reasons),
            replicas=tuple(one for each in shown.values() for one in each),
            stages=0 if first.needs.stage is None else first.needs.stage.of,
            live=self._desk.judging.live.shown(first.artifact, first.quality, first.temperature, first.threshold),
            latency=self._desk.demand.latencies(name, first.goal, self._clock.now_ns()),
            canary=self._canary(name),
            versions=tuple(
                f"{one.artifact[:16]} {'took over' if one.took_over else 'was taken back'}: {one.why}"
                for one in first.versions
            ),
            retraining=self._desk.judging.retraining.shown(name) if name in parts else None,
            replacements=sum(deployed.replacements for deployed in parts.values()),
            deployed_unix_s=first.deployed_ns / NS_PER_S,
        )

    def _canary(self, name: ModelName) -> CanaryShown | None:
        """The new version that is tried beside a model."""
        beside = canary_of(self._desk.models, name)
        if beside is None:
            return None
        deployed = self._desk.models[beside]
        assert deployed.canary is not None
        replicas = [self._replica(beside, deployed, node) for node in deployed.placed]
        old, new = self._desk.judging.versions.seen(beside)
        return CanaryShown(
            artifact=deployed.artifact,
            share=deployed.canary.share,
            serving=sum(one.reachable and one.phase == ReplicaPhase.SERVING for one in replicas),
            rows=new.rows,
            right=new.right,
            old_rows=old.rows,
            old_right=old.right,
            answered=new.answered,
            lost=new.lost,
        )

    def _replica(self, name: ModelName, deployed: Deployed, node: NodeId) -> ReplicaShown:
        facts, replica = self._core.knowledge.node(node), self._desk.replica(node, name)
        return ReplicaShown(
            node=node,
            name="" if facts is None else facts.descriptor.name,
            phase="ordered" if replica is None else replica.phase.value,
            reachable=facts is not None and facts.reachable,
            why="" if replica is None else replica.why,
            because=deployed.because.get(node, ""),
            stage=0 if deployed.needs.stage is None else deployed.needs.stage.number,
            measured=ReplicaMeasured() if replica is None else replica.measured,
        )


def _phase(deployed: Deployed, replicas: tuple[ReplicaShown, ...]) -> ModelPhase:
    serving = sum(one.reachable and one.phase == ReplicaPhase.SERVING for one in replicas)
    if not serving:
        idle = deployed.goal.replicas_least == 0 and not deployed.staying
        return ModelPhase.IDLE if idle else ModelPhase.PLACING
    return ModelPhase.SERVING if serving >= deployed.goal.replicas_least else ModelPhase.SHORT


def _inputs(needs: ModelNeeds) -> str:
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in needs.inputs)

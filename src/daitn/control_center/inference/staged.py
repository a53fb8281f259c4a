"""Models in stages at the deployment desk: each stage is a deployed model of its own, and what they are together.

A stage is placed, moved, lost and placed anew as any model is (`deployment_desk`); what makes it one of several is its
name and `ModelNeeds.stage`. All stages of a model are deployed in one turn and withdrawn in one turn, so the journal
never has a part of a cut. The first host of each is the one that the cut was made for; where it is lost, another host
that has the memory loads that stage, and the cut stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from daitn.base.ids import ModelName
from daitn.control_center.inference.commands import DeployAsked, DeployStagesAsked, StagePlanned
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.records import ModelDeployed, ModelWithdrawn, ReplicaPlaced
from daitn.control_center.turn import Turn
from daitn.descriptors.serving import ModelNeeds

Models = Mapping[ModelName, Deployed]
"""All that is deployed, by name."""


def whole_of(name: ModelName, model: Deployed) -> ModelName:
    """The name by which queries ask a model: its own, or that of the model it is a stage of."""
    return name if model.needs.stage is None else model.needs.stage.model


def canary_of(models: Models, name: str) -> ModelName | None:
    """The new version that is tried beside a model, by its own name."""
    return next((one for one, model in models.items() if model.canary is not None and model.canary.model == name), None)


def parts_of(models: Models, name: str) -> dict[ModelName, Deployed]:
    """What is deployed for a model: itself, or its stages in their order; nothing where there is none."""
    found = {one: model for one, model in models.items() if whole_of(one, model) == name and model.canary is None}
    return dict(sorted(found.items(), key=lambda item: 0 if (stage := item[1].needs.stage) is None else stage.number))


def record_deployment(turn: Turn, models: Models, asked: DeployAsked | DeployStagesAsked) -> set[ModelName]:
    """Record what a provider wants, and that what was there under the name is withdrawn. The names that are new, or
    withdrawn, or are another package now."""
    before = set(parts_of(models, asked.model)) | {one for one in (canary_of(models, asked.model),) if one is not None}
    wanted: dict[ModelName, tuple[ModelNeeds, StagePlanned | None]]
    if isinstance(asked, DeployAsked):
        wanted = {asked.model: (asked.needs, None)}
    else:
        wanted = {
            stage.needs.stage.name: (stage.needs, stage) for stage in asked.stages if stage.needs.stage is not None
        }
    for name in before:
        if name not in wanted:
            why = "it is served in another way now"
            turn.record(ModelWithdrawn(model=name, at_ns=turn.now_ns, why=why))
    for name, (needs, stage) in wanted.items():
        turn.record(
            ModelDeployed(
                model=name,
                at_ns=turn.now_ns,
                owner=asked.owner,
                artifact=asked.artifact,
                goal=asked.goal,
                needs=needs,
                quality=asked.quality,
                retrain=asked.retrain if isinstance(asked, DeployAsked) else None,
            )
        )
        if stage is not None and not models[name].placed:
            turn.record(ReplicaPlaced(model=name, at_ns=turn.now_ns, node=stage.node, why=stage.why))
    return {*before, *wanted}


def record_withdrawal(turn: Turn, models: Models, name: ModelName) -> set[ModelName]:
    """Record that a provider takes a model back, with all its stages; the names that were served."""
    parts = set(parts_of(models, name)) | {one for one in (canary_of(models, name),) if one is not None}
    for part in parts:
        turn.record(ModelWithdrawn(model=part, at_ns=turn.now_ns, why="its provider took it back"))
    return parts

"""What a centre's node does for training that begins by itself: it submits the job, and has what came of it tried.

As the provider would do it, by the same doors and under the same limits: what they refuse, ends it, with their reason.
"""

from __future__ import annotations

from daitn.base.errors import DaitnError
from daitn.control_center.inference.commands import RetrainingAnswered, SubmitAgain, TryVersion
from daitn.descriptors.serving import ModelPhase, ServingGoal
from daitn.descriptors.versions import CanaryWanted
from daitn.node.center_service import CenterService
from daitn.node.core_runner import CoreRunner
from daitn.node.deployment_service import DeploymentService


async def train_on(
    runner: CoreRunner, service: CenterService, models: DeploymentService, asked: SubmitAgain | TryVersion
) -> None:
    """See the module's docstring; the core is told what it cannot see by itself."""
    match asked:
        case SubmitAgain():
            try:
                await service.submit(asked.owner, asked.request, asked.key)
            except DaitnError as error:
                why = f"the job could not be submitted: {error.what}"
                runner.post(RetrainingAnswered(model=asked.model, key=asked.key, artifact=None, why=why))
        case TryVersion():
            runner.post(_tried(models, asked))


def _tried(models: DeploymentService, asked: TryVersion) -> RetrainingAnswered:
    wanted = CanaryWanted(share=asked.share, hours=asked.hours)
    try:
        status = models.deploy(
            asked.owner, asked.model, asked.artifact, ServingGoal(), canary=wanted, better=asked.better
        )
    except DaitnError as error:
        why = f"{asked.told}, and it could not be tried: {error.what}"
        return RetrainingAnswered(model=asked.model, key=asked.key, artifact=None, why=why)
    if status.phase is ModelPhase.REFUSED:
        why = f"{asked.told}, and hosts cannot serve it: {'; '.join(status.reasons)}"
        return RetrainingAnswered(model=asked.model, key=asked.key, artifact=None, why=why)
    why = f"{asked.told}; {asked.artifact[:16]} is tried as a new version"
    return RetrainingAnswered(model=asked.model, key=asked.key, artifact=asked.artifact, why=why)

"""Models that are served, as their provider's program sees them: deployed with a goal, watched, withdrawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.descriptors.serving import ModelPhase, ModelStatus, ServingGoal, parse_goal
from daitn.descriptors.stages import GraphProfile, SplitAsked
from daitn.descriptors.versions import CanaryWanted, Retraining
from daitn.node.http.bodies import DeployBody
from daitn.sdk.transport import Transport, quoted

LOOK_S: Final = 0.1
"""How often a model that is waited for is looked at."""


class Deployments:
    """One provider's models in one domain; `Network.models` gives it."""

    def __init__(self, transport: Transport, upload: Callable[[Path], ArtifactId]) -> None:
        self._transport, self._upload = transport, upload

    def deploy(
        self,
        package: str | Path,
        name: str,
        goal: str | ServingGoal = "",
        *,
        split: int | bool | None = None,
        canary: CanaryWanted | None = None,
        retrain: Retraining | None = None,
        licence: str = "",
    ) -> ModelStatus:
        """Give a package (its folder, or the id of one the domain holds) to the network under a name.

        `split`: in stages, each at a host of its own: a number of them, or True for as few as fit. None: in stages only
        where no host has the memory for the whole, which needs the package's folder; False: never. `canary`: beside the
        version that is served under that name, with a share of its queries, until it takes over or is taken back.
        `retrain`: trained on by itself where judged answers show that it has got worse, by the job that made it.
        `licence`: under which it is given, as SPDX names it; hosts may ask for certain ones. The status says `refused`
        with every reason, or how far its placement is, and in how many stages. InputError for what cannot be right.
        """
        if isinstance(goal, str):
            goal = parse_goal(goal)
        held = isinstance(package, str) and len(package) == 64 and not Path(package).exists()
        wanted = split is not None and split is not False
        if held and wanted:
            raise InputError("where to cut is found from the package itself", todo="give its folder, not its id")
        artifact = ArtifactId(str(package)) if held else self._upload(Path(package))
        body = DeployBody(model=name, package=artifact, goal=goal, licence=licence, canary=canary, retrain=retrain)
        if wanted:
            asked = SplitAsked(profile=_profile(Path(package)), stages=0 if split is True else int(split or 0))
            return self._deploy(msgspec.structs.replace(body, split=asked))
        status = self._deploy(body)
        if split is False or held or canary is not None or not _lacks_memory(status):
            return status
        try:
            profile = _profile(Path(package))
        except InputError as error:
            reasons = (*status.reasons, f"stages: {error.what}")
            return msgspec.structs.replace(status, reasons=reasons)
        staged = self._deploy(msgspec.structs.replace(body, split=SplitAsked(profile=profile)))
        if staged.phase is ModelPhase.REFUSED:
            return msgspec.structs.replace(staged, reasons=(*status.reasons, *staged.reasons))
        return staged

    def _deploy(self, body: DeployBody) -> ModelStatus:
        return self._transport.call("POST", "/v1/models", ModelStatus, body)

    def status(self, name: str) -> ModelStatus:
        """One model now."""
        return self._transport.call("GET", f"/v1/models/{quoted(name)}", ModelStatus)

    def list(self) -> tuple[ModelStatus, ...]:
        """All of yours, by name."""
        return self._transport.call("GET", "/v1/models", tuple[ModelStatus, ...])

    def undeploy(self, name: str) -> ModelStatus:
        """Serve it no longer."""
        return self._transport.call("DELETE", f"/v1/models/{quoted(name)}", ModelStatus)

    def wait(self, name: str, timeout_s: float = 120.0) -> ModelStatus:
        """Until as many replicas answer as its goal wants at least. UnavailableError after `timeout_s`, InputError
        where no host is left that could serve it."""
        give_up = time.monotonic() + timeout_s
        while (status := self.status(name)).phase is not ModelPhase.SERVING:
            if status.reasons and not status.replicas:
                raise InputError(f"no host serves model {name}: {'; '.join(status.reasons[-3:])}")
            if time.monotonic() > give_up:
                told = ", ".join(f"{one.name} {one.phase} {one.why}".strip() for one in status.replicas)
                raise UnavailableError(f"model {name} is not served after {timeout_s:g} s: {told or 'no replica'}")
            time.sleep(LOOK_S)
        return status


def _lacks_memory(status: ModelStatus) -> bool:
    """Whether a model was refused for nothing but that no host has the memory for the whole."""
    codes = {reason.partition(":")[0] for reason in status.reasons}
    return status.phase is ModelPhase.REFUSED and "memory" in codes and codes <= {"memory", "replicas"}


def _profile(folder: Path) -> GraphProfile:
    """Where a package's model may be cut; imports torch."""
    from daitn.artifacts.graph import decode_graph_pair
    from daitn.artifacts.package import read_package
    from daitn.learning.graphs.stages import profile_stages

    package = read_package(folder)
    if "graph" not in package.parts:
        raise InputError("the package has no graph, so it cannot be cut", todo="export the module as a graph")
    return profile_stages(decode_graph_pair(bytes(package.parts["graph"])))

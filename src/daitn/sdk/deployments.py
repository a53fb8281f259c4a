"""Models that are served, as their provider's program sees them: deployed with a goal, watched, withdrawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import ArtifactId
from daitn.descriptors.serving import ModelPhase, ModelStatus, ServingGoal, parse_goal
from daitn.node.http.bodies import DeployBody
from daitn.sdk.transport import Transport, quoted

LOOK_S: Final = 0.1
"""How often a model that is waited for is looked at."""


class Deployments:
    """One provider's models in one domain; `Network.models` gives it."""

    def __init__(self, transport: Transport, upload: Callable[[Path], ArtifactId]) -> None:
        self._transport, self._upload = transport, upload

    def deploy(self, package: str | Path, name: str, goal: str | ServingGoal = "") -> ModelStatus:
        """Give a package (its folder, or the id of one the domain holds) to the network under a name.

        The status says `refused` with every reason, or how far its placement is. InputError for what cannot be right.
        """
        if isinstance(goal, str):
            goal = parse_goal(goal)
        held = isinstance(package, str) and len(package) == 64 and not Path(package).exists()
        artifact = ArtifactId(str(package)) if held else self._upload(Path(package))
        body = DeployBody(model=name, package=artifact, goal=goal)
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

"""The routes of model providers: a package that is here is deployed under a name, shown, withdrawn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request, Response

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, OwnerId
from daitn.descriptors.serving import ModelPhase, ModelStatus, ServingGoal
from daitn.descriptors.stages import SplitAsked
from daitn.descriptors.versions import CanaryWanted, Retraining
from daitn.node.http.bodies import DeployBody
from daitn.node.http.manual import Manual
from daitn.node.http.problems import unknown
from daitn.node.http.tokens import TokenHolder


class Deployments(Protocol):
    """What stands behind these routes; see `node.deployment_service.DeploymentService`."""

    def deploy(
        self,
        owner: OwnerId,
        model: str,
        artifact: ArtifactId,
        goal: ServingGoal,
        split: SplitAsked | None,
        canary: CanaryWanted | None,
        retrain: Retraining | None,
        *,
        licence: str,
    ) -> ModelStatus:
        """Take a package on, or refuse it with every reason."""
        ...

    def undeploy(self, owner: OwnerId, model: str) -> ModelStatus:
        """Serve it no longer."""
        ...

    def status(self, owner: OwnerId, model: str) -> ModelStatus:
        """One model now; InputError if it is not this owner's."""
        ...

    def models(self, owner: OwnerId) -> tuple[ModelStatus, ...]:
        """The owner's models."""
        ...


class Reader(Protocol):
    """Reads the body of a request as a type; InputError with the place of the first fault."""

    def __call__(self, request: Request, kind: type[Any], /) -> Awaitable[Any]:
        """See the class."""
        ...


def add_model_routes(
    app: FastAPI, manual: Manual, service: Deployments, provider: Callable[[Request], TokenHolder], read: Reader
) -> None:
    """Put the routes under `app`; `provider` says who calls, or refuses."""
    manual.note("post", "/v1/models", takes=DeployBody, gives=ModelStatus)
    manual.note("get", "/v1/models", gives=tuple[ModelStatus, ...])
    manual.note("get", "/v1/models/{model}", gives=ModelStatus)
    manual.note("delete", "/v1/models/{model}", gives=ModelStatus)

    @app.post("/v1/models", summary="Deploy a package under a name; refused ones come back with every reason")
    async def deploy(request: Request) -> Response:
        caller = provider(request)
        asked: DeployBody = await read(request, DeployBody)
        status = service.deploy(
            caller.owner,
            asked.model,
            ArtifactId(asked.package),
            asked.goal,
            asked.split,
            asked.canary,
            asked.retrain,
            licence=asked.licence,
        )
        return _json(status, 200 if status.phase is ModelPhase.REFUSED else 201)

    @app.get("/v1/models", summary="Your models, by name")
    async def models(request: Request) -> Response:
        return _json(service.models(provider(request).owner))

    @app.get("/v1/models/{model}", summary="One model now")
    async def model_now(request: Request, model: str) -> Response:
        return _json(_known(service, provider(request).owner, model))

    @app.delete("/v1/models/{model}", summary="Serve it no longer")
    async def undeploy(request: Request, model: str) -> Response:
        owner = provider(request).owner
        _known(service, owner, model)
        return _json(service.undeploy(owner, model))


def _known(service: Deployments, owner: OwnerId, model: str) -> ModelStatus:
    try:
        return service.status(owner, model)
    except InputError as error:
        raise unknown(error.what, error.todo) from None


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")

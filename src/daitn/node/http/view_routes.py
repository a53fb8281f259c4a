"""The route by which an owner follows the view that a running job's stops are chosen on (DRRT-A).

A follower calls again and again with the number of the last step it has; each call waits until there is another, so a
connection that breaks loses nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI, Request, Response

from daitn.base.ids import JobId, OwnerId
from daitn.descriptors.view import ViewFollowed
from daitn.node.http.manual import Manual

Follow = Callable[[OwnerId, JobId, int, float], Awaitable[ViewFollowed]]


def add_view_routes(
    app: FastAPI, manual: Manual, follow: Follow, known: Callable[[Request, str], tuple[OwnerId, JobId]]
) -> None:
    """Put the route under `app`; `known` says whose job is asked for, or refuses."""
    manual.note("get", "/v1/jobs/{job}/view", gives=ViewFollowed)

    @app.get("/v1/jobs/{job}/view", summary="The view its stops are chosen on; what was told after step `since`")
    async def view(request: Request, job: str, since: int = 0, wait_s: float = 0.0) -> Response:
        owner, found = known(request, job)
        told = await follow(owner, found, since, wait_s)
        return Response(msgspec.json.encode(told), media_type="application/json")

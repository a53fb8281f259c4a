"""The owner's interface over HTTP: packages up, jobs in, progress and models out; and what operators of a domain ask.

Routes are thin: they say who calls, read the body into a descriptor, call the `OwnerService`, write what comes back.
Bodies are msgspec both ways. Calls that touch the store's disk are made on worker threads, all others on the event
loop, where the core runs. What is wrong with a request is told as `{"error": {kind, what, todo, ids}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from daitn import __version__
from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError, DaitnError, InputError, PolicyError
from daitn.base.ids import ArtifactId, JobId, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.base.names import check_name
from daitn.control_center.node_records import ShownRecord
from daitn.descriptors import request as requests
from daitn.descriptors.card import ModelCard
from daitn.descriptors.job import FINAL_PHASES, JobStatus, LogEntry, Phase
from daitn.descriptors.links import LinkShown
from daitn.node.http import bodies
from daitn.node.http.events import Watches, status_events
from daitn.node.http.gate import HOLDER, Gate
from daitn.node.http.manual import BYTES, Manual
from daitn.node.http.map_routes import add_map_routes
from daitn.node.http.model_routes import add_model_routes
from daitn.node.http.problems import HttpError, answer_of, conflict, status_word, too_large, too_many, unknown
from daitn.node.http.rates import ANONYMOUS_BURST, ANONYMOUS_PER_S, REQUESTS_BURST, REQUESTS_PER_S, RateBook
from daitn.node.http.token_routes import add_token_routes
from daitn.node.http.tokens import Scope, TokenBook, TokenHolder
from daitn.node.http.view_routes import add_view_routes
from daitn.node.owner_service import OwnerService

JSON_BYTES: Final = limits.MESSAGE_BYTES
"""Largest JSON body: what a control message may have."""

T = TypeVar("T")


class OwnerApp(FastAPI):
    """The interface as an ASGI application; `closing` ends its streams, so that a server can stop."""

    closing: asyncio.Event
    callers: RateBook
    strangers: RateBook
    counters: Counters


def create_app(service: OwnerService, tokens: TokenBook) -> OwnerApp:
    """All routes in front of `service`, for those whom `tokens` knows. Errors of the service keep their meaning:
    an InputError of `status` is a job that is unknown to this owner (404), any other is a bad request (400)."""
    app = OwnerApp(
        title="daitn", version=__version__, docs_url=None, redoc_url=None, separate_input_output_schemas=False
    )
    app.closing = asyncio.Event()
    app.counters = Counters()
    app.callers = RateBook(REQUESTS_PER_S, REQUESTS_BURST)
    app.strangers = RateBook(ANONYMOUS_PER_S, ANONYMOUS_BURST)
    manual = Manual()
    _add_domain_routes(app, manual, service, tokens)
    _add_package_routes(app, manual, service)
    _add_job_routes(app, manual, service)
    _add_following_routes(app, manual, service)
    _add_operator_routes(app, manual, service)
    add_token_routes(app, manual, tokens, lambda request: _caller(request, Scope.OPERATE), _read)
    add_map_routes(app, manual, service.map, lambda request: _caller(request, Scope.OPERATE), _read)
    add_model_routes(app, manual, service.models, lambda request: _caller(request, Scope.TRAIN), _read)
    add_view_routes(app, manual, service.followed, lambda request, job: _owned(service, request, job))
    _add_error_handlers(app)
    plain: Callable[[], dict[str, Any]] = app.openapi
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(manual.complete(plain()))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_middleware(Gate, tokens=tokens, callers=app.callers, strangers=app.strangers, counters=app.counters)
    return app


def _add_domain_routes(app: OwnerApp, manual: Manual, service: OwnerService, tokens: TokenBook) -> None:
    manual.note("get", "/v1/authority", gives=BYTES)
    manual.note("get", "/v1/nodes", gives=tuple[bodies.NodeOnMap, ...])

    @app.get("/v1/authority", summary="The domain's certificate, to be checked by its fingerprint")
    async def authority() -> Response:
        return Response(tokens.authority_pem, media_type="application/x-pem-file")

    @app.get("/v1/nodes", summary="The map: all nodes of the domain")
    async def nodes(request: Request) -> Response:
        operates = Scope.OPERATE in _caller(request).scopes
        listed = service.nodes()
        return _json(listed if operates else [msgspec.structs.replace(one, trust_changes=()) for one in listed])


def _add_package_routes(app: OwnerApp, manual: Manual, service: OwnerService) -> None:
    manual.note("post", "/v1/packages/chunks/missing", takes=bodies.ChunksAsked, gives=bodies.MissingChunks)
    manual.note("put", "/v1/packages/chunks/{chunk}", takes=BYTES)
    manual.note("post", "/v1/packages", takes=BYTES, gives=bodies.PackageStored)

    @app.post("/v1/packages/chunks/missing", summary="Which of these chunks have to be uploaded")
    async def missing_chunks(request: Request) -> Response:
        _caller(request, Scope.TRAIN)
        asked = (await _read(request, bodies.ChunksAsked)).chunks
        missing = await asyncio.to_thread(service.missing_chunks, asked)
        return _json(bodies.MissingChunks(missing=tuple(missing)))

    @app.put("/v1/packages/chunks/{chunk}", summary="Upload one chunk", status_code=204)
    async def put_chunk(request: Request, chunk: str) -> Response:
        _caller(request, Scope.TRAIN)
        data = await _body(request, limits.CHUNK_BYTES, "a chunk")
        await asyncio.to_thread(service.put_chunk, chunk, data)
        return Response(status_code=204)

    @app.post("/v1/packages", summary="Upload a manifest; its chunks are there", status_code=201)
    async def put_manifest(request: Request) -> Response:
        _caller(request, Scope.TRAIN)
        data = await _body(request, limits.MANIFEST_BYTES, "a manifest")
        artifact = await asyncio.to_thread(service.put_manifest, data)
        return _json(bodies.PackageStored(artifact=artifact), 201)


def _add_job_routes(app: OwnerApp, manual: Manual, service: OwnerService) -> None:
    manual.note("post", "/v1/jobs", takes=requests.Request, gives=JobStatus)
    manual.note("get", "/v1/jobs", gives=tuple[JobStatus, ...])
    for method, path in (("get", ""), ("patch", ""), ("post", "/pause"), ("post", "/resume"), ("post", "/cancel")):
        takes = requests.Request if method == "patch" else None
        manual.note(method, f"/v1/jobs/{{job}}{path}", takes=takes, gives=JobStatus)

    @app.post("/v1/jobs", summary="Submit; the same Idempotency-Key twice is one job", status_code=201)
    async def submit(request: Request) -> Response:
        caller = _caller(request, Scope.TRAIN)
        key = request.headers.get("idempotency-key", "")
        if not 0 < len(key) <= bodies.KEY_CHARS or not key.isprintable():
            raise InputError(
                f"the header Idempotency-Key has {len(key)} characters",
                todo=f"send 1 to {bodies.KEY_CHARS} printable ones, the same each time you repeat this submission",
            )
        wanted = await _read(request, requests.Request)
        check_name("job", wanted.name)  # ids are made of it, and stand in paths
        job = await service.submit(caller.owner, wanted, key)
        return _json(service.status(caller.owner, job), 201, {"Location": f"/v1/jobs/{job}"})

    @app.get("/v1/jobs", summary="Your jobs, newest first")
    async def jobs(request: Request, limit: int = 100) -> Response:
        caller = _caller(request, Scope.TRAIN)
        return _json(service.jobs(caller.owner)[: max(0, min(limit, bodies.PAGE))])

    @app.get("/v1/jobs/{job}", summary="One job now")
    async def job_now(request: Request, job: str) -> Response:
        return _json(_known(service, _caller(request, Scope.TRAIN), job))

    @app.patch("/v1/jobs/{job}", summary="Change a request (JSON merge patch, RFC 7396)")
    async def change(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        patch = await _read(request, dict[str, Any])
        status = _known(service, caller, job)
        _refuse_ended(status, "changed")
        changed = _patched(status.request, patch)
        return _json(await service.change(caller.owner, status.job, changed))

    @app.post("/v1/jobs/{job}/pause", summary="No further visits for now")
    async def pause(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        if status.phase is Phase.PAUSED:
            return _json(status)
        if status.phase not in (Phase.RUNNING, Phase.QUEUED):
            raise conflict(f"a job that is {status.phase.value} cannot be paused", job=job)
        return _json(await service.pause(caller.owner, status.job))

    @app.post("/v1/jobs/{job}/resume", summary="Go on")
    async def resume(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        if status.phase in (Phase.RUNNING, Phase.QUEUED):
            return _json(status)
        if status.phase is not Phase.PAUSED:
            raise conflict(f"a job that is {status.phase.value} cannot be resumed", job=job)
        return _json(await service.resume(caller.owner, status.job))

    @app.post("/v1/jobs/{job}/cancel", summary="End the job")
    async def cancel(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        if status.phase is Phase.CANCELLED:
            return _json(status)
        _refuse_ended(status, "cancelled")
        return _json(await service.cancel(caller.owner, status.job))


def _add_following_routes(app: OwnerApp, manual: Manual, service: OwnerService) -> None:
    manual.note("get", "/v1/jobs/{job}/log", gives=tuple[LogEntry, ...])
    manual.note("get", "/v1/jobs/{job}/card", gives=ModelCard)
    manual.note("get", "/v1/jobs/{job}/artifacts/{artifact}", gives=BYTES)
    manual.note("get", "/v1/jobs/{job}/chunks/{chunk}", gives=BYTES)
    watches = Watches()

    @app.get("/v1/jobs/{job}/log", summary="The log from an entry on, at most a thousand at once")
    async def log(request: Request, job: str, start: int = 0) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        return _json(service.log(caller.owner, status.job, max(0, start))[: bodies.PAGE])

    @app.get("/v1/jobs/{job}/card", summary="The model card of a job that has ended with a model")
    async def card(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        if status.phase not in (Phase.DELIVERED, Phase.EXHAUSTED):
            raise conflict(f"a job that is {status.phase.value} has no model that a card could tell of", job=job)
        return _json(service.card(caller.owner, status.job))

    @app.get(
        "/v1/jobs/{job}/events",
        summary="The job's status now and after each change, as server-sent events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events(request: Request, job: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        if not watches.begin(caller.id):
            raise too_many("this token watches as many jobs as it may", 1.0)

        async def stream() -> Any:
            try:
                async for piece in status_events(service.watch(caller.owner, status.job), app.closing):
                    yield piece
            finally:
                watches.end(caller.id)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    @app.get("/v1/jobs/{job}/artifacts/{artifact}", summary="The manifest of a package of this job")
    async def artifact_manifest(request: Request, job: str, artifact: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        try:
            data, _ = await asyncio.to_thread(service.read_artifact, caller.owner, status.job, ArtifactId(artifact))
        except InputError as error:
            raise unknown(error.what, error.todo, job=job, artifact=artifact) from None
        return Response(data, media_type="application/octet-stream")

    @app.get("/v1/jobs/{job}/chunks/{chunk}", summary="One chunk of a package of this job")
    async def artifact_chunk(request: Request, job: str, chunk: str) -> Response:
        caller = _caller(request, Scope.TRAIN)
        status = _known(service, caller, job)
        try:
            data = await asyncio.to_thread(service.read_chunk, caller.owner, status.job, chunk)
        except InputError as error:
            raise unknown(error.what, error.todo, job=job, chunk=chunk) from None
        return Response(data, media_type="application/octet-stream")


def _add_operator_routes(app: OwnerApp, manual: Manual, service: OwnerService) -> None:
    manual.note("post", "/v1/tokens/join", takes=bodies.JoinTokenAsked, gives=bodies.TokenMade)
    manual.note("post", "/v1/nodes/{node}/expel", takes=bodies.ExpelAsked)
    manual.note("get", "/v1/counters", gives=tuple[bodies.ProcessCounters, ...])

    @app.get("/v1/counters", summary="What was refused, lost and dropped: the centre's counters and all nodes'")
    async def counters(request: Request) -> Response:
        _caller(request, Scope.OPERATE)
        return _json(service.counters_of_all())

    manual.note("get", "/v1/links", gives=tuple[LinkShown, ...])
    manual.note("get", "/v1/tools", gives=bodies.ToolsShown)

    @app.get("/v1/links", summary="Every link between the domain's nodes, its class, and what it carried")
    async def links(request: Request) -> Response:
        _caller(request, Scope.OPERATE)
        return _json(service.links())

    @app.get("/v1/tools", summary="What the services of the tools layer know of each node")
    async def tools(request: Request) -> Response:
        _caller(request, Scope.OPERATE)
        return _json(service.tools())

    manual.note("get", "/v1/records", gives=tuple[ShownRecord, ...])

    @app.get("/v1/records", summary="What nodes reported: ends of visits, alarms; beyond a number, a thousand at once")
    async def records(request: Request, after: int = 0) -> Response:
        _caller(request, Scope.OPERATE)
        return _json(service.records(max(0, after))[: bodies.PAGE])

    @app.post("/v1/tokens/join", summary="A one-time token for `daitn join`", status_code=201)
    async def join_token(request: Request) -> Response:
        _caller(request, Scope.OPERATE)
        asked = await _read(request, bodies.JoinTokenAsked)
        roles = [role.value for role in asked.roles]
        token = await service.make_join_token(asked.operator, roles, asked.valid_s)
        return _json(bodies.TokenMade(token=token), 201)

    @app.post("/v1/nodes/{node}/expel", summary="Burn a node's slot and take it off the map", status_code=204)
    async def expel(request: Request, node: str) -> Response:
        _caller(request, Scope.OPERATE)
        asked = await _read(request, bodies.ExpelAsked)
        if all(one.descriptor.node != node for one in service.nodes()):
            raise unknown(f"there is no node {node!r}", "`daitn map` shows them", node=node)
        await service.expel(NodeId(node), asked.reason)
        return Response(status_code=204)


def _add_error_handlers(app: OwnerApp) -> None:
    async def handle(_request: Request, error: Exception) -> Response:
        match error:
            case DaitnError():
                known = error
            case HTTPException(status_code=404):
                known = unknown("there is no such path", "see /openapi.json")
            case HTTPException():
                known = HttpError(error.status_code, "input", str(error.detail), todo="see /openapi.json")
            case RequestValidationError():
                said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:20])
                known = InputError(f"the request's parameters are wrong: {said}")
            case _:
                known = BugError(f"the server failed with {type(error).__name__}", todo="report it with its log")
        status, body, headers = answer_of(known)
        app.counters.count("requests_refused", status_word(status))
        return Response(body, status, headers, media_type="application/json")

    for kind in (DaitnError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, handle)


def _caller(request: Request, scope: Scope | None = None) -> TokenHolder:
    """Who calls; PolicyError unless the token is for `scope`."""
    holder: TokenHolder | None = request.scope.get(HOLDER)
    if holder is None:
        raise BugError("a route was reached without passing the gate")
    if scope is not None and scope not in holder.scopes:
        raise PolicyError(
            f"this token is not for {scope.value!r}, only for {', '.join(sorted(holder.scopes))}",
            todo=f"ask an operator for one with the scope {scope.value!r}",
        )
    return holder


def _known(service: OwnerService, caller: TokenHolder, job: str) -> JobStatus:
    """The caller's job; 404 where there is none, whoever it may belong to."""
    try:
        return service.status(caller.owner, JobId(job))
    except InputError as error:
        raise unknown(error.what, error.todo or "`daitn train list` shows yours", job=job) from None


def _owned(service: OwnerService, request: Request, job: str) -> tuple[OwnerId, JobId]:
    caller = _caller(request, Scope.TRAIN)
    return caller.owner, _known(service, caller, job).job


def _refuse_ended(status: JobStatus, what: str) -> None:
    if status.phase in FINAL_PHASES:
        raise conflict(f"a job that is {status.phase.value} cannot be {what}", "submit a new one", job=status.job)


def _patched(request: requests.Request, patch: dict[str, Any]) -> requests.Request:
    merged = _merge(msgspec.to_builtins(request), patch)
    try:
        changed = msgspec.convert(merged, requests.Request)
    except msgspec.ValidationError as error:
        raise InputError(f"the changed request is not one: {error}") from None
    if changed.package != request.package:
        raise conflict("a job's package cannot be changed", "submit a new job")
    return changed


def _merge(old: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null removes, anything else replaces. Depth is bounded by the JSON decoder."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def _read(request: Request, kind: type[T]) -> T:
    """The JSON body as a `kind`; InputError with the place of the first fault."""
    data = await _body(request, JSON_BYTES, "the body")
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        raise InputError(f"the body is not what is expected here: {error}", todo="see /openapi.json") from None


async def _body(request: Request, limit: int, what: str) -> bytes:
    """The body, of which no more than `limit` bytes are ever held."""
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > limit:
        raise too_large(what, limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large(what, limit)
        pieces.append(piece)
    return b"".join(pieces)

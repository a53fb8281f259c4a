"""What the owner's HTTP interface asks of a control centre node: the narrow door between HTTP and the core."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from daitn.base.ids import ArtifactId, JobId, NodeId, OwnerId
from daitn.control_center.node_records import ShownRecord
from daitn.descriptors.card import ModelCard
from daitn.descriptors.job import JobStatus, LogEntry
from daitn.descriptors.links import LinkShown
from daitn.descriptors.request import Request
from daitn.descriptors.view import ViewFollowed
from daitn.node.http.bodies import NodeOnMap, ProcessCounters, ToolsShown
from daitn.node.http.model_routes import Deployments
from daitn.node.map_service import MapService


class OwnerService(Protocol):
    """All calls are for one authenticated owner; a job of somebody else is as unknown as one that does not exist.

    Errors are `DaitnError`s: InputError for what the owner can mend, PolicyError for what is not allowed,
    UnavailableError for what may work later.
    """

    map: MapService
    """For operators: questions on the map."""
    models: Deployments
    """Models that are served."""

    def counters_of_all(self) -> tuple[ProcessCounters, ...]:
        """For operators: what the centre and every node counted."""
        ...

    def missing_chunks(self, chunks: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """Of these (chunk id, size), those the centre's store does not hold."""
        ...

    def put_chunk(self, chunk: str, data: bytes) -> None:
        """Keep one chunk of a package that is being uploaded; InputError if its digest is not `chunk`."""
        ...

    def put_manifest(self, data: bytes) -> ArtifactId:
        """Check a package whose chunks are all here, and pin it; InputError with every fault."""
        ...

    def read_artifact(
        self, owner: OwnerId, job: JobId, artifact: ArtifactId
    ) -> tuple[bytes, Iterable[tuple[str, int]]]:
        """Manifest bytes and (chunk id, size) of a package this job may give out (submitted or delivered)."""
        ...

    def read_chunk(self, owner: OwnerId, job: JobId, chunk: str) -> bytes:
        """One chunk of such a package."""
        ...

    async def submit(self, owner: OwnerId, request: Request, key: str) -> JobId:
        """Take a request on (the same `key` twice is one job); returns once it is durable, before it is assessed."""
        ...

    async def pause(self, owner: OwnerId, job: JobId) -> JobStatus:
        """No further visits for now."""
        ...

    async def resume(self, owner: OwnerId, job: JobId) -> JobStatus:
        """Go on."""
        ...

    async def cancel(self, owner: OwnerId, job: JobId) -> JobStatus:
        """End the job."""
        ...

    async def change(self, owner: OwnerId, job: JobId, request: Request) -> JobStatus:
        """Other targets, budgets, hyper-parameters or data from now on."""
        ...

    def status(self, owner: OwnerId, job: JobId) -> JobStatus:
        """The job now."""
        ...

    def jobs(self, owner: OwnerId) -> tuple[JobStatus, ...]:
        """The owner's jobs, newest first."""
        ...

    def log(self, owner: OwnerId, job: JobId, start: int) -> tuple[LogEntry, ...]:
        """Log entries from number `start` on."""
        ...

    def card(self, owner: OwnerId, job: JobId) -> ModelCard:
        """The model card of a job that has ended with a model; InputError for any other."""
        ...

    def watch(self, owner: OwnerId, job: JobId) -> AsyncIterator[JobStatus]:
        """The status now and after each change (latest wins, at most 20 a second), until the job has ended."""
        ...

    async def followed(self, owner: OwnerId, job: JobId, since: int, wait_s: float) -> ViewFollowed:
        """The view that the job's stops are chosen on, as its planner was told of it after a step, once there is one or
        the wait is over."""
        ...

    def nodes(self) -> tuple[NodeOnMap, ...]:
        """The map for people: each node, whether it is reachable, and the age in seconds of what it said."""
        ...

    def links(self) -> tuple[LinkShown, ...]:
        """For operators of the domain: every link between its nodes, as they said last."""
        ...

    def tools(self) -> ToolsShown:
        """For operators of the domain: what the services of the tools layer know of each node."""
        ...

    def records(self, after: int) -> tuple[ShownRecord, ...]:
        """For operators of the domain: what nodes reported on the record plane beyond a number, oldest first."""
        ...

    async def make_join_token(self, operator: str, roles: Sequence[str], valid_s: float) -> str:
        """For operators of the domain: a one-time token for `daitn join`."""
        ...

    async def expel(self, node: NodeId, reason: str) -> None:
        """For operators of the domain: burn a node's slot and take it off the map."""
        ...

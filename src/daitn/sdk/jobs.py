"""A job as its owner's program sees it: follow it, steer it, and take what comes of it.

What only a result or a proof needs (packages, numpy) is imported when one is asked for: a command that lists jobs
should not wait for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import JobId
from daitn.descriptors.card import ModelCard
from daitn.descriptors.job import FINAL_PHASES, JobStatus, LogEntry, Phase
from daitn.descriptors.outcome import Advice, CounterOffer, Verdict
from daitn.descriptors.request import VARIANTS_MOST, Budget, Hyperparameters, Selection
from daitn.descriptors.view import TrainingView, ViewFollowed
from daitn.node.http.bodies import PAGE, Problem
from daitn.oam import wording
from daitn.sdk.requests import Duration, Targets, parse_duration, parse_targets
from daitn.sdk.transport import Transport, quoted
from daitn.topology.view_deltas import apply_delta

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from daitn.artifacts.manifest import Manifest
    from daitn.sdk.network import Network
    from daitn.sdk.proofs import ProofCheck
    from daitn.sdk.results import Result

LOST_S: Final = 300.0
"""How long a watcher tries to come back to a domain that does not answer: a control centre restarts in seconds."""

RESULT_S: Final = 60.0
"""How long a result that is being fetched waits for a domain that does not answer: it had answered a moment before, and
on a busy machine a control centre needs twenty seconds to be back."""

BACK_S: Final = 2.0
"""Longest pause between two tries."""


WAIT_S: Final = 10.0
"""How long one call waits for what a planner is told next."""


class JobRefusedError(PolicyError):
    """The job was refused: every failed condition is in the message and, as values, in `verdict`."""

    def __init__(self, job: JobId, verdict: Verdict | None) -> None:
        self.verdict = verdict
        failed = [wording.condition(one) for one in verdict.failed()] if verdict is not None else []
        offered = verdict is not None and verdict.counter_offer is not None
        super().__init__(
            f"the job was refused: {'; '.join(failed) or 'no reason is known'}",
            todo="job.take_counter_offer() submits what would be admitted" if offered else "",
            ids={"job": job},
        )


class JobEndedError(InputError):
    """The job was cancelled or failed, so there is no model to take."""


class Job:
    """One job, by its id; made by `Network.train` and `Network.job`. Holds no state of its own."""

    def __init__(self, network: Network, transport: Transport, job: JobId) -> None:
        self._network = network
        self._transport = transport
        self.id = job

    def __repr__(self) -> str:
        return f"Job({self.id})"

    # --- following --------------------------------------------------------------------------------------------------

    def status(self) -> JobStatus:
        """The job now."""
        return self._transport.call("GET", self._path(), JobStatus)

    def watch(self) -> Iterator[JobStatus]:
        """The status now and after each change, until the job has ended; what is seen never goes back.

        Comes back by itself after a lost connection or a restarted centre; UnavailableError after `LOST_S` without one.
        """
        last: JobStatus | None = None
        lost_since: float | None = None
        pause_s = 0.1
        while True:
            try:
                for status in self._stream():
                    lost_since, pause_s = None, 0.1
                    if last is None or (status != last and status.log_length >= last.log_length):
                        last = status
                        yield status
                    if status.phase in FINAL_PHASES:
                        return
            except UnavailableError:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_S:
                    raise
            time.sleep(pause_s)
            pause_s = min(BACK_S, pause_s * 2)

    def assessed(self) -> JobStatus:
        """The status once the job is admitted, refused or over: waits for the network's verdict."""
        for status in self.watch():
            if status.phase is not Phase.ASSESSING:
                return status
        return self.status()

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """The status once the job has ended; UnavailableError if it has not within `timeout_s`."""
        if timeout_s is None:
            return deque(self.watch(), maxlen=1).pop()
        give_up, pause_s = time.monotonic() + timeout_s, 0.05
        while (status := self.status()).phase not in FINAL_PHASES:
            if time.monotonic() + pause_s > give_up:
                raise UnavailableError(f"job {self.id} has not ended within {timeout_s:g} s", ids={"job": self.id})
            time.sleep(pause_s)
            pause_s = min(1.0, pause_s * 2)
        return status

    def log(self, start: int = 0) -> tuple[LogEntry, ...]:
        """Log entries from number `start` on."""
        entries: list[LogEntry] = []
        while True:
            page = self._transport.call("GET", self._path(f"/log?start={start + len(entries)}"), tuple[LogEntry, ...])
            entries += page
            if len(page) < PAGE:
                return tuple(entries)

    def view(self) -> TrainingView | None:
        """The view on which the job's next stop is chosen, as its planner has it; None before the first choice."""
        return self._followed(0, 0.0).view

    def follow_view(self) -> Iterator[tuple[str, TrainingView]]:
        """The view, then each time that what is planned on has moved or another choice was made, with the reason; ends
        with the job. The first comes when the first choice has been made."""
        number, view = 0, None
        while True:
            told = self._followed(number, WAIT_S)
            if told.view is not None:
                view = told.view
                yield "", view
            for step in told.steps:
                if view is not None:
                    view = apply_delta(view, step.delta)
                    yield step.why, view
            number = told.number
            if told.over:
                return

    def _followed(self, since: int, wait_s: float) -> ViewFollowed:
        return self._transport.call("GET", self._path(f"/view?since={since}&wait_s={wait_s:g}"), ViewFollowed)

    def check_proofs(self) -> tuple[ProofCheck, ...]:
        """Whether each accepted visit was signed by the site that is said to have made it, by the keys on the map."""
        from daitn.sdk.proofs import check_proofs

        keys = {node.descriptor.node: node.descriptor.public_key for node in self._network.nodes()}
        return check_proofs(self.log(), keys)

    # --- steering ---------------------------------------------------------------------------------------------------

    def pause(self) -> JobStatus:
        """No further visits for now; those under way finish."""
        return self._transport.call("POST", self._path("/pause"), JobStatus)

    def resume(self) -> JobStatus:
        """Go on."""
        return self._transport.call("POST", self._path("/resume"), JobStatus)

    def cancel(self) -> JobStatus:
        """End the job."""
        return self._transport.call("POST", self._path("/cancel"), JobStatus)

    def change(
        self,
        *,
        targets: Targets | None = None,
        deadline: Duration | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        hyperparameters: Hyperparameters | Mapping[str, Any] | None = None,
        data: Selection | Mapping[str, Any] | None = None,
        **others: Any,
    ) -> JobStatus:
        """Change the request of a running job; what is not given stays. `others`: fields of `Request`.

        A mapping changes only what it names, a `Budget`, `Hyperparameters` or `Selection` replaces the whole.
        """
        patch: dict[str, Any] = dict(others)
        if targets is not None:
            patch["targets"] = parse_targets(targets)
        if deadline is not None:
            patch["deadline_s"] = parse_duration(deadline)
        for name, value in (("budget", budget), ("hyperparameters", hyperparameters), ("data", data)):
            if value is not None:
                patch[name] = value
        if not patch:
            raise InputError("nothing to change is given", todo="give targets, deadline, budget, hyperparameters, …")
        return self._transport.call("PATCH", self._path(), JobStatus, patch)

    @property
    def counter_offer(self) -> CounterOffer | None:
        """The nearest request that would have been admitted, if the job was refused and there is one."""
        verdict = self.status().verdict
        return None if verdict is None else verdict.counter_offer

    def take_counter_offer(self) -> Job:
        """Submit the counter-offer as a new job; taking it twice is one job. InputError if there is none."""
        offer = self.counter_offer
        if offer is None:
            raise InputError(f"job {self.id} has no counter-offer", ids={"job": self.id})
        return self._network.submit(offer.request, f"offer of {self.id}")

    @property
    def advice(self) -> Advice | None:
        """Which other model would reach the goal, if the job was refused because its own will not."""
        verdict = self.status().verdict
        return None if verdict is None else verdict.advice

    def take_advice(self) -> Job:
        """Submit the request anew with the model that the advice names; twice is one job. InputError if it names
        none."""
        status = self.status()
        advice = status.verdict.advice if status.verdict is not None else None
        if advice is None or advice.named is None:
            raise InputError(f"job {self.id} has no advice that names a model", ids={"job": self.id})
        request = msgspec.structs.replace(status.request, package=advice.named.package, variants=())
        return self._network.submit(request, f"advice of {self.id}")

    def ask_catalogue(self, *, key: Ed25519PrivateKey | Path | None = None) -> Job:
        """Submit the request of a job that was refused for attainability anew, with the catalogue's models declared
        beside the owner's variants: its verdict names one that would do, or says that none does. Twice is one job.
        `key`: the one that the package is signed with, if it is not the owner's. InputError where the job was not so
        refused, where one is named already, or the catalogue has no model for the contract."""
        status = self.status()
        advice = status.verdict.advice if status.verdict is not None else None
        if advice is None or advice.named is not None:
            why = "was not refused for what its model reaches" if advice is None else "has advice that names a model"
            raise InputError(f"job {self.id} {why}: the catalogue is not asked", ids={"job": self.id})
        manifest = self._manifest(status.request.package)
        parts = {
            part.name: b"".join(self._chunk(one.id) for one in part.chunks)
            for part in manifest.parts
            if part.name in ("contract", "tokenizer")
        }
        declared = status.request.variants
        packed = self._network.upload_catalogue(parts, manifest.signer, key=key, declared=len(declared))
        others = tuple(one for one in packed if one not in declared and one != status.request.package)
        if not others:
            raise InputError(
                "the catalogue has no further model for the package's contract"
                if len(declared) < VARIANTS_MOST
                else f"{len(declared)} variants are declared already, no more can be",
                ids={"job": self.id},
            )
        request = msgspec.structs.replace(status.request, variants=(*declared, *others))
        return self._network.submit(request, f"catalogue for {self.id}")

    # --- the end ----------------------------------------------------------------------------------------------------

    def result(self, folder: str | Path | None = None, *, timeout_s: float | None = None) -> Result:
        """The model and what it reached, once the job has ended: waits for that, fetches the package into `folder`.

        JobRefusedError with all reasons, JobEndedError where it was cancelled or failed. A job that ended without its
        goal gives the best model there is; `Result.met` says so.
        """
        from daitn.sdk.results import Result

        status = self.wait(timeout_s)
        match status.phase:
            case Phase.REFUSED:
                raise JobRefusedError(self.id, status.verdict)
            case Phase.CANCELLED | Phase.FAILED:
                raise JobEndedError(
                    f"the job is {status.phase.value}: {status.reason}", todo="see job.log()", ids={"job": self.id}
                )
            case _:
                return Result.fetch(status, folder, self._manifest, self._chunk)

    def card(self) -> ModelCard:
        """What became of the job: goal and figures, what the model comes from, cost, and a request to run it again.
        InputError where it has not ended with a model."""
        return self._transport.call("GET", self._path("/card"), ModelCard)

    def rerun(self) -> Job:
        """Submit the job anew with method, hyper-parameters and data sets pinned as they were: a new job each time."""
        return self._network.submit(self.card().rerun)

    def _manifest(self, artifact: str) -> Manifest:
        from daitn.artifacts.codec import artifact_id, decode_manifest

        data = self._transport.call_bytes("GET", self._path(f"/artifacts/{quoted(artifact)}"))
        if artifact_id(data) != artifact:
            raise PeerError(f"what came is not the manifest of {artifact}", todo="fetch it again")
        return decode_manifest(data)

    def _chunk(self, chunk: str) -> bytes:
        give_up = time.monotonic() + RESULT_S
        while True:
            try:
                return self._transport.call_bytes("GET", self._path(f"/chunks/{quoted(chunk)}"))
            except UnavailableError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def _stream(self) -> Iterator[JobStatus]:
        for name, data in self._transport.events(self._path("/events")):
            if (status := read_event(name, data)) is not None:
                yield status

    def _path(self, rest: str = "") -> str:
        return f"/v1/jobs/{quoted(self.id)}{rest}"


def read_event(name: str, data: bytes) -> JobStatus | None:
    """The status in an event of a job's stream; None where it is another event. UnavailableError with what the server
    says went wrong, PeerError where it does not decode."""
    try:
        if name == "status":
            return msgspec.json.decode(data, type=JobStatus)
        if name != "error":
            return None
        said = msgspec.json.decode(data, type=Problem).error
    except UNDECODABLE as error:
        raise PeerError(
            f"a {name} event is not what this version expects: {error}", todo="use the client of the domain's version"
        ) from None
    raise UnavailableError(said.what, todo=said.todo, ids=said.ids)

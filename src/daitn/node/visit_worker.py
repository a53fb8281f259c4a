"""Performs the work effects of a terminal: fetch, warm, train, measure, average, share.

One asyncio task per visit and stage; what a stage makes is in the store before its event is posted. Children are kept
warm per job and data (`ChildPool`), never shared between jobs, so never between owners. Sharing and averaging need no
foreign code and run in threads of this process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import msgspec

from daitn.artifacts.manifest import Lineage, Manifest
from daitn.base.effects import Effect, Event
from daitn.base.errors import BugError, DaitnError, InputError, PeerError, PolicyError
from daitn.base.ids import ArtifactId, JobId, NodeId, VisitId
from daitn.base.metrics import Counters
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.origin import Unfit
from daitn.descriptors.work import (
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Outcome,
    ShareOutcome,
    ShareWork,
    TrainOutcome,
    TrainWork,
)
from daitn.learning.masking.site import SiteMasks
from daitn.learning.numerics.likeness import weights_digest
from daitn.learning.numerics.slots import plan_control, plan_result
from daitn.node.activations import SiteActivations
from daitn.node.arrivals import Arrivals, check_output, unfit_of
from daitn.node.averaging import aggregate, state_draft
from daitn.node.child_pool import ChildPool, digest_of_test_set
from daitn.node.compressed_visits import adopt_compressed
from daitn.node.datasets import DataShelf, SourceChangedError
from daitn.node.exchanges import Exchanges, LostPartnerError, partner_of
from daitn.node.masked_averaging import add_masked, open_sum
from daitn.node.masked_visits import MaskedVisits
from daitn.node.moving import Moving, lacking_of
from daitn.node.sandbox.protocol import EvaluateNumbers, FailReason, Finished, Progressed, Started, TrainNumbers
from daitn.node.sandbox.visits import NOTHING_BESIDE, VisitError
from daitn.node.sharing import share
from daitn.node.store import ChunkStore, OutputFile
from daitn.node.warming import Warming
from daitn.terminal.work import (
    AbandonVisit,
    BeginWork,
    DropArtifacts,
    FetchInputs,
    InputsArrived,
    InputsFailed,
    WarmChild,
    WorkFailed,
    WorkFinished,
    WorkProgressed,
)
from daitn.wire.center_tools import InputRef, VisitOrder

WITNESS_S: Final = 0.2
"""How long a visit that failed because of a partner waits before it says so: the partner itself knows better why, and a
node that died is missed within milliseconds."""

FETCHES_AT_ONCE: Final = 4
"""Inputs of a visit that are fetched at a time: an aggregator of a hundred small updates waits for answers otherwise
(half of the time, on a loopback); each may hold a window of chunks in memory, so there are few."""

_log = logging.getLogger(__name__)


class VisitWorker:
    """See the module's docstring. `post` hands an event to the core."""

    def __init__(
        self,
        store: ChunkStore,
        moving: Moving,
        exchanges: Exchanges,
        shelf: DataShelf,
        children: ChildPool,
        activations: SiteActivations,
        masks: SiteMasks,
        post: Callable[[Event], object],
    ) -> None:
        self._store = store
        self._moving = moving
        self._arrivals = Arrivals(store, moving)
        self._exchanges = exchanges
        self._shelf = shelf
        self._children = children
        self._activations = activations
        self._warming = Warming(moving, shelf, children, activations)
        self._post = post
        self.counters = Counters()
        self._masked = MaskedVisits(store, masks, self.counters)
        self._tasks: dict[VisitId, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[None]] = set()

    def perform(self, effect: Effect) -> None:
        """Begin what an effect asks for."""
        match effect:
            case FetchInputs(order=order):
                self._start(order.visit, self._fetch(order))
            case BeginWork(order=order):
                self._start(order.visit, self._work(order))
            case AbandonVisit(visit=visit):
                self._abandon(visit)
            case WarmChild(prepare=prepare):
                self._spawn(self._warming.warm(prepare))
            case DropArtifacts(job=job, artifacts=artifacts, job_ended=ended):
                self._drop(job, artifacts, job_ended=ended)
            case _:
                raise BugError(f"a terminal has no way to perform {type(effect).__name__}")

    async def stop(self) -> None:
        """End every task and child."""
        tasks = [*self._tasks.values(), *self._aside]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._children.stop()

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _start(self, visit: VisitId, work) -> None:  # type: ignore[no-untyped-def]
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[visit] = task
        task.add_done_callback(lambda done: self._ended(visit, done))

    def _ended(self, visit: VisitId, task: asyncio.Task[None]) -> None:
        if self._tasks.get(visit) is task:
            del self._tasks[visit]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("visit %s failed unexpectedly", visit, exc_info=error)
            self.counters.count("runs_failed", FailReason.BUG.value)
            self._post(WorkFailed(visit=visit, what=f"{type(error).__name__}: {error}", blame="bug"))

    def _spawn(self, work) -> None:  # type: ignore[no-untyped-def]
        task = asyncio.get_running_loop().create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _abandon(self, visit: VisitId) -> None:
        task = self._tasks.pop(visit, None)
        if task is not None:
            task.cancel()

    def _drop(self, job: JobId, artifacts: tuple[ArtifactId, ...], *, job_ended: bool) -> None:
        if not job_ended:
            self._store.let_go(job, artifacts)
            return
        for artifact in dict.fromkeys((*artifacts, *self._store.unpin_all(job))):
            self._store.release(artifact, job=job)
        self._activations.end_job(job)
        self._masked.forget(job)
        self._spawn(self._end_children(job))

    async def _end_children(self, job: JobId) -> None:
        """End a job's warm children; what they had open goes to others only then."""
        await self._children.close_job(job)
        self._store.end_job(job)

    # --- fetching ---------------------------------------------------------------------------------------------------

    async def _fetch(self, order: VisitOrder) -> None:
        began = time.monotonic()
        try:
            moved = await self._fetch_all(order)
        except DaitnError as error:
            failed = InputsFailed(visit=order.visit, what=error.what, blame=error.kind, lacking=lacking_of(error))
            self._post(msgspec.structs.replace(failed, unfit=self._unfit_of(error)))
            return
        self._tasks.pop(order.visit, None)
        self._post(InputsArrived(visit=order.visit, fetched_bytes=moved, seconds=time.monotonic() - began))

    async def _fetch_all(self, order: VisitOrder) -> int:
        """Bring all inputs here, several at a time; returns the bytes that were moved. The first that fails ends it."""
        private = isinstance(order.work, EvaluateWork)
        gate = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def bring(wanted: InputRef) -> int:
            async with gate:
                if wanted.parts_only:
                    await self._moving.fetch_parts(wanted)
                    return 0
                servable = not private or (isinstance(order.work, EvaluateWork) and wanted.artifact == order.work.model)
                return await self._moving.fetch(wanted, order.job, servable=servable, job=order.job)

        tasks = [asyncio.ensure_future(bring(wanted)) for wanted in order.inputs]
        try:
            return sum(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- work -------------------------------------------------------------------------------------------------------

    async def _work(self, order: VisitOrder) -> None:
        wall = asyncio.timeout(order.wall_s)
        try:
            async with wall:
                outcome = await self._do(order)
        except TimeoutError as error:
            if not wall.expired():  # the world's, below the visit: some call of the system's
                self._failed_here(order, error)
                return
            what = f"the visit took longer than the {order.wall_s:.0f} s it was given"
            self.counters.count("runs_failed", FailReason.WALL_TIME.value)
            self._post(WorkFailed(visit=order.visit, what=what, blame="input"))
        except VisitError as error:
            self.counters.count("runs_failed", error.failed.reason.value)
            if error.failed.reason is FailReason.PARTNER:
                await self._lost_partner(order, partner_of(order, error.failed.partner), error.failed.what)
            else:
                self._post(WorkFailed(visit=order.visit, what=error.render(), blame=error.blame))
        except LostPartnerError as error:
            await self._lost_partner(order, error.partner, error.what)
        except DaitnError as error:
            failed = WorkFailed(visit=order.visit, what=error.render(), blame=error.kind)
            self._post(msgspec.structs.replace(failed, unfit=self._unfit_of(error)))
        except OSError as error:
            self._failed_here(order, error)
        else:
            self._tasks.pop(order.visit, None)
            self._post(WorkFinished(visit=order.visit, outcome=outcome))

    def _failed_here(self, order: VisitOrder, error: OSError) -> None:
        """The machine failed this visit, not the model: its disk, its memory, a call that never returned. Whoever reads
        the job's log is told no path of this site's."""
        self.counters.count("runs_failed", FailReason.UNAVAILABLE.value)
        _log.error("visit %s: this node failed", order.visit, exc_info=error)
        what = f"the site's machine failed: {error.strerror or type(error).__name__}; its log says where"
        self._post(WorkFailed(visit=order.visit, what=what, blame="unavailable"))

    def _unfit_of(self, error: DaitnError) -> Unfit | None:
        """What is wrong with a model that came from elsewhere, counted."""
        unfit = unfit_of(error)
        if unfit is not None:
            self.counters.count("models_unfit", unfit.fault)
        return unfit

    async def _lost_partner(self, order: VisitOrder, partner: NodeId | None, what: str) -> None:
        """The visit failed because of another; that one is given time to say first what went wrong with it."""
        await asyncio.sleep(WITNESS_S)
        self._post(WorkFailed(visit=order.visit, what=what, blame="partner", partner=partner))

    async def _do(self, order: VisitOrder) -> Outcome:
        match order.work:
            case TrainWork() as work:
                return await self._train(order, work)
            case EvaluateWork() as work:
                return await self._evaluate(order, work)
            case AgreeWork() | SealWork() | UnmaskWork() as work:
                return await asyncio.to_thread(self._masked.answer, order.job, work)
            case AggregateWork(masked=True) as work:
                return await asyncio.to_thread(add_masked, self._store, self.counters, order, work)
            case AggregateWork(unmasking=unmasking) as work if unmasking is not None:
                return await asyncio.to_thread(open_sum, self._store, order, work)
            case AggregateWork() as work:
                return await asyncio.to_thread(aggregate, self._store, self.counters, order, work)
            case ShareWork() as work:
                _, parts = self._moving.parts_of(work.contract)
                await self._activations.ensure(work.dataset.partition("/")[2], parts["contract"], order.job)
                return await asyncio.to_thread(self._share, order, work, parts)

    async def _train(self, order: VisitOrder, work: TrainWork) -> TrainOutcome:
        manifest, parts = await self._arrivals.model(order, work.model)
        table: Path | None = None
        beside = NOTHING_BESIDE
        if work.held_here:
            name = work.dataset.partition("/")[2]
            self._check_source(name)
            version, table = self._shelf.entry(name).version, self._shelf.path(name)
            beside = await self._activations.ensure(name, parts["contract"], order.job)
        else:  # of a data set whose activations come to this node, it knows no version
            version = "" if work.records is None else self._store.manifest(work.records).lineage.data_version
        layout = plan_result(manifest.tensors, work.training)
        epsilon = await self._charge(order, work)
        exchanged = 0
        with (
            self._store.new_output(layout.payload_bytes, job=order.job) as output,
            self._control_output(order, work, manifest) as control,
        ):
            _log.debug("visit %s: output file is there", order.visit)
            tells = (self._progressed(order), self._started(order))
            async with self._exchanges.meet(order) as port:
                finished = await self._children.train(
                    order.job,
                    manifest,
                    parts,
                    work,
                    table,
                    output.fileno(),
                    *tells,
                    exchange=port,
                    beside=beside,
                    control=None if control is None else control.fileno(),
                )
            exchanged = port.moved_bytes if port is not None else 0
            _log.info("visit %s last step at %d", order.visit, finished.last_step_unix_ns)
            if not isinstance(finished.numbers, TrainNumbers):
                raise PeerError("the child answered a training run with something else")
            lineage = Lineage(
                job=order.job,
                visit=order.visit,
                parents=(work.model,),
                dataset=work.dataset,
                data_version=version,
            )
            if work.group is not None:  # the same model of all members, so the same artifact: their reports say who
                lineage = Lineage(job=order.job, visit=work.group.name, parents=(work.model,))
            if work.masking is not None:
                made = (output, layout, finished.state, lineage, finished.numbers.records)
                hidden = await asyncio.to_thread(self._masked.adopt, order, work, *made)
                return _trained(finished, finished.numbers, hidden, version, epsilon)
            if work.compression is not None:
                smaller = (output, layout, finished.state, lineage)
                sent, saved = await asyncio.to_thread(adopt_compressed, self._store, order, work, *smaller)
                return _trained(finished, finished.numbers, sent, version, epsilon, saved)
            draft = msgspec.structs.replace(
                manifest,
                tensors=layout.entries,
                payload_bytes=layout.payload_bytes,
                chunks=(),
                state=finished.state,
                lineage=lineage,
            )
            await asyncio.to_thread(check_output, output, layout.entries, layout.payload_bytes)
            variate = None
            if control is not None:
                drawn = state_draft(order, f"gradients of {work.dataset}", plan_control(manifest.tensors), work.model)
                variate = (await asyncio.to_thread(self._store.adopt, control, drawn, pin=order.job)).artifact
            adopted = await asyncio.to_thread(self._store.adopt, output, draft, pin=order.job)
        self._arrivals.note_sound(adopted.artifact)
        _log.debug(
            "visit %s: load %.3f s, work %.3f s, write %.3f s",
            *(order.visit, finished.load_s, finished.work_s, finished.write_s),
        )
        outcome = _trained(finished, finished.numbers, adopted.artifact, version, epsilon)
        return msgspec.structs.replace(
            outcome, weights=weights_digest(adopted.manifest), exchanged_bytes=exchanged, control=variate
        )

    async def _charge(self, order: VisitOrder, work: TrainWork) -> float | None:
        """Book private training in the data set's ledger before it begins; what the job has then cost. PolicyError."""
        if work.private is None:
            return None
        name, steps = work.dataset.partition("/")[2], work.training.batches
        try:
            return await asyncio.to_thread(self._shelf.charge, name, order.job, order.visit, work.private, steps)
        except PolicyError:
            self.counters.count("privacy_refused")
            raise

    def _control_output(
        self, order: VisitOrder, work: TrainWork, manifest: Manifest
    ) -> AbstractContextManager[OutputFile | None]:
        """Room for the data set's control variate, where the visit makes one."""
        if not work.training.control_variates:
            return nullcontext()
        return self._store.new_output(plan_control(manifest.tensors).payload_bytes, job=order.job)

    def _check_source(self, name: str) -> None:
        """InputError where the data set's files changed since they were added.

        The site's own log says how, with paths and sizes; the model's owner hears only that it is so.
        """
        try:
            self._shelf.check_unchanged(name)
        except SourceChangedError as error:
            self.counters.count("data_sets_changed")
            _log.warning("%s", error)
            raise InputError(
                f"the files of data set {name!r} are not those that its site added",
                todo="its site has to add it again (`daitn data add`); `daitn data list` says there what changed",
            ) from None

    def _share(self, order: VisitOrder, work: ShareWork, parts: dict[str, bytes]) -> ShareOutcome:
        self._check_source(work.dataset.partition("/")[2])
        return share(self._store, self._shelf, self._activations, order, work, parts)

    async def _evaluate(self, order: VisitOrder, work: EvaluateWork) -> EvaluateOutcome:
        manifest, parts = await self._arrivals.model(order, work.model)
        finished = await self._children.evaluate(
            order.job, manifest, parts, work, self._progressed(order), self._started(order)
        )
        if not isinstance(finished.numbers, EvaluateNumbers):
            raise PeerError("the child answered an evaluation with something else")
        numbers = finished.numbers
        return EvaluateOutcome(
            model=work.model,
            measurements=numbers.measurements,
            test_set=digest_of_test_set(work.samples),
            evaluations_left=0,
            seconds=finished.load_s + numbers.measure_s,
            overfits=numbers.overfits,
            batch_seconds=numbers.batch_seconds,
            curve=numbers.curve,
            cuts=numbers.cuts,
            taught=numbers.taught,
            tried=numbers.tried,
        )

    def _progressed(self, order: VisitOrder) -> Callable[[Progressed], None]:
        """Progress of a child, handed to the core as this visit's."""

        def tell(said: Progressed) -> None:
            self._post(WorkProgressed(visit=order.visit, done=said.done, of=said.of, loss=said.loss))

        return tell

    def _started(self, order: VisitOrder) -> Callable[[Started], None]:
        """The child's first step: its moment is logged, for those who measure hops."""

        def tell(said: Started) -> None:
            _log.info("visit %s first step at %d", order.visit, said.first_step_unix_ns)

        return tell


def _trained(
    finished: Finished, numbers: TrainNumbers, made: ArtifactId, version: str, epsilon: float | None, saved: int = 0
) -> TrainOutcome:
    """What a training visit reports of what its child told, and of the artifact that was made of it."""
    return TrainOutcome(
        model=made,
        batches=numbers.batches,
        records=numbers.records,
        loss_first=numbers.loss_first,
        loss_last=numbers.loss_last,
        update_norm=numbers.update_norm,
        data_version=version,
        epsilon=epsilon,
        seconds=finished.load_s + finished.work_s + finished.write_s,
        saved_bytes=saved,
    )

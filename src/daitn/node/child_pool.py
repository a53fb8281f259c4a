"""Warm children of a node: one per job and data, never shared between jobs, the longest idle ended when there are many.

A visit asks for the child of its job and data, which may have been warmed before the model arrived; two visits that
want the same one take turns. A child that died is forgotten and started anew by the next visit. Children cost about 250
MB each while idle, so their number is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from blake3 import blake3

from daitn.artifacts.manifest import Manifest
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, DataSetId, JobId
from daitn.descriptors.work import EvaluateWork, SampleRef, TrainWork
from daitn.node.sandbox.answers import plan_run
from daitn.node.sandbox.exchange_port import ExchangePort
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.sandbox.protocol import ControlData, Finished, Progressed, Setup, Started, TableData, TensorData
from daitn.node.sandbox.visits import NOTHING_BESIDE, Beside, ChildHandle, VisitError, launch
from daitn.node.store import ChunkStore

_log = logging.getLogger(__name__)


class ChildKey(msgspec.Struct, frozen=True):
    """Which child: its job, what it is for, and which data it holds."""

    job: JobId
    use: Literal["train", "verify"]
    data: str


class PooledChild(msgspec.Struct, frozen=True):
    """A child that is alive, and what it uses."""

    pid: int
    job: JobId
    use: Literal["train", "verify"]
    busy: bool
    memory_bytes: int
    cpu_s: float


class _Slot:
    """A child that is warm, warming, or to be started again."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.handle: ChildHandle | None = None
        self.used = 0


class ChildPool:
    """See the module's docstring. `keep`: idle children at most; `threads`: of each child."""

    def __init__(self, sandbox: Sandbox, store: ChunkStore, *, threads: int, keep: int) -> None:
        self._sandbox = sandbox
        self._store = store
        self._threads = threads
        self._keep = keep
        self._slots: dict[ChildKey, _Slot] = {}
        self._uses = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a child is there, or gone."""

    def running(self) -> tuple[PooledChild, ...]:
        """The children that are alive; 50 µs each."""
        found: list[PooledChild] = []
        for key, slot in self._slots.items():
            if slot.handle is not None and slot.handle.alive:
                vital, busy = slot.handle.vital(), slot.lock.locked()
                found.append(PooledChild(slot.handle.pid, key.job, key.use, busy, vital.memory_bytes, vital.cpu_s))
        return tuple(found)

    # --- which child ------------------------------------------------------------------------------------------------

    async def warm_training(
        self,
        job: JobId,
        manifest: Manifest,
        parts: dict[str, bytes],
        dataset: DataSetId,
        table: Path,
        seed: int,
        beside: Beside = NOTHING_BESIDE,
    ) -> None:
        """Have the child for this job and data set ready, before its model arrives."""
        slot = self._slot(ChildKey(job, "train", dataset))
        async with slot.lock:
            await self._ensure(slot, self._table_setup(manifest, parts, dataset, seed), table, (), beside)
        await self._trim()

    async def train(
        self,
        job: JobId,
        manifest: Manifest,
        parts: dict[str, bytes],
        work: TrainWork,
        table: Path | None,
        output: int,
        on_progress: Callable[[Progressed], None],
        on_started: Callable[[Started], None],
        exchange: ExchangePort | None = None,
        beside: Beside = NOTHING_BESIDE,
        control: int | None = None,
    ) -> Finished:
        """One training run, on a mapped table, with what lies beside it, or on streamed records.

        `control`: where the data set's control variate is written, where it is trained with one.
        """
        held = work.dataset if work.held_here else f"{work.dataset} {work.records or 'activations'}"
        key = ChildKey(job, "train", held)
        slot = self._slot(key)
        async with slot.lock:
            if work.records is not None:
                records, descriptors = self._open_records([(work.dataset, work.records)])
                setup = msgspec.structs.replace(_setup(manifest, parts, self._threads, work.seed), records=records)
            elif not work.held_here:
                setup, descriptors = _setup(manifest, parts, self._threads, work.seed), []
            else:
                setup, descriptors = self._table_setup(manifest, parts, work.dataset, work.seed), []
            try:
                child = await self._ensure(slot, setup, table, descriptors, beside)
            finally:
                _close(descriptors)
            finished = await self._run(slot, child, manifest, work, output, on_progress, on_started, exchange, control)
        await self._trim()
        return finished

    async def evaluate(
        self,
        job: JobId,
        manifest: Manifest,
        parts: dict[str, bytes],
        work: EvaluateWork,
        on_progress: Callable[[Progressed], None],
        on_started: Callable[[Started], None],
    ) -> Finished:
        """One measurement on the test set made of the work's samples."""
        slot = self._slot(_measuring_key(job, manifest, work.samples))
        async with slot.lock:
            child = await self._ensure_measuring(slot, manifest, parts, work.samples)
            finished = await self._run(slot, child, manifest, work, None, on_progress, on_started)
        await self._trim()
        return finished

    async def warm_measuring(
        self, job: JobId, manifest: Manifest, parts: dict[str, bytes], samples: Sequence[SampleRef]
    ) -> None:
        """Have the child for this job and test set ready, before a model is to be measured."""
        slot = self._slot(_measuring_key(job, manifest, samples))
        async with slot.lock:
            await self._ensure_measuring(slot, manifest, parts, samples)
        await self._trim()

    async def _ensure_measuring(
        self, slot: _Slot, manifest: Manifest, parts: dict[str, bytes], samples: Sequence[SampleRef]
    ) -> ChildHandle:
        setup = _setup(manifest, parts, self._threads, 0)
        descriptors: list[int] = []
        if slot.handle is None or not slot.handle.alive:
            records, descriptors = self._open_records([(one.dataset, one.artifact) for one in samples])
            setup = msgspec.structs.replace(setup, records=records)
        try:
            return await self._ensure(slot, setup, None, descriptors)
        finally:
            _close(descriptors)

    def _table_setup(self, manifest: Manifest, parts: dict[str, bytes], dataset: DataSetId, seed: int) -> Setup:
        setup = _setup(manifest, parts, self._threads, seed)
        return msgspec.structs.replace(setup, table=TableData(dataset=dataset, path=""))

    def _open_records(
        self, artifacts: Sequence[tuple[DataSetId, ArtifactId]]
    ) -> tuple[tuple[TensorData, ...], list[int]]:
        """Records of the store as the child gets them: descriptors of their payloads, and what lies in them."""
        records: list[TensorData] = []
        descriptors: list[int] = []
        for dataset, artifact in artifacts:
            manifest = self._store.manifest(artifact)
            descriptors.append(self._open(artifact))
            entries, size = manifest.tensors, manifest.payload_bytes
            records.append(TensorData(dataset=dataset, entries=entries, payload_bytes=size))
        return tuple(records), descriptors

    # --- running ----------------------------------------------------------------------------------------------------

    async def _run(
        self,
        slot: _Slot,
        child: ChildHandle,
        manifest: Manifest,
        work: TrainWork | EvaluateWork,
        output: int | None,
        on_progress: Callable[[Progressed], None],
        on_started: Callable[[Started], None],
        exchange: ExchangePort | None = None,
        control: int | None = None,
    ) -> Finished:
        run = plan_run(work, manifest.tensors, manifest.payload_bytes, manifest.state)
        arrived: list[ControlData] = []
        opened = [self._open(work.model)]
        try:
            for whose, artifact in controls_of(work):
                described = self._store.manifest(artifact)
                entries, size = described.tensors, described.payload_bytes
                arrived.append(ControlData(whose=whose, entries=entries, payload_bytes=size))
                opened.append(self._open(artifact))
            return await child.run(
                msgspec.structs.replace(run, controls=tuple(arrived)),
                opened[0],
                output,
                controls=() if control is None else (control, *opened[1:]),
                on_progress=on_progress,
                on_started=on_started,
                exchange=exchange,
            )
        finally:
            _close(opened)
            if not child.alive:
                slot.handle = None

    def _open(self, artifact: ArtifactId) -> int:
        return os.open(self._store.payload_place(artifact).path, os.O_RDONLY)

    async def _ensure(
        self,
        slot: _Slot,
        setup: Setup,
        table: Path | None,
        descriptors: Sequence[int],
        beside: Beside = NOTHING_BESIDE,
    ) -> ChildHandle:
        self._uses += 1
        slot.used = self._uses
        if slot.handle is None or not slot.handle.alive:
            slot.handle = None
            slot.handle = await launch(setup, sandbox=self._sandbox, data=table, beside=beside, descriptors=descriptors)
            self.on_change()
            _log.info("a child is warm after %.2f s on %s", slot.handle.ready.warm_s, slot.handle.ready.device)
        return slot.handle

    def _slot(self, key: ChildKey) -> _Slot:
        return self._slots.setdefault(key, _Slot())

    async def _trim(self) -> None:
        """End the longest idle children beyond those that may be kept."""
        idle = [key for key, slot in self._slots.items() if slot.handle is not None and not slot.lock.locked()]
        idle.sort(key=lambda key: self._slots[key].used)
        for key in idle[: max(0, len(idle) - self._keep)]:
            await self._end(self._slots.pop(key))

    async def close_job(self, job: JobId) -> None:
        """The job is over: none of its children may stay."""
        for key in [key for key in self._slots if key.job == job]:
            await self._end(self._slots.pop(key))

    async def stop(self) -> None:
        """End all children."""
        slots, self._slots = list(self._slots.values()), {}
        await asyncio.gather(*(self._end(slot) for slot in slots))

    async def _end(self, slot: _Slot) -> None:
        handle, slot.handle = slot.handle, None
        if handle is not None:
            with suppress(VisitError):
                await handle.kill()
            self.on_change()


def digest_of_test_set(samples: Sequence[SampleRef]) -> str:
    """Names a test set by the samples it is made of."""
    return blake3(" ".join(f"{one.dataset}={one.artifact}" for one in samples).encode()).hexdigest()


def _measuring_key(job: JobId, manifest: Manifest, samples: Sequence[SampleRef]) -> ChildKey:
    """A child measures models of one graph: others that the owner declares have children of their own."""
    built = blake3(" ".join(ref.id for part in manifest.parts for ref in part.chunks).encode()).hexdigest()
    return ChildKey(job, "verify", f"{digest_of_test_set(samples)} {built}")


def controls_of(work: TrainWork | EvaluateWork) -> list[tuple[Literal["shared", "own"], ArtifactId]]:
    """The control variates that a run is given, and whose each is."""
    found: list[tuple[Literal["shared", "own"], ArtifactId]] = []
    if isinstance(work, TrainWork):
        found += [("shared", work.shared_control)] if work.shared_control is not None else []
        found += [("own", work.own_control)] if work.own_control is not None else []
    return found


def _setup(manifest: Manifest, parts: dict[str, bytes], threads: int, seed: int) -> Setup:
    """What a child must know before data and model; InputError for a package that children cannot run."""
    if manifest.kind not in ("graph", "transformers"):
        raise InputError(f"a package of kind {manifest.kind!r} cannot be trained or measured", todo="export a graph")
    return Setup(
        contract=parts["contract"],
        kind=manifest.kind,
        parts={name: data for name, data in parts.items() if name != "contract"},
        tensors=manifest.tensors,
        threads=threads,
        seed=seed,
    )


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

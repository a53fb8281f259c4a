"""What a child computes: one job's model and records at hand, one run after another. Runs inside, imports torch.

The payload is mapped read-only, so tensors that a visit does not change are never copied; those it changes are copied
into memory that is kept from run to run. The result is written with `pwrite` in layout order: measured on 100 MB, half
the time of filling a shared mapping, whose page faults cost more than the copy. Frozen tensors are copied from file to
file by the kernel.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from daitn.artifacts.manifest import TensorEntry
from daitn.base.errors import BugError, InputError, PeerError
from daitn.base.units import MIB
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.splitting import Split
from daitn.descriptors.work import CurvePoint, EvaluateWork, Group, TaughtBy, Training, TrainWork
from daitn.learning.numerics.control_variates import ControlVariates
from daitn.learning.numerics.curve import learning_curve
from daitn.learning.numerics.device import choose_device, synchronise
from daitn.learning.numerics.evaluate import check_private, evaluate, find_cuts, preflight
from daitn.learning.numerics.lockstep import Lockstep
from daitn.learning.numerics.modules import BoundModule, build_structure, view_tensor
from daitn.learning.numerics.sources import MemorySlice, TableSource
from daitn.learning.numerics.train import ModelState, Progress, Seeds, train
from daitn.learning.numerics.transfer import TRANSFER_FRAC, transfer_trial
from daitn.learning.numerics.tuning_trial import tuning_trial
from daitn.learning.records import Records, records_from_tensors
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSource, TaskNumerics
from daitn.learning.vectors import map_vectors
from daitn.node.sandbox.dialogue import Dialogue
from daitn.node.sandbox.exchanging import ChildExchange
from daitn.node.sandbox.protocol import (
    EvaluateNumbers,
    Finished,
    Progressed,
    Run,
    Setup,
    Started,
    TensorData,
    TrainNumbers,
)
from daitn.node.sandbox.splitting import train_split

COPY_BYTES: Final = 64 * MIB
"""One call to the kernel for copying frozen tensors."""

_NUMPY: Final[dict[str, str]] = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip


class Cancelled(Exception):
    """The node asked to stop."""


class Worker:
    """One job: built once, then run after run."""

    def __init__(self, setup: Setup, descriptors: Sequence[int]) -> None:
        """`descriptors`: payloads of `setup.records`; closed here. PeerError or InputError where parts are unfit."""
        torch.set_num_threads(setup.threads)
        self._seed = setup.seed
        self._contract = decode_contract(setup.contract)
        self.device = choose_device(setup.device)
        self._task: TaskNumerics = numerics_for(self._contract.task, self._contract, self.device)
        self._model = BoundModule(build_structure(setup.kind, setup.parts, setup.tensors), self.device)
        self._sets = self._map_records(setup.records, descriptors)
        self._source = self._make_source(setup)
        self._earlier = self._open_earlier(setup)
        self._rehearse()

    def _map_records(self, parts: Sequence[TensorData], descriptors: Sequence[int]) -> tuple[Records, ...]:
        if len(parts) != len(descriptors):
            raise BugError(f"{len(parts)} sets of records came with {len(descriptors)} descriptors")
        views = [map_payload(fd, part.payload_bytes) for part, fd in zip(parts, descriptors, strict=True)]
        sets: list[Records] = []
        for part, view in zip(parts, views, strict=True):
            tensors = {}
            for entry in part.entries:
                if entry.dtype not in _NUMPY or entry.offset + entry.nbytes > len(view):
                    raise PeerError(f"records tensor {entry.name[:80]!r} does not fit its payload")
                data = view[entry.offset : entry.offset + entry.nbytes]
                tensors[entry.name] = np.frombuffer(data, dtype=_NUMPY[entry.dtype]).reshape(entry.shape)
            sets.append(records_from_tensors(tensors, self._contract, part.dataset))
        return tuple(sets)

    def _make_source(self, setup: Setup) -> RecordSource | None:
        if setup.table is not None:
            table = MappedTable.open(Path(setup.table.path))
            vectors = map_vectors(Path(setup.table.vectors), self._contract)
            return TableSource(table, self._contract, setup.table.dataset, _tokenizers(setup), vectors)
        if not self._sets:
            return None
        first = self._sets[0]
        return MemorySlice(first.dataset, first)

    def _open_earlier(self, setup: Setup) -> RecordSource | None:
        """What the site keeps of earlier records; of a contract with texts or with none, alike."""
        if setup.table is None or not setup.table.replay:
            return None
        table = MappedTable.open(Path(setup.table.replay))
        return TableSource(table, self._contract, setup.table.dataset, _tokenizers(setup))

    def _rehearse(self) -> None:
        """One step on two records with numbers that mean nothing: what torch sets up when first used (0.12 s measured)
        is then paid for while the model is still on its way. Whether it works out, the runs will tell."""
        if self._source is None or not len(self._source):
            return
        rows = np.arange(min(2, len(self._source)))
        few = MemorySlice(self._source.dataset, self._source.take(rows))
        training = Training(batch_size=len(rows), batches=1, learning_rate=1e-6, optimizer="sgd")
        try:
            train(self._model.module, self._task, few, training, ModelState())
        except Exception:  # noqa: BLE001  # a model may fail on anything; the first run says how, to whom it concerns
            self._model.module.zero_grad(set_to_none=True)

    @property
    def records(self) -> int:
        """Training records at hand, or records of the test set."""
        return len(self._source) if self._source is not None else 0

    def run(
        self,
        run: Run,
        descriptors: Sequence[int],
        say: Callable[[Started | Progressed], None],
        dialogue: Dialogue,
    ) -> Finished:
        """Do what `run` says; closes the descriptors. Cancelled if told to stop; errors as the numerics raise them."""
        try:
            if len(descriptors) != run.descriptors:
                raise BugError(f"the run takes {run.descriptors} descriptors, not {len(descriptors)}")
            if not isinstance(run.work, TrainWork):
                return self._evaluate(run, run.work, descriptors[0], say, dialogue.should_stop)
            if run.room is None or run.work.group is None:
                return self._train(run, run.work, descriptors, say, dialogue.should_stop)
            dialogue.exchange = ChildExchange(run.room, descriptors[-1], run.number, dialogue)
            try:
                if run.work.split is not None:
                    cut = (run.work.split, dialogue.exchange)
                    return self._train(run, run.work, descriptors, say, dialogue.should_stop, split=cut)
                group = self._join(run, run.work.group, dialogue.exchange)
                return self._train(run, run.work, descriptors, say, dialogue.should_stop, group)
            finally:
                dialogue.exchange.close()
                dialogue.exchange = None
        finally:
            self._model.release()
            for fd in descriptors:
                os.close(fd)

    def _join(self, run: Run, group: Group, exchange: ChildExchange) -> Lockstep:
        """This run's place in its group."""

        def buffers() -> dict[str, Tensor]:
            names = [entry.name for entry in run.entries if entry.role == "buffer"]
            return {name: tensor for name in names if (tensor := self._model.tensor(name)) is not None}

        return Lockstep(exchange, self.records, buffers, [member.dataset for member in group.members])

    def _train(
        self,
        run: Run,
        work: TrainWork,
        descriptors: Sequence[int],
        say: Callable[[Started | Progressed], None],
        should_stop: Callable[[], bool],
        group: Lockstep | None = None,
        split: tuple[Split, ChildExchange] | None = None,
    ) -> Finished:
        payload, output = descriptors[:2]
        began = time.perf_counter()
        self._model.bind(run.entries, map_payload(payload, run.payload_bytes, keep=True), changing=True)
        control = self._control(run, descriptors[3:]) if work.training.control_variates else None
        loaded = time.perf_counter()

        def on_progress(progress: Progress) -> None:
            loss = progress.loss if math.isfinite(progress.loss) else None
            say(Progressed(number=run.number, done=progress.done, of=progress.of, loss=loss))

        def on_start() -> None:
            say(Started(number=run.number, first_step_unix_ns=time.time_ns()))

        if split is not None:
            result = train_split(
                run,
                work,
                split[0],
                self._model,
                split[1],
                self._task,
                self._source,
                self._seed,
                on_start=on_start,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        else:
            result = train(
                self._model.module,
                self._task,
                self._source,
                work.training,
                ModelState(travelling=run.state, slots=self._model.slots),
                seeds=Seeds(job=self._seed, visit=work.seed),
                parameters=self._model.trainable(),
                arrived=self._model.arrived,
                on_start=on_start,
                on_progress=on_progress,
                should_stop=should_stop,
                group=group,
                control=control,
                private=work.private,
                earlier=self._earlier,
            )
        if result.stopped:
            raise Cancelled
        synchronise(self.device)
        trained = time.perf_counter()
        self._write(run, payload, output, result.state.slots)
        for entry in run.control_output:
            write_tensor(descriptors[2], entry, _laid_out(entry, result.control.get(entry.name)))
        return Finished(
            number=run.number,
            numbers=TrainNumbers(
                batches=result.batches,
                records=result.records,
                loss_first=None if work.private is not None else result.loss_first,
                loss_last=None if work.private is not None else result.loss_last,
                update_norm=result.update_norm,
            ),
            state=result.state.travelling,
            load_s=loaded - began,
            work_s=trained - loaded,
            write_s=time.perf_counter() - trained,
            last_step_unix_ns=result.last_step_unix_ns,
        )

    def _evaluate(
        self,
        run: Run,
        work: EvaluateWork,
        payload: int,
        say: Callable[[Started | Progressed], None],
        should_stop: Callable[[], bool],
    ) -> Finished:
        began = time.perf_counter()
        self._model.bind(
            run.entries,
            map_payload(payload, run.payload_bytes, keep=True),
            changing=work.preflight or work.tries is not None,
        )
        loaded = time.perf_counter()
        say(Started(number=run.number, first_step_unix_ns=time.time_ns()))
        model = self._model.module
        measurements = evaluate(model, self._task, self._sets, work.measurements)
        measured = time.perf_counter()
        if should_stop():
            raise Cancelled
        if work.private:
            check_private(model, self._task, self._sets)
        tries = work.tries
        compared = () if tries is None else tuning_trial(model, self._task, self._sets, tries, should_stop=should_stop)
        cuts = find_cuts(model, self._task, self._sets) if work.cuts else ()
        tried = preflight(model, self._task, self._sets, should_stop=should_stop) if work.preflight else None
        curve: tuple[CurvePoint, ...] = ()
        taught: tuple[TaughtBy, ...] = ()
        if work.trial is not None and tried is not None and tried.overfits:
            curve = learning_curve(
                model,
                self._task,
                self._sets,
                work.trial_measurements,
                work.trial,
                seconds=work.trial_s,
                should_stop=should_stop,
            )
            taught = transfer_trial(
                model,
                self._task,
                self._sets,
                [name for name in work.measurements if "@" in name and "[" not in name],
                work.trial,
                seconds=TRANSFER_FRAC * work.trial_s,
                should_stop=should_stop,
            )
        if (tried is not None or tries is not None) and should_stop():
            raise Cancelled
        return Finished(
            number=run.number,
            numbers=EvaluateNumbers(
                measurements=measurements,
                overfits=None if tried is None else tried.overfits,
                batch_seconds=0.0 if tried is None else tried.batch_seconds,
                curve=curve,
                cuts=cuts,
                taught=taught,
                tried=compared,
                measure_s=measured - loaded,
            ),
            state=run.state,
            load_s=loaded - began,
            work_s=time.perf_counter() - loaded,
        )

    def _write(self, run: Run, payload: int, output: int, slots: Mapping[str, Tensor]) -> None:
        """The result in layout order. BugError where the node laid out something else than there is."""
        before = {entry.name: entry for entry in run.entries}
        for entry in run.output:
            if entry.role in ("frozen", "random") or (entry.role != "optimizer" and entry.name not in self._model):
                old = before.get(entry.name)
                if old is None or (old.dtype, old.shape) != (entry.dtype, entry.shape):
                    raise BugError(f"tensor {entry.name!r} of the result did not arrive")
                copy_bytes(payload, old.offset, output, entry.offset, entry.nbytes)
                continue
            tensor = slots.get(entry.name) if entry.role == "optimizer" else self._model.tensor(entry.name)
            write_tensor(output, entry, _laid_out(entry, tensor))

    def _control(self, run: Run, descriptors: Sequence[int]) -> ControlVariates:
        """The control variates that came with a run. PeerError where one is not finite or of another model."""
        given: dict[str, dict[str, Tensor]] = {}
        for data, fd in zip(run.controls, descriptors, strict=False):
            payload = map_payload(fd, data.payload_bytes, keep=True)
            given[data.whose] = {entry.name: view_tensor(entry, payload) for entry in data.entries}
        return ControlVariates(given.get("shared"), given.get("own"), self._model.trainable())


def _tokenizers(setup: Setup) -> dict[str, bytes]:
    return {blake3(data).hexdigest(): data for name, data in setup.parts.items() if name.startswith("tokenizer")}


def _laid_out(entry: TensorEntry, tensor: Tensor | None) -> Tensor:
    """The tensor of a result. BugError where the node laid out something else."""
    if tensor is None or tuple(tensor.shape) != entry.shape or str(tensor.dtype) != f"torch.{entry.dtype}":
        raise BugError(f"tensor {entry.name!r} of the result is not what was laid out")
    return tensor


def map_payload(fd: int, size: int, start: int = 0, *, keep: bool = False) -> memoryview:
    """Map a payload read-only from byte `start`, a multiple of the machine's granularity; page tables are filled at
    once. The descriptor is closed unless `keep`."""
    try:
        if size == 0:
            return memoryview(b"")
        if os.fstat(fd).st_size < start + size:
            raise PeerError(f"the payload has {os.fstat(fd).st_size} bytes, {start + size} were announced")
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return memoryview(mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ, offset=start))
    finally:
        if not keep:
            os.close(fd)


def write_tensor(output: int, entry: TensorEntry, tensor: Tensor) -> None:
    """A tensor's bytes at its place."""
    if entry.nbytes == 0:
        return
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    offset = entry.offset
    while data:
        done = os.pwrite(output, data, offset)
        data, offset = data[done:], offset + done


def copy_bytes(source: int, start: int, target: int, place: int, size: int) -> None:
    """Copy within the kernel; by reading where the file systems do not allow that."""
    while size:
        try:
            done = os.copy_file_range(source, target, min(size, COPY_BYTES), start, place)
        except OSError:
            done = os.pwrite(target, os.pread(source, min(size, COPY_BYTES), start), place)
        if not done:
            raise InputError("the payload ends inside a tensor")
        start, place, size = start + done, place + done, size - done

"""One training visit: exactly `training.batches` steps from the travelling state, and what a report needs to know.

The loop knows no process and no file. It takes its batches from the task (records by a travelling cursor, or episodes
of an environment), reports progress at most five times a second, asks `should_stop` before each batch, and refuses to
hand on numbers that are not finite, naming the batch. Losses are looked at in blocks on an accelerator, because reading
each one would stop its queue.

Randomness (dropout, episodes) is seeded from the visit's seed and the number of steps the model has made, so a visit
that is repeated elsewhere after a crash draws the same numbers, and two visits do not.

Legend: B records in a batch, P parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from daitn.artifacts.manifest import Cursor, TravellingState
from daitn.base.errors import BugError, InputError
from daitn.base.ids import DataSetId
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.work import Training
from daitn.learning.numerics.averaging import Averaging
from daitn.learning.numerics.continual import Distillation, Elastic
from daitn.learning.numerics.control_variates import ControlVariates
from daitn.learning.numerics.lockstep import GradientError, Lockstep
from daitn.learning.numerics.optimizers import add_proximal, clip_gradients, make_optimizer
from daitn.learning.numerics.private import PrivateGradients, check_records_apart
from daitn.learning.numerics.sampler import Sampler
from daitn.learning.tasks.contract import Batch, RecordSource, TaskNumerics, groups_of, join_records
from daitn.learning.tasks.regression import RegressionNumerics
from daitn.learning.tasks.reinforcement import ReinforcementNumerics
from daitn.learning.tasks.retrieval import RetrievalNumerics

PROGRESS_S: Final = 0.2
"""Least time between two reports of progress: an owner's screen shows no more than five a second."""
LOSSES_WAITING: Final = 32
"""Losses left on an accelerator before they are read: at most this many batches are computed after one went wrong."""
NORM_BLOCK: Final = 1 << 20
"""Elements compared at once when the update is measured: 4 MB stay in the cache."""


class NotFiniteError(InputError):
    """Loss or weights became NaN or infinite; `batch` (from 1) says when it was seen."""

    def __init__(self, what: str, batch: int) -> None:
        self.batch = batch
        super().__init__(
            f"{what} is not finite at batch {batch}",
            todo="lower the learning rate, set gradient_clip (1.0 is common), or look for wild values in the inputs",
        )


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model remembers besides weights and buffers: see `TravellingState`, and the optimizer's slots by name."""

    travelling: TravellingState = field(default_factory=TravellingState)
    slots: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a visit is. `loss`: mean since the last report."""

    done: int
    of: int
    loss: float


class Seeds(NamedTuple):
    """`job`: the same for all visits of a job, the order of records follows from it; `visit`: dropout and episodes."""

    job: int = 0
    visit: int = 0


NO_SEEDS: Final = Seeds()


class _Feed(NamedTuple):
    """Where the next batch comes from, and how far the data set has been read."""

    next: Callable[[], Batch]
    cursor: Callable[[], Cursor | None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a visit. `state` goes on with the model; `stopped`: told to before the last batch."""

    state: ModelState
    batches: int
    records: int
    loss_first: float
    loss_last: float
    update_norm: float
    seconds: float
    stopped: bool
    last_step_unix_ns: int = 0
    """When the last step ended: where a hop begins."""
    control: Mapping[str, Tensor] = field(default_factory=dict)
    """The data set's control variate for its next visit, where it is trained with one."""


class _Losses:
    """Means over the first and last tenth; reads losses in blocks from an accelerator, at once on a CPU."""

    def __init__(self, batches: int, device: torch.device) -> None:
        tenth = max(1, round(batches / 10))
        self._first_end, self._last_start = tenth, batches - tenth
        self._block = LOSSES_WAITING if device.type != "cpu" else 1
        self._waiting: list[Tensor] = []
        self._done = 0
        self._sums = [0.0, 0.0, 0.0]
        self._counts = [0, 0, 0]

    def add(self, loss: Tensor) -> None:
        self._waiting.append(loss.detach())
        if len(self._waiting) >= self._block:
            self.read()

    def read(self) -> None:
        """Take in what waits. NotFiniteError with the first batch that went wrong."""
        values = [float(self._waiting[0])] if len(self._waiting) == 1 else _to_floats(self._waiting)
        self._waiting.clear()
        for value in values:
            self._done += 1
            if not math.isfinite(value):
                raise NotFiniteError(f"the loss ({value})", self._done)
            for part, inside in enumerate((self._done <= self._first_end, self._done > self._last_start, True)):
                if inside:
                    self._sums[part] += value
                    self._counts[part] += 1

    def recent(self) -> float:
        """Mean since the last call; NaN where nothing came."""
        self.read()
        value = self._mean(2)
        self._sums[2], self._counts[2] = 0.0, 0
        return value

    def _mean(self, part: int) -> float:
        return self._sums[part] / self._counts[part] if self._counts[part] else math.nan

    def first(self) -> float:
        return self._mean(0)

    def last(self) -> float:
        return self._mean(1)


def _to_floats(losses: list[Tensor]) -> list[float]:
    values: list[float] = torch.stack([loss.float() for loss in losses]).tolist() if losses else []
    return values


def train(
    model: nn.Module,
    task: TaskNumerics,
    source: RecordSource | None,
    training: Training,
    state: ModelState,
    *,
    seeds: Seeds = NO_SEEDS,
    parameters: Mapping[str, nn.Parameter] | None = None,
    arrived: Mapping[str, Tensor] | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Lockstep | None = None,
    control: ControlVariates | None = None,
    clip: Callable[[Mapping[str, Tensor], float], None] = clip_gradients,
    private: PrivateSteps | None = None,
    earlier: RecordSource | None = None,
) -> TrainResult:
    """Train `model` in place for `training.batches` steps.

    Args:
        source: training records; None for a task that plays in an environment.
        state: as it arrived; its slots are changed in place and handed on if `training.carry_optimizer`.
        parameters: those to train, under the names that slots and `arrived` have; the module's own names otherwise. An
            adapter's tensors are called differently in the package and in the module that wraps them.
        arrived: parameters as they arrived, unchanged by training, if the caller has them anyway (a mapped file);
            otherwise they are copied first.
        on_start: called once, right before the first step.
        group: with whom each step's gradients are averaged; PartnerError where that fails.
        control: what corrects each step's gradient, for plain gradient descent.
        clip: what shortens a step's gradients to a norm, where other sites have more of them.
        earlier: what the site keeps of records of before, for `training.replay` of each batch.
        private: how steps are made private; then nothing is told that bears no noise: no losses, and one record.

    NotFiniteError as soon as a loss, or at the end a weight, is not finite; InputError where model, task and records
    do not fit. Memory: parameters, gradients, slots, one batch.
    """
    began = time.perf_counter()
    if parameters is None:
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise InputError("the model has no trainable parameter", todo="freeze less, or submit it for evaluation only")
    device = next(iter(parameters.values())).device
    drawn = mix_seed(seeds.visit, state.travelling.steps)
    if group is not None:
        drawn = mix_seed(drawn, group.rank)
    hidden = None if private is None else _hide(model, task, source, training, private, parameters)
    feed = _make_feed(
        model, task, source, training, state, Seeds(job=seeds.job, visit=drawn), earlier, private=hidden is not None
    )
    if arrived is None:
        arrived = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    elif training.proximal:
        arrived = {name: arrived[name].to(device) for name in parameters}
    carried = training.carry_optimizer and state.travelling.optimizer == training.optimizer
    optimizer = make_optimizer(training, parameters, state.slots if carried else {})
    averaging = (
        Averaging(training.average_steps, training.average_lead, parameters, state.slots)
        if training.average_steps and training.carry_optimizer
        else None
    )
    elastic = Elastic(training, parameters, state.slots) if training.elastic and training.carry_optimizer else None
    distillation = None
    if training.distillation:
        vectors = isinstance(task, RegressionNumerics | RetrievalNumerics)
        distillation = Distillation(model, task, training.distillation, classes=not vectors)
    losses = _Losses(training.batches, device)
    torch.manual_seed(drawn)
    model.train()
    done, records, stopped = 0, 0, False
    reported = time.perf_counter()
    on_start()
    if averaging is not None:
        averaging.begin()
    if group is not None:
        group.begin()
    while done < training.batches:
        if should_stop():
            stopped = True
            break
        model.zero_grad(set_to_none=True)
        if hidden is not None:
            hidden.fill()
        else:
            losses.add(_step(model, task, feed.next(), training, distillation))
        if group is not None:
            _average(group, parameters, done)
        if elastic is not None:
            elastic.see()
        if training.proximal:
            add_proximal(parameters, arrived, training.proximal)
        if training.gradient_clip:
            clip(parameters, training.gradient_clip)
        if control is not None:
            control.correct()
        optimizer.step()
        if elastic is not None:
            elastic.pull()
        if averaging is not None:
            averaging.step()
        done += 1
        records += training.batch_size
        now = time.perf_counter()
        if on_progress is not None and now - reported >= PROGRESS_S:
            reported = now
            on_progress(Progress(done=done, of=training.batches, loss=losses.recent()))
    losses.read()
    model.zero_grad(set_to_none=True)
    slots = optimizer.slots | (averaging.end() if averaging is not None else {})
    slots |= elastic.end() if elastic is not None else {}
    cursor = feed.cursor()
    cursors: tuple[Cursor, ...] = () if cursor is None else (cursor,)
    if group is not None and not stopped:
        cursors = group.finish(cursor)
    last_step_unix_ns = time.time_ns()
    norm = update_norm(parameters, arrived)
    if not math.isfinite(norm) or not _all_finite(model):
        raise NotFiniteError("a weight or buffer", done)
    return TrainResult(
        state=ModelState(
            travelling=advance_state(
                state.travelling, training, done, records * (1 if group is None else group.members), cursors
            ),
            slots=slots if training.carry_optimizer else {},
        ),
        batches=done,
        records=0 if source is None else len(source) if hidden is None else 1,
        loss_first=losses.first(),
        loss_last=losses.last(),
        last_step_unix_ns=last_step_unix_ns,
        update_norm=norm,
        seconds=time.perf_counter() - began,
        stopped=stopped,
        control={} if control is None or not done else control.end(arrived, done * training.learning_rate),
    )


def _step(
    model: nn.Module, task: TaskNumerics, batch: Batch, training: Training, distillation: Distillation | None
) -> Tensor:
    """Gradients of one batch into the parameters; returns its loss."""
    if training.label_correction:
        batch = replace(batch, label_correction=training.label_correction)
    outputs = task.forward(model, batch)
    loss = task.loss(outputs, batch)
    _check_scalar(loss)
    whole = loss if distillation is None else loss + distillation.loss(outputs, batch)
    whole.backward()  # type: ignore[no-untyped-call]
    return loss


def _hide(
    model: nn.Module,
    task: TaskNumerics,
    source: RecordSource | None,
    training: Training,
    private: PrivateSteps,
    parameters: Mapping[str, nn.Parameter],
) -> PrivateGradients:
    if source is None or not len(source):
        raise InputError("private training needs records and none were given", todo="name a data set")
    check_records_apart(model, task, source.take(np.zeros(2, dtype=np.int64)), parameters)
    return PrivateGradients(model, task, source, private, training.batch_size, parameters)


def _no_batch() -> Batch:
    raise BugError("a private step asked for a batch that is not its own")


def _make_feed(
    model: nn.Module,
    task: TaskNumerics,
    source: RecordSource | None,
    training: Training,
    state: ModelState,
    seeds: Seeds,
    earlier: RecordSource | None,
    *,
    private: bool,
) -> _Feed:
    if private:  # draws its records itself, and none in turn
        return _Feed(_no_batch, lambda: None)
    if isinstance(task, ReinforcementNumerics):
        rng = np.random.default_rng(seeds.visit)
        return _Feed(lambda: task.rollout(model, training.batch_size, rng), lambda: None)
    if source is None:
        raise InputError("this task needs records and none were given", todo="name a data set")
    cursor = _cursor_of(state.travelling, source.dataset)
    groups = groups_of(source) if isinstance(task, RetrievalNumerics) and task.by_group else None
    if not training.replay or earlier is None or not len(earlier) or groups is not None:
        sampler = Sampler(source.dataset, len(source), training.batch_size, seeds.job, cursor, groups)
        return _Feed(lambda: task.prepare(source.take(sampler.next_rows())), sampler.cursor)
    new = max(1, round(training.batch_size * (1 - training.replay)))
    mixed = Sampler(source.dataset, len(source), new, seeds.job, cursor, None)
    drawn, old, given = np.random.default_rng(seeds.visit), training.batch_size - new, earlier

    def both() -> Batch:
        again = given.take(drawn.integers(len(given), size=old))
        return task.prepare(join_records(source.take(mixed.next_rows()), again))

    return _Feed(both, mixed.cursor)


def _cursor_of(travelling: TravellingState, dataset: DataSetId) -> Cursor | None:
    for cursor in travelling.cursors:
        if cursor.dataset == dataset:
            return cursor
    return None


def _average(group: Lockstep, parameters: Mapping[str, Tensor], done: int) -> None:
    try:
        group.average_gradients(parameters, done + 1)
    except GradientError:
        raise NotFiniteError("a gradient", done + 1) from None


def advance_state(
    before: TravellingState, training: Training, steps: int, records: int, read: tuple[Cursor, ...]
) -> TravellingState:
    """The state to travel on: counters grown, cursors of the data sets just read replaced, others kept in their
    order."""
    cursors = before.cursors
    for cursor in read:
        known = any(old.dataset == cursor.dataset for old in cursors)
        cursors = tuple(cursor if old.dataset == cursor.dataset else old for old in cursors)
        cursors = cursors if known else (*cursors, cursor)
    return msgspec.structs.replace(
        before,
        optimizer=training.optimizer if training.carry_optimizer else "",
        steps=before.steps + steps,
        records=before.records + records,
        cursors=cursors,
    )


def _check_scalar(loss: Tensor) -> None:
    if loss.ndim != 0 or not loss.requires_grad:
        raise InputError(
            f"the loss has shape {tuple(loss.shape)} and {'a' if loss.requires_grad else 'no'} gradient",
            todo="the model's output must depend on its trainable parameters",
        )


def mix_seed(seed: int, steps: int) -> int:
    """A seed below 2^63 from two numbers."""
    return int.from_bytes(blake3(f"{seed}\x00{steps}".encode()).digest()[:8], "little") >> 1


def update_norm(parameters: Mapping[str, Tensor], arrived: Mapping[str, Tensor]) -> float:
    """Euclidean norm of the change of all parameters, block by block: no copy of a tensor is made."""
    total = 0.0
    with torch.no_grad():
        for name, parameter in parameters.items():
            now, then = parameter.detach().reshape(-1), arrived[name].reshape(-1)
            for start in range(0, len(now), NORM_BLOCK):
                block = now[start : start + NORM_BLOCK]
                difference = block.float() - then[start : start + NORM_BLOCK].to(block.device).float()
                total += float(torch.dot(difference, difference))
    return math.sqrt(total) if total >= 0 else math.nan


def _all_finite(model: nn.Module) -> bool:
    """Whether every floating buffer is finite; parameters show in the norm of the update."""
    return all(bool(torch.isfinite(b).all()) for b in model.buffers() if b.is_floating_point())

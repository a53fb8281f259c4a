"""A split visit in the child: its half of the model, trained with the partner's, and one model of both at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from daitn.base.errors import InputError
from daitn.descriptors.splitting import Split
from daitn.descriptors.work import TrainWork
from daitn.learning.graphs.cutting import cut_graph
from daitn.learning.graphs.rebuild import RebuiltModule
from daitn.learning.numerics.exchange import Exchange
from daitn.learning.numerics.modules import BoundModule
from daitn.learning.numerics.split import (
    RECORDS,
    SplitModel,
    join_as_middle,
    join_at_records,
    parts_of,
    train_middle,
)
from daitn.learning.numerics.train import PROGRESS_S, ModelState, Progress, Seeds, TrainResult, train
from daitn.learning.tasks.contract import RecordSource, TaskNumerics
from daitn.node.sandbox.protocol import Run


def train_split(
    run: Run,
    work: TrainWork,
    split: Split,
    model: BoundModule,
    exchange: Exchange,
    task: TaskNumerics,
    source: RecordSource | None,
    job_seed: int,
    *,
    on_start: Callable[[], None],
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> TrainResult:
    """This member's half of the visit; the whole model and its slots afterwards. InputError where it cannot be cut
    there, PartnerError and NotFiniteError as the numerics."""
    module = model.module
    if not isinstance(module, RebuiltModule):
        raise InputError("a model that is no graph cannot be cut", todo="use another method, or export a graph")
    cut = cut_graph(module.pair, split.begin, split.end)
    middle = exchange.rank != RECORDS
    mine = {
        name: one for name, one in model.trainable().items() if (name in cut.crossing.middle_tensors) == middle
    }  # fmt: skip
    before, training = ModelState(travelling=run.state, slots=model.slots), work.training
    front = None if middle else SplitModel(module, cut, exchange)
    if front is None:
        result = train_middle(
            module,
            cut,
            exchange,
            training,
            before,
            parameters=mine,
            arrived=model.arrived,
            visit_seed=work.seed,
            on_start=on_start,
            on_step=_paced(on_progress, training.batches),
            should_stop=should_stop,
        )
    else:
        result = train(
            front,
            task,
            source,
            training,
            before,
            seeds=Seeds(job=job_seed, visit=work.seed),
            parameters=mine,
            arrived=model.arrived,
            on_start=on_start,
            on_progress=on_progress,
            should_stop=should_stop,
            clip=front.clip,
        )
    if result.stopped:
        return result
    slots = dict(result.state.slots)
    parts = parts_of(run.output, cut, slots, model.tensor)
    if front is None:
        result = join_as_middle(exchange, result, training, work.dataset, parts)
    else:
        result = join_at_records(front, result, work.dataset, parts)
    return replace(result, state=ModelState(travelling=result.state.travelling, slots=slots))


def _paced(on_progress: Callable[[Progress], None], batches: int) -> Callable[[int], None]:
    """Progress of a member that sees no loss, at most as often as all progress."""
    told = time.perf_counter()

    def on_step(done: int) -> None:
        nonlocal told
        if (now := time.perf_counter()) - told >= PROGRESS_S:
            told = now
            on_progress(Progress(done=done, of=batches, loss=math.nan))

    return on_step

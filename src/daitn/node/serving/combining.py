"""Combining at a gateway: a pipeline is asked as one model, each of its leaves as a query of its own.

All leaves share the query's goal: the same deadline, counted from its arrival, the same region and field. What a leaf
cannot get from one host it gets from another, as any query. Steps, and what was left out, are told with the answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any, NamedTuple, Protocol

import msgspec
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, unknown_model
from daitn.descriptors.pipelines import (
    Cascade,
    Ensemble,
    ModelStep,
    Pipeline,
    Sequence,
    Splitter,
    Step,
    check_pipelines,
    leaves,
)
from daitn.descriptors.serving import NamedTensor, QueryGoal, ServedModel, ServingGoal, TensorSpec
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.asking import DEADLINE_S
from daitn.serving.merging import calibrated, join_mean, join_votes, odds_weights, sureness
from daitn.serving.tensors import Arrays, arrays_of, cut_rows, join_rows, rows_of, tensors_of
from daitn.wire.queries import QueryAnswer
from daitn.wire.secret_queries import CombinedTold, PartTold


class Known(Protocol):
    """Knows the models that there are: a gateway's route engine, or what a client was told of them."""

    @property
    def models(self) -> Mapping[ModelName, ServedModel]:
        """By name."""
        ...


class Asks(Protocol):
    """Asks one model: `asking.Asking` at a gateway; at a client, in secret, `daitn.sdk.secret_combined`."""

    async def ask(
        self,
        model: str,
        inputs: tuple[NamedTensor, ...],
        rows: int,
        goal: QueryGoal,
        session: str = "",
        key: str = "",
        /,
    ) -> Asked:
        """Its answer, or why there is none."""
        ...


class Combined(NamedTuple):
    """How a pipeline ended: its outputs or why there are none, the queries it became, and what was left out."""

    outcome: Arrays | Refused
    asked: tuple[Asked, ...]
    notices: tuple[str, ...]
    took_s: float


class _RefusedError(Exception):
    """A step got no answer."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(refused.what)


class _Way:
    """One query's way through a pipeline."""

    def __init__(self, goal: QueryGoal, session: str, key: str, clock: Callable[[], float]) -> None:
        self.goal, self.session, self.key = goal, session, key
        self._clock = clock
        self._began_s = clock()
        self.asked: list[Asked] = []
        self.notices: list[str] = []

    def left(self) -> QueryGoal:
        """The goal, with the time that is left."""
        allowed_s = DEADLINE_S if self.goal.deadline_s is None else self.goal.deadline_s
        left_s = allowed_s - self.took_s()
        if left_s <= 0:
            raise _RefusedError(Refused(QueryRefusal.LATE, "the pipeline's time was over between two steps"))
        return msgspec.structs.replace(self.goal, deadline_s=left_s)

    def took_s(self) -> float:
        """Until now."""
        return self._clock() - self._began_s


class Combining:
    """See the module's docstring. `seed`: of what splitters draw; `clock`: seconds that only rise."""

    def __init__(
        self,
        pipelines: SequenceOf[Pipeline],
        engine: Known,
        asking: Asks,
        counters: Counters,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._declared = {pipeline.name: pipeline for pipeline in check_pipelines(tuple(pipelines))}
        self.pipelines = self._declared
        self._engine, self._asking, self._counters = engine, asking, counters
        self._random = random.Random(seed)

    def follow(self, models: SequenceOf[ServedModel]) -> None:
        """Models that are served in stages are sequences of these. Where not all stages of one are told yet, it is not
        there yet."""
        stages: dict[ModelName, dict[int, ModelName]] = {}
        wanted: dict[ModelName, int] = {}
        for model in models:
            if model.stage is not None:
                stages.setdefault(model.stage.model, {})[model.stage.number] = model.model
                wanted[model.stage.model] = model.stage.of
        whole = {
            name: Pipeline(name=name, step=Sequence(steps=tuple(ModelStep(model=parts[one]) for one in sorted(parts))))
            for name, parts in stages.items()
            if len(parts) == wanted[name]
        }
        self.pipelines = {**self._declared, **whole}

    def described(self, name: str) -> ServedModel | None:
        """A pipeline as a model is described; None where there is no such one. Ready, where all that it needs are."""
        pipeline = self.pipelines.get(ModelName(name))
        if pipeline is None:
            return None
        models = [self._engine.models.get(leaf.model) for leaf in leaves(pipeline.step)]
        there = [model for model in models if model is not None]
        ready = len(there) == len(models) and all(model.routes for model in there)
        return ServedModel(
            model=pipeline.name,
            artifact=ArtifactId(""),
            owner=OwnerId(""),
            goal=ServingGoal(),
            inputs=self._inputs(pipeline.step),
            outputs=self._outputs(pipeline.step),
            routes=there[0].routes if ready else (),
        )

    def all(self) -> tuple[ServedModel, ...]:
        """Every pipeline, as models are described."""
        found = (self.described(name) for name in self.pipelines if name not in self._engine.models)
        return tuple(one for one in found if one is not None)

    def told(self, name: str, goal: QueryGoal) -> CombinedTold | None:
        """What a client needs that walks a pipeline itself, as in secret; None where there is no such one."""
        pipeline = self.pipelines.get(ModelName(name))
        if pipeline is None:
            return None
        steps = {leaf.model: leaf for leaf in leaves(pipeline.step)}
        known = [(leaf, self._engine.models[name]) for name, leaf in steps.items() if name in self._engine.models]
        parts = tuple(
            PartTold(
                model=model.model,
                inputs=model.inputs,
                outputs=model.outputs,
                accuracy=self._accuracy(leaf, goal),
                temperature=model.temperature,
                threshold=model.threshold,
            )
            for leaf, model in known
        )
        return CombinedTold(step=pipeline.step, parts=parts)

    async def ask(self, name: str, inputs: Arrays, goal: QueryGoal, session: str = "", key: str = "") -> Combined:
        """The answer of a pipeline that there is. InputError where the inputs do not fit it."""
        pipeline = self.pipelines[ModelName(name)]
        way = _Way(goal, session, key, self._clock)
        try:
            outcome: Arrays | Refused = await self._do(pipeline.step, inputs, way)
        except _RefusedError as error:
            outcome = error.refused
        self._counters.count("pipelines_asked", "refused" if isinstance(outcome, Refused) else "answered")
        return Combined(outcome, tuple(way.asked), tuple(way.notices), way.took_s())

    # --- steps ------------------------------------------------------------------------------------------------------

    async def _do(self, step: Step, values: Arrays, way: _Way) -> Arrays:
        match step:
            case ModelStep():
                return await self._model(step, values, way)
            case Sequence(steps=steps):
                known, outputs = dict(values), values
                for one in steps:
                    outputs = await self._do(one, known, way)
                    known |= outputs
                return outputs
            case Ensemble():
                return await self._ensemble(step, values, way)
            case Cascade():
                return await self._cascade(step, values, way)
            case Splitter(steps=steps, shares=shares):
                return await self._do(self._random.choices(steps, shares)[0], values, way)

    async def _model(self, step: ModelStep, values: Arrays, way: _Way) -> Arrays:
        model = self._engine.models.get(step.model)
        if model is None:
            raise _RefusedError(unknown_model(step.model, self._engine.models))
        if lacking := [name for name in self._names(step) if name not in values]:
            raise InputError(f"{step.model} needs {', '.join(lacking)}, which nobody gives", todo="send it")
        arrays = {spec.name: values[step.inputs.get(spec.name, spec.name)] for spec in model.inputs}
        rows = rows_of(arrays, model.inputs)
        asked = await self._asking.ask(model.model, tensors_of(arrays), rows, way.left(), way.session, way.key)
        way.asked.append(asked)
        if isinstance(asked.outcome, Refused):
            raise _RefusedError(asked.outcome._replace(what=f"{step.model}: {asked.outcome.what}"))
        answer: QueryAnswer = asked.outcome
        return {step.outputs.get(name, name): array for name, array in arrays_of(answer.outputs).items()}

    async def _ensemble(self, step: Ensemble, values: Arrays, way: _Way) -> Arrays:
        branches = list(step.steps)
        if step.partial:
            branches = [one for one in branches if all(name in values for name in self._needed(one))]
            for one in step.steps:
                if one not in branches:
                    names = ", ".join(sorted({name for name in self._needed(one) if name not in values}))
                    way.notices.append(f"answered without {_named(one)}: the query has no {names}")
            if not branches:
                raise InputError("the query has the inputs of no branch", todo="ask for the model's metadata")
        answers = await self._quorum(step, branches, values, way)
        if lacking := [_named(one) for one, outputs in answers if step.output not in outputs]:
            raise InputError(f"{', '.join(lacking)} has no output {step.output!r} to be joined")
        measured = [self._accuracy(one, way.goal) if step.weights == "measured" else 0.7 for one, _ in answers]
        weights = odds_weights(measured)
        joined = [outputs[step.output] for _, outputs in answers]
        if step.join != "vote":
            return {step.output: join_mean(joined, weights)}
        votes = [self._voted(one, answer) for (one, _), answer in zip(answers, joined, strict=True)]
        return {step.output: join_votes(votes, weights)}

    async def _quorum(
        self, step: Ensemble, branches: list[Step], values: Arrays, way: _Way
    ) -> list[tuple[Step, Arrays]]:
        """Answers of as many branches as are enough, in their order; the others are given up."""
        enough = min(step.quorum or len(branches), len(branches))
        tasks = {asyncio.ensure_future(self._do(one, values, way)): one for one in branches}
        refused: list[BaseException] = []
        done: set[asyncio.Future[Arrays]] = set()
        try:
            waiting = set(tasks)
            while waiting and len(done) < enough:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    if (error := task.exception()) is None:
                        done.add(task)
                    elif isinstance(error, _RefusedError):
                        refused.append(error)
                        way.notices.append(f"answered without {_named(tasks[task])}: {error.refused.reason.value}")
                    else:
                        raise error
            # without a quorum, whoever answers counts; with one, less is no answer
            if not done or (step.quorum and len(done) < enough):
                raise refused[0]
            way.notices += [f"answered without {_named(tasks[task])}: a quorum was there" for task in waiting]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [(one, task.result()) for task, one in tasks.items() if task in done]

    async def _cascade(self, step: Cascade, values: Arrays, way: _Way) -> Arrays:
        """Each row's answer is that of the first step that is sure of it, or of the last."""
        rows = {array.shape[0] if array.ndim else 0 for array in values.values()}
        if len(rows) != 1:
            raise InputError("the inputs do not all have the same number of rows")
        left = list(range(rows.pop()))
        found: dict[int, Arrays] = {}
        for number, one in enumerate(step.steps, 1):
            outputs = await self._do(one, {name: array[left] for name, array in values.items()}, way)
            if step.output not in outputs:
                raise InputError(f"{_named(one)} has no output {step.output!r} that says how sure it is")
            sure = sureness(outputs[step.output], *self._calibration(one))
            if len(sure) != len(left):
                raise InputError(f"{_named(one)} has {len(sure)} rows for {len(left)}")
            each = cut_rows(outputs, [1] * len(left))
            last = number == len(step.steps)
            found |= {row: own for row, own, value in zip(left, each, sure, strict=True) if last or value >= step.sure}
            left = [row for row in left if row not in found]
            if not left:
                break
        names = set.intersection(*(set(own) for own in found.values()))
        return join_rows([{name: found[row][name] for name in sorted(names)} for row in sorted(found)])

    # --- what is known of a step ------------------------------------------------------------------------------------

    def _calibration(self, step: Step) -> tuple[float, float]:
        """Temperature and threshold that a step's answers are read with."""
        model = self._engine.models.get(step.model) if isinstance(step, ModelStep) else None
        return (1.0, 0.5) if model is None else (model.temperature, model.threshold)

    def _voted(self, step: Step, answer: NDArray[Any]) -> NDArray[Any]:
        """An answer whose largest entries are what it votes for: of two classes as the threshold has it."""
        threshold = self._calibration(step)[1]
        two = answer.ndim == 2 and answer.shape[1] == 2 and answer.dtype.kind == "f"
        return calibrated(answer, threshold=threshold) if two and threshold != 0.5 else answer

    def _accuracy(self, step: Step, goal: QueryGoal) -> float | None:
        model = self._engine.models.get(step.model) if isinstance(step, ModelStep) else None
        if model is None:
            return None
        return model.quality.get(f"accuracy@{goal.field}" if goal.field else "accuracy", model.quality.get("accuracy"))

    def _names(self, step: ModelStep) -> list[str]:
        """What a leaf takes, as it is called here."""
        model = self._engine.models.get(step.model)
        return [] if model is None else [step.inputs.get(spec.name, spec.name) for spec in model.inputs]

    def _needed(self, step: Step) -> set[str]:
        return {spec.name for spec in self._inputs(step)}

    def _inputs(self, step: Step) -> tuple[TensorSpec, ...]:
        """What must be given to a step from outside."""
        if isinstance(step, ModelStep):
            model = self._engine.models.get(step.model)
            specs = () if model is None else model.inputs
            return tuple(msgspec.structs.replace(one, name=step.inputs.get(one.name, one.name)) for one in specs)
        made: set[str] = set()
        needed: dict[str, TensorSpec] = {}
        for one in step.steps:
            needed |= {spec.name: spec for spec in self._inputs(one) if spec.name not in made}
            if isinstance(step, Sequence):
                made |= {spec.name for spec in self._outputs(one)}
        return tuple(needed.values())

    def _outputs(self, step: Step) -> tuple[TensorSpec, ...]:
        """What a step answers, as far as it is known before it is asked."""
        match step:
            case ModelStep(model=name, outputs=outputs):
                model = self._engine.models.get(name)
                specs = () if model is None else model.outputs
                return tuple(msgspec.structs.replace(one, name=outputs.get(one.name, one.name)) for one in specs)
            case Sequence(steps=steps):
                return self._outputs(steps[-1])
            case Ensemble(steps=steps, output=output):
                return tuple(spec for spec in self._outputs(steps[0]) if spec.name == output)
            case Cascade(steps=steps) | Splitter(steps=steps):
                return self._outputs(steps[0])


def _named(step: Step) -> str:
    """A step, for people."""
    return " and ".join(dict.fromkeys(leaf.model for leaf in leaves(step)))

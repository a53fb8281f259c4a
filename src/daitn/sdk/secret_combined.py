"""Combined models asked in secret: their client walks the tree and joins answers, since nobody else may read them.

The same walk as at a gateway (`daitn.node.serving.combining`), where each leaf is a secret query: its inputs are
encrypted for hosts of that leaf alone, and what one answers goes to the next from here. So every part of a model in
stages, of an ensemble or a cascade is read by its own host and by nobody else, and costs its client's way instead of
the gateway's.

Not hidden from the gateway: which parts are asked, when, and with how many rows: of a cascade, how many rows its first
models were not sure of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.descriptors.pipelines import STEPS, Pipeline
from daitn.descriptors.serving import NamedTensor, QueryGoal, ServedModel, ServingGoal
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.combining import Combined, Combining
from daitn.node.serving.inference_protocol import GOAL_WORDS, goal_of
from daitn.sdk.secret_calls import Arrays, Goal, opened_of, readers_or_parts, request_of, sealed_for
from daitn.serving.tensors import arrays_of, tensors_of
from daitn.wire.queries import QueryAnswer
from daitn.wire.secret_queries import CombinedTold, PartTold

_INPUT: Final = (QueryRefusal.INPUT, QueryRefusal.UNKNOWN_MODEL)
"""Refusals that say what is wrong with the query; the others may be gone another time."""


def ask_parts(
    gateway: str,
    key: str,
    model: str,
    told: CombinedTold,
    inputs: Arrays,
    hosts: Collection[str],
    goal: Goal | None,
    notice: Callable[[str], None] | None,
) -> dict[str, NDArray[Any]]:
    """Outputs of a combined model. Arguments and errors as `secret_queries.ask_secretly`; PeerError where the gateway
    tells a tree that does not hold together."""
    parts = _Parts(gateway, key, model, told, hosts, goal)
    try:
        combining = Combining([Pipeline(name=ModelName(model), step=told.step)], parts, parts, Counters())
    except InputError as error:
        raise PeerError(f"the gateway tells a combined model that is none: {error.what}") from None
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    try:
        found = _walked(combining, model, arrays, goal_of({}, dict(goal or {})))
    finally:
        parts.close()
    if isinstance(found.outcome, Refused):
        refused = found.outcome
        raise (InputError if refused.reason in _INPUT else UnavailableError)(refused.what, todo=refused.offer)
    if notice is not None:
        for one in found.notices:
            notice(one)
    return dict(found.outcome)


def _walked(combining: Combining, model: str, arrays: dict[str, NDArray[Any]], goal: QueryGoal) -> Combined:
    """The walk, on a loop of its own: the caller may have one."""
    with ThreadPoolExecutor(1, "daitn-combined") as alone:
        return alone.submit(lambda: asyncio.run(combining.ask(model, arrays, goal))).result()


class _Parts:
    """The models of a combined one: what is known of them, and asking each."""

    def __init__(
        self, gateway: str, key: str, model: str, told: CombinedTold, hosts: Collection[str], goal: Goal | None
    ) -> None:
        self._gateway, self._key, self._model = gateway, key, model
        self._hosts, self._goal = hosts, dict(goal or {})
        self.models = {part.model: _described(part) for part in told.parts}
        self._pool = ThreadPoolExecutor(STEPS, "daitn-part")

    def close(self) -> None:
        """Answers that are not wanted any more are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(self, model: str, inputs: tuple[NamedTensor, ...], rows: int, goal: QueryGoal, *_: str) -> Asked:
        """One part's answer."""
        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._pool, self._one, model, arrays_of(inputs), rows, goal)
            outcome: QueryAnswer | Refused = QueryAnswer(outputs=tensors_of(outputs))
        except InputError as error:
            outcome = Refused(QueryRefusal.INPUT, error.what)
        except (UnavailableError, PeerError) as error:
            outcome = Refused(QueryRefusal.LOST, error.what, 1.0)
        return Asked("", outcome, (), time.monotonic() - began_s, ModelName(model))

    def _one(self, model: str, inputs: Arrays, rows: int, goal: QueryGoal) -> dict[str, NDArray[Any]]:
        left_ms = 1000 * (goal.deadline_s or 0.001)
        headers = {**self._goal, GOAL_WORDS["deadline_ms"]: f"{max(1.0, left_ms):.0f}"}
        readers = readers_or_parts(self._gateway, self._key, self._model, self._hosts, headers, model)
        assert not isinstance(readers, CombinedTold)
        query, secret = sealed_for(readers, inputs, rows)
        return opened_of(
            secret, request_of(readers.where + "/secret", readers.headers, msgspec.msgpack.encode(query))[1]
        )


def _described(part: PartTold) -> ServedModel:
    """What a gateway told of a part, as models are described where they are combined."""
    return ServedModel(
        model=part.model,
        artifact=ArtifactId(""),
        owner=OwnerId(""),
        goal=ServingGoal(),
        inputs=part.inputs,
        outputs=part.outputs,
        quality={} if part.accuracy is None else {"accuracy": part.accuracy},
        temperature=part.temperature,
        threshold=part.threshold,
    )

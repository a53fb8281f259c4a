"""What an engine promises (paper II-B, the model host's part): a loaded model that turns batches of rows into outputs.

The laws that `tests/contract/test_engines.py` holds every engine to:

1. `infer` on rows joined from several queries gives each query what it would have got alone, up to rounding;
2. a batch that does not fit is an InputError, and the engine goes on;
3. an engine that died raises UnavailableError, and says so by `alive`;
4. after `close` nothing of it is left: no process, no file, no memory.

Warming up is the same for all: `warm_up` asks for rows of zeros, learns the outputs' shapes, and measures. What an
engine does not do: queue, batch, retry, or know of other models. That is `batching`, and the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from daitn.base.errors import InputError, PeerError
from daitn.descriptors.serving import VARIES, EngineKind, ReplicaMeasured, TensorSpec
from daitn.serving.tensors import Arrays, datatype_of

BATCH_ROWS: Final = 32
"""Rows computed together at most: beyond it, small models gain little on one core, and whoever came first waits."""

PROBES: Final = 3
"""Measured runs of each size while warming up; the least is kept, because disturbance only ever adds."""


class Engine(Protocol):
    """See the module's docstring. One batch at a time: a second `infer` meanwhile is a bug of the caller."""

    @property
    def kind(self) -> EngineKind:
        """What it is."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        ...

    @property
    def rows_most(self) -> int:
        """Rows that may be in one batch."""
        ...

    @property
    def alive(self) -> bool:
        """Whether another batch can be asked for."""
        ...

    def example(self, rows: int) -> Arrays:
        """Rows of zeros, each of the smallest size that the model takes."""
        ...

    async def infer(self, batch: Arrays) -> Arrays:
        """The outputs for some rows. InputError where they do not fit or the model fails on them, UnavailableError
        where the engine died or took too long (it is dead then)."""
        ...

    def memory_bytes(self) -> int:
        """Private memory in use."""
        ...

    async def close(self) -> None:
        """End it; may be called again."""
        ...


class Warmed(NamedTuple):
    """What warming up told."""

    outputs: tuple[TensorSpec, ...]
    measured: ReplicaMeasured


async def warm_up(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> Warmed:
    """Run an engine on zeros until it is as fast as it gets. InputError where the model fails on its declared inputs.

    Takes about six single rows and three batches.
    """
    one = await engine.infer(engine.example(1))
    two = await engine.infer(engine.example(2)) if engine.rows_most > 1 else one
    if not one:
        raise InputError("the model has no outputs")
    outputs = []
    for name, array in one.items():
        other = two.get(name)
        if other is None or other.ndim != array.ndim or not array.ndim:
            raise PeerError(f"output {name[:80]!r} is not one answer for each row")
        sides = zip(array.shape[1:], other.shape[1:], strict=True)
        shape = (VARIES, *(side if side == again else VARIES for side, again in sides))
        outputs.append(TensorSpec(name=name, datatype=datatype_of(array), shape=shape))
    rows = min(BATCH_ROWS, engine.rows_most)
    row_s = await _least(engine, 1, clock)
    batch_s = await _least(engine, rows, clock)
    measured = ReplicaMeasured(
        engine=engine.kind, memory_bytes=engine.memory_bytes(), row_s=row_s, batch_rows=rows, batch_s=batch_s
    )
    return Warmed(tuple(outputs), measured)


async def _least(engine: Engine, rows: int, clock: Callable[[], float]) -> float:
    batch = engine.example(rows)
    taken = []
    for _ in range(PROBES):
        began = clock()
        await engine.infer(batch)
        taken.append(clock() - began)
    return min(taken)

"""Engines *torch graph* and *ONNX graph*: a package's graph in a sandboxed child of its own, fed over its pipe.

The child is that of `sandbox.serving`; a death of it, whatever the cause, is an UnavailableError with the reason, and
the host starts another. A batch that takes longer than `BATCH_S` ends the child: a model that never answers must not
hold a host.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import numpy as np

from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_stages import cut_stage, tensors_of_stage
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import BugError, InputError, PeerError, UnavailableError
from daitn.descriptors.serving import EngineKind, TensorSpec
from daitn.descriptors.stages import Stage
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.sandbox.protocol import Failed, FailReason, Infer, Inferred, Setup
from daitn.node.sandbox.visits import WATCH_S, ChildHandle, VisitError
from daitn.serving.catalogue import example_shapes, input_specs, rows_most
from daitn.serving.tensors import Arrays, arrays_of, dtype_of, tensors_of

BATCH_S: Final = 60.0
"""Longest a batch may take."""


class ServingChild(ChildHandle):
    """A child that serves, as its node holds it."""

    _looked_s = 0.0

    async def infer(self, batch: Arrays) -> Arrays:
        """See `Engine.infer`."""
        if self._busy or not self.alive:
            raise BugError("a batch was asked of a child that is " + ("busy" if self._busy else "dead"))
        self._busy = True
        self._number += 1
        self._frames = 0
        self._watch(BATCH_S)
        try:
            message = await self._ask(Infer(number=self._number, inputs=tensors_of(batch)), ())
        except BaseException as error:
            if not isinstance(error, VisitError):
                await self.kill()
            raise
        finally:
            self._unwatch()
            self._busy = False
        if not isinstance(message, Inferred | Failed) or message.number != self._number:
            raise await self._garbage(f"the child said {type(message).__name__} instead of an answer")
        if isinstance(message, Failed):
            raise VisitError(message)
        try:
            outputs = arrays_of(message.outputs)
        except InputError as error:
            raise await self._garbage(f"the child's outputs cannot be read: {error.what}") from None
        self._look_now_and_then()
        return outputs

    def _look_now_and_then(self) -> None:
        """Batches are shorter than the looks of `_watch`: memory is looked at between them instead."""
        now_s = time.monotonic()
        if now_s - self._looked_s > WATCH_S:
            self._looked_s = now_s
            if (used := self.vital().memory_bytes) > self._limits.memory_bytes:
                what = f"the model uses {used} bytes of memory, this host gives {self._limits.memory_bytes}"
                self._kill_because(Failed(number=self._number, reason=FailReason.MEMORY, what=what))


class TorchGraphEngine:
    """See the module's docstring; made by `start_torch_graph`."""

    def __init__(
        self, kind: EngineKind, child: ServingChild, inputs: tuple[TensorSpec, ...], rows: int, example: Arrays
    ) -> None:
        self.kind = kind
        self._child = child
        self._example = example
        self.inputs = inputs
        self.rows_most = rows

    @property
    def alive(self) -> bool:
        """Whether another batch can be asked for."""
        return self._child.alive

    def example(self, rows: int) -> Arrays:
        """See `Engine.example`."""
        return {name: np.zeros((rows, *one.shape), one.dtype) for name, one in self._example.items()}

    async def infer(self, batch: Arrays) -> Arrays:
        """See `Engine.infer`."""
        if not self.alive:
            raise UnavailableError("the engine has died", todo="the host starts another one")
        try:
            return await self._child.infer(batch)
        except VisitError as error:
            if self.alive and error.failed.reason in (FailReason.INPUT, FailReason.NOT_FINITE):
                raise InputError(error.what, todo=error.todo) from None
            raise UnavailableError(f"the engine failed: {error.what}", todo=error.todo) from None

    def memory_bytes(self) -> int:
        """Private memory of the child."""
        return self._child.vital().memory_bytes

    async def close(self) -> None:
        """End the child; afterwards nothing of it is left."""
        await self._child.close()


async def start_torch_graph(
    manifest: Manifest,
    parts: dict[str, bytes],
    payload: Path,
    sandbox: Sandbox,
    *,
    threads: int = 1,
    onnx: bool = False,
    stage: Stage | None = None,
) -> TorchGraphEngine:
    """An engine for a package, its child loaded. `payload`: the file that holds its tensors, as the store keeps it.
    `onnx`: exported in the child and computed by ONNX Runtime. `stage`: for that part of the model alone, which maps
    its own tensors and no others.

    InputError where the package cannot be served, UnavailableError where no child can be started or it dies.
    """
    try:
        pair = decode_graph_pair(parts["graph"])
    except KeyError:
        raise InputError("the package has no graph", todo="export the module as a graph") from None
    except PeerError as error:
        raise InputError(f"the package's graph is unfit: {error.what}", todo=error.todo) from None
    tensors = manifest.tensors
    if stage is not None:
        pair = cut_stage(pair, stage.begin, stage.end)
        tensors = tuple(one for one in tensors if one.name in tensors_of_stage(pair))
    inputs = input_specs(pair)
    shapes = example_shapes(pair)
    example = {spec.name: np.zeros(shapes[spec.name], dtype_of(spec.datatype)) for spec in inputs}
    setup = Setup(
        contract=parts["contract"],
        kind="graph",
        parts={"graph": parts["graph"] if stage is None else encode_graph_pair(pair)},
        tensors=tensors,
        threads=threads,
        device="cpu",
        onnx=onnx,
    )
    started = await sandbox.start(threads=threads, module="serving")
    child = ServingChild(started, sandbox)
    descriptor = os.open(payload, os.O_RDONLY)
    try:
        child.ready = await child.warm_up(setup, [descriptor])
    except VisitError as error:
        await child.kill()
        if error.failed.reason is FailReason.INPUT:
            raise InputError(f"the model cannot be loaded: {error.what}", todo=error.todo) from None
        raise UnavailableError(f"the model cannot be loaded: {error.what}", todo=error.todo) from None
    except BaseException:
        await child.kill()
        raise
    finally:
        os.close(descriptor)
    kind = EngineKind.ONNX_GRAPH if onnx else EngineKind.TORCH_GRAPH
    return TorchGraphEngine(kind, child, inputs, rows_most(pair), example)

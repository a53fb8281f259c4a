"""The serving child's main: one model, bound to its mapped payload, answering batch after batch. Imports torch.

It lives in the same sandbox as children that train: no network, no files but the installation, limits on memory. The
model is a graph rebuilt from the closed format, in its evaluation form; nothing it computes changes it. With
`Setup.onnx` the child exports it and computes with ONNX Runtime instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from mmap import ALLOCATIONGRANULARITY
from typing import TYPE_CHECKING

import msgspec

from daitn.base.errors import BugError, InputError, UnavailableError
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.child import explain
from daitn.node.sandbox.confine import confine
from daitn.node.sandbox.protocol import Cancel, Close, Infer, Inferred, Ready, Setup
from daitn.serving.tensors import Arrays, arrays_of, tensors_of

if TYPE_CHECKING:
    from daitn.learning.numerics.modules import BoundModule

Model = Callable[[Arrays], Arrays]
"""Outputs by name for inputs by name."""


def main(arguments: Sequence[str]) -> int:
    """`arguments`: number of the socket, limits as JSON. Returns the exit status."""
    confine(arguments[1])
    channel = ChildChannel(int(arguments[0]))
    try:
        model = _load(channel)
        return 1 if model is None else _serve(channel, model)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 0


def _load(channel: ChildChannel) -> Model | None:
    began = time.perf_counter()
    try:
        import torch

        from daitn.artifacts.graph import decode_graph_pair
        from daitn.learning.numerics.device import choose_device
        from daitn.learning.numerics.modules import BoundModule, build_structure
        from daitn.node.sandbox.work import map_payload

        setup, descriptors = channel.receive()
        if not isinstance(setup, Setup) or len(descriptors) != 1:
            raise BugError(f"a serving child begins with Setup and 1 descriptor, not {type(setup).__name__}")
        torch.set_num_threads(setup.threads)
        device = choose_device(setup.device)
        bound = BoundModule(build_structure(setup.kind, setup.parts, setup.tensors), device)
        kept = tuple(entry for entry in setup.tensors if entry.role in ("parameter", "frozen", "buffer"))
        # A stage has tensors from somewhere within the payload; what is before them is another host's.
        start = min((entry.offset for entry in kept), default=0) // ALLOCATIONGRANULARITY * ALLOCATIONGRANULARITY
        end = max((entry.offset + entry.nbytes for entry in kept), default=0)
        placed = [msgspec.structs.replace(entry, offset=entry.offset - start) for entry in kept]
        bound.bind(placed, map_payload(descriptors[0], end - start, start), changing=False)
        bound.module.eval()
        model: Model = TorchModel(bound)
        if setup.onnx:
            from daitn.learning.onnx_export import OnnxModel

            model = OnnxModel(decode_graph_pair(setup.parts["graph"]), bound.module, setup.threads)
    except Exception as error:  # noqa: BLE001  # whatever a package does wrong must reach its provider as a sentence
        channel.send(explain(error, 0))
        return None
    channel.send(Ready(warm_s=time.perf_counter() - began, device=str(device), records=0))
    return model


class TorchModel:
    """The graph itself, as torch computes it."""

    def __init__(self, bound: BoundModule) -> None:
        self._bound = bound  # holds the mapped payload

    def __call__(self, inputs: Arrays) -> Arrays:
        """Named outputs for named inputs; errors as the model raises them."""
        import numpy as np
        import torch

        tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = self._bound.module(**tensors)
        if not isinstance(outputs, dict):
            raise InputError(f"the model returned {type(outputs).__name__}, not named outputs")
        widened = {name: one.float() if one.dtype is torch.bfloat16 else one for name, one in outputs.items()}
        return {name: one.cpu().contiguous().numpy() for name, one in widened.items()}


def _serve(channel: ChildChannel, model: Model) -> int:
    while True:
        message, _ = channel.receive()
        if isinstance(message, Close):
            return 0
        if isinstance(message, Cancel):
            continue
        if not isinstance(message, Infer):
            raise BugError(f"the node said {type(message).__name__} to a serving child")
        try:
            answer = _infer(model, message)
        except Exception as error:  # noqa: BLE001  # as above; the child goes on
            channel.send(explain(error, message.number))
        else:
            channel.send(answer)


def _infer(model: Model, asked: Infer) -> Inferred:
    began = time.perf_counter()
    outputs = model(arrays_of(asked.inputs))
    return Inferred(number=asked.number, outputs=tensors_of(outputs), work_s=time.perf_counter() - began)

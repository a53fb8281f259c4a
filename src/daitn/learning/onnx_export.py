"""From a rebuilt graph to ONNX Runtime: the evaluation form of a model, exported by torch and compared before use.

Runs in the child that serves the model: what is exported there never leaves it, so no foreign ONNX file is ever read.
The exported model is asked about random rows, of one and of several, and must say what the graph says; one that does
not is refused, because a faster answer is worth nothing if it is another one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from daitn.artifacts.graph_schema import Dimension, GraphPair
from daitn.base.errors import InputError, UnavailableError

TOLERANCE: Final = 1e-4
"""Largest difference to the graph, relative and absolute: kernels sum in another order, and no more than that."""

RUNTIME_FAULTS: Final = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NotImplemented",
    "RuntimeException",
)
"""What ONNX Runtime raises about a model or its inputs. Anything else is a fault of ours, not called the owner's."""

BYTES_MOST: Final = 2**31 - 2**20
"""Largest model that fits one protobuf message, with room for the graph."""

ROWS: Final = (1, 2, 7)
"""Rows of the batches that are compared."""


class OnnxModel:
    """A model in ONNX Runtime. `module`: rebuilt from `pair`, in evaluation form. `threads`: of its session.

    UnavailableError where the libraries are not installed, InputError where the model cannot be exported or the
    exported one says something else. Takes seconds; in memory the model is there twice.
    """

    def __init__(self, pair: GraphPair, module: torch.nn.Module, threads: int) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as raised
        except ImportError as error:
            raise UnavailableError(f"ONNX Runtime is not installed: {error}", todo="install daitn[onnx]") from None
        self._faults: tuple[type[Exception], ...] = tuple(getattr(raised, name) for name in RUNTIME_FAULTS)
        self._inputs = [port.name for port in pair.inputs]
        self._outputs = [output.name for output in pair.eval.outputs]
        data = _export(pair, module)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except self._faults as error:  # this model is not for this engine
            raise InputError(f"ONNX Runtime does not take the exported model: {_first_line(error)}") from None
        self._compare(pair, module)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named outputs for named inputs; InputError where the runtime does not take them."""
        if set(inputs) != set(self._inputs):
            raise InputError(f"the model takes the inputs {self._inputs}, not {sorted(inputs)}")
        try:
            given = {_input(number): inputs[name] for number, name in enumerate(self._inputs)}
            found = self._session.run([_output(number) for number in range(len(self._outputs))], given)
        except self._faults as error:
            raise InputError(f"the model failed on these rows: {_first_line(error)}") from None
        return dict(zip(self._outputs, found, strict=True))

    def _compare(self, pair: GraphPair, module: torch.nn.Module) -> None:
        for rows in ROWS:
            example = _example(pair, rows)
            with torch.inference_mode():
                wanted = module(**example)
            found = self({name: tensor.numpy() for name, tensor in example.items()})
            for name, tensor in wanted.items():
                if not np.allclose(found[name], tensor.numpy(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                    worst = float(np.max(np.abs(found[name] - tensor.numpy())))
                    raise InputError(f"output {name!r} of the exported model differs by {worst:.2g} for {rows} rows")


class _Positional(torch.nn.Module):
    """The model with its inputs in order, which is what exporters name."""

    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module = module
        self._names = names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.module(**dict(zip(self._names, values, strict=True))).values())


def _export(pair: GraphPair, module: torch.nn.Module) -> bytes:
    names = [port.name for port in pair.inputs]
    example = _example(pair, 2)
    ranges = {one.name: one for one in pair.dimensions}
    dimensions = {
        name: torch.export.Dim(name, min=max(1, one.minimum), max=one.maximum) for name, one in ranges.items()
    }
    shapes = tuple(
        {number: dimensions[side.name] for number, side in enumerate(port.shape) if isinstance(side, Dimension)}
        for port in pair.inputs
    )
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > BYTES_MOST:
        raise InputError(f"the model has {size} bytes, an ONNX file in one piece at most {BYTES_MOST}")
    said = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Positional(module, names).eval(),
                tuple(example[name] for name in names),
                dynamo=True,
                dynamic_shapes={"values": shapes},
                # By number: an owner may give an output the name of an input, ONNX may not.
                input_names=[_input(number) for number in range(len(names))],
                output_names=[_output(number) for number in range(len(pair.eval.outputs))],
            )
            assert program is not None
            return bytes(program.model_proto.SerializeToString())
    except ImportError as error:
        raise UnavailableError(f"models cannot be exported here: {error}", todo="install daitn[onnx]") from None
    except torch.onnx.OnnxExporterError as error:
        raise InputError(f"the model cannot be exported to ONNX: {_first_line(error)}") from None


def _example(pair: GraphPair, rows: int) -> dict[str, torch.Tensor]:
    """Random rows of the smallest sides that are not 0 or 1, which exporters would take for fixed."""
    ranges = {one.name: max(2, one.minimum) for one in pair.dimensions}
    first = pair.inputs[0].shape[0]
    generator = torch.Generator().manual_seed(rows)
    found: dict[str, torch.Tensor] = {}
    for port in pair.inputs:
        sides = [
            (rows if side == first else ranges.get(side.name, 2)) if isinstance(side, Dimension) else side.value
            for side in port.shape
        ]
        dtype = getattr(torch, port.dtype.value)
        if port.dtype.is_floating:
            found[port.name] = torch.rand(sides, generator=generator).to(dtype)
        else:  # 0 and 1 are in every vocabulary, and in every mask
            found[port.name] = torch.randint(0, 2, sides, generator=generator).to(dtype)
    return found


def _input(number: int) -> str:
    return f"in_{number}"


def _output(number: int) -> str:
    return f"out_{number}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"

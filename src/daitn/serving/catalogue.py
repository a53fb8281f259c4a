"""What a package needs of a host, read off its manifest and graph without running anything, and who can serve it."""

from __future__ import annotations

from typing import Final

from daitn.artifacts.graph_schema import Constant, DimensionRange, GraphPair, Input
from daitn.artifacts.manifest import Manifest
from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.descriptors.serving import DATATYPES, ENGINES_FOR, VARIES, ModelNeeds, TensorSpec

CHILD_BYTES: Final = 400 * MIB
"""What a child takes before any model, at most: measured are 147 MiB of private memory for Python and torch, 296 with
ONNX Runtime and what exports to it."""

WEIGHT_COPIES: Final = 2
"""A model is built once with room of its own, then bound to the mapped payload: weights count twice, as do activations
where those are no more than the weights."""

_DATATYPES: Final = {word: name for name, word in DATATYPES.items()}


def needs_of(manifest: Manifest, pair: GraphPair) -> ModelNeeds:
    """What a host must have to serve a package.

    InputError where nothing here serves its kind, or its inputs cannot be asked for.
    """
    if manifest.kind not in ENGINES_FOR:
        raise InputError(
            f"a package of kind {manifest.kind!r} cannot be served; kinds that can are {', '.join(ENGINES_FOR)}",
            todo="export the module as a graph",
        )
    weights = sum(entry.nbytes for entry in manifest.tensors if entry.role in ("parameter", "frozen", "buffer"))
    return ModelNeeds(
        kind="graph",
        payload_bytes=manifest.payload_bytes,
        memory_bytes=CHILD_BYTES + WEIGHT_COPIES * weights,
        signer=manifest.signer,
        inputs=input_specs(pair),
    )


def input_specs(pair: GraphPair) -> tuple[TensorSpec, ...]:
    """A graph's inputs as queries name them. InputError where they do not count rows together."""
    leading = {port.shape[0] if port.shape else None for port in pair.inputs}
    first = next(iter(leading), None)
    if len(leading) != 1 or first is None or isinstance(first, Constant):
        raise InputError(
            "the model's inputs do not all count rows in their first dimension, so queries cannot be batched",
            todo="export it with a batch dimension that varies",
        )
    if (minimum := range_of(pair, first.name).minimum) > 1:
        raise InputError(
            f"the model takes {minimum} rows or more, so a single one cannot be answered",
            todo="export it with batches from 1",
        )
    return tuple(_spec(port) for port in pair.inputs)


def example_shapes(pair: GraphPair) -> dict[str, tuple[int, ...]]:
    """Of each input the smallest sides that the model takes, without the rows."""
    return {
        port.name: tuple(
            side.value if isinstance(side, Constant) else max(1, range_of(pair, side.name).minimum)
            for side in port.shape[1:]
        )
        for port in pair.inputs
    }


def rows_most(pair: GraphPair) -> int:
    """Rows that one run may have."""
    first = pair.inputs[0].shape[0]
    most = None if isinstance(first, Constant) else range_of(pair, first.name).maximum
    return limits.QUERY_ROWS if most is None else most


def range_of(pair: GraphPair, name: str) -> DimensionRange:
    """The sizes for which a named dimension is exact."""
    for dimension in pair.dimensions:
        if dimension.name == name:
            return dimension
    return DimensionRange(name, 1, None)


def _spec(port: Input) -> TensorSpec:
    datatype = _DATATYPES.get(port.dtype.value)
    if datatype is None:
        raise InputError(
            f"input {port.name!r} is {port.dtype.value}, which queries cannot carry", todo="export it with float32"
        )
    shape = tuple(side.value if isinstance(side, Constant) else VARIES for side in port.shape)
    return TensorSpec(name=port.name, datatype=datatype, shape=shape)  # type: ignore[arg-type]

"""Where a graph may be cut for serving: what crosses each place, and what lies before it, without any numbers.

The evaluation graph is run twice on torch's *meta* device, whose tensors have shapes and no memory, each time with
other sizes for its dimensions. A side of an activation that is alike in both runs is fixed; one that is each time as
long as a dimension is that dimension; a place where a side is neither is none. Computing is counted in floating-point
operations by torch's formulas for products, and one for each element that any other node makes, so the same graph has
the same profile everywhere. A model larger than this machine's memory is profiled as any other.

A place is one where a single tensor crosses (`cutting.narrow_places`), of a type that queries carry, whose sides tell
every dimension that what is behind it speaks of. Cost: two passes over the graph without computing; 1 ms per node.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from daitn.artifacts.graph_schema import Constant, GraphPair, NodeRef, Size
from daitn.artifacts.graph_stages import cut_stage, dimensions_of, references_of, tensor_bytes
from daitn.base.errors import InputError
from daitn.descriptors.serving import DATATYPES
from daitn.descriptors.stages import PLACES_MOST, Activation, CutPlace, GraphProfile, Side
from daitn.learning.graphs.cutting import narrow_places
from daitn.learning.graphs.rebuild import RebuiltModule, evaluation_graph, rebuild, sizes_of, tensors_of

SIZES: Final = (
    (61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137),
    (41, 43, 47, 53, 59, 29, 31, 37, 19, 23, 17, 13, 11, 7, 5, 3),
)
"""What dimensions are taken to be in each run, as far as their ranges allow; what is told of sizes is of the first."""


class _Shapes(torch.fx.Interpreter):
    """Runs a graph and keeps what each call makes, and what it counts."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.made: list[Any] = []
        self.flops: list[float] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        """See `torch.fx.Interpreter`."""
        if n.op != "call_function":
            return super().run_node(n)
        with FlopCounterMode(display=False) as counted:
            made = super().run_node(n)
        elements = made.numel() if isinstance(made, Tensor) else 0
        self.made.append((tuple(made.shape), made.dtype) if isinstance(made, Tensor) else None)
        self.flops.append(float(counted.get_total_flops() or elements))
        return made


@torch.no_grad()
def profile_stages(pair: GraphPair) -> GraphProfile:
    """Where a graph may be cut for serving. InputError where it cannot be served in stages at all."""
    if pair.eval.mutates:
        raise InputError("the model changes its buffers in evaluation, so it cannot be served in stages")
    tensors = [(one.name, one.shape, one.dtype) for one in pair.parameters]
    tensors += [(one.name, one.shape, one.dtype) for one in pair.buffers]
    empty = {
        name: torch.empty(shape, dtype=getattr(torch, dtype.value), device="meta") for name, shape, dtype in tensors
    }
    module = rebuild(pair, empty).eval()
    assert isinstance(module, RebuiltModule)
    runs: list[tuple[_Shapes, dict[str, int]]] = []
    for sizes in SIZES:
        chosen = _sizes(pair, sizes)
        try:
            runs.append((_run(module, chosen), chosen))
        except (NotImplementedError, RuntimeError) as error:
            what = str(error).partition("\n")[0][:200]
            raise InputError(f"what crosses a cut of this model cannot be told without running it: {what}") from None
    (shapes, chosen), _ = runs
    rows_name = pair.inputs[0].shape[0]
    rows = rows_name.value if isinstance(rows_name, Constant) else chosen[rows_name.name]
    total_flops = sum(shapes.flops)
    weights = tensor_bytes(pair)
    found: list[CutPlace] = []
    for place in narrow_places(pair.eval):
        activation = _activation(pair, place, runs)
        if activation is None:
            continue
        shape, dtype = shapes.made[activation.node]
        nbytes = dtype.itemsize
        for side in shape:
            nbytes *= side
        found.append(
            CutPlace(
                activation=activation,
                before_frac=min(1.0, sum(shapes.flops[:place]) / (total_flops or 1.0)),
                before_bytes=sum(weights[:place]),
                row_bytes=nbytes / max(1, rows),
            )
        )
    return GraphProfile(
        row_flops=total_flops / max(1, rows),
        weight_bytes=sum(weights),
        places=_spread(_whole(pair, found), sum(weights)),
    )


def _sizes(pair: GraphPair, wanted: tuple[int, ...]) -> dict[str, int]:
    """A size for each dimension, within its range."""
    found: dict[str, int] = {}
    for number, one in enumerate(pair.dimensions):
        size = max(one.minimum, wanted[number % len(wanted)])
        found[one.name] = size if one.maximum is None else min(size, one.maximum)
    return found


def _run(module: RebuiltModule, sizes: dict[str, int]) -> _Shapes:
    inputs = {
        port.name: torch.empty(
            [side.value if isinstance(side, Constant) else sizes[side.name] for side in port.shape],
            dtype=getattr(torch, port.dtype.value),
            device="meta",
        )
        for port in module.pair.inputs
    }
    running = _Shapes(evaluation_graph(module))
    ordered = [inputs[port.name] for port in module.pair.inputs]
    running.run(torch.device("meta"), *sizes_of(module, inputs), *ordered, *tensors_of(module))
    nodes = len(module.pair.eval.nodes)
    # Sizes are computed by calls of their own, before the node that takes them.
    calls = [call for call in evaluation_graph(module).graph.nodes if call.op == "call_function"]
    kept = [number for number, call in enumerate(calls) if isinstance(call.meta.get("number"), int)]
    running.made = [running.made[number] for number in kept]
    running.flops = [running.flops[number] for number in kept]
    assert len(running.made) == nodes
    return running


def _activation(pair: GraphPair, place: int, runs: list[tuple[_Shapes, dict[str, int]]]) -> Activation | None:
    """What crosses at a place where one result does; None where it cannot be asked for as a model's input is."""
    node = _crossing(pair, place)
    made = [shapes.made[node] for shapes, _ in runs]
    if any(one is None for one in made):
        return None
    dtype = str(made[0][1]).removeprefix("torch.")
    sides: list[Side] = []
    for each in zip(*(shape for shape, _ in made), strict=True):
        names = [
            name for name in runs[0][1] if all(size == sizes[name] for size, (_, sizes) in zip(each, runs, strict=True))
        ]
        varying = [one.name for one in pair.dimensions if one.name in names and one.minimum != one.maximum]
        if varying:
            sides.append(varying[0])
        elif len(set(each)) == 1:
            sides.append(each[0])
        else:
            return None
    rows = pair.inputs[0].shape[0]
    if dtype not in DATATYPES.values() or not sides or isinstance(rows, Constant) or sides[0] != rows.name:
        return None
    if not _dimensions_behind(pair, place) <= {side for side in sides if isinstance(side, str)}:
        return None
    return Activation(place=place, node=node, dtype=dtype, sides=tuple(sides))


def _crossing(pair: GraphPair, place: int) -> int:
    """The result that crosses a place where only one does."""
    behind = {one.index for node in pair.eval.nodes[place:] for one in references_of(node) if isinstance(one, NodeRef)}
    behind |= {one.value.index for one in pair.eval.outputs if isinstance(one.value, NodeRef)}
    return max(number for number in behind if number < place)


def _dimensions_behind(pair: GraphPair, place: int) -> set[str]:
    """Dimensions that sizes behind a place are made of."""
    found: set[str] = set()
    for node in pair.eval.nodes[place:]:
        for one in references_of(node):
            if isinstance(one, Size):
                found |= set(dimensions_of(one.expression))
    return found


def _whole(pair: GraphPair, places: list[CutPlace]) -> list[CutPlace]:
    """Places at which both sides are graphs: what breaks a rule is found here, not at a host."""
    found: list[CutPlace] = []
    for one in places:
        try:
            cut_stage(pair, None, one.activation)
            cut_stage(pair, one.activation, None)
        except InputError:
            continue
        found.append(one)
    return found


def _spread(places: list[CutPlace], weight_bytes: int) -> tuple[CutPlace, ...]:
    """As many as may be told, evenly over computing and tensors; of those at one step, where least crosses."""
    if len(places) <= PLACES_MOST:
        return tuple(places)
    best: dict[int, CutPlace] = {}
    for one in places:
        along = (one.before_frac + one.before_bytes / max(1, weight_bytes)) / 2
        step = min(PLACES_MOST - 1, int(along * PLACES_MOST))
        known = best.get(step)
        if known is None or one.row_bytes < known.row_bytes:
            best[step] = one
    return tuple(best[step] for step in sorted(best))

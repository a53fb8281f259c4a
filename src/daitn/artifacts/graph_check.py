"""The checker of graphs: everything a site must know before torch sees a node, decided on the values alone.

It proves that every operator is on the list, that nodes refer only to what exists before them (so there is no cycle and
no loop), that names are unique and bounded, that shapes and literal sizes are sane, and that only declared buffers are
changed in place. Train and eval share parameters and inputs by construction of the format. It does not bound what a
chain of growing operations may allocate in total: that is the sandbox's memory limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from daitn.artifacts.graph_schema import (
    Add,
    Argument,
    BufferRef,
    Constant,
    Dimension,
    Equation,
    Expression,
    FloorDiv,
    Graph,
    GraphPair,
    InputRef,
    Mod,
    Mode,
    Mul,
    Node,
    NodeRef,
    ParameterRef,
    Several,
    Size,
    Sub,
    Word,
)
from daitn.artifacts.operators import ARGUMENT_NAMES, EQUATION, GETITEM, LITERAL_ELEMENTS, OPERATORS, WORDS, Operator
from daitn.base.errors import PeerError
from daitn.base.limits import ARTIFACT_BYTES, NAME_CHARS, TENSORS

NODES: Final = 200_000
"""Nodes in one graph; a 12-layer BERT has 324, so this leaves room for loops that were unrolled."""

ARGUMENTS: Final = 32
"""Arguments of one node, lists counted as one; ATen's longest signature has 20."""

LIST_ITEMS: Final = 4096
"""Items in one list argument: `cat` of 4,096 tensors, weights of a 500-layer LSTM."""

LIST_DEPTH: Final = 2
"""Lists in lists; ATen's signatures have none, 2 leaves room."""

EXPRESSION_DEPTH: Final = 16
"""Depth of a size expression; `batch * length // 2 + 1` has 4."""

PORTS: Final = 64
"""Inputs, and outputs, of one model."""

DIMENSIONS: Final = 16
"""Named dimensions of one model: batch, a length or two, an image's sides."""

RANK: Final = 8
"""Dimensions of one tensor; video batches have 5."""

SIDE: Final = 1 << 40
"""Largest size of one dimension, and largest constant in a size expression."""

FAULTS: Final = 20
"""Faults listed in one error: enough to repair a model in one go, short enough to read."""

_DIMENSION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PORT_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}")
_TENSOR_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ /:+-]*")
_INT64: Final = 1 << 63
_ARANGES: Final = frozenset({"aten.arange.default", "aten.arange.start", "aten.arange.start_step"})
_TODO: Final = "export the model again with this version's SDK; if it was made elsewhere, do not use it"


def check_graph_pair(pair: GraphPair) -> None:
    """PeerError listing up to `FAULTS` faults of `pair`, each with graph, node, operator and value; else nothing.

    Cost: linear in the number of arguments; about 10 µs per node measured.
    """
    faults: list[str] = []
    for fault in _faults(pair):
        faults.append(fault)
        if len(faults) >= FAULTS:
            faults.append("and possibly more")
            break
    if faults:
        raise PeerError(f"the graph is refused: {'; '.join(faults)}", todo=_TODO)


def _faults(pair: GraphPair) -> Iterator[str]:
    """Everything wrong with `pair`, in the order of the file."""
    yield from _dimension_faults(pair)
    yield from _input_faults(pair)
    yield from _tensor_faults(pair)
    sizes = {dimension.name: max(1, dimension.minimum) for dimension in pair.dimensions}
    for graph, mode in ((pair.train, Mode.TRAIN), (pair.eval, Mode.EVAL)):
        if graph.mode is not mode:
            yield f"the {mode.value} graph calls itself {graph.mode.value!r}"
        yield from _GraphChecker(pair, graph, mode, sizes).faults()


def _dimension_faults(pair: GraphPair) -> Iterator[str]:
    """Names and ranges of the dimensions, and that each can be read off an input."""
    if len(pair.dimensions) > DIMENSIONS:
        yield f"{len(pair.dimensions)} dimensions, {DIMENSIONS} allowed"
        return
    known: set[str] = set()
    readable = {side.name for port in pair.inputs for side in port.shape if isinstance(side, Dimension)}
    for dimension in pair.dimensions:
        name = dimension.name
        if _DIMENSION_NAME.fullmatch(name) is None:
            yield f"dimension name {name[:80]!r} is not 1 to 32 of a-z, 0-9 and _"
        if name in known:
            yield f"dimension {name!r} is declared twice"
        known.add(name)
        top = SIDE if dimension.maximum is None else dimension.maximum
        if not 0 <= dimension.minimum <= top <= SIDE:
            yield f"dimension {name!r} ranges from {dimension.minimum} to {dimension.maximum}; 0 to {SIDE} is allowed"
        if name not in readable:
            yield f"dimension {name!r} is the size of no input, so it can never be known"


def _input_faults(pair: GraphPair) -> Iterator[str]:
    """Names and shapes of the inputs."""
    if not 1 <= len(pair.inputs) <= PORTS:
        yield f"{len(pair.inputs)} inputs, 1 to {PORTS} allowed"
        return
    declared = {dimension.name for dimension in pair.dimensions}
    seen: set[str] = set()
    for port in pair.inputs:
        if not port.name.isidentifier() or len(port.name) > 64 or not port.name.isascii():
            yield f"input name {port.name[:80]!r} is not an identifier of at most 64 characters"
        if port.name in seen:
            yield f"input {port.name!r} is declared twice"
        seen.add(port.name)
        fixed: list[int] = []
        for side in port.shape:
            if isinstance(side, Constant):
                fixed.append(side.value)
            elif side.name not in declared:
                yield f"input {port.name!r} has a side of dimension {side.name[:40]!r}, which is not declared"
        yield from _shape_faults(f"input {port.name!r}", tuple(fixed), port.dtype.item_bytes)
        if len(port.shape) > RANK:
            yield f"input {port.name!r} has {len(port.shape)} dimensions, {RANK} allowed"


def _tensor_faults(pair: GraphPair) -> Iterator[str]:
    """Names, shapes and total size of parameters and buffers, and the ties between names."""
    count = len(pair.parameters) + len(pair.buffers) + len(pair.ties)
    if count > TENSORS:
        yield f"{count} parameters, buffers and ties, {TENSORS} allowed"
        return
    seen: set[str] = set()
    total_bytes = 0
    for kind, tensor in [("parameter", p) for p in pair.parameters] + [("buffer", b) for b in pair.buffers]:
        yield from _name_faults(kind, tensor.name, seen)
        faults = list(_shape_faults(f"{kind} {tensor.name[:80]!r}", tensor.shape, tensor.dtype.item_bytes))
        yield from faults
        total_bytes += 0 if faults else math.prod(tensor.shape) * tensor.dtype.item_bytes
    if total_bytes > ARTIFACT_BYTES:
        yield f"parameters and buffers take {total_bytes} bytes, {ARTIFACT_BYTES} allowed"
    for parameter in pair.parameters:
        if parameter.trainable and not parameter.dtype.is_floating:
            yield f"parameter {parameter.name[:80]!r} of {parameter.dtype.value} cannot be trained"
    parameters = {parameter.name for parameter in pair.parameters}
    for tie in pair.ties:
        yield from _name_faults("tie", tie.alias, seen)
        if tie.name not in parameters:
            yield f"tie {tie.alias[:80]!r} speaks of {tie.name[:80]!r}, which is no parameter"
    for name in seen:
        parts = name.split(".")
        for stop in range(1, len(parts)):
            if ".".join(parts[:stop]) in seen:
                yield f"{name[:80]!r} lies inside {'.'.join(parts[:stop])[:80]!r}, which is itself a tensor"


def _name_faults(kind: str, name: str, seen: set[str]) -> Iterator[str]:
    """Whether a tensor's name is well formed and new; adds it to `seen`."""
    if not 0 < len(name) <= NAME_CHARS or not all(_TENSOR_PART.fullmatch(part) for part in name.split(".")):
        yield f"{kind} name {name[:80]!r} is not up to {NAME_CHARS} letters, digits, '_', '-' and single dots"
    if name in seen:
        yield f"{kind} {name[:80]!r} has a name that is already taken"
    seen.add(name)


def _shape_faults(subject: str, shape: tuple[int, ...], item_bytes: int) -> Iterator[str]:
    """Whether a fixed shape is sane and below the artifact's limit."""
    if len(shape) > RANK:
        yield f"{subject} has {len(shape)} dimensions, {RANK} allowed"
    elif any(not 0 <= side <= SIDE for side in shape):
        yield f"{subject} has the shape {list(shape)}, sides of 0 to {SIDE} allowed"
    elif math.prod(shape) * item_bytes > ARTIFACT_BYTES:
        yield f"{subject} has the shape {list(shape)}: {math.prod(shape) * item_bytes} bytes, {ARTIFACT_BYTES} allowed"


class _GraphChecker:
    """Checks one graph of a pair; `sizes` are the smallest sizes of the dimensions, for judging literals."""

    def __init__(self, pair: GraphPair, graph: Graph, mode: Mode, sizes: dict[str, int]) -> None:
        self._pair = pair
        self._graph = graph
        self._mode = mode
        self._sizes = sizes
        self._mutable = {index for index in graph.mutates if 0 <= index < len(pair.buffers)}

    def faults(self) -> Iterator[str]:
        """Faults of nodes and outputs, in order."""
        graph = self._graph
        if len(graph.nodes) > NODES:
            yield f"the {self._mode.value} graph has {len(graph.nodes)} nodes, {NODES} allowed"
            return
        if len(self._mutable) != len(graph.mutates):
            yield f"the {self._mode.value} graph's list of changed buffers names one twice or one that does not exist"
        for index, node in enumerate(graph.nodes):
            for fault in self._node_faults(index, node):
                yield f"{self._mode.value} graph, node {index} ({node.operator[:60]}): {fault}"
        if not 1 <= len(graph.outputs) <= PORTS:
            yield f"the {self._mode.value} graph has {len(graph.outputs)} outputs, 1 to {PORTS} allowed"
            return
        seen: set[str] = set()
        for output in graph.outputs:
            subject = f"{self._mode.value} graph, output {output.name[:64]!r}"
            if _PORT_NAME.fullmatch(output.name) is None:
                yield f"{subject}: the name is not 1 to 64 letters, digits, '_' and '.'"
            if output.name in seen:
                yield f"{subject}: the name is used twice"
            seen.add(output.name)
            for fault in self._argument_faults(output.value, len(graph.nodes), 0):
                yield f"{subject}: {fault}"

    def _node_faults(self, index: int, node: Node) -> Iterator[str]:
        """Faults of one node."""
        operator = OPERATORS.get(node.operator)
        if operator is None:
            yield "the operator is not on the list of allowed operators"
            return
        if len(node.arguments) + len(node.named) > ARGUMENTS:
            yield f"{len(node.arguments) + len(node.named)} arguments, {ARGUMENTS} allowed"
            return
        for argument in node.arguments:
            yield from self._argument_faults(argument, index, 0)
        names = [named.name for named in node.named]
        for named in node.named:
            if named.name not in ARGUMENT_NAMES:
                yield f"no argument may be given by the name {named.name[:40]!r}"
            yield from self._argument_faults(named.value, index, 0)
        if len(set(names)) != len(names):
            yield "an argument is given twice by name"
        if operator.name == GETITEM:
            yield from self._getitem_faults(node)
        if operator.in_place:
            yield from self._in_place_faults(node)
        if operator.sizes:
            yield from self._literal_faults(operator, node)

    def _argument_faults(self, argument: Argument, before: int, depth: int) -> Iterator[str]:
        """Faults of one argument of a node number `before`."""
        if argument is None or isinstance(argument, (bool, float)):
            return
        if isinstance(argument, int):
            if not -_INT64 <= argument < _INT64:
                yield f"{argument} does not fit into 64 bits"
        elif isinstance(argument, NodeRef):
            if not 0 <= argument.index < before:
                yield f"it refers to node {argument.index}, which is not an earlier one"
        elif isinstance(argument, (InputRef, ParameterRef, BufferRef)):
            kind, available = self._referred(argument)
            if not 0 <= argument.index < available:
                yield f"it refers to {kind} {argument.index} of {available}"
        elif isinstance(argument, Size):
            yield from expression_faults(argument.expression, self._sizes)
        elif isinstance(argument, Word):
            if argument.text not in WORDS:
                yield f"{argument.text[:40]!r} is not one of the allowed words"
        elif isinstance(argument, Equation):
            if EQUATION.fullmatch(argument.text) is None:
                yield f"{argument.text[:40]!r} is not an Einstein sum"
        elif isinstance(argument, Several):
            if depth >= LIST_DEPTH:
                yield f"lists are nested deeper than {LIST_DEPTH}"
            elif len(argument.items) > LIST_ITEMS:
                yield f"a list of {len(argument.items)} items, {LIST_ITEMS} allowed"
            else:
                for item in argument.items:
                    yield from self._argument_faults(item, before, depth + 1)

    def _referred(self, reference: InputRef | ParameterRef | BufferRef) -> tuple[str, int]:
        """What a reference speaks of, and how many of them there are."""
        if isinstance(reference, InputRef):
            return "input", len(self._pair.inputs)
        if isinstance(reference, ParameterRef):
            return "parameter", len(self._pair.parameters)
        return "buffer", len(self._pair.buffers)

    def _getitem_faults(self, node: Node) -> Iterator[str]:
        """`getitem` takes a node and a small number, nothing else: it must not become indexing of tensors."""
        if len(node.arguments) != 2 or node.named or not isinstance(node.arguments[0], NodeRef):
            yield "it takes an earlier node and a number"
            return
        number = node.arguments[1]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < LIST_ITEMS:
            yield f"it takes a result number from 0 to {LIST_ITEMS - 1}"

    def _in_place_faults(self, node: Node) -> Iterator[str]:
        """What an in-place operator may write to: declared buffers, inputs and results of nodes."""
        target = node.arguments[0] if node.arguments else None
        if isinstance(target, ParameterRef):
            yield f"it changes parameter {target.index} in place; only an optimizer may"
        elif isinstance(target, BufferRef):
            if target.index not in self._mutable:
                yield f"it changes buffer {target.index} in place, which the graph does not declare"
        elif not isinstance(target, (InputRef, NodeRef)):
            yield "it changes something in place that is no tensor"

    def _literal_faults(self, operator: Operator, node: Node) -> Iterator[str]:
        """Bound the sizes written into the graph, with every dimension at its minimum."""
        if operator.name in _ARANGES:
            elements = self._arange_elements(node)
        else:
            elements = 1
            for position in operator.sizes:
                if position < len(node.arguments):
                    elements *= self._literal(node.arguments[position])
        if not elements <= LITERAL_ELEMENTS:
            yield f"its literal sizes make {elements:.4g} elements, {LITERAL_ELEMENTS} allowed"

    def _literal(self, argument: Argument) -> float:
        """The factor by which `argument` sizes a result; 1 for what is no size. Infinite and NaN stay what they are."""
        if isinstance(argument, Several):
            return math.prod((self._literal(item) for item in argument.items), start=1)
        value = self._number(argument)
        return 1 if value is None else _at_least_one(abs(value))

    def _arange_elements(self, node: Node) -> float:
        """How many numbers an `arange` makes."""
        numbers = [self._number(argument) for argument in node.arguments[:3]]
        start, end, step = ([0, *numbers, 1] if len(numbers) == 1 else [*numbers, 1])[:3] if numbers else (0, 0, 1)
        if start is None or end is None or not step:
            return math.inf
        return _at_least_one(abs(float(end) - float(start)) / abs(float(step)))

    def _number(self, argument: Argument) -> float | None:
        """The number an argument is, with dimensions at their minimum; None where it is none."""
        if isinstance(argument, bool) or not isinstance(argument, (int, float, Size)):
            return None
        if isinstance(argument, Size):
            if next(expression_faults(argument.expression, self._sizes), None) is not None:
                return None
            return _as_float(magnitude(argument.expression, self._sizes))
        return _as_float(argument)


def _as_float(value: float) -> float:
    """A whole number of any length as a float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _at_least_one(value: float) -> float:
    """`value`, or 1 where it is smaller; NaN stays NaN, so that a bound on it fails."""
    return 1.0 if value < 1 else value


def expression_faults(expression: Expression, sizes: dict[str, int], depth: int = 0) -> Iterator[str]:
    """What is wrong with a size expression over the dimensions named in `sizes`."""
    if depth >= EXPRESSION_DEPTH:
        yield f"a size expression is nested deeper than {EXPRESSION_DEPTH}"
    elif isinstance(expression, Constant):
        if not -SIDE <= expression.value <= SIDE:
            yield f"the constant {expression.value} in a size expression is out of range"
    elif isinstance(expression, Dimension):
        if expression.name not in sizes:
            yield f"a size expression speaks of dimension {expression.name[:40]!r}, which is not declared"
    else:
        right = expression.right
        if isinstance(expression, (FloorDiv, Mod)) and not (isinstance(right, Constant) and right.value > 0):
            yield "a size expression divides by something that is not a positive constant"
        yield from expression_faults(expression.left, sizes, depth + 1)
        yield from expression_faults(right, sizes, depth + 1)


def magnitude(expression: Expression, sizes: dict[str, int]) -> int:
    """A bound on what a checked expression can come to when dimensions are at `sizes`, whatever its signs."""
    if isinstance(expression, Constant):
        return abs(expression.value)
    if isinstance(expression, Dimension):
        return sizes[expression.name]
    left, right = magnitude(expression.left, sizes), magnitude(expression.right, sizes)
    if isinstance(expression, (Add, Sub)):
        return left + right
    if isinstance(expression, Mul):
        return left * right
    if isinstance(expression, FloorDiv):
        return left // right
    return right if isinstance(expression, Mod) else max(left, right)

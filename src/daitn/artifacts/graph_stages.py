"""Stages of a graph: what lies between two cuts of the evaluation graph, as a graph pair of its own.

A stage is a model like any other to whatever serves it: its inputs are the activation before it and those inputs of the
model that it reads itself, its outputs the activation behind it, or the model's. It has the tensors that it uses and no
others, under their names, so it is bound to the model's own payload. Both its graphs are the evaluation graph: a stage
is served, and never trained. Nothing is computed here; the same cut of the same graph is the same stage everywhere.

Cost: linear in the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from daitn.artifacts.graph_check import check_graph_pair
from daitn.artifacts.graph_schema import (
    Argument,
    BufferRef,
    Constant,
    Dimension,
    DtypeName,
    Expression,
    Graph,
    GraphPair,
    Input,
    InputRef,
    Mode,
    Named,
    Node,
    NodeRef,
    Output,
    ParameterRef,
    Reference,
    Several,
    Size,
)
from daitn.base.errors import InputError, PeerError
from daitn.descriptors.stages import Activation, GraphProfile

_DTYPES: Final = {name.value: name for name in DtypeName}


def cut_stage(pair: GraphPair, begin: Activation | None, end: Activation | None) -> GraphPair:
    """The stage between two cuts; None: the model's beginning, or its end. InputError where these are no cuts."""
    nodes = pair.eval.nodes
    first = 0 if begin is None else begin.place
    last = len(nodes) if end is None else end.place
    if not 0 <= first < last <= len(nodes):
        raise InputError(f"a stage from node {first} to {last} of a graph of {len(nodes)} has no nodes")
    if pair.eval.mutates:
        raise InputError("the model changes its buffers in evaluation, so it cannot be served in stages")
    cutting = _Stage(pair, first, last, begin)
    made = tuple(cutting.node(node) for node in nodes[first:last])
    if end is None:
        outputs = tuple(Output(one.name, cutting.reference(one.value)) for one in pair.eval.outputs)
    else:
        outputs = (Output(end.name, cutting.reference(NodeRef(end.node))),)
    stage = cutting.pair(made, outputs)
    try:
        check_graph_pair(stage)
    except PeerError as error:
        raise InputError(f"the graph cannot be cut at nodes {first} and {last}: {error.what}") from None
    return stage


class _Stage:
    """Numbers things anew as they are met."""

    def __init__(self, pair: GraphPair, first: int, last: int, begin: Activation | None) -> None:
        self._pair, self._first, self._last, self._begin = pair, first, last, begin
        self._inputs: dict[int, int] = {}
        self._parameters: dict[int, int] = {}
        self._buffers: dict[int, int] = {}
        self._dimensions: set[str] = set()

    def node(self, node: Node) -> Node:
        """A node of the stage."""
        arguments = tuple(self._argument(one) for one in node.arguments)
        named = tuple(Named(one.name, self._argument(one.value)) for one in node.named)
        return Node(node.operator, arguments, named, node.gradient)

    def reference(self, reference: Reference) -> Reference:
        """What something refers to, by its number here."""
        match reference:
            case NodeRef(index) if self._first <= index < self._last:
                return NodeRef(index - self._first)
            case NodeRef(index) if self._begin is not None and index == self._begin.node:
                return InputRef(0)
            case NodeRef(index):
                raise InputError(
                    f"node {index} crosses the cut at node {self._first}, where another one is said to be all that does"
                )
            case InputRef(index):
                return InputRef(self._inputs.setdefault(index, len(self._inputs) + (self._begin is not None)))
            case ParameterRef(index):
                return ParameterRef(self._parameters.setdefault(index, len(self._parameters)))
            case BufferRef(index):
                return BufferRef(self._buffers.setdefault(index, len(self._buffers)))

    def pair(self, nodes: tuple[Node, ...], outputs: tuple[Output, ...]) -> GraphPair:
        """The stage, once all its nodes are there."""
        pair, inputs = self._pair, [self._pair.inputs[index] for index in self._inputs]
        if self._begin is not None:
            if any(self._begin.name == port.name for port in pair.inputs):
                raise InputError(f"the model has an input {self._begin.name!r} of its own", todo="rename it")
            inputs.insert(0, _port(self._begin))
        parameters = tuple(pair.parameters[index] for index in self._parameters)
        names = {one.name for one in parameters}
        readable = {side.name for port in inputs for side in port.shape if isinstance(side, Dimension)}
        return GraphPair(
            dimensions=tuple(one for one in pair.dimensions if one.name in readable | self._dimensions),
            inputs=tuple(inputs),
            parameters=parameters,
            buffers=tuple(pair.buffers[index] for index in self._buffers),
            ties=tuple(tie for tie in pair.ties if tie.name in names),
            train=Graph(Mode.TRAIN, nodes, outputs),
            eval=Graph(Mode.EVAL, nodes, outputs),
        )

    def _argument(self, argument: Argument) -> Argument:
        match argument:
            case NodeRef() | InputRef() | ParameterRef() | BufferRef():
                return self.reference(argument)
            case Several(items):
                return Several(tuple(self._argument(item) for item in items))
            case Size(expression):
                self._dimensions |= set(dimensions_of(expression))
                return argument
            case _:
                return argument


def dimensions_of(expression: Expression) -> Iterator[str]:
    """Names of the dimensions that a size is made of."""
    if isinstance(expression, Dimension):
        yield expression.name
    elif not isinstance(expression, Constant):
        yield from dimensions_of(expression.left)
        yield from dimensions_of(expression.right)


def _port(activation: Activation) -> Input:
    dtype = _DTYPES.get(activation.dtype)
    if dtype is None:
        raise InputError(f"an activation of type {activation.dtype!r}; types are {', '.join(_DTYPES)}")
    sides = tuple(Dimension(one) if isinstance(one, str) else Constant(one) for one in activation.sides)
    return Input(activation.name, dtype, sides)


def tensors_of_stage(stage: GraphPair) -> frozenset[str]:
    """Names of the tensors that a stage has."""
    return frozenset(one.name for one in stage.parameters) | {one.name for one in stage.buffers}


def tensor_bytes(pair: GraphPair) -> list[int]:
    """By node of the evaluation graph: bytes of the tensors that it is the first to use."""
    seen: set[ParameterRef | BufferRef] = set()
    found: list[int] = []
    for node in pair.eval.nodes:
        nbytes = 0
        for one in references_of(node):
            if isinstance(one, ParameterRef | BufferRef) and one not in seen:
                seen.add(one)
                tensor = (pair.parameters if isinstance(one, ParameterRef) else pair.buffers)[one.index]
                nbytes += math.prod(tensor.shape) * tensor.dtype.item_bytes
        found.append(nbytes)
    return found


def weigh_profile(pair: GraphPair, profile: GraphProfile) -> GraphProfile:
    """A profile with the bytes of tensors that this graph says there are, whatever its provider did. InputError where
    it names nodes that the graph does not have."""
    nodes = len(pair.eval.nodes)
    if faults := [one.activation.place for one in profile.places if not 0 < one.activation.place < nodes]:
        raise InputError(f"the graph has {nodes} nodes and cannot be cut at {faults[0]}", todo="have places found anew")
    before = [0]
    for nbytes in tensor_bytes(pair):
        before.append(before[-1] + nbytes)
    places = tuple(msgspec.structs.replace(one, before_bytes=before[one.activation.place]) for one in profile.places)
    return msgspec.structs.replace(profile, weight_bytes=before[-1], places=places)


def references_of(node: Node) -> Iterator[Argument]:
    """Everything a node refers to, and every number it is given."""
    waiting: list[Argument] = [*node.arguments, *(one.value for one in node.named)]
    while waiting:
        argument = waiting.pop()
        if isinstance(argument, Several):
            waiting += argument.items
        else:
            yield argument

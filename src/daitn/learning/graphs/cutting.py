"""Cutting a graph for split learning: which cuts there are, what crosses them, and the three parts as modules.

A cut names two places in the training graph's list of nodes. What comes before `begin` and from `end` on is computed
where the records are (front and back), what lies between at another site (middle): the U shape of P. Vepakomma et al.
(2018), in which neither records nor labels leave. A value that crosses is a floating tensor that some weight of the
model has gone into; the middle sees no input of the model, and parts at different sites share no tensor of the model.
Where a graph breaks one of these rules for a cut, the cut is refused with the rule, at the site that holds the records.

What crosses is told from the graph alone. How much computing lies where is measured by running it
(`learning.graphs.profile`): the format knows no sizes of what lies between.

Cost: linear in the nodes, for each cut that is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from daitn.artifacts.graph_schema import (
    Argument,
    BufferRef,
    Graph,
    GraphPair,
    InputRef,
    Node,
    NodeRef,
    ParameterRef,
    Reference,
    Several,
)
from daitn.artifacts.operators import GETITEM, OPERATORS, Family
from daitn.base.errors import InputError
from daitn.learning.graphs.rebuild import GraphBuilder


class Crossing(NamedTuple):
    """What a cut comes to. Numbers of nodes of the training graph, in order."""

    begin: int
    end: int
    up: tuple[int, ...]
    """Results of the front that the middle takes."""
    down: tuple[int, ...]
    """Results of the middle that the back takes."""
    kept: tuple[int, ...]
    """Results of the front that the back takes: they stay at the site."""
    middle_tensors: frozenset[str]
    """Parameters and buffers of the middle, by name."""


class CutGraph(NamedTuple):
    """The three parts. Each takes the device, the sizes, the inputs, all tensors of the model, and then values."""

    crossing: Crossing
    front: torch.fx.GraphModule
    """Returns `up`, then `kept`."""
    middle: torch.fx.GraphModule
    """Takes `up`, returns `down`."""
    back: torch.fx.GraphModule
    """Takes `down`, then `kept`; returns the model's outputs in order."""


def cross(pair: GraphPair, begin: int, end: int) -> Crossing:
    """What a cut of the training graph comes to. InputError with the first rule that it breaks."""
    graph = pair.train
    if not 0 < begin < end < len(graph.nodes):
        raise InputError(
            f"a cut from node {begin} to {end} of a graph of {len(graph.nodes)}: every part needs a node",
            todo="cut between the first and the last node",
        )
    fault, crossing = _look(pair, begin, end)
    if fault:
        raise InputError(f"the graph cannot be cut from node {begin} to {end}: {fault}", todo="cut it elsewhere")
    return crossing


def cut_fault(pair: GraphPair, begin: int, end: int) -> str:
    """Which rule a cut breaks; empty: none."""
    return _look(pair, begin, end)[0]


def cut_graph(pair: GraphPair, begin: int, end: int) -> CutGraph:
    """The three parts of a cut. InputError as `cross`."""
    crossing = cross(pair, begin, end)
    nodes, outputs = pair.train.nodes, [output.value for output in pair.train.outputs]

    def part(start: int, stop: int, given: tuple[int, ...], results: list[Reference]) -> torch.fx.GraphModule:
        builder = GraphBuilder(pair, given)
        for number in range(start, stop):
            builder.add(number, nodes[number])
        return builder.finish(results)

    refs = [NodeRef(number) for number in (*crossing.up, *crossing.kept)]
    return CutGraph(
        crossing=crossing,
        front=part(0, begin, (), [*refs]),
        middle=part(begin, end, crossing.up, [NodeRef(number) for number in crossing.down]),
        back=part(end, len(nodes), (*crossing.down, *crossing.kept), [*outputs]),
    )


def narrow_places(graph: Graph) -> tuple[int, ...]:
    """Places between two nodes at which a single result crosses from what is before to what is after."""
    last_use = {number: number for number in range(len(graph.nodes))}
    for user, node in enumerate(graph.nodes):
        for used in _nodes_of(node):
            last_use[used] = user
    for output in graph.outputs:
        if isinstance(output.value, NodeRef):
            last_use[output.value.index] = len(graph.nodes)
    crossing, ends = 0, [0] * (len(graph.nodes) + 1)
    found: list[int] = []
    for place in range(1, len(graph.nodes)):
        crossing -= ends[place]
        made = place - 1
        if last_use[made] >= place:
            crossing += 1
            ends[min(last_use[made] + 1, len(graph.nodes))] += 1
        if crossing == 1:
            found.append(place)
    return tuple(found)


def _look(pair: GraphPair, begin: int, end: int) -> tuple[str, Crossing]:
    """The first rule that a cut breaks, and what it comes to."""
    graph = pair.train
    up: set[int] = set()
    down: set[int] = set()
    kept: set[int] = set()
    used: tuple[set[str], set[str]] = (set(), set())
    """Tensors of the model: outside, in the middle."""
    faults: list[str] = []
    weights = [0, 0, 0]
    for number, node in enumerate(graph.nodes):
        inside = begin <= number < end
        for reference in _references(node):
            match reference:
                case InputRef(index) if inside:
                    faults.append(f"its middle reads input {pair.inputs[index].name!r}, which stays at the site")
                case ParameterRef(index):
                    used[inside].add(pair.parameters[index].name)
                    weights[_part(number, begin, end)] += 1
                case BufferRef(index):
                    used[inside].add(pair.buffers[index].name)
                case NodeRef(index) if inside and index < begin:
                    up.add(index)
                case NodeRef(index) if number >= end and begin <= index < end:
                    down.add(index)
                case NodeRef(index) if number >= end and index < begin:
                    kept.add(index)
        root = _root(graph, number) if OPERATORS[node.operator].in_place else None
        if root is not None and _part(root, begin, end) != _part(number, begin, end):
            faults.append(f"{node.operator} in one part changes a result of another in place")
    for output in graph.outputs:
        if isinstance(output.value, (ParameterRef, BufferRef)):
            faults.append(f"its output {output.name!r} is a tensor of the model")
        if isinstance(output.value, NodeRef) and output.value.index < end:
            faults.append(f"its output {output.name!r} is made before the back, whose loss the middle would see")
    if shared := sorted(used[0] & used[1]):
        faults.append(f"tensor {shared[0]!r} is used in the middle and outside of it")
    if not down:
        faults.append("the back takes nothing of the middle")
    if not weights[1]:
        faults.append("its middle has no weight")
    if not weights[2]:
        faults.append("its back has no weight: the gradient that leaves it would be the labels, plainly")
    weighted = _weighted(graph)
    taken_apart = {index for node in graph.nodes if node.operator == GETITEM for index in _nodes_of(node)}
    for number in sorted(up | down | kept):
        if number in taken_apart:
            faults.append(f"what crosses at node {number} is several results in one")
        if number in up and number not in weighted:
            faults.append(f"what crosses at node {number} has met no weight of the model: it is still a record's")
    crossing = Crossing(
        begin=begin,
        end=end,
        up=tuple(sorted(up)),
        down=tuple(sorted(down)),
        kept=tuple(sorted(kept)),
        middle_tensors=frozenset(used[1]),
    )
    if not up:
        faults.append("the middle takes nothing of the front")
    return (faults[0] if faults else ""), crossing


def _part(number: int, begin: int, end: int) -> int:
    return (number >= begin) + (number >= end)


def _root(graph: Graph, number: int) -> int | None:
    """The node whose memory an in-place node may write to; None: a buffer's, or an input's."""
    while True:
        node = graph.nodes[number]
        first = node.arguments[0] if node.arguments else None
        if not isinstance(first, NodeRef):
            return None if isinstance(first, (BufferRef, InputRef, ParameterRef)) else number
        number = first.index
        operator = OPERATORS[graph.nodes[number].operator]
        # What shows the same elements in another shape, and what wrote in place before, is that memory still.
        shown = operator.family in (Family.SHAPE, Family.GROWTH, Family.TUPLE, Family.CONVERSION)
        if not shown and not operator.in_place:
            return number


def _weighted(graph: Graph) -> set[int]:
    """Nodes whose results some parameter of the model has gone into."""
    found: set[int] = set()
    for number, node in enumerate(graph.nodes):
        references = list(_references(node))
        if any(isinstance(one, ParameterRef) for one in references) or found & set(_nodes_of(node)):
            found.add(number)
    return found


def _nodes_of(node: Node) -> list[int]:
    return [one.index for one in _references(node) if isinstance(one, NodeRef)]


def _references(node: Node) -> Iterator[Argument]:
    """Everything a node refers to."""
    waiting: list[Argument] = [*node.arguments, *(one.value for one in node.named)]
    while waiting:
        argument = waiting.pop()
        if isinstance(argument, Several):
            waiting += argument.items
        else:
            yield argument

"""Where the computing of a graph lies, measured: what a choice of the cut for split learning is made from.

The training graph is run once forward on a batch of records, node by node with a clock; backward is taken to be spread
alike. Places at which one result crosses are where a cut may begin and end (`learning.graphs.cutting`), and of these as
many as `PLACES_MOST` are told, spread evenly over the computing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from daitn.artifacts.graph_schema import GraphPair
from daitn.descriptors.splitting import CUTS_MOST, CutCost
from daitn.learning.graphs.cutting import cross, cut_fault, narrow_places
from daitn.learning.graphs.rebuild import RebuiltModule, sizes_of, tensors_of, training_graph

PLACES_MOST: Final = 12
"""Places told: 66 pairs of them."""

RUNS: Final = 3
"""Of which each node's shortest time counts: the first also pays for setting up."""


class _Clocked(torch.fx.Interpreter):
    """Runs a graph and keeps each call's shortest time and last result's size."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.seconds: dict[torch.fx.Node, float] = {}
        self.nbytes: dict[torch.fx.Node, int] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """See `torch.fx.Interpreter`."""
        began = time.perf_counter()
        made = super().run_node(n)
        spent = time.perf_counter() - began
        self.seconds[n] = min(spent, self.seconds.get(n, spent))
        if isinstance(made, Tensor) and made.is_floating_point():
            self.nbytes[n] = made.numel() * made.element_size()
        return made


@torch.no_grad()
def profile_cuts(module: RebuiltModule, inputs: Mapping[str, Tensor], records: int) -> tuple[CutCost, ...]:
    """What cuts of the training graph would cost, for a batch of `records`; empty where it cannot be cut.

    Buffers are put back. Cost: `RUNS` forward passes, and O(nodes) for each cut looked at.
    """
    pair = module.pair
    places = narrow_places(pair.train)
    if not places:
        return ()
    kept = {name: one.clone() for name, one in module.named_buffers()}
    ordered = [inputs[port.name] for port in pair.inputs]
    whole = training_graph(module)
    clocked = _Clocked(whole)
    try:
        for _ in range(RUNS):
            clocked.run(ordered[0].device, *sizes_of(module, inputs), *ordered, *tensors_of(module))
    finally:
        for name, one in module.named_buffers():
            if not torch.equal(one, kept[name]):
                one.copy_(kept[name])
    calls = [node for node in whole.graph.nodes if node.op == "call_function"]
    calls = calls[len(calls) - len(pair.train.nodes) :]
    return _costs(
        pair, places, [clocked.seconds[one] for one in calls], [clocked.nbytes.get(one) for one in calls], records
    )


def _costs(
    pair: GraphPair, places: tuple[int, ...], seconds: list[float], nbytes: list[int | None], records: int
) -> tuple[CutCost, ...]:
    """Costs of the cuts between some of these places."""
    total = sum(seconds) or 1.0
    before = [0.0]
    for one in seconds:
        before.append(before[-1] + one / total)
    chosen = _spread(places, before)
    found: list[CutCost] = []
    for begin in chosen:
        for end in chosen:
            if end <= begin or cut_fault(pair, begin, end):
                continue
            crossing = cross(pair, begin, end)
            up, down = [nbytes[one] for one in crossing.up], [nbytes[one] for one in crossing.down]
            if None in up or None in down:
                continue
            found.append(
                CutCost(
                    begin=begin,
                    end=end,
                    middle_frac=min(1.0, max(0.0, before[end] - before[begin])),
                    up_bytes=sum(one or 0 for one in up) / max(1, records),
                    down_bytes=sum(one or 0 for one in down) / max(1, records),
                )
            )
    return tuple(found[:CUTS_MOST])


def _spread(places: tuple[int, ...], before: list[float]) -> tuple[int, ...]:
    """As many of the places as may be told, evenly over the computing before them."""
    if len(places) <= PLACES_MOST:
        return places
    chosen: list[int] = []
    for step in range(PLACES_MOST):
        wanted = before[places[0]] + (before[places[-1]] - before[places[0]]) * step / (PLACES_MOST - 1)
        chosen.append(min(places, key=lambda place: (abs(before[place] - wanted), place)))
    return tuple(sorted(set(chosen)))

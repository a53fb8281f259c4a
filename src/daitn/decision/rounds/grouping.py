"""Which updates of a round are averaged where, before their averages are averaged: hierarchical aggregation.

An aggregator fetches every update of its round, so the link and the store of a single one bound the round. Of several
each takes a share: first of the sites in its own region, then whatever evens the shares out. A weighted mean of
weighted means, each with the sum of its weights, is the weighted mean of all: the model is the same up to rounding.

Pure, and the same for any order of nodes. Cost: O(updates · aggregators).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from daitn.base.ids import ArtifactId, NodeId
from daitn.descriptors.work import UpdateRef

SHARE_LEAST: Final = 2
"""Updates of a share at least: the average of one is that one, moved for nothing."""


class Share(NamedTuple):
    """Updates that one aggregator averages."""

    node: NodeId
    updates: tuple[UpdateRef, ...]


def shares(
    updates: Sequence[UpdateRef], regions: Mapping[ArtifactId, str], aggregators: Mapping[NodeId, str]
) -> tuple[Share, ...]:
    """The shares of a round's updates; empty where one aggregator does as well.

    `regions`: where each update lies, as far as that is known (`""` is nowhere); `aggregators`: their regions.
    """
    count = min(len(aggregators), len(updates) // SHARE_LEAST)
    if count < 2:
        return ()
    wanted = {region for update in updates if (region := regions.get(update.model, ""))}
    nodes = sorted(aggregators, key=lambda node: (aggregators[node] not in wanted, node))[:count]
    most = -(-len(updates) // count)
    taken: dict[NodeId, list[UpdateRef]] = {node: [] for node in nodes}
    left: list[UpdateRef] = []
    for update in updates:
        near = [node for node in nodes if aggregators[node] and aggregators[node] == regions.get(update.model, "")]
        near = [node for node in near if len(taken[node]) < most]
        if near:
            taken[min(near, key=lambda node: (len(taken[node]), node))].append(update)
        else:
            left.append(update)
    for update in left:
        taken[min(nodes, key=lambda node: (len(taken[node]), node))].append(update)
    found = tuple(Share(node, tuple(taken[node])) for node in nodes if len(taken[node]) >= SHARE_LEAST)
    return found if len(found) > 1 else ()

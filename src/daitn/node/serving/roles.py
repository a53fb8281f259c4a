"""Which hands of serving a node has, by its roles.

Those of a role are imported where a node has it: a gateway's choices are compiled code, whose compiler takes half a
second to load and a hundred megabytes; a host speaks to other servers by HTTP, which takes a fifth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from daitn.base.effects import Effect, Event
from daitn.base.metrics import Counters
from daitn.descriptors.terminals import Role
from daitn.node.fabric.contract import Fabric
from daitn.node.moving import Moving
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.node.serving.host_offer import serves
from daitn.node.store import ChunkStore


class ServingHands(Protocol):
    """What a node does with the hands of a role."""

    counters: Counters
    address: str
    """Where it is asked over HTTP; empty where it is not."""

    async def start(self) -> None:
        """Begin to answer."""
        ...

    def perform(self, effect: Effect) -> bool:
        """Do what a core wants, if it is of this role."""
        ...

    async def stop(self) -> None:
        """End; nothing of it is left."""
        ...


def open_serving(
    config: NodeConfig,
    fabric: Fabric,
    store: ChunkStore,
    moving: Moving,
    folder: NodeFolder,
    post: Callable[[Event], None],
) -> tuple[ServingHands, ...]:
    """Those of a host and of a gateway, where the node has the role. `folder`: where it lives."""
    hands: list[ServingHands] = []
    if serves(config.roles):
        from daitn.node.serving.hosting import open_hosting

        hands.append(open_hosting(config, fabric, store, moving, folder.tls, post))
    if Role.GATEWAY in config.roles:
        from daitn.node.serving.gateway import GatewayHands

        hands.append(GatewayHands(config.gateway, fabric, folder.tls, folder.answers, post))
    return tuple(hands)

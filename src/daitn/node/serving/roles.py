"""Which hands of serving a node has, by its roles."""

from __future__ import annotations

from collections.abc import Callable

from daitn.base.effects import Event
from daitn.node.fabric.contract import Fabric
from daitn.node.moving import Moving
from daitn.node.node_config import NodeConfig
from daitn.node.serving.gateway import GatewayHands, open_gateway
from daitn.node.serving.hosting import Hosting, open_hosting
from daitn.node.store import ChunkStore


def open_serving(
    config: NodeConfig, fabric: Fabric, store: ChunkStore, moving: Moving, post: Callable[[Event], None]
) -> tuple[GatewayHands | Hosting, ...]:
    """Those of a host and of a gateway, where the node has the role."""
    hands = (open_hosting(config, fabric, store, moving, post), open_gateway(config, fabric))
    return tuple(one for one in hands if one is not None)

"""What a host says of itself before it serves: engines and limits, as configured.

Apart from `hosting`, which loads what speaks to other servers: a node that is no host starts without that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import Final

from daitn.base.errors import InputError
from daitn.descriptors.serving import GRAPH_ENGINES, EngineKind, HostDescriptor
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import Role
from daitn.node.node_config import HostConfig

PIN: Final = "model "
"""First word of the reason for which a served package stays in the store."""

ONNX_LIBRARIES: Final = ("onnx", "onnxruntime", "onnxscript")


def serves(roles: Collection[Role]) -> bool:
    """Whether a node of these roles can have models loaded: hosts, and verification units, which compute answers again
    where hosts differ."""
    return Role.HOST in roles or Role.VERIFICATION in roles


def engines_of(config: HostConfig) -> tuple[EngineKind, ...]:
    """What runs models here, the preferred one first. InputError where what was configured is not installed."""
    if config.engine not in GRAPH_ENGINES:
        raise InputError(f"{config.engine.value} runs no packages", todo=f"configure one of {', '.join(GRAPH_ENGINES)}")
    if config.engine is EngineKind.ONNX_GRAPH and not all(map(importlib.util.find_spec, ONNX_LIBRARIES)):
        raise InputError(
            "this host is to compute with ONNX Runtime, which is not installed", todo="install daitn[onnx]"
        )
    return tuple(dict.fromkeys((config.engine, EngineKind.TORCH_GRAPH)))


def host_descriptor(config: HostConfig, tariff: Tariff) -> HostDescriptor:
    """What a host offers, as it was configured."""
    return HostDescriptor(
        engines=engines_of(config),
        memory_bytes=config.memory_bytes,
        concurrency=config.concurrency,
        policy=config.policy,
        tariff=tariff,
    )

"""daitn: a network that brings models, data, compute and queries together (DA-ITN).

The names a notebook user needs (`connect`, `DataContract`, …) are loaded on first use, so that `import daitn` stays
cheap for a control-plane node, which runs without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY: dict[str, str] = {
    "connect": "daitn.sdk.network",
    "Network": "daitn.sdk.network",
    "Job": "daitn.sdk.jobs",
    "DataContract": "daitn.descriptors.contract",
    "Request": "daitn.descriptors.request",
    "Target": "daitn.descriptors.request",
    "environment_contract": "daitn.learning.environments",
    "catalogue_model": "daitn.learning.catalogue.models",
    "catalogue_models": "daitn.learning.catalogue.models",
}

__all__ = [
    "DataContract",
    "Job",
    "Network",
    "Request",
    "Target",
    "__version__",
    "catalogue_model",
    "catalogue_models",
    "connect",
    "environment_contract",
]


def __getattr__(name: str) -> Any:
    """Load `name` from the module that defines it; AttributeError for anything else."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'daitn' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)

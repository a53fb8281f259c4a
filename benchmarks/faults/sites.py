"""The sites of the fault matrix: their nodes, their data, and the owner's model, small or big."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from daitn.descriptors.terminals import Role
from daitn.node.processes import DataFiles
from daitn.scenario.spec import NodeSpec

WIDTH: Final = {"small": 16, "big": 285_000}
"""Hidden units: 0.3 kB, and 8 MB of weights."""

BATCHES: Final = {"small": 600, "big": 12}
"""Batches of a visit: half a second of training, so that what is measured is the recovery and not the next visit."""

RATE: Final = {"small": 1e-4, "big": 1e-7}
"""Learning rates at which the loss falls slowly for as long as a job is watched: a job whose models are worse ten times
in a row is over. A logit of the big model moves by the rate times its hidden units. The 4.6 MB of its last layer change
in every step; the steps of the first are lost in rounding."""

CONTRACT: Final = {
    "name": "sides",
    "columns": [
        {"type": "number", "name": "x0"},
        {"type": "number", "name": "x1"},
        {"type": "category", "name": "side", "values": ["left", "right", "north", "south"]},
    ],
    "inputs": [{"type": "numbers", "name": "x", "columns": ["x0", "x1"]}],
    "task": {"type": "classification", "label": "side"},
}
POLICY: Final = """
owners = ["ada"]
purposes = ["research"]
sample_frac = 0.25
verification_operators = ["trust"]
epsilon_per_period = 100.0
"""
SITES: Final = ("north", "south")
SPECS: Final = (
    NodeSpec(name="north", operator="north", roles=(Role.DATA, Role.COMPUTE)),
    NodeSpec(name="south", operator="south", roles=(Role.DATA, Role.COMPUTE)),
    NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)),
    NodeSpec(name="deputy", operator="trust", roles=(Role.VERIFICATION,)),
    NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)),
    NodeSpec(name="blender", operator="lab", roles=(Role.AGGREGATOR,)),
)


def write_site(folder: Path, seed: int, records: int = 400) -> DataFiles:
    """Records whose side is the sign of x0 + x1, blurred so that the loss has something left to fall.

    Each site has a label of its own, so that the network does not shun it for what is done to it here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(records, 2))
    sides = np.where(points.sum(1) + 0.5 * rng.normal(size=records) > 0, "right", "left").astype("<U5")
    sides[points[:, 0] > 1.0] = SITES[seed]
    rows = "".join(f"{a:.5f},{b:.5f},{side}\n" for (a, b), side in zip(points, sides, strict=True))
    (folder / "data.csv").write_text("x0,x1,side\n" + rows)
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    (folder / "policy.toml").write_text(POLICY)
    return DataFiles("sides", folder / "data.csv", folder / "contract.json", folder / "policy.toml")


def make_model(width: int, seed: int = 0, job: int = 0) -> Any:
    """The owner's own module. `job`: makes it another model, which learns alike."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    first, last = nn.Linear(2, width), nn.Linear(width, 4)
    with torch.no_grad():
        last.bias.add_(1e-4 * job)
    return nn.Sequential(first, nn.Tanh(), last)

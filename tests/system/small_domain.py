"""A small real domain for system tests: two sites that train, a verification unit, an aggregator, an easy problem."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from daitn.descriptors.contract import DataContract, decode_contract
from daitn.descriptors.terminals import Role
from daitn.node.processes import DataFiles, LocalDomain
from daitn.scenario.spec import NodeSpec

CONTRACT = {
    "name": "sides",
    "columns": [
        {"type": "number", "name": "x0"},
        {"type": "number", "name": "x1"},
        {"type": "category", "name": "side", "values": ["left", "right"]},
    ],
    "inputs": [{"type": "numbers", "name": "x", "columns": ["x0", "x1"]}],
    "task": {"type": "classification", "label": "side"},
}

POLICY = """
owners = ["ada"]
purposes = ["research"]
sample_frac = 0.25
verification_operators = ["trust"]
epsilon_per_period = 50.0
"""


def contract() -> DataContract:
    """Two numbers in, one of two sides out."""
    return decode_contract(json.dumps(CONTRACT).encode())


def write_site(folder: Path, seed: int, records: int = 240) -> DataFiles:
    """Records whose side is the sign of x0 + x1, a little blurred."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(records, 2))
    sides = np.where(points.sum(1) + 0.1 * rng.normal(size=records) > 0, "right", "left")
    rows = "".join(f"{a:.5f},{b:.5f},{side}\n" for (a, b), side in zip(points, sides, strict=True))
    (folder / "data.csv").write_text("x0,x1,side\n" + rows)
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    (folder / "policy.toml").write_text(POLICY)
    return DataFiles(
        name="sides", data=folder / "data.csv", contract=folder / "contract.json", policy=folder / "policy.toml"
    )


@contextmanager
def small_domain(folder: Path, *, patience_s: float = 2.0, database: str = "") -> Iterator[LocalDomain]:
    """Router, centre, two sites, a verification unit and an aggregator; every process gone at the end. `database`: URL
    of the centre's journal; empty: SQLite."""
    with LocalDomain(folder / "domain", "small", patience_s=patience_s) as domain:
        if database:
            knobs = ("--patience", f"{patience_s:g}", "--database", database)
            domain.run("init", str(domain.home), "--domain", "small", *knobs)
        domain.start()
        specs = [
            NodeSpec(name="north", operator="north", roles=(Role.DATA, Role.COMPUTE)),
            NodeSpec(name="south", operator="south", roles=(Role.DATA, Role.COMPUTE)),
            NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)),
            NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)),
        ]
        data = {name: [write_site(folder / name, seed)] for seed, name in enumerate(("north", "south"))}
        domain.join_all(specs, data)
        yield domain


def make_model() -> Any:
    """The owner's own module."""
    import torch
    from torch import nn

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(2, 8)
            self.out = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.hidden(x)))

    torch.manual_seed(0)
    return Sides()


def make_blind_model() -> Any:
    """One that sees how far points are from the middle, and never on which side."""
    import torch
    from torch import nn

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x * x)

    torch.manual_seed(0)
    return Blind()


def make_exploding_model() -> Any:
    """One whose outputs are beyond all numbers after a long step."""
    import torch
    from torch import nn

    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(self.out(x))

    torch.manual_seed(0)
    return Exploding()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Look every few milliseconds until something outside this process holds; AssertionError naming it otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.02)

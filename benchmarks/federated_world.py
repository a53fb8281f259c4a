"""The world of `benchmarks.federated`: sites' data at some nodes, a federated job's rounds, and the floor.

A *site* is a data set with its own policy, its own visit and its own sandboxed child; several share a node.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from daitn.descriptors.contract import DataContract, decode_contract
from daitn.descriptors.job import JobStatus, LogEntry
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

NUMBERS: Final = 16
LABELS: Final = ("a", "b", "c", "d")
HIDDEN: Final = 64
RECORDS: Final = 200
BATCH: Final = 32
BATCHES: Final = 20
PURPOSE: Final = "benchmark"
LOOPBACK: Final = "127.0.0.1"
CORES: Final = 2
"""Over which the floor is spread."""

POLICY: Final = """
owners = ["*"]
purposes = ["benchmark"]
sample_frac = {share}
verification_operators = ["trust"]
epsilon_per_period = 50.0
describe = []
"""


def contract() -> DataContract:
    """Sixteen numbers in, one of four labels out."""
    names = [f"x{number}" for number in range(NUMBERS)]
    columns: list[dict[str, object]] = [{"type": "number", "name": name} for name in names]
    columns.append({"type": "category", "name": "label", "values": list(LABELS)})
    document = {
        "name": "rounds",
        "columns": columns,
        "inputs": [{"type": "numbers", "name": "x", "columns": names}],
        "task": {"type": "classification", "label": "label"},
    }
    return decode_contract(json.dumps(document).encode())


def make_model(seed: int = 0) -> Any:
    """The owner's module: 1,348 weights."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(NUMBERS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(LABELS)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    torch.manual_seed(seed)
    return Small()


def node_specs(nodes: int, slots: int) -> list[NodeSpec]:
    """Nodes that hold the sites, a verification unit and an aggregator."""
    specs = [
        NodeSpec(
            name=f"ward{number:02}",
            operator=f"ward{number:02}",
            roles=(Role.DATA, Role.COMPUTE),
            direct=LOOPBACK,
            slots=slots,
        )
        for number in range(nodes)
    ]
    specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,), direct=LOOPBACK))
    specs.append(NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,), direct=LOOPBACK))
    return specs


def fill_shelf(folder: Path, sources: Path, first: int, sites: int) -> None:
    """Put `sites` data sets on a node's shelf, as `daitn data add` does; only the very first gives a sample."""
    from daitn.describe.column_map import ColumnMap
    from daitn.node.datasets import DataShelf
    from daitn.node.node_config import NodeFolder
    from daitn.node.site_files import load_policy

    here = NodeFolder(folder)
    here.make()
    shelf = DataShelf(here.data, here.site_secret(), activations=here.activations)
    sources.mkdir(parents=True, exist_ok=True)
    towards = np.random.default_rng(7).normal(size=(NUMBERS, len(LABELS)))
    for number in range(first, first + sites):
        rng = np.random.default_rng(1000 + number)
        points = rng.normal(size=(RECORDS, NUMBERS))
        labels = np.argmax(points @ towards + 0.5 * rng.normal(size=(RECORDS, len(LABELS))), axis=1)
        rows = [
            ",".join(f"{value:.5f}" for value in point) + f",{LABELS[label]}"
            for point, label in zip(points, labels, strict=True)
        ]
        path, policy = sources / f"site{number:03}.csv", sources / f"site{number:03}.toml"
        head = ",".join(f"x{place}" for place in range(NUMBERS)) + ",label"
        path.write_text("\n".join([head, *rows, ""]))
        policy.write_text(POLICY.format(share=0.25 if number == 0 else 0.0))
        shelf.add(f"site{number:03}", path, contract(), load_policy(policy), ColumnMap())


def fill_shelves(domain: LocalDomain, nodes: int, sites: int) -> None:
    """All data sets, node after node, in a process of its own: libraries loaded for it do not stay in this one."""
    each = sites // nodes
    work = [
        (domain.node_folder(f"ward{number:02}"), domain.folder / "sources" / f"ward{number:02}", number * each, each)
        for number in range(nodes)
    ]
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.starmap(fill_shelf, work)


@dataclass(frozen=True)
class Round:
    """One round by the centre's clock: from its orders, which are one fact, to its accepted average."""

    began_s: float
    """Unix seconds."""
    visits: int
    lost: int
    seconds: float
    average_s: float
    """From the last visit's result to the average's."""


def rounds_of(log: Sequence[LogEntry]) -> list[Round]:
    """The rounds of a job's log."""
    found: list[Round] = []
    began_s: float | None = None
    visits = lost = 0
    last_s = 0.0
    for entry in log:
        if entry.kind == "ordered" and re.match(r"visit \d+ ordered: train ", entry.text):
            if began_s is None:
                began_s, visits, lost = entry.unix_s, 0, 0
        elif entry.kind == "trained":
            visits, last_s = visits + 1, entry.unix_s
        elif entry.kind in ("lost", "stopped"):
            lost += 1
        elif entry.kind == "averaged" and began_s is not None:
            found.append(Round(began_s, visits, lost, entry.unix_s - began_s, entry.unix_s - last_s))
            began_s = None
    return found


def site_names(nodes: int, sites: int) -> list[str]:
    """Data sets as the domain calls them, those of one node after those of another."""
    each = sites // nodes
    return [f"ward{number // each:02}/site{number:03}" for number in range(sites)]


def run_rounds(domain: LocalDomain, names: Sequence[str], rounds: int, batches: int) -> tuple[list[Round], JobStatus]:
    """A federated job of so many rounds, these sites in each; the rounds, and how it ended."""
    import daitn
    from daitn.artifacts.signatures import load_or_create_key

    job = daitn.connect(domain.owner_token("bench")).train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        until_deadline=True,
        deadline=3000,
        purpose=PURPOSE,
        method="fedavg",
        data=list(names),
        budget=Budget(visits=len(names) * rounds),
        hyperparameters=Hyperparameters(batch_size=BATCH, batches_per_visit=batches, learning_rate=0.05),
        name=f"rounds-{len(names)}",
        key=load_or_create_key(domain.folder / "owner.key"),
    )
    status = job.wait()
    return rounds_of(list(job.log())), status


# --- floor --------------------------------------------------------------------------------------------------------


def _train_alone(folder: Path, node: str, names: Sequence[str], batches: int, done: Any) -> None:
    """Train each site's visit; the first are for the libraries' sake and not counted."""
    import torch

    from daitn.base.ids import DataSetId
    from daitn.descriptors.work import Training
    from daitn.learning.numerics.sources import TableSource
    from daitn.learning.numerics.train import ModelState, Seeds, train
    from daitn.learning.tasks import numerics_for
    from daitn.node.datasets import DataShelf
    from daitn.node.node_config import NodeFolder

    torch.set_num_threads(1)
    here = NodeFolder(folder)
    shelf, wanted = DataShelf(here.data, here.site_secret(), activations=here.activations), contract()
    task = numerics_for(wanted.task, wanted)
    training = Training(batch_size=BATCH, batches=batches, learning_rate=0.05, carry_optimizer=False)
    sources = [TableSource(shelf.table(name), wanted, DataSetId(f"{node}/{name}"), {}, None) for name in names]
    model = make_model()
    for counted in (sources[:3], sources):
        began = time.process_time()
        for source in counted:
            train(model, task, source, training, ModelState(), seeds=Seeds(job=0, visit=0))
    done.put((time.process_time() - began) / len(sources))


def measure_floor(domain: LocalDomain, nodes: int, sites: int, batches: int) -> float:
    """Seconds that the sites' own training takes at least: the processor time of the product's steps, records in memory
    and nothing else, spread over the cores. By one node's sites in a process of their own: the others' are alike."""
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    names = [f"site{number:03}" for number in range(sites // nodes)]
    worker = context.Process(target=_train_alone, args=(domain.node_folder("ward00"), "ward00", names, batches, done))
    worker.start()
    each: float = done.get(timeout=300)
    worker.join()
    return each * sites / CORES

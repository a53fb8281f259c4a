"""What tests of the sandbox share: packages, a mapped table, models in files, and a check that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import torch
from tests.leaks import running_children
from torch import nn

from daitn.artifacts.graph import encode_graph_pair
from daitn.artifacts.layout import Layout, TensorSpec, fill_payload, plan_layout
from daitn.artifacts.manifest import TensorEntry, TravellingState
from daitn.base.ids import ArtifactId, DataSetId
from daitn.describe.table import TableWriter
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
)
from daitn.descriptors.work import EvaluateWork, Training, TrainWork
from daitn.learning.graphs.export import export_pair
from daitn.node.sandbox.answers import plan_run
from daitn.node.sandbox.launcher import Limits, Sandbox
from daitn.node.sandbox.protocol import Finished, Progressed, Setup, TableData, TensorData
from daitn.node.sandbox.visits import ChildHandle, launch

MODEL = ArtifactId("0" * 64)
DATASET = DataSetId("site/points")
CONTRACT = DataContract(
    name="points",
    columns=(NumberColumn(name="a"), NumberColumn(name="b"), CategoryColumn(name="side", values=("no", "yes"))),
    inputs=(NumbersInput(name="x", columns=("a", "b")),),
    task=Classification(label="side"),
)


class Small(nn.Module):
    """A net of 34 numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x)}


class Tiny(nn.Module):
    """A model of 16 bytes: 4 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x @ self.weight}


class Large(nn.Module):
    """10 MB of parameters, of which a step uses little."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(500_000)) for _ in range(5)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        shift = torch.stack([table[:1].sum() for table in self.tables]).sum()
        return {"logits": x @ self.weight + shift}


class Greedy(nn.Module):
    """Memory grows with the square of the batch: 16 MB for 4 records, 4 GB for 64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = x.repeat(500, 1)
        return {"logits": x @ self.weight + (rows @ rows.T).mean()}


class Slow(nn.Module):
    """A step of some tenths of a second, made of many operations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(700))
        self.out = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        product = self.weight
        for _ in range(12):
            product = torch.tanh(product @ self.weight)
        return {"logits": x @ self.out + product.mean()}


@dataclass(frozen=True)
class Package:
    """A model as it travels, without network and store."""

    graph: bytes
    layout: Layout
    tensors: Mapping[str, torch.Tensor]


@cache
def package_of(kind: type[nn.Module]) -> Package:
    """Export a module; cached, since tracing takes seconds."""
    module = kind()
    pair, tensors = export_pair(module, {"x": torch.zeros(4, 2)}, {"x": ("batch", None)})
    trainable = dict(module.named_parameters())
    specs = [
        TensorSpec(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            role="parameter" if name in trainable else "buffer",
        )
        for name, tensor in tensors.items()
    ]
    return Package(encode_graph_pair(pair), plan_layout(specs), tensors)


@contextmanager
def payload_of(package: Package, change: Callable[[str, np.ndarray], np.ndarray] | None = None) -> Iterator[int]:
    """A read-only descriptor of the package's payload."""
    payload = bytearray(package.layout.payload_bytes)
    arrays = {name: tensor.numpy() for name, tensor in package.tensors.items()}
    if change is not None:
        arrays = {name: change(name, array.copy()) for name, array in arrays.items()}
    fill_payload(
        package.layout.entries,
        {name: np.ascontiguousarray(a).tobytes() for name, a in arrays.items()},
        memoryview(payload),
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        fd = os.open(file.name, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def output_of(size: int) -> Iterator[int]:
    """A writable descriptor with room for a result."""
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))
        yield file.fileno()


def read_tensor(fd: int, entry: TensorEntry) -> np.ndarray:
    """A float32 or int64 tensor of a written result."""
    data = os.pread(fd, entry.nbytes, entry.offset)
    return np.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)


def points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane and on which side of a line they lie."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 2))
    return values, (values @ [1.0, -2.0] > 0).astype(np.int32)


def make_table(folder: Path, count: int = 200) -> Path:
    """A mapped table of `points`."""
    values, side = points(count)
    numbers = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    with TableWriter(folder, CONTRACT.columns, "", b"s" * 32) as writer:
        writer.append({"a": values[:, 0], "b": values[:, 1], "side": side}, numbers, numbers)
        return writer.finish().folder


def setup_of(package: Package, *, table: bool = True, records: Sequence[TensorData] = (), **more: object) -> Setup:
    """A setup for a package, on the table or on records."""
    return Setup(
        contract=msgspec.json.encode(CONTRACT),
        kind="graph",
        parts={"graph": package.graph},
        table=TableData(dataset=DATASET, path="") if table else None,
        records=tuple(records),
        device="cpu",
        **more,  # type: ignore[arg-type]
    )


def train_work(batches: int = 20, **more: object) -> TrainWork:
    """Work with defaults."""
    values: dict[str, object] = {"batch_size": 16, "batches": batches, "learning_rate": 0.1, **more}
    return TrainWork(model=MODEL, dataset=DATASET, training=Training(**values), seed=7)  # type: ignore[arg-type]


@asynccontextmanager
async def child_of(
    setup: Setup, data: Path | None = None, limits: Limits | None = None, descriptors: Sequence[int] = ()
) -> AsyncIterator[ChildHandle]:
    """A warm child, gone afterwards."""
    handle = await launch(setup, sandbox=Sandbox(limits), data=data, descriptors=descriptors)
    try:
        yield handle
    finally:
        await handle.close()


async def run_training(
    child: ChildHandle,
    package: Package,
    work: TrainWork | None = None,
    state: TravellingState | None = None,
    on_progress: Callable[[Progressed], None] | None = None,
    change: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> tuple[Finished, dict[str, np.ndarray]]:
    """One training run, and the tensors of its result."""
    run = plan_run(
        work or train_work(), package.layout.entries, package.layout.payload_bytes, state or TravellingState()
    )
    with payload_of(package, change) as payload, output_of(run.output_bytes) as output:
        finished = await child.run(run, payload, output, on_progress=on_progress)
        return finished, {entry.name: read_tensor(output, entry) for entry in run.output}


def evaluate_work(*names: str, preflight: bool = False) -> EvaluateWork:
    """Evaluation of these figures."""
    return EvaluateWork(model=MODEL, samples=(), measurements=names, preflight=preflight)


def open_descriptors() -> set[str]:
    """What this process has open, by target."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue
    return found


def run_clean(main: Callable[[], object]) -> None:
    """Run a coroutine function; no process and no descriptor may be left. What tests before left to the collector goes
    first, so that it is not missed here afterwards."""
    gc.collect()
    descriptors, processes = open_descriptors(), running_children()
    asyncio.run(main())  # type: ignore[arg-type]
    assert running_children().keys() == processes.keys()
    left, missed = open_descriptors() - descriptors, descriptors - open_descriptors()
    assert not left, left
    assert not missed, f"opened by another test, and closed meanwhile: {missed}"

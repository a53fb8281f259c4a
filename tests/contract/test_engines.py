"""The laws of `serving.engine.Engine`, over every engine there is."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.leaks import left_over, running_children
from torch import nn

from daitn.artifacts.layout import TensorSpec as Laid
from daitn.artifacts.layout import fill_payload, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import read_package
from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
)
from daitn.descriptors.serving import TensorSpec
from daitn.node.engines.torch_graph import TorchGraphEngine, start_torch_graph
from daitn.node.sandbox.launcher import Limits, Sandbox
from daitn.sdk.packaging import package_module
from daitn.serving.engine import Engine, warm_up

CONTRACT = DataContract(
    name="points",
    columns=(NumberColumn(name="a"), NumberColumn(name="b"), CategoryColumn(name="side", values=("no", "yes"))),
    inputs=(NumbersInput(name="x", columns=("a", "b")),),
    task=Classification(label="side"),
)


class Points(nn.Module):
    """Two numbers in, two out; a first number of 64 or more is looked up where nothing is, and fails."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        self.table = nn.Embedding(64, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x) + self.table(x[:, 0].abs().long())}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, nn.Module]:
    folder = tmp_path_factory.mktemp("engine") / "points"
    module = Points().eval()
    package_module(module, CONTRACT, folder, key=Ed25519PrivateKey.generate(), name="points")
    return folder, read_package(folder).manifest, module.eval()


@asynccontextmanager
async def torch_graph(
    package: tuple[Path, Manifest, nn.Module], tmp_path: Path, memory_bytes: int = 2 << 30, onnx: bool = False
) -> AsyncIterator[TorchGraphEngine]:
    folder, manifest, _ = package
    read = read_package(folder)
    layout = plan_layout(
        [Laid(name=one.name, dtype=one.dtype, shape=one.shape, role=one.role) for one in manifest.tensors]
    )
    payload = tmp_path / "payload"
    filled = bytearray(layout.payload_bytes)
    fill_payload(layout.entries, read.tensors, memoryview(filled))
    payload.write_bytes(filled)
    parts = {name: bytes(data) for name, data in read.parts.items()}
    engine = await start_torch_graph(manifest, parts, payload, Sandbox(Limits(memory_bytes=memory_bytes)), onnx=onnx)
    try:
        yield engine
    finally:
        await engine.close()


Making = Callable[[tuple[Path, Manifest, nn.Module], Path], AbstractAsyncContextManager[Engine]]
ENGINES: dict[str, Making] = {"torch-graph": torch_graph, "onnx-graph": functools.partial(torch_graph, onnx=True)}


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Making:
    return ENGINES[request.param]


def test_rows_of_many_queries_get_what_each_would_get_alone(make, package, tmp_path) -> None:
    async def check() -> None:
        async with make(package, tmp_path) as engine:
            rows = np.random.default_rng(1).uniform(0, 3, (7, 2)).astype(np.float32)
            together = (await engine.infer({"x": rows}))["logits"]
            alone = [(await engine.infer({"x": rows[one : one + 1]}))["logits"][0] for one in range(7)]
            with torch.inference_mode():
                wanted = package[2](torch.from_numpy(rows))["logits"].numpy()
            np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(together, wanted, rtol=1e-5, atol=1e-6)

    asyncio.run(check())


def test_warming_up_learns_inputs_outputs_and_times(make, package, tmp_path) -> None:
    async def check() -> None:
        async with make(package, tmp_path) as engine:
            warmed = await warm_up(engine)
            assert engine.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)
            assert warmed.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),)
            assert 0 < warmed.measured.row_s < 1
            assert warmed.measured.batch_s > 0
            assert warmed.measured.memory_bytes > 0

    asyncio.run(check())


def test_batch_the_model_fails_on_is_an_input_error_and_the_engine_goes_on(make, package, tmp_path) -> None:
    async def check() -> None:
        async with make(package, tmp_path) as engine:
            with pytest.raises(InputError):
                await engine.infer({"x": np.full((1, 2), 100, np.float32)})
            with pytest.raises(InputError):
                await engine.infer({"x": np.zeros((1, 3), np.float32)})
            with pytest.raises(InputError):
                await engine.infer({"y": np.zeros((1, 2), np.float32)})
            assert (await engine.infer({"x": np.zeros((1, 2), np.float32)}))["logits"].shape == (1, 2)

    asyncio.run(check())


def test_dead_engine_says_so_and_leaves_nothing(package, tmp_path) -> None:
    before = running_children()

    async def check() -> None:
        async with torch_graph(package, tmp_path) as engine:
            os.kill(engine._child.pid, signal.SIGKILL)

            async def ask_until_dead() -> None:
                for _ in range(10_000):  # the kernel may let it answer once more
                    await engine.infer({"x": np.zeros((1, 2), np.float32)})

            with pytest.raises(UnavailableError, match=r"killed|died"):
                await ask_until_dead()
            assert not engine.alive
            with pytest.raises(UnavailableError, match="died"):
                await engine.infer({"x": np.zeros((1, 2), np.float32)})

    asyncio.run(check())
    assert left_over(before) == []


def test_engine_without_the_memory_it_needs_is_refused_with_the_reason(package, tmp_path) -> None:
    async def check() -> None:
        with pytest.raises((UnavailableError, InputError), match="cannot be loaded"):
            async with torch_graph(package, tmp_path, memory_bytes=40 << 20):
                pass

    asyncio.run(check())

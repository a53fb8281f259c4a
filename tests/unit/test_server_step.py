"""Server optimizers: their arithmetic against formulas written out anew, what is remembered, and what is refused."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.base.errors import PeerError
from daitn.descriptors.work import AggregateWork, ServerStep, UpdateRef
from daitn.learning.numerics.blocks import BLOCK_ELEMENTS, narrow, tensor_view, widen
from daitn.learning.numerics.server_step import KINDS, Area, plan_state, take_step

SHAPE = (3, 5)
EVERY = sorted(set(KINDS) - {"scaffold"})
"""SCAFFOLD's step is held to its paper in test_control_variates."""


def layout(dtype: str = "float64", shape: tuple[int, ...] = SHAPE) -> Layout:
    return plan_layout(
        [
            TensorSpec(name="w", dtype=dtype, shape=shape),  # type: ignore[arg-type]
            TensorSpec(name="mean_seen", dtype="float32", shape=(4,), role="buffer"),
            TensorSpec(name="base", dtype="float32", shape=(2,), role="frozen"),
        ]
    )


def area(of: Layout, values: dict[str, np.ndarray] | None = None) -> Area:
    made = Area(of.entries, memoryview(bytearray(of.payload_bytes)))
    for entry in of.entries:
        if values and entry.name in values:
            given_values = values[entry.name].reshape(-1).astype(np.float64)
            tensor_view(made.payload, entry)[...] = narrow(given_values, entry.dtype)
    return made


def read(of: Area, name: str) -> np.ndarray:
    entry = of.places()[name]
    return widen(tensor_view(of.payload, entry), entry.dtype)


def expected(step: ServerStep, x: np.ndarray, means: list[np.ndarray]) -> np.ndarray:
    """The papers' formulas, round after round from `x`, each mean being the one found at that round's start."""
    b, c, r, t = step.momentum, step.second_moment, step.learning_rate, step.adaptivity
    m = np.zeros_like(x)
    v = np.full_like(x, t**2)
    for change in means:
        if step.optimizer in ("momentum", "nesterov"):
            m = b * m + change
            x = x + r * (m if step.optimizer == "momentum" else change + b * m)
        else:
            m = b * m + (1 - b) * change
            if step.optimizer == "adam":
                v = c * v + (1 - c) * change**2
            else:
                v = v - (1 - c) * change**2 * np.sign(v - change**2)
            x = x + r * m / (np.sqrt(v) + t)
    return x


@settings(max_examples=25, deadline=None)
@given(optimizer=st.sampled_from(EVERY), rounds=st.integers(1, 4), seed=st.integers(0, 1000))
def test_rounds_are_the_formulas_and_everything_else_is_the_mean(optimizer: str, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = ServerStep(optimizer=optimizer, learning_rate=0.3, adaptivity=1e-2)  # type: ignore[arg-type]
    of = layout()
    start = rng.normal(size=SHAPE)
    changes = [rng.normal(size=SHAPE) for _ in range(rounds)]
    x, remembered = area(of, {"w": start}), None
    for change in changes:
        mean = area(of, {"w": read(x, "w").reshape(SHAPE) + change, "mean_seen": np.ones(4), "base": np.full(2, 7.0)})
        after = area(plan_state(of.entries, step))
        take_step(step, x, mean, remembered, after)
        x, remembered = mean, after
    wanted = expected(step, start.reshape(-1), [one.reshape(-1) for one in changes])
    np.testing.assert_allclose(read(x, "w"), wanted, rtol=2e-5, atol=2e-6)  # slots are float32
    assert (read(x, "mean_seen") == 1).all()
    assert (read(x, "base") == 7).all()


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_rate_one_without_momentum_is_federated_averaging(optimizer: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    step = ServerStep(optimizer=optimizer, learning_rate=1.0, momentum=0.0)  # type: ignore[arg-type]
    of = layout(dtype, (2 * BLOCK_ELEMENTS + 3,))
    base = area(of, {"w": rng.normal(size=2 * BLOCK_ELEMENTS + 3)})
    mean = area(of, {"w": rng.normal(size=2 * BLOCK_ELEMENTS + 3)})
    averaged = read(mean, "w").copy()
    take_step(step, base, mean, None, area(plan_state(of.entries, step)))
    np.testing.assert_allclose(read(mean, "w"), averaged, rtol=1e-12, atol=1e-15)


def test_nothing_is_remembered_of_another_models_tensors() -> None:
    step = ServerStep(optimizer="momentum", learning_rate=1.0)
    of = layout()
    other = area(plan_state(layout(shape=(2, 2)).entries, step), {"momentum/w": np.ones(4)})
    base, mean = area(of), area(of, {"w": np.ones(SHAPE)})
    take_step(step, base, mean, other, area(plan_state(of.entries, step)))
    assert (read(mean, "w") == 1).all()


def test_round_that_began_from_another_model_is_refused() -> None:
    step = ServerStep(optimizer="adam", learning_rate=0.1)
    of = layout()
    with pytest.raises(PeerError, match="parameter 'w' is float64"):
        take_step(step, area(layout(shape=(2, 2))), area(of), None, area(plan_state(of.entries, step)))


def test_step_beyond_the_type_is_refused_and_says_what_to_lower() -> None:
    step = ServerStep(optimizer="momentum", learning_rate=1000.0)
    of = layout("float16")
    mean = area(of, {"w": np.full(SHAPE, 6e4)})
    with pytest.raises(PeerError, match=r"beyond its type.*lower the server's learning rate"):
        take_step(step, area(of), mean, None, area(plan_state(of.entries, step)))


def test_work_with_half_a_step_cannot_be_made() -> None:
    updates = (UpdateRef(model="a", weight=1.0),)  # type: ignore[arg-type]
    step = ServerStep(optimizer="adam", learning_rate=0.1)
    with pytest.raises(ValueError, match="the model that is moved"):
        AggregateWork(updates=updates, server=step)
    with pytest.raises(ValueError, match="nothing else does"):
        AggregateWork(updates=updates, state="b")  # type: ignore[arg-type]
    whole = AggregateWork(updates=updates, server=step, base="c", state="b")  # type: ignore[arg-type]
    assert whole.models_in() == ("a", "c", "b")


def test_memory_is_mapped_files(tmp_path: Path) -> None:
    step = ServerStep(optimizer="yogi", learning_rate=0.1)
    of, kept = layout(), plan_state(layout().entries, step)
    path = tmp_path / "payload"
    path.write_bytes(bytes(kept.payload_bytes))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped, memoryview(mapped) as view:
        after = Area(kept.entries, view)
        take_step(step, area(of), area(of, {"w": np.ones(SHAPE)}), None, after)
    assert any(path.read_bytes())

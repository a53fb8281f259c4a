"""Laws of averaging, over all element types: identity, order, scale of weights, agreement with a plain mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.artifacts.layout import TensorSpec, fill_payload, plan_layout
from daitn.artifacts.manifest import Cursor, TravellingState
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.learning.numerics.aggregate import (
    Update,
    UpdateRefusedError,
    average,
    merge_states,
    most_alike,
    plan_average,
)
from daitn.learning.numerics.blocks import BLOCK_ELEMENTS

FLOATS = ("float64", "float32", "float16", "bfloat16")
EPSILON = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def make_update(tensors: dict[str, tuple[str, Any]], weight: float = 1.0, name: str = "u") -> Update:
    """An update of torch tensors by name, with the role of each."""
    layout = plan_layout(
        TensorSpec(name=key, dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape), role=role)  # type: ignore[arg-type]
        for key, (role, t) in tensors.items()
    )
    payload = bytearray(layout.payload_bytes)
    raw = {key: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for key, (_, t) in tensors.items()}
    fill_payload(layout.entries, raw, memoryview(payload))
    return Update(name=name, weight=weight, entries=layout.entries, payload=memoryview(bytes(payload)))


def averaged(updates: list[Update]) -> dict[str, torch.Tensor]:
    """The mean, as torch tensors."""
    layout = plan_average(updates)
    output = bytearray(layout.payload_bytes)
    average(updates, layout, memoryview(output))
    return {
        e.name: torch.frombuffer(
            output, dtype=getattr(torch, e.dtype), offset=e.offset, count=math.prod(e.shape)
        ).reshape(e.shape)
        for e in layout.entries
    }


def draw_models(dtype: str, count: int, seed: int) -> list[dict[str, tuple[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "w": ("parameter", torch.randn(3, 5, generator=generator).to(getattr(torch, dtype))),
            "b": ("parameter", (10 * torch.randn(7, generator=generator)).to(getattr(torch, dtype))),
        }
        for _ in range(count)
    ]


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    weights=st.lists(st.floats(0.01, 1000), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    scale=st.floats(0.001, 1000),
)
def test_mean_ignores_order_and_scale_of_weights_and_equals_the_plain_one(
    dtype: str, weights: list[float], seed: int, scale: float
) -> None:
    models = draw_models(dtype, len(weights), seed)
    updates = [make_update(model, weight) for model, weight in zip(models, weights, strict=True)]
    mean = averaged(updates)
    backwards = averaged(updates[::-1])
    scaled = averaged([make_update(m, w * scale) for m, w in zip(models, weights, strict=True)])
    for name, value in mean.items():
        plain = sum(w * m[name][1].double() for m, w in zip(models, weights, strict=True)) / sum(weights)
        size = max(1.0, float(max(m[name][1].double().abs().max() for m in models)))
        for other in (backwards[name], scaled[name], plain):
            assert torch.allclose(value.double(), other.double(), atol=EPSILON[dtype] * size, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from((*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")),
    weights=st.lists(st.floats(0.01, 1000), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_mean_of_equal_models_is_that_model_bit_for_bit(dtype: str, weights: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    if dtype in FLOATS:
        value = (1000 * torch.randn(40, generator=generator)).to(getattr(torch, dtype))
    elif dtype == "int64":
        value = torch.randint(-(2**62), 2**62, (40,), generator=generator)
    else:
        value = torch.randint(0, 2 if dtype == "bool" else 100, (40,), generator=generator).to(getattr(torch, dtype))
    mean = averaged([make_update({"t": ("buffer", value)}, weight) for weight in weights])
    assert torch.equal(mean["t"], value)


def test_bfloat16_is_rounded_to_nearest_even_like_torch() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3)).bfloat16()
    others = torch.randn(1000, generator=torch.Generator().manual_seed(4)).bfloat16()
    mean = averaged([make_update({"t": ("parameter", t)}) for t in (values, others)])["t"]
    assert torch.equal(mean, ((values.float() + others.float()) * 0.5).bfloat16())


def test_tensor_longer_than_a_block_is_averaged_to_its_end() -> None:
    count = 2 * BLOCK_ELEMENTS + 17
    low, high = torch.zeros(count), torch.arange(count, dtype=torch.float32)
    mean = averaged([make_update({"t": ("parameter", low)}, 3), make_update({"t": ("parameter", high)}, 1)])["t"]
    assert torch.equal(mean, high / 4)


def test_counters_take_the_maximum_and_other_kinds_their_rule() -> None:
    def model(steps: int, votes: list[bool], levels: list[int], frozen: float) -> dict[str, tuple[str, torch.Tensor]]:
        return {
            "bn.num_batches_tracked": ("buffer", torch.tensor(steps)),
            "votes": ("buffer", torch.tensor(votes)),
            "levels": ("buffer", torch.tensor(levels, dtype=torch.int32)),
            "base": ("frozen", torch.full((2,), frozen)),
            "momentum/w": ("optimizer", torch.full((2,), frozen)),
        }

    first = make_update(model(10, [True, True, False], [0, 10, -4], 1.0), weight=1)
    second = make_update(model(30, [True, False, True], [4, 20, -8], 3.0), weight=3)
    mean = averaged([first, second])
    assert int(mean["bn.num_batches_tracked"]) == 30
    assert mean["votes"].tolist() == [True, False, True]
    assert mean["levels"].tolist() == [3, 18, -7]
    assert mean["base"].tolist() == [1.0, 1.0]
    assert mean["momentum/w"].tolist() == [2.5, 2.5]


def test_slot_that_an_update_lacks_is_left_out() -> None:
    weights = {"w": ("parameter", torch.ones(2))}
    mean = averaged([make_update({**weights, "momentum/w": ("optimizer", torch.ones(2))}), make_update(weights)])
    assert set(mean) == {"w"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_update_that_is_not_finite_is_refused_by_name(dtype: str, value: float) -> None:
    broken = torch.ones(9).to(getattr(torch, dtype))
    broken[4] = value
    updates = [
        make_update({"w": ("parameter", tensor)}, name=name)
        for name, tensor in (("good", torch.ones(9).to(getattr(torch, dtype))), ("site-7", broken))
    ]
    with pytest.raises(UpdateRefusedError, match="site-7") as caught:
        averaged(updates)
    assert (caught.value.update, caught.value.tensor) == ("site-7", "w")


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(UpdateRefusedError, match="weight"):
        averaged([make_update({"w": ("parameter", torch.ones(1))}, weight)])


def test_update_of_another_shape_and_no_updates_are_refused() -> None:
    with pytest.raises(UpdateRefusedError, match="'w'"):
        averaged([make_update({"w": ("parameter", torch.ones(n))}) for n in (1, 2)])
    with pytest.raises(InputError):
        plan_average([])


def test_updates_most_alike_are_kept_wherever_the_odd_one_stands() -> None:
    good = [make_update({"w": ("parameter", torch.ones(2))}, name=name) for name in ("a", "b")]
    odd = make_update({"w": ("parameter", torch.ones(3))}, name="odd")
    for updates in ([odd, *good], [good[0], odd, good[1]], [*good, odd]):
        assert most_alike(updates) == good
    assert most_alike([good[0], odd]) == good[:1]


def test_states_merge_to_the_furthest() -> None:
    def state(steps: int, **cursors: tuple[int, int]) -> TravellingState:
        return TravellingState(
            optimizer="adam",
            steps=steps,
            records=steps * 10,
            cursors=tuple(Cursor(dataset=DataSetId(n), epoch=e, position=p) for n, (e, p) in cursors.items()),
        )

    merged = merge_states([state(5, a=(1, 2), b=(0, 9)), state(7, a=(1, 4)), state(6, b=(1, 0), c=(0, 1))])
    assert (merged.steps, merged.records, merged.optimizer) == (7, 70, "adam")
    assert {c.dataset: (c.epoch, c.position) for c in merged.cursors} == {"a": (1, 4), "b": (1, 0), "c": (0, 1)}


def test_memory_stays_bounded_by_blocks() -> None:
    import tracemalloc

    tensor = torch.ones(4_000_000)
    updates = [make_update({"w": ("parameter", tensor)}) for _ in range(3)]
    layout = plan_average(updates)
    output = memoryview(bytearray(layout.payload_bytes))
    tracemalloc.start()
    average(updates, layout, output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * BLOCK_ELEMENTS < layout.payload_bytes / 4
    assert np.frombuffer(output, dtype=np.float32)[:5].tolist() == [1.0] * 5

"""Laws of compressed updates: nothing is lost but time, and sizes are as told."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_aggregation_laws import make_update

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.base.errors import InputError
from daitn.descriptors import compression as sizes
from daitn.descriptors.compression import Compression
from daitn.learning.numerics import compression as numerics
from daitn.learning.numerics.aggregate import UpdateRefusedError
from daitn.learning.numerics.compression import (
    PLACES,
    RESIDUAL,
    plan_residual,
    plan_restored,
    plan_update,
    restore_model,
    trained_numbers,
    write_update,
)
from daitn.learning.numerics.server_step import Area

KEEPS = st.sampled_from([1.0, 0.5, 0.05, 0.001])


def model_of(weights: np.ndarray, *, adapter_only: bool = False, variance: float = 1.0) -> Area:
    """A model: weights in two tensors, a frozen base, a buffer and a counter."""
    half = len(weights) // 2
    torched = torch.from_numpy(weights.astype(np.float32))
    update = make_update(
        {
            "a": ("frozen" if adapter_only else "parameter", torched[:half].clone()),
            "b": ("parameter", torched[half:].clone()),
            "base": ("frozen", torch.arange(5.0)),
            "norm.variance": ("buffer", torch.tensor([variance])),
            "norm.count": ("buffer", torch.tensor(int(variance))),
        }
    )
    return Area(update.entries, update.payload)


def empty(layout: Layout) -> Area:
    return Area(layout.entries, memoryview(bytearray(layout.payload_bytes)))


def sent_of(base: Area, trained: Area, before: Area | None, compression: Compression) -> tuple[Area, Area]:
    """The update and the new residual."""
    sent, left = empty(plan_update(base.entries, compression)), empty(plan_residual(base.entries))
    write_update(base, trained, before, compression, sent, left)
    return sent, left


def restored(base: Area, sent: Area, compression: Compression) -> Area:
    model = empty(plan_restored(base.entries))
    restore_model("u", base, sent, compression, model)
    return model


def numbers(area: Area, *names: str) -> np.ndarray:
    return np.concatenate(
        [numerics.tensor_view(area.payload, area.places()[name]).astype(np.float64) for name in names]
    )


@settings(max_examples=40, deadline=None)
@given(keep=KEEPS, count=st.integers(2, 3000), visits=st.integers(1, 6), seed=st.integers(0, 999))
def test_what_was_sent_and_the_residual_are_the_sum_of_all_changes(
    keep: float, count: int, visits: int, seed: int
) -> None:
    draw, compression = np.random.default_rng(seed), Compression(keep=keep)
    changes = draw.standard_normal((visits, count)) * np.exp(draw.standard_normal(count) * 3)
    base, left, told = model_of(np.zeros(count)), None, np.zeros(count)
    for change in changes.astype(np.float32):
        sent, left = sent_of(base, model_of(change), left, compression)
        told += numbers(restored(base, sent, compression), "a", "b")

    assert left is not None
    whole = changes.astype(np.float32).astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(told + numbers(left, RESIDUAL), whole, atol=1e-5 * np.abs(changes).max())


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 3000), seed=st.integers(0, 999))
def test_eight_bits_are_off_by_half_a_step_of_their_block_at_most(count: int, seed: int) -> None:
    change = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    base, compression = model_of(np.zeros(count)), Compression()

    sent, left = sent_of(base, model_of(change), None, compression)

    assert np.abs(numbers(left, RESIDUAL)).max() <= np.abs(change).max() / 127 * 0.501
    assert PLACES not in sent.places()


@pytest.mark.parametrize("window", [sizes.WINDOW, 100], ids=["one window", "many windows"])
def test_top_k_sends_the_largest_of_each_window(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "WINDOW", window)
    change = np.random.default_rng(1).permutation(np.arange(1.0, 1001.0)).astype(np.float32)
    base, compression = model_of(np.zeros(1000)), Compression(keep=0.1)

    sent, _ = sent_of(base, model_of(change), None, compression)

    told = numbers(restored(base, sent, compression), "a", "b")
    assert np.count_nonzero(told) == 100
    for start in range(0, 1000, min(window, 500)):
        part = slice(start, start + min(window, 500))
        count = np.count_nonzero(told[part])
        np.testing.assert_array_equal(np.flatnonzero(told[part]), np.sort(np.argsort(change[part])[-count:]))


@pytest.mark.parametrize("keep", [1.0, 0.05])
def test_sizes_are_as_admission_reckons_with(keep: float) -> None:
    base, compression = model_of(np.zeros(100_000)), Compression(keep=keep)

    layout = plan_update(base.entries, compression)

    told = compression.bytes_of(trained_numbers(base.entries))
    assert told == pytest.approx(layout.payload_bytes, rel=0.02)
    assert layout.payload_bytes < 400_000 * (0.26 if keep == 1.0 else 0.04)


def test_of_a_model_with_an_adapter_only_the_adapter_is_sent() -> None:
    base, compression = model_of(np.zeros(100_000), adapter_only=True), Compression()

    assert trained_numbers(base.entries) == 50_000
    assert plan_update(base.entries, compression).payload_bytes < 52_000
    trained = model_of(np.concatenate([np.zeros(50_000), np.ones(50_000)]), adapter_only=True)
    sent, _ = sent_of(base, trained, None, compression)
    np.testing.assert_allclose(numbers(restored(base, sent, compression), "a", "b"), numbers(trained, "a", "b"))


def test_buffers_and_counters_are_sent_as_they_are_and_frozen_tensors_are_the_bases() -> None:
    base, compression = model_of(np.zeros(10)), Compression(keep=0.1)
    sent, _ = sent_of(base, model_of(np.ones(10), variance=7.0), None, compression)

    model = restored(base, sent, compression)

    assert numbers(model, "norm.variance").tolist() == [7.0]
    assert numbers(model, "norm.count").tolist() == [7.0]
    assert numbers(model, "base").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_change_that_is_not_finite_is_not_sent(value: float) -> None:
    base = model_of(np.zeros(10))
    with pytest.raises(InputError, match="'b' is not finite"):
        sent_of(base, model_of(np.array([0.0] * 9 + [value])), None, Compression())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_update_with_other_bytes_is_refused_by_name_or_is_some_model(data: st.DataObject) -> None:
    base, compression = model_of(np.zeros(300)), Compression(keep=0.05)
    sent, _ = sent_of(base, model_of(np.ones(300)), None, compression)
    payload = bytearray(sent.payload)
    for _ in range(data.draw(st.integers(1, 8))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    with suppress(UpdateRefusedError):
        model = restored(base, Area(sent.entries, memoryview(payload)), compression)
        assert numbers(model, "a", "b").shape == (300,)


@pytest.mark.parametrize("other", [Compression(keep=0.5), Compression(keep=0.051)])
def test_update_that_was_compressed_otherwise_is_refused(other: Compression) -> None:
    base = model_of(np.zeros(3000))
    sent, _ = sent_of(base, model_of(np.ones(3000)), None, other)

    with pytest.raises(UpdateRefusedError, match="no update of this model"):
        restored(base, sent, Compression(keep=0.05))


def test_model_without_trained_numbers_has_an_empty_update() -> None:
    entries = plan_layout([TensorSpec(name="base", dtype="float32", shape=(3,), role="frozen")]).entries
    base = Area(entries, memoryview(bytearray(64)))

    sent, left = sent_of(base, base, None, Compression())

    assert trained_numbers(entries) == 0
    assert len(left.payload) == 0
    assert bytes(restored(base, sent, Compression()).payload) == bytes(64)

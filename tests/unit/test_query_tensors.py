"""Tensors of queries: checked once, joined, cut, and the same after the journey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from daitn.base.errors import InputError, PeerError
from daitn.descriptors.serving import DATATYPES, NamedTensor, TensorSpec
from daitn.serving.tensors import array_of, arrays_of, cut_rows, join_rows, rows_of, tensor_of

SPECS = (
    TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.sampled_from(sorted(DATATYPES.values())).flatmap(
        lambda word: arrays.arrays(np.dtype(word), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4))
    )
)
def test_any_array_is_the_same_after_the_journey(array: np.ndarray) -> None:
    assert array_of(tensor_of("x", array)).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": np.zeros((2, 2), np.float32)}, "input 'ids' is missing"),
        ({"x": np.zeros((2, 3), np.float32), "ids": np.zeros((2, 1), np.int64)}, "has the shape \\[2, 3\\]"),
        ({"x": np.zeros((2, 2)), "ids": np.zeros((2, 1), np.int64)}, "is FP64, the model takes FP32"),
        ({"x": np.zeros((2, 2), np.float32), "ids": np.zeros((3, 1), np.int64)}, "2, 3 rows"),
        ({"x": np.zeros((0, 2), np.float32), "ids": np.zeros((0, 1), np.int64)}, "0 rows"),
        ({"X": np.zeros((2, 2), np.float32), "ids": np.zeros((2, 1), np.int64)}, "no input 'X'"),
    ],
)
def test_query_that_does_not_fit_is_told_every_fault(given: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(InputError, match=said):
        rows_of(given, SPECS)


def test_bytes_that_do_not_fill_the_shape_and_names_that_come_twice_are_refused() -> None:
    tensor = NamedTensor(name="x", datatype="FP32", shape=(2, 2), data=bytes(15))
    with pytest.raises(InputError, match="takes 16 bytes, 15 were sent"):
        array_of(tensor)
    whole = NamedTensor(name="x", datatype="FP32", shape=(2, 2), data=bytes(16))
    with pytest.raises(InputError, match="same name"):
        arrays_of([whole, whole])
    with pytest.raises(InputError, match="BOOL has bytes"):
        array_of(NamedTensor(name="x", datatype="BOOL", shape=(1,), data=b"\x02"))


def test_batch_is_joined_and_cut_at_its_queries() -> None:
    first, second = {"x": np.ones((2, 2))}, {"x": np.zeros((1, 2))}
    joined = join_rows([first, second])

    assert rows_of({"x": joined["x"].astype(np.float32)}, SPECS[:1]) == 3
    cut = cut_rows({"y": joined["x"].sum(axis=1)}, [2, 1])
    assert [one["y"].tolist() for one in cut] == [[2.0, 2.0], [0.0]]
    with pytest.raises(PeerError, match="for 3 rows"):
        cut_rows({"y": np.zeros(())}, [2, 1])

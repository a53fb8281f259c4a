"""Open Inference Protocol: bodies read and written, JSON and binary."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.test_query_engine import make_model

from daitn.base.errors import InputError
from daitn.descriptors.serving import QueryGoal
from daitn.node.serving.inference_protocol import decode_infer, encode_answer
from daitn.serving.tensors import array_of, tensor_of


def body(*, data: Any = (1, 2), datatype: str = "FP32", shape: tuple[int, ...] = (1, 2), **more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **more}).encode()


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("FP32", [0.5, -1]), ("FP64", [[0.5, 2]]), ("INT8", [-128, 127]), ("UINT8", [0, 255]), ("BOOL", [True, False])],
)
def test_json_tensors_are_read_flat_or_nested(datatype: str, data: Any) -> None:
    (tensor,) = decode_infer(body(data=data, datatype=datatype), None, {}).inputs

    assert array_of(tensor).reshape(-1).tolist() == np.array(data).reshape(-1).tolist()


def test_binary_tensors_follow_the_json_in_order() -> None:
    first, second = np.array([[1, 2]], np.float32), np.array([7], np.int64)
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
                {"name": "n", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
            ],
            "parameters": {"binary_data_output": True, "deadline_ms": 20, "min_accuracy": 0.9},
        }
    ).encode()
    asked = decode_infer(
        head + first.tobytes() + second.tobytes(),
        str(len(head)),
        {"x-daitn-region": "north", "x-daitn-zone": "clinic, lab", "x-daitn-max-price": "0.5"},
    )

    assert [array_of(one).tolist() for one in asked.inputs] == [first.tolist(), second.tolist()]
    assert asked.goal == QueryGoal(
        deadline_s=0.02, quality_least=0.9, region="north", zone=("clinic", "lab"), price_most=0.5
    )
    data, cut = encode_answer(make_model(), asked, [tensor_of("y", first), tensor_of("z", second)])
    assert cut is not None
    assert data[cut:] == first.tobytes() + second.tobytes()
    assert [one["parameters"] for one in json.loads(data[:cut])["outputs"]] == [{"binary_data_size": 8}] * 2


@pytest.mark.parametrize(
    ("data", "length", "said"),
    [
        (b"{", None, "does not decode"),
        (b"[" * 100_000, None, "does not decode"),
        (body(shape=(1, 3)), None, "takes 12 bytes, 8 were sent"),
        (body(datatype="BYTES"), None, "'BYTES' is not served"),
        (body(data="12"), None, "has no data"),
        (body(data=[[1], [2, 3]]), None, "is not FP32"),
        (body(data=["a", "b"]), None, "is not FP32"),
        (body(data=[300, 1], datatype="UINT8"), None, "outside 0 to 255"),
        (body(data=[0.5, 1], datatype="INT32"), None, "fractions"),
        (body(data=[1, 0], datatype="BOOL"), None, "truth values"),
        (body(), "9999", "says 9999 bytes"),
        (body(), "-1", "not a number of bytes"),
        (body() + b"xx", str(len(body())), "belong to none"),
        (body(parameters={"deadline_ms": "soon"}), None, "deadline_ms is 'soon'"),
        (body(parameters={"min_accuracy": 2}), None, "min_accuracy is 2"),
        (body(parameters={"region": 5}), None, "region is not a word"),
        (body(parameters={"zone": ""}), None, "zone is '', not 1 to 16 names"),
        (body(parameters={"zone": "clinic,,lab"}), None, "zone is 'clinic,,lab'"),
        (body(parameters={"zone": ["clinic"]}), None, "names of operators with commas between them"),
        (body(parameters={"max_price": -1}), None, "max_price is -1"),
        (body(parameters={"max_price": "nan"}), None, "max_price is not a number"),
    ],
)
def test_request_that_cannot_be_is_refused_with_the_place(data: bytes, length: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decode_infer(data, length, {})


def test_output_that_there_is_not_is_named() -> None:
    asked = decode_infer(body(outputs=[{"name": "q"}]), None, {})
    with pytest.raises(InputError, match="no output 'q'; it has y"):
        encode_answer(make_model(), asked, [tensor_of("y", np.zeros((1, 1), np.float32))])


def test_numbers_that_json_cannot_say_become_null() -> None:
    asked = decode_infer(body(id="7"), None, {})
    data, cut = encode_answer(make_model(), asked, [tensor_of("y", np.array([np.nan, 1.0], np.float32))])

    assert cut is None
    assert json.loads(data)["outputs"][0]["data"] == [None, 1.0]
    assert json.loads(data)["id"] == "7"

"""Hostile bytes: whatever comes in, `decode_graph_pair` answers with a pair or a `PeerError`, in little memory."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.artifacts.graph import FILE_DEPTH, HEADER, decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_schema import (
    Add,
    Buffer,
    BufferRef,
    Constant,
    Dimension,
    DimensionRange,
    DtypeName,
    Graph,
    GraphPair,
    Input,
    InputRef,
    Mode,
    Named,
    Node,
    NodeRef,
    Output,
    Parameter,
    ParameterRef,
    Several,
    Size,
    Word,
)
from daitn.base.errors import PeerError
from daitn.base.limits import GRAPH_BYTES

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=300)


def make_pair() -> GraphPair:
    """A pair that uses most of the format."""
    nodes = (
        Node("aten.linear.default", (InputRef(0), ParameterRef(0), None)),
        Node("aten.gelu.default", (NodeRef(0),), (Named("approximate", Word("tanh")),)),
        Node("aten.add_.Tensor", (BufferRef(0), 1)),
        Node("aten.zeros.default", (Several((Size(Add(Dimension("batch"), Constant(1))), 2)),), gradient=False),
        Node("aten.dropout.default", (NodeRef(1), 0.5, True)),
    )
    return GraphPair(
        dimensions=(DimensionRange("batch", 1, 512),),
        inputs=(Input("x", DtypeName.FLOAT32, (Dimension("batch"), Constant(4))),),
        parameters=(Parameter("layer.weight", DtypeName.FLOAT32, (2, 4), True),),
        buffers=(Buffer("seen", DtypeName.INT64, ()),),
        ties=(),
        train=Graph(Mode.TRAIN, nodes, (Output("logits", NodeRef(4)), Output("zeros", NodeRef(3))), (0,)),
        eval=Graph(Mode.EVAL, nodes[:2], (Output("logits", NodeRef(1)),)),
    )


SOUND = encode_graph_pair(make_pair())
TREE = msgspec.msgpack.decode(SOUND[len(HEADER) :])


def decode_or_refuse(data: bytes) -> GraphPair | None:
    """The only two ways out; any other exception fails the test."""
    try:
        return decode_graph_pair(data)
    except PeerError:
        return None


def pack(tree: object) -> bytes:
    return HEADER + msgspec.msgpack.encode(tree)


@SETTINGS
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused(data, with_header):
    assert decode_or_refuse(HEADER + data if with_header else data) is None


@SETTINGS
@given(st.integers(0, len(SOUND) - 1))
def test_truncated_file_is_refused(length):
    assert decode_or_refuse(SOUND[:length]) is None


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_give_another_sound_pair_or_are_refused(flips):
    data = bytearray(SOUND)
    for position, bit in flips:
        data[position] ^= 1 << bit
    pair = decode_or_refuse(bytes(data))
    assert pair is None or encode_graph_pair(pair) == bytes(data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from(
        ["k", "d", "+", "/", "n", "i", "p", "b", "s", "w", "e", "l", "train", "batch", "aten.relu.default"]
    ),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


def paths(tree: object, prefix: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    found = [prefix]
    if isinstance(tree, list):
        for index, item in enumerate(tree):
            found += paths(item, (*prefix, index))
    return found


def replaced(tree: object, path: tuple[int, ...], value: object) -> object:
    if not path:
        return value
    assert isinstance(tree, list)
    return [replaced(item, path[1:], value) if index == path[0] else item for index, item in enumerate(tree)]


@SETTINGS
@given(st.sampled_from(paths(TREE)), values)
def test_any_part_replaced_by_anything_gives_another_sound_pair_or_is_refused(path, value):
    decode_or_refuse(pack(replaced(TREE, path, value)))


def refused(data: bytes, said: str) -> None:
    with pytest.raises(PeerError, match=said):
        decode_graph_pair(data)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def deep_expression(depth: int) -> bytes:
    """A sound file but for one size expression of `depth`, written without any recursion."""
    marker = msgspec.msgpack.encode(["+", ["d", "batch"], ["k", 1]])
    inner = msgspec.msgpack.encode(["d", "batch"])
    assert SOUND.count(marker) == 1
    return SOUND.replace(marker, b"\x93\xa1+" * depth + inner + msgspec.msgpack.encode(["k", 1]) * depth)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a daitn graph"),
        (pickle.dumps({"a": 1}), "a pickle, which is never opened"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
        (b"daitn graph 2\n" + SOUND[len(HEADER) :], "not a daitn graph of version 1"),
        (HEADER + nested(1000), f"deeper than {FILE_DEPTH}"),
        (HEADER + nested(100_000), f"deeper than {FILE_DEPTH}"),
        (deep_expression(17), "nested deeper than 16|deeper than"),
        (deep_expression(5000), f"deeper than {FILE_DEPTH}"),
        (HEADER + b"\xdd\xff\xff\xff\xff", "an array of 4294967295 values"),
        (HEADER + b"\xdc\xff\xff", "an array of 65535 values"),
        (HEADER + b"\xdb\xff\xff\xff\xff", "a string of 4294967295 bytes"),
        (HEADER + b"\xdf\xff\xff\xff\xff", "is not allowed"),
        (HEADER + b"\x80", "is not allowed"),
        (HEADER + b"\xc7\x01\x01\x00", "is not allowed"),
        (HEADER + b"\xc4\x01\x00", "is not allowed"),
        (SOUND + b"\x00", "where its value ends"),
        (SOUND + SOUND, "where its value ends"),
        (HEADER + b"\xa1\xff", "does not follow the format"),
    ],
    ids=range(18),
)
def test_named_attacks_on_the_encoding_are_refused_with_a_reason(data, said):
    refused(data, said)


def test_other_encodings_of_the_same_pair_are_refused_as_not_canonical():
    text = SOUND.replace(b"\xa5batch", b"\xd9\x05batch", 1)
    number = SOUND.replace(b"\xcd\x02\x00", b"\xce\x00\x00\x02\x00", 1)
    assert text != SOUND
    assert number != SOUND
    refused(text, "canonical")
    refused(number, "canonical")


def test_a_short_file_of_many_values_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr("daitn.artifacts.graph.FILE_VALUES", 10_000)
    count = 1_000_000
    data = HEADER + b"\xdd" + struct.pack(">I", count) + b"\x90" * count
    tracemalloc.start()
    try:
        refused(data, "more than 10000 values")
        assert tracemalloc.get_traced_memory()[1] < 2 * count  # a decoder would make 50 bytes of each
    finally:
        tracemalloc.stop()


def test_a_file_beyond_the_limit_is_refused_unread():
    refused(bytes(GRAPH_BYTES + 1), "more than")


def replace_train(*nodes: Node) -> bytes:
    """The bytes an attacker would write, without our encoder's check."""
    pair = make_pair()
    train = msgspec.structs.replace(pair.train, nodes=nodes, outputs=(Output("y", NodeRef(0)),))
    return HEADER + msgspec.msgpack.encode(msgspec.structs.replace(pair, train=train))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (replace_train(Node("aten.from_file.default", (Word("none"),))), "not on the list of allowed operators"),
        (replace_train(Node("os.system", (Word("true"),))), "not on the list of allowed operators"),
        (
            replace_train(Node("aten.relu.default", (NodeRef(1),)), Node("aten.relu.default", (NodeRef(0),))),
            "refers to node 1, which is not an earlier one",
        ),
        (replace_train(Node("aten.zeros.default", (Several((1 << 40, 1 << 40)),))), "elements"),
        (replace_train(Node("aten.gelu.default", (InputRef(0), Word("__import__('os')")))), "allowed words"),
    ],
    ids=["unlisted", "python", "cycle", "huge literal", "text"],
)
def test_named_attacks_on_the_graph_are_refused_with_a_reason(data, said):
    refused(data, said)


def test_absurd_shapes_are_refused():
    pair = make_pair()
    for shape in ((-1,), (1 << 62,), (1 << 39, 1 << 39)):
        bad = msgspec.structs.replace(pair, parameters=(Parameter("w", DtypeName.FLOAT32, shape, True),))
        refused(HEADER + msgspec.msgpack.encode(bad), "shape")

"""The graph file: how an owner's model travels, as bytes that can be checked and never run.

A file is a header line, then one MessagePack value: the arrays of `artifacts.graph_schema`. There is exactly one
encoding of a pair, so equal models have equal digests. Decoding goes from cheap to dear: size, header, a walk over the
tokens (count, depth, kinds) that allocates nothing, the typed decoder, the canonical form, and `graph_check`.
Whatever is wrong comes out as a `PeerError`; torch is not involved, so a control-plane node can check a model too.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from daitn.artifacts.graph_check import check_graph_pair
from daitn.artifacts.graph_schema import GraphPair
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import PeerError
from daitn.base.limits import GRAPH_BYTES

HEADER: Final = b"daitn graph 1\n"
"""First bytes of a file; the number is the version of the format."""

FILE_VALUES: Final = 2_000_000
"""MessagePack values in one file; a 12-layer BERT's pair has 10,600. It bounds memory: each may become an object."""

FILE_DEPTH: Final = 40
"""Deepest nesting: the pair, graph, nodes, node, arguments and an expression of depth 16 are 25."""

TEXT_BYTES: Final = 1024
"""Longest string in a file: a tensor's name of 256 characters in four-byte UTF-8."""

_TODO: Final = "make the package anew with this version's SDK, and fetch it again if it came over the network"
_FOREIGN: Final = {
    b"PK\x03\x04": "a ZIP archive, such as torch.save and torch.export.save make",
    b"\x80": "a pickle",
    b"\x7fELF": "a program",
    b"GGUF": "a GGUF model",
}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(GraphPair)


def encode_graph_pair(pair: GraphPair) -> bytes:
    """The canonical bytes of `pair`; PeerError if it breaks a rule of `check_graph_pair` or is over `GRAPH_BYTES`."""
    check_graph_pair(pair)
    data = HEADER + _ENCODER.encode(pair)
    if len(data) > GRAPH_BYTES:
        raise PeerError(
            f"the graph has {len(data)} bytes, more than the {GRAPH_BYTES} allowed",
            todo="split the model, or write long unrolled loops as one operation",
        )
    return data


def decode_graph_pair(data: bytes) -> GraphPair:
    """The pair in `data`, checked; PeerError with the reason for anything else, whatever the bytes are.

    Cost: linear in the bytes, 0.4 s per MB measured; nothing is allocated before the token walk has bounded it.
    """
    if len(data) > GRAPH_BYTES:
        raise PeerError(f"the graph file has {len(data)} bytes, more than the {GRAPH_BYTES} allowed", todo=_TODO)
    if not data.startswith(HEADER):
        raise PeerError(f"this is not a daitn graph of version 1: {_describe_start(data)}", todo=_TODO)
    body = data[len(HEADER) :]
    _walk_tokens(body)
    try:
        pair = _DECODER.decode(body)
    except (*UNDECODABLE, OverflowError) as error:
        raise PeerError(f"the graph file does not follow the format: {error}", todo=_TODO) from None
    if _ENCODER.encode(pair) != body:
        raise PeerError("the graph file is not in its canonical form: the same model has another encoding", todo=_TODO)
    check_graph_pair(pair)
    return pair


def _describe_start(data: bytes) -> str:
    """What the first bytes look like, for the error."""
    for start, name in _FOREIGN.items():
        if data.startswith(start):
            return f"it is {name}, which is never opened here"
    return f"it starts with {data[:16]!r}"


# Fixed-size MessagePack tokens: first byte → bytes that follow. Floats are always doubles here, so 0xca is refused.
_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED_SIGNED: Final = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_TEXT: Final = {0xD9: (1, ">B"), 0xDA: (2, ">H"), 0xDB: (4, ">I")}
_ARRAY: Final = {0xDC: (2, ">H"), 0xDD: (4, ">I")}


def _walk_tokens(body: bytes) -> None:
    """Bound what decoding may allocate: PeerError unless `body` is one value of arrays, numbers and short strings.

    A hand-written walk rather than the decoder's own recursion: an array of 30 million empty arrays is a short file
    and gigabytes of objects.
    """
    end = len(body)
    position = 0
    values = 0
    open_arrays = [1]
    while open_arrays:
        if open_arrays[-1] == 0:
            open_arrays.pop()
            continue
        open_arrays[-1] -= 1
        values += 1
        if values > FILE_VALUES:
            raise PeerError(f"the graph file holds more than {FILE_VALUES} values", todo=_TODO)
        if position >= end:
            raise PeerError(f"the graph file is cut off after {end} bytes", todo=_TODO)
        token = body[position]
        position += 1
        length = -1
        if token <= 0x7F or token >= 0xE0:
            continue
        if 0x90 <= token <= 0x9F:
            length = token & 0x0F
        elif 0xA0 <= token <= 0xBF:
            position += token & 0x1F
            continue
        elif token in _FIXED:
            position += _FIXED[token]
            continue
        elif token in _FIXED_SIGNED:
            position += _FIXED_SIGNED[token]
            continue
        elif token in _TEXT:
            text_bytes, position = _length(body, position, *_TEXT[token])
            if text_bytes > TEXT_BYTES:
                raise PeerError(f"a string of {text_bytes} bytes in the graph file, {TEXT_BYTES} allowed", todo=_TODO)
            position += text_bytes
            continue
        elif token in _ARRAY:
            length, position = _length(body, position, *_ARRAY[token])
        else:
            raise PeerError(f"byte {token:#04x} at {position - 1} of the graph file is not allowed", todo=_TODO)
        if length > end - position:
            raise PeerError(f"an array of {length} values in the {end - position} bytes that are left", todo=_TODO)
        if len(open_arrays) > FILE_DEPTH:
            raise PeerError(f"the graph file nests deeper than {FILE_DEPTH}", todo=_TODO)
        if length:
            open_arrays.append(length)
    if position != end:
        raise PeerError(f"the graph file has {end} bytes where its value ends at {position}", todo=_TODO)


def _length(body: bytes, position: int, size: int, layout: str) -> tuple[int, int]:
    """A length prefix and the position after it; PeerError if the bytes end before."""
    try:
        (length,) = struct.unpack_from(layout, body, position)
    except struct.error:
        raise PeerError("the graph file is cut off within a length", todo=_TODO) from None
    return int(length), position + size

"""Safetensors files, read strictly and written plainly: tensors without code.

The format: 8 bytes of header length, a JSON header `{name: {dtype, shape, data_offsets}}`, and the data without holes.
The `safetensors` package is not used here because control-plane nodes install without it, and because a file that came
from outside is judged before a byte of it is believed: header size against the file's size first, every offset inside
the data, no overlap, no hole, no name twice, types from a closed list. What this writes, that package reads.

Other files are recognised by their first bytes, so that whoever gives a pickle is told that it is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.artifacts.layout import Buffer
from daitn.artifacts.manifest import ITEM_BYTES, DType, TensorEntry
from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError

SNIFF_BYTES: Final = 4096
"""Enough for the first entry of an archive, which tells who wrote it."""

HEADER_BYTES: Final = limits.MANIFEST_BYTES
"""Largest header: 100,000 tensors, as in a manifest. The format itself allows 100 MB."""

DTYPES: Final[dict[str, DType]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

NUMPY_TYPES: Final[dict[DType, str]] = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?",
}  # fmt: skip
"""numpy has no bfloat16: its bits are shown as unsigned 16-bit numbers."""

_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}
_NOT_CODE: Final = "give tensors as safetensors files; daitn never opens files that can run code"
_DAMAGED: Final = "it is damaged, or made to harm: save the tensors again as a safetensors file"

_EXPORT_MARKS: Final = (
    b"serialized_exported_program",
    b"archive_format",
    b"model_weights_config",
    b"/models/model.json",
)

_MAGICS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a numpy array file, which may hold a pickle"),
    (b"GGUF", "a GGUF model"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
)


class TensorHeader(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a file: `begin` and `end` count from the start of the data."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def recognise(start: bytes) -> str | None:
    """What a file is that begins with `start`, if it is an archive or serialised program; None if it is neither."""
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        if any(mark in start for mark in _EXPORT_MARKS):
            return "a torch.export archive, whose loading can run code"
        if b"data.pkl" in start:
            return "a file made by torch.save: a zip archive around a pickle, whose loading can run code"
        if b".npy" in start:
            return "a numpy archive (npz), which may hold a pickle"
        return "a zip archive"
    if len(start) > 2 and start[0] == 0x80 and start[1] in (2, 3, 4, 5):
        if start[2:14].startswith(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P"):
            return "a file made by torch.save (old format): a pickle, whose loading can run code"
        return "a pickle, whose loading can run code"
    if start[257:262] == b"ustar":
        return "a tar archive"
    for magic, what in _MAGICS:
        if start.startswith(magic):
            return what
    return None


def refuse_archive(start: bytes, where: str) -> None:
    """InputError that says what the file is, if `recognise` knows it."""
    what = recognise(start)
    if what is not None:
        raise InputError(f"{where} is {what}", todo=_NOT_CODE)


def read_header(start: bytes, rest: BinaryIO, file_bytes: int, where: str) -> tuple[tuple[TensorHeader, ...], int]:
    """Tensors of a safetensors file in the order of their data, and the byte at which the data begins.

    `start` are the file's first bytes (at least 8 where it has them), `rest` is positioned at its beginning.
    InputError naming `where` and the fault. Reads `HEADER_BYTES` at most.
    """
    refuse_archive(start, where)
    if len(start) < 8:
        raise InputError(f"{where} has {file_bytes} bytes, a safetensors file has at least 8", todo=_NOT_CODE)
    header_bytes = int.from_bytes(start[:8], "little")
    if header_bytes > min(HEADER_BYTES, file_bytes - 8):
        raise InputError(
            f"{where} says its header has {header_bytes} bytes; the file has {file_bytes}, the limit is {HEADER_BYTES}",
            todo=f"it is damaged or not a safetensors file: {_NOT_CODE}",
        )
    rest.seek(8)
    data_start = 8 + header_bytes
    return parse_header(rest.read(header_bytes), file_bytes - data_start, where), data_start


def parse_header(header: bytes, data_bytes: int, where: str) -> tuple[TensorHeader, ...]:
    """Tensors that a JSON header describes, in the order of their data; InputError with the first fault."""
    if len(header) > HEADER_BYTES:
        raise InputError(f"{where} has a header of {len(header)} bytes, the limit is {HEADER_BYTES}", todo=_DAMAGED)
    try:
        raw = json.loads(header.decode(), object_pairs_hook=_once)
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
        metadata = raw.pop("__metadata__", {})
        msgspec.convert(metadata, dict[str, str])
        entries = msgspec.convert(raw, dict[str, _Entry])
    except (ValueError, *UNDECODABLE) as error:
        raise InputError(
            f"{where} has a header that is not a safetensors header: {str(error)[:200]}", todo=_NOT_CODE
        ) from None
    if len(entries) > limits.TENSORS:
        raise InputError(f"{where} has {len(entries)} tensors, the limit is {limits.TENSORS}", todo=_DAMAGED)
    tensors = [_check_entry(name, entry, data_bytes, where) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            word = "overlaps the one before" if tensor.begin < end else "leaves a hole before it"
            what = f"tensor {tensor.name!r} of {where} begins at {tensor.begin}, {end} expected: it {word}"
            raise InputError(what, todo=_DAMAGED)
        end = tensor.end
    if end != data_bytes:
        raise InputError(f"{where} has {data_bytes} bytes of data, its tensors fill {end}", todo=_DAMAGED)
    return tuple(tensors)


def write_tensors(
    file: BinaryIO, tensors: Sequence[tuple[str, DType, tuple[int, ...]]], data: Mapping[str, Buffer]
) -> None:
    """Write a safetensors file: widest types first, so that all are aligned, then by name."""
    ordered = sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor[1]], tensor[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in ordered:
        size = memoryview(data[name]).nbytes
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name, _, _ in ordered:
        file.write(memoryview(data[name]).cast("B") if memoryview(data[name]).nbytes else b"")


def tensor_bytes(entry: TensorEntry, value: NDArray[Any] | Buffer) -> Buffer:
    """Row-major, little-endian bytes of a tensor given as array (bfloat16: its bits as uint16) or as those bytes.

    InputError if type, shape or size are not what `entry` says. Copies only what is not laid out so already.
    """
    if isinstance(value, np.ndarray):
        wanted = np.dtype(NUMPY_TYPES[entry.dtype])
        if value.shape != entry.shape or (value.dtype != wanted and value.dtype.name != entry.dtype):
            raise InputError(
                f"tensor {entry.name!r} is an array of {value.dtype} {value.shape}, "
                f"its manifest says {entry.dtype} {entry.shape}"
            )
        value = np.ascontiguousarray(value).view(np.uint8).reshape(-1).data
    size = memoryview(value).nbytes
    if size != entry.nbytes:
        raise InputError(f"tensor {entry.name!r} has {size} bytes, {entry.dtype} {entry.shape} takes {entry.nbytes}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are all different; parsers disagree on which of two equal keys counts."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands in it twice")
    return result


def _check_entry(name: str, entry: _Entry, data_bytes: int, where: str) -> TensorHeader:
    shown = f"tensor {name[:80]!r} of {where}"
    if not name or len(name) > limits.NAME_CHARS or not name.isprintable():
        what = f"{shown} has a name that is empty, too long or has characters that do not print"
        raise InputError(what, todo="rename the tensor")
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise InputError(f"{shown} has the type {entry.dtype[:20]!r}", todo=f"allowed are {', '.join(DTYPES)}")
    if len(entry.shape) > 16 or any(not 0 <= length <= 2**40 for length in entry.shape):
        what = f"{shown} has an absurd shape of {len(entry.shape)} dimensions: {str(entry.shape)[:100]}"
        raise InputError(what, todo=_DAMAGED)
    size = ITEM_BYTES[dtype]
    for length in entry.shape:
        size *= length
    begin, end = entry.data_offsets
    if not 0 <= begin <= end <= data_bytes:
        what = f"{shown} lies at {begin}..{end}, the file has {data_bytes} bytes of data"
        raise InputError(what, todo=_DAMAGED)
    if end - begin != size:
        what = f"{shown} is {entry.dtype} {entry.shape}, which takes {size} bytes, but has {end - begin}"
        raise InputError(what, todo=_DAMAGED)
    return TensorHeader(name=name, dtype=dtype, shape=tuple(entry.shape), begin=begin, end=end)

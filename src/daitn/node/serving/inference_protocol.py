"""Open Inference Protocol v2, the bytes: requests with JSON and binary tensors in, answers out.

An `infer` body is JSON, or JSON followed by the raw tensors of inputs that say `binary_data_size`; the header
`Inference-Header-Content-Length` says where the JSON ends. Answers are made the same way for outputs that were asked
for in binary. Names, shapes and types are checked here; whether they are what the model takes, its host and
`serving.tensors.rows_of` say. An unknown field is let pass, as the protocol demands of servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.descriptors.serving import NamedTensor, QueryGoal, ServedModel, TensorSpec
from daitn.serving.tensors import Arrays, array_of, arrays_of, dtype_of

HEADER: Final = "Inference-Header-Content-Length"
EXTENSIONS: Final = ("binary_tensor_data", "model_repository")
PLATFORM: Final = "daitn_graph"
VERSION: Final = "1"
"""Models have one version here: a package under its name."""

Parameters = dict[str, Any]
Side = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a request."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=8)]
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class OutputWanted(msgspec.Struct, frozen=True, kw_only=True):
    """An output that is wanted."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of an `infer` request."""

    inputs: Annotated[tuple[InputTensor, ...], msgspec.Meta(min_length=1, max_length=limits.TENSORS_PER_QUERY)]
    id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    parameters: Parameters = {}
    outputs: Annotated[tuple[OutputWanted, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()


class IndexRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What of the repository is wanted."""

    ready: bool = False
    """Only models that answer now."""


class Infer(NamedTuple):
    """A request, read."""

    id: str
    inputs: tuple[NamedTensor, ...]
    arrays: Arrays
    """The same, by name."""
    goal: QueryGoal
    outputs: tuple[str, ...]
    """Wanted; empty: all."""
    binary: tuple[str, ...]
    """Of those, the ones that go out raw."""
    binary_all: bool


_decoder: Final = msgspec.json.Decoder(InferRequest)


def decode_infer(body: bytes, header_length: str | None, headers: Mapping[str, str]) -> Infer:
    """An `infer` body; InputError saying where it does not fit. `header_length`: the header's value, if it came."""
    cut = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
            raise InputError(f"{HEADER} is {header_length[:40]!r}, not a number of bytes")
        cut = int(header_length)
        if cut > len(body):
            raise InputError(f"{HEADER} says {cut} bytes, the body has {len(body)}")
    try:
        asked = _decoder.decode(body if cut == len(body) else memoryview(body)[:cut])
    except UNDECODABLE as error:
        raise InputError(f"the request does not decode: {str(error)[:200]}", todo="see the protocol's infer") from None
    place, left = 0, len(body) - cut
    tensors: list[NamedTensor] = []
    for one in asked.inputs:
        size = one.parameters.get("binary_data_size")
        if size is None:
            tensors.append(_tensor(one, _from_json(one)))
            continue
        if type(size) is not int or size < 0 or size > left:
            raise InputError(f"input {one.name[:80]!r} says {size!r} binary bytes, {left} are left")
        tensors.append(_tensor(one, body[cut + place : cut + place + size]))
        place, left = place + size, left - size
    if left:
        raise InputError(f"{left} bytes after the last binary input belong to none")
    binary_all = asked.parameters.get("binary_data_output") is True
    wanted = asked.outputs
    return Infer(
        id=asked.id,
        inputs=tuple(tensors),
        arrays=arrays_of(tensors),
        goal=goal_of(asked.parameters, headers),
        outputs=tuple([one.name for one in wanted]),
        binary=tuple([one.name for one in wanted if one.parameters.get("binary_data", binary_all) is True]),
        binary_all=binary_all,
    )


def decode_index(body: bytes) -> IndexRequest:
    """What of the repository is wanted; InputError where the body does not say."""
    try:
        return msgspec.json.decode(body or b"{}", type=IndexRequest)
    except UNDECODABLE as error:
        raise InputError(f"the request does not decode: {str(error)[:200]}") from None


GOAL_WORDS: Final = {
    "deadline_ms": "x-daitn-deadline-ms",
    "min_accuracy": "x-daitn-min-accuracy",
    "field": "x-daitn-field",
    "region": "x-daitn-region",
    "zone": "x-daitn-zone",
    "max_price": "x-daitn-max-price",
}
"""What a request may ask beyond its answer: as a parameter of the request, or as a header. The parameter counts."""


_NO_GOAL: Final = QueryGoal()


def goal_of(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> QueryGoal:
    """The goal of a query; InputError naming the part that cannot be."""
    if not parameters and not any(word in headers for word in GOAL_WORDS.values()):
        return _NO_GOAL
    deadline_ms = _number("deadline_ms", parameters, headers)
    accuracy = _number("min_accuracy", parameters, headers)
    if deadline_ms is not None and not 0 < deadline_ms <= 3_600_000:
        raise InputError(f"deadline_ms is {deadline_ms:g}, not within 0 and 3,600,000")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise InputError(f"min_accuracy is {accuracy:g}, not within 0 and 1")
    price = _number("max_price", parameters, headers)
    if price is not None and not 0 <= price <= 1e9:
        raise InputError(f"max_price is {price:g}, not within 0 and 1,000,000,000")
    return QueryGoal(
        deadline_s=None if deadline_ms is None else deadline_ms / 1000,
        quality_least=accuracy,
        field=_word("field", parameters, headers),
        region=_word("region", parameters, headers),
        zone=_zone(parameters, headers),
        price_most=price,
    )


def _number(name: str, parameters: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    given = parameters.get(name, headers.get(GOAL_WORDS[name]))
    if given is None:
        return None
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {str(given)[:40]!r}, not a number") from None
    if value != value:
        raise InputError(f"{name} is not a number")
    return value


def _word(name: str, parameters: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    given = parameters.get(name, headers.get(GOAL_WORDS[name], ""))
    if not isinstance(given, str) or len(given) > limits.NAME_CHARS:
        raise InputError(f"{name} is not a word of at most {limits.NAME_CHARS} characters")
    return given


def _zone(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, ...]:
    """Operators, with commas between them. One that is asked for is never passed over: an empty zone is an error."""
    given = parameters.get("zone", headers.get(GOAL_WORDS["zone"]))
    if given is None:
        return ()
    names = tuple(one.strip() for one in given.split(",")) if isinstance(given, str) else ()
    most = limits.ZONE_OPERATORS
    if not 0 < len(names) <= most or any(not 0 < len(name) <= limits.NAME_CHARS for name in names):
        raise InputError(f"zone is {str(given)[:80]!r}, not 1 to {most} names of operators with commas between them")
    return names


def _from_json(one: InputTensor) -> bytes:
    dtype = dtype_of(one.datatype)
    if not isinstance(one.data, list):
        raise InputError(f"input {one.name[:80]!r} has no data: neither a list nor binary_data_size")
    try:
        array: NDArray[Any] = np.array(one.data)
        if array.dtype == object or array.dtype.kind in "US":
            raise ValueError("it holds what is no number, or rows of unequal length")
        if array.dtype.kind == "f" and dtype.kind not in "f" and array.size:
            raise ValueError("it holds fractions")
        if (array.dtype.kind == "b") != (dtype.kind == "b") and array.size:
            raise ValueError("truth values and numbers are not the same")
        if dtype.kind in "iu" and array.size:
            bounds = np.iinfo(dtype)
            if array.min() < bounds.min or array.max() > bounds.max:
                raise ValueError(f"it holds numbers outside {bounds.min} to {bounds.max}")
        return array.reshape(-1).astype(dtype).tobytes()
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"the data of input {one.name[:80]!r} is not {one.datatype}: {str(error)[:120]}") from None


def _tensor(one: InputTensor, data: bytes) -> NamedTensor:
    dtype_of(one.datatype)
    return NamedTensor(name=one.name, datatype=one.datatype, shape=one.shape, data=data)  # type: ignore[arg-type]


def encode_answer(model: ServedModel, asked: Infer, outputs: Sequence[NamedTensor]) -> tuple[bytes, int | None]:
    """The body of an answer, and where its JSON ends if raw tensors follow. InputError for an output there is not."""
    known = {tensor.name: tensor for tensor in outputs}
    if unknown := [name for name in asked.outputs if name not in known]:
        raise InputError(f"the model has no output {unknown[0][:80]!r}; it has {', '.join(known)}")
    shown: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name in asked.outputs or tuple(known):
        tensor = known[name]
        about: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        if name in asked.binary or (asked.binary_all and not asked.outputs):
            about["parameters"] = {"binary_data_size": len(tensor.data)}
            raw.append(tensor.data)
        else:
            array = array_of(tensor)
            # JSON has no word for what is not finite: it becomes null, as encoders of the protocol write it.
            about["data"] = array.reshape(-1).tolist()
        shown.append(about)
    body: dict[str, Any] = {"model_name": model.model, "model_version": VERSION, "outputs": shown}
    if asked.id:
        body["id"] = asked.id
    head = msgspec.json.encode(body)
    return (head + b"".join(raw), len(head)) if raw else (head, None)


def metadata_of(model: ServedModel) -> dict[str, Any]:
    """A model's metadata."""
    return {
        "name": model.model,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_shown(one) for one in model.inputs],
        "outputs": [_shown(one) for one in model.outputs],
    }


def config_of(model: ServedModel) -> dict[str, Any]:
    """A model's configuration, as Triton's extension of the protocol shows it."""
    return {
        "name": model.model,
        "platform": PLATFORM,
        "max_batch_size": 0,
        "input": [_configured(one) for one in model.inputs],
        "output": [_configured(one) for one in model.outputs],
    }


def _shown(one: TensorSpec) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype, "shape": one.shape}


def _configured(one: TensorSpec) -> dict[str, Any]:
    return {"name": one.name, "data_type": f"TYPE_{one.datatype}", "dims": one.shape}

"""Engine *inference-server*: another server behind the Open Inference Protocol v2, joined unchanged.

What the model takes is what the server's metadata says; tensors go out raw where the server has the extension
`binary_tensor_data` (Triton), and as JSON where it has not (MLServer, KServe's own); they are read as it likes.
Batches are joined here as for any engine, up to the rows that the offer allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
import numpy as np

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.offers import TensorServerOffer
from daitn.descriptors.serving import VARIES, EngineKind, NamedTensor, TensorSpec
from daitn.node.engines.server_calls import ServerCalls, ServerGoneError
from daitn.serving.tensors import Arrays, array_of, arrays_of, dtype_of, tensors_of

BINARY: Final = "binary_tensor_data"
HEADER: Final = "Inference-Header-Content-Length"


class _Described(msgspec.Struct, frozen=True, kw_only=True):
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1, max_length=limits.TENSORS_PER_QUERY)]


class _Server(msgspec.Struct, frozen=True, kw_only=True):
    extensions: tuple[str, ...] = ()


class _Output(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]
    datatype: str
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=limits.QUERY_ROWS)], ...], msgspec.Meta(min_length=1, max_length=8)
    ]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Answered(msgspec.Struct, frozen=True, kw_only=True):
    outputs: Annotated[tuple[_Output, ...], msgspec.Meta(min_length=1, max_length=limits.TENSORS_PER_QUERY)]


_server: Final = msgspec.json.Decoder(_Server)
_described: Final = msgspec.json.Decoder(_Described)
_answered: Final = msgspec.json.Decoder(_Answered)


class TensorServerEngine:
    """See the module's docstring; made by `open_tensor_server`."""

    kind = EngineKind.TENSOR_SERVER

    def __init__(
        self, offer: TensorServerOffer, calls: ServerCalls, inputs: tuple[TensorSpec, ...], *, binary: bool
    ) -> None:
        self._calls, self._binary = calls, binary
        self._path = _path(offer) + "/infer"
        self.inputs = inputs
        self.rows_most = offer.rows_most
        self.alive = True

    def example(self, rows: int) -> Arrays:
        """See `Engine.example`."""
        return {
            spec.name: np.zeros((rows, *(max(1, side) for side in spec.shape[1:])), dtype_of(spec.datatype))
            for spec in self.inputs
        }

    async def infer(self, batch: Arrays) -> Arrays:
        """See `Engine.infer`."""
        if not self.alive:
            raise UnavailableError("the server was lost", todo="the host looks for it again")
        body, headers = (encode_binary if self._binary else encode_plain)(tensors_of(batch))
        try:
            async with self._calls.ask("POST", self._path, body, headers) as answer:
                return decode_outputs(await self._calls.whole(answer), answer.headers.get(HEADER))
        except ServerGoneError:
            self.alive = False
            raise

    def memory_bytes(self) -> int:
        """None here."""
        return 0

    async def close(self) -> None:
        """See `Engine.close`."""
        self.alive = False
        await self._calls.close()


async def open_tensor_server(offer: TensorServerOffer) -> TensorServerEngine:
    """The engine, once the server describes the model. UnavailableError while it does not, InputError where it cannot
    be asked for: rows that are not counted in the first dimension, types that queries do not carry."""
    calls = ServerCalls(offer)
    try:
        async with calls.ask("GET", _path(offer)) as answer:
            inputs = decode_described(await calls.whole(answer))
        binary = await _is_binary(calls)
    except BaseException:
        await calls.close()
        raise
    return TensorServerEngine(offer, calls, inputs, binary=binary)


async def _is_binary(calls: ServerCalls) -> bool:
    """Whether the server says that it takes raw tensors; one that says nothing of itself is taken at its word."""
    try:
        async with calls.ask("GET", "/v2") as answer:
            return decode_extensions(await calls.whole(answer))
    except ServerGoneError:
        raise
    except (InputError, UnavailableError):
        return False


def decode_extensions(data: bytes) -> bool:
    """Whether raw tensors are among what a server says that it can; no where it says nothing that can be read."""
    try:
        return BINARY in _server.decode(data).extensions
    except UNDECODABLE:
        return False


def encode_binary(tensors: Sequence[NamedTensor]) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers, tensors raw."""
    about = [_about(one) | {"parameters": {"binary_data_size": len(one.data)}} for one in tensors]
    head = msgspec.json.encode({"inputs": about, "parameters": {"binary_data_output": True}})
    body = b"".join([head, *(one.data for one in tensors)])
    return body, {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def encode_plain(tensors: Sequence[NamedTensor]) -> tuple[bytes, dict[str, str]]:
    """The same as JSON, which has no word for numbers that are not finite: InputError names the tensor."""
    about: list[dict[str, Any]] = []
    for one in tensors:
        array = array_of(one)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(
                f"tensor {one.name[:80]!r} has entries that are not finite, and its server takes tensors as JSON only",
                todo="send finite numbers",
            )
        about.append(_about(one) | {"data": array.reshape(-1).tolist()})
    return msgspec.json.encode({"inputs": about}), {}


def _about(tensor: NamedTensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}


def decode_described(data: bytes) -> tuple[TensorSpec, ...]:
    """A model's inputs; InputError where they cannot be asked for."""
    try:
        inputs = _described.decode(data).inputs
    except UNDECODABLE as error:
        raise InputError(f"the server's description of the model cannot be used: {str(error)[:200]}") from None
    if fixed := [one.name for one in inputs if not one.shape or one.shape[0] != VARIES]:
        raise InputError(f"input {fixed[0][:80]!r} does not count rows in a first dimension that varies")
    return inputs


def decode_outputs(data: bytes, header_length: str | None) -> Arrays:
    """An answer's tensors; UnavailableError where they are none."""
    try:
        cut = len(data) if header_length is None else int(header_length)
        if not 0 <= cut <= len(data):
            raise ValueError
        outputs, place = _answered.decode(memoryview(data)[:cut]).outputs, cut
        tensors: list[NamedTensor] = []
        for one in outputs:
            size = one.parameters.get("binary_data_size")
            if size is None:
                raw = np.array(one.data if one.data is not None else [], dtype_of(one.datatype)).tobytes()
            elif type(size) is int and 0 <= size <= len(data) - place:
                raw, place = data[place : place + size], place + size
            else:
                raise ValueError
            tensor = NamedTensor(name=one.name, datatype=one.datatype, shape=one.shape, data=raw)  # type: ignore[arg-type]
            array_of(tensor)
            tensors.append(tensor)
        return arrays_of(tensors)
    except (ValueError, TypeError, OverflowError, RecursionError, InputError, *UNDECODABLE):
        raise UnavailableError("the server's answer is no set of tensors") from None


def _path(offer: TensorServerOffer) -> str:
    return "/v2/models/" + quote(offer.their_model or offer.model, safe="")

"""Queries that nobody waits for, for a client's program: asked, fetched by name, forgotten. Tensors and texts.

Answers that are posted to an address of the client's are checked with `verify_webhook`.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError
from daitn.descriptors.serving import DATATYPES
from daitn.sdk.gateway_calls import call_gateway
from daitn.serving.webhook_signing import verify_webhook

__all__ = ["ask_later", "ask_text_later", "fetch_later", "fetch_text_later", "forget_later", "verify_webhook"]

_DATATYPES: Final = {word: name for name, word in DATATYPES.items()}


def ask_later(
    gateway: str,
    key: str,
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    *,
    goal: Mapping[str, str] | None = None,
    within_s: float | None = None,
    answer_to: str = "",
    again: str = "",
) -> str:
    """Have a query answered when hosts can; its name, once the gateway keeps it.

    `goal`: headers such as `{"x-daitn-region": "north"}`; `within_s`: how long hosts are tried; `answer_to`: an address
    that the answer is posted to; `again`: the same one twice is one query. InputError for what cannot be right,
    PolicyError for a key that opens nothing, UnavailableError where nobody answers or no room is left.
    """
    body = {"inputs": [_tensor(name, array) for name, array in inputs.items()]}
    path = f"/v2/models/{urllib.parse.quote(model, safe='')}/later"
    return _taken(gateway, key, path, body, goal, within_s, answer_to, again)


def ask_text_later(
    gateway: str,
    key: str,
    kind: Literal["chat/completions", "completions", "embeddings"],
    body: Mapping[str, Any],
    *,
    goal: Mapping[str, str] | None = None,
    within_s: float | None = None,
    answer_to: str = "",
    again: str = "",
) -> str:
    """The same of a text: `body` is a request of OpenAI's interface, which is answered whole. As `ask_later`."""
    return _taken(gateway, key, f"/v1/{kind}/later", body, goal, within_s, answer_to, again)


def _taken(
    gateway: str,
    key: str,
    path: str,
    body: Mapping[str, Any],
    goal: Mapping[str, str] | None,
    within_s: float | None,
    answer_to: str,
    again: str,
) -> str:
    headers = dict(goal or {})
    headers |= {"x-daitn-within-s": f"{within_s:g}"} if within_s is not None else {}
    headers |= {"x-daitn-answer-to": answer_to} if answer_to else {}
    headers |= {"Idempotency-Key": again} if again else {}
    _, told = call_gateway(gateway, key, "POST", path, headers, json.dumps(body).encode())
    try:
        return str(told["query"])
    except (KeyError, TypeError):
        raise PeerError("the gateway's answer names no query") from None


def fetch_later(gateway: str, key: str, query: str) -> dict[str, NDArray[Any]] | None:
    """What came of a query: its outputs by name, or None while it is under way. Errors as `ask_later`, and where the
    query was refused."""
    status, told = call_gateway(gateway, key, "GET", _path(query), {}, None)
    if status == 202:
        return None
    found: dict[str, NDArray[Any]] = {}
    try:
        for one in told["outputs"]:
            kind = np.dtype(DATATYPES[one["datatype"]])
            found[one["name"]] = np.array(one["data"], kind).reshape(one["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError(f"the gateway's answer does not decode: {error}") from None
    return found


def fetch_text_later(gateway: str, key: str, query: str) -> Any | None:
    """What came of a text: the body that OpenAI's interface would have answered, or None while it is under way. Errors
    as `fetch_later`."""
    status, told = call_gateway(gateway, key, "GET", _path(query), {}, None)
    return None if status == 202 else told


def forget_later(gateway: str, key: str, query: str) -> None:
    """Stop a query, or have its answer deleted. Errors as `ask_later`."""
    call_gateway(gateway, key, "DELETE", _path(query), {}, None)


def _path(query: str) -> str:
    return f"/v2/later/{urllib.parse.quote(query, safe='')}"


def _tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    word = _DATATYPES.get(str(array.dtype))
    if word is None:
        raise InputError(f"input {name!r} is {array.dtype}, which queries cannot carry", todo="cast it to float32")
    return {"name": name, "datatype": word, "shape": list(array.shape), "data": array.ravel().tolist()}

"""The door's paths as an OpenAPI document: what a request may hold, what is answered, with which status.

`GET /v2/openapi.json` tells it. What is read comes from the types that read it, so the two cannot part; what is
answered is written down here and held against the answers by tests. Only what the two interfaces have in common with
other servers is in it: our own paths are told in docs/serving.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from daitn import __version__
from daitn.descriptors.serving import DATATYPES
from daitn.node.serving import inference_protocol as inference
from daitn.node.serving import openai_protocol as openai

PATH: Final = "/v2/openapi.json"

_JSON: Final = "application/json"
_REFUSED: Final = {
    "400": "The request does not decode, or does not fit the model",
    "401": "No key that opens the door",
    "403": "A key that is for other models",
    "404": "No such model",
    "413": "More bytes or rows than are taken",
    "422": "No host serves the model within the goal",
    "429": "Later: the rate, the quota or the hosts are used up",
    "503": "No host answers",
}


def _object(properties: Mapping[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _list(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _one(word: str) -> dict[str, Any]:
    return {"const": word}


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_REASON: Final = {"enum": ["stop", "length"]}
_TENSOR: Final = _object(
    {
        "name": _TEXT,
        "datatype": {"enum": list(DATATYPES)},
        "shape": _list(_COUNT),
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
    "data",
    "parameters",
)
_SPEC: Final = _object({"name": _TEXT, "datatype": {"enum": list(DATATYPES)}, "shape": _list({"type": "integer"})})
_USAGE: Final = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_ABOUT: Final = {"id": _TEXT, "created": _COUNT, "model": _TEXT, "system_fingerprint": _TEXT, "usage": _USAGE}
_MODEL: Final = _object(
    {"id": _TEXT, "object": _one("model"), "created": _COUNT, "owned_by": _TEXT, "daitn": {"type": "object"}}
)


def _choice(said: Mapping[str, Any]) -> dict[str, Any]:
    return _list(_object({"index": _COUNT, **said, "logprobs": {"type": "null"}, "finish_reason": _REASON}))


_ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "InferAnswer": _object({"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "outputs": _list(_TENSOR)}, "id"),
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Metadata": _object(
        {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_SPEC), "outputs": _list(_SPEC)}
    ),
    "Configuration": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "max_batch_size": _COUNT,
            "input": {"type": "array"},
            "output": {"type": "array"},
        }
    ),
    "Index": _list(
        _object({"name": _TEXT, "version": _TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": _TEXT})
    ),
    "Models": _object({"object": _one("list"), "data": _list(_MODEL)}),
    "Model": _MODEL,
    "Chat": _object(
        {
            **_ABOUT,
            "object": _one("chat.completion"),
            "choices": _choice(
                {"message": _object({"role": _one("assistant"), "content": _TEXT, "refusal": {"type": "null"}})}
            ),
        }
    ),
    "Completion": _object({**_ABOUT, "object": _one("text_completion"), "choices": _choice({"text": _TEXT})}),
    "Embeddings": _object(
        {
            "object": _one("list"),
            "model": _TEXT,
            "data": _list(
                _object(
                    {
                        "object": _one("embedding"),
                        "index": _COUNT,
                        "embedding": {"oneOf": [_TEXT, _list({"type": "number"})]},
                    }
                )
            ),
            "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
        }
    ),
    "Error": _object({"error": _TEXT}),
    "OpenAiError": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": "null"},
                    "code": {"type": ["string", "null"]},
                }
            )
        }
    ),
}

_REQUESTS: Final = (
    inference.InferRequest,
    inference.IndexRequest,
    openai.ChatRequest,
    openai.CompletionRequest,
    openai.EmbeddingRequest,
)


def document() -> dict[str, Any]:
    """The document. Milliseconds; made when it is asked for."""
    _, schemas = msgspec.json.schema_components(_REQUESTS, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {
        "/v2": {"get": _call("Server")},
        "/v2/health/live": {"get": _health("It runs")},
        "/v2/health/ready": {"get": _health("A model answers", "No model answers yet")},
        "/v2/repository/index": {"post": _call("Index", asks="IndexRequest", needed=False)},
        "/v1/models": {"get": _call("Models", error="OpenAiError")},
        "/v1/models/{model}": {"get": _call("Model", error="OpenAiError", of=("model",))},
        "/v1/chat/completions": {"post": _call("Chat", "ChatRequest", error="OpenAiError", streams=True)},
        "/v1/completions": {"post": _call("Completion", "CompletionRequest", error="OpenAiError", streams=True)},
        "/v1/embeddings": {"post": _call("Embeddings", "EmbeddingRequest", error="OpenAiError")},
    }
    for start, of in (
        ("/v2/models/{model}", ("model",)),
        ("/v2/models/{model}/versions/{version}", ("model", "version")),
    ):
        paths |= {
            start: {"get": _call("Metadata", of=of)},
            start + "/config": {"get": _call("Configuration", of=of)},
            start + "/ready": {"get": _call("", of=of)},
            start + "/infer": {"post": _call("InferAnswer", "InferRequest", of=of, raw=True)},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "daitn gateway", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas | _ANSWERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _call(
    answer: str,
    asks: str = "",
    *,
    error: str = "Error",
    of: tuple[str, ...] = (),
    needed: bool = True,
    streams: bool = False,
    raw: bool = False,
) -> dict[str, Any]:
    """One operation. `answer`: its body's schema; empty: none; `streams`: or pieces, where they are asked for; `raw`:
    or with raw tensors behind the JSON."""
    content: dict[str, Any] = {_JSON: {"schema": _named(answer)}} if answer else {}
    content |= {"text/event-stream": {"schema": _object({"data": _TEXT})}} if streams else {}
    content |= {"application/octet-stream": {}} if raw else {}
    responses: dict[str, Any] = {"200": {"description": "The answer", **({"content": content} if content else {})}}
    for status, what in _REFUSED.items():
        responses[status] = {"description": what, "content": {_JSON: {"schema": _named(error)}}}
    if not answer:
        responses["503"] = {"description": "It does not answer now"}
    found: dict[str, Any] = {"responses": responses}
    if of:
        found["parameters"] = [{"name": one, "in": "path", "required": True, "schema": _TEXT} for one in of]
    if asks:
        found["requestBody"] = {"required": needed, "content": {_JSON: {"schema": _named(asks)}}}
    return found


def _health(well: str, ill: str = "") -> dict[str, Any]:
    responses = {"200": {"description": well}} | ({"503": {"description": ill}} if ill else {})
    return {"responses": responses, "security": []}


def _named(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}

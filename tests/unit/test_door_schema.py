"""The door against its own OpenAPI document, both interfaces: whatever is sent, what comes back is what it says."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from tests.answer_world import MODEL, AnswerWorld, simulated
from tests.server_world import DOUBLE, KEY, add_double, gateway

from daitn.node.serving.door_schema import PATH, document

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'daitn[dev]'")
from schemathesis.checks import (  # noqa: E402
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

HEADERS = {"Authorization": f"Bearer {KEY}"}
NAMES = {"model": {"enum": [DOUBLE, MODEL, "no-such"]}, "version": {"enum": ["1", "2"]}}
"""Names that there are, or hardly anything but 404 would be seen."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SAY = [{"role": "user", "content": "hello"}]
ROW = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}
RIGHT: list[tuple[str, str, Any]] = [
    ("GET", "/v2/models/{model}", None),
    ("GET", "/v2/models/{model}/config", None),
    ("GET", "/v2/models/{model}/versions/{version}/ready", None),
    ("POST", "/v2/models/{model}/infer", {"id": "a", "inputs": [ROW]}),
    ("POST", "/v2/models/{model}/infer", {"inputs": [ROW], "parameters": {"binary_data_output": True}}),
    ("POST", "/v2/models/{model}/versions/{version}/infer", {"inputs": [ROW], "outputs": [{"name": "y"}]}),
    ("GET", "/v1/models/{model}", None),
    ("POST", "/v1/chat/completions", {"model": MODEL, "messages": SAY, "max_tokens": 4}),
    ("POST", "/v1/chat/completions", {"model": MODEL, "messages": SAY, "max_tokens": 4, "stream": True}),
    ("POST", "/v1/completions", {"model": MODEL, "prompt": "hello", "max_tokens": 4}),
    ("POST", "/v1/embeddings", {"model": MODEL, "input": ["a", "b"], "encoding_format": "base64"}),
    ("POST", "/v1/embeddings", {"model": MODEL, "input": "a"}),
]


def schema() -> Any:
    described = document()
    for path in described["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = NAMES[parameter["name"]]
    for asked in ("ChatRequest", "CompletionRequest", "EmbeddingRequest"):
        described["components"]["schemas"][asked]["properties"]["model"] = NAMES["model"]
    return schemathesis.openapi.from_dict(described)


SCHEMA = schema()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A door with a model of texts and one of tensors, on a thread of its own."""
    told: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with AnswerWorld() as world:
            world.add("h1", simulated())
            add_double(world)
            async with gateway(world) as door:
                told.append(door.address)
                ready.set()
                await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        yield told[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()
        assert not thread.is_alive()


@SCHEMA.parametrize()
@settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_the_answer_is_one_that_the_document_names(case, address) -> None:  # type: ignore[no-untyped-def]
    case.call_and_validate(base_url=address, headers=HEADERS, checks=CHECKS)


@pytest.mark.parametrize(("method", "path", "body"), RIGHT)
def test_what_is_right_is_answered_as_the_document_says(method: str, path: str, body: Any, address: str) -> None:
    names = {"model": MODEL if path.startswith("/v1") else DOUBLE, "version": "1"}
    parts = {name: value for name, value in names.items() if "{" + name + "}" in path}
    given = {} if body is None else {"body": body, "media_type": "application/json"}
    case = SCHEMA[path][method].Case(path_parameters=parts, **given)
    answer = case.call_and_validate(base_url=address, headers=HEADERS, checks=CHECKS)
    assert answer.status_code == 200, answer.content


def test_document_is_told_to_whoever_has_a_key(address: str) -> None:
    asked = urllib.request.Request(address + PATH, headers=HEADERS)
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer) == json.loads(msgspec.json.encode(document()))

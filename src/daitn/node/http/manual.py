"""The manual: OpenAPI made from the types that are sent, so that it cannot say anything else.

FastAPI knows paths and parameters; bodies and answers are msgspec types, whose schemas are put in here.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from daitn.node.http.bodies import Problem

_REFERENCE: Final = "#/components/schemas/{name}"
_OPERATIONS: Final = ("get", "put", "post", "patch", "delete")
BYTES: Final = bytes
"""Stands for a body that is not JSON: a chunk, a manifest."""


class Manual:
    """Collects what routes send and get; `complete` puts it into FastAPI's document."""

    def __init__(self) -> None:
        self._types: dict[tuple[str, str], tuple[Any, Any]] = {}

    def note(self, method: str, path: str, *, takes: Any = None, gives: Any = None) -> None:
        """One route: the type of its body (None: no body) and of its answer (None: no content)."""
        self._types[(method.lower(), path)] = (takes, gives)

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with bodies, answers, problems and the way to prove who one is."""
        types = [one for pair in self._types.values() for one in pair if one is not None and one is not BYTES]
        schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REFERENCE)
        by_type = dict(zip([repr(one) for one in (*types, Problem)], schemas, strict=True))
        for path, operations in document["paths"].items():
            for method in _OPERATIONS:
                if method in operations:
                    takes, gives = self._types.get((method, path), (None, None))
                    _fill(operations[method], takes, gives, by_type)
        document["components"] = {
            "schemas": {name: _finite(schema) for name, schema in components.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "daitn-owner1"}},
        }
        document["security"] = [{"token": []}]
        return document


def _finite(schema: Any) -> Any:
    """A schema without bounds and defaults that JSON has no word for: infinity bounds nothing."""
    if isinstance(schema, dict):
        kept = {
            name: part for name, part in schema.items() if not (isinstance(part, float) and not math.isfinite(part))
        }
        return {name: _finite(part) for name, part in kept.items()}
    return [_finite(part) for part in schema] if isinstance(schema, list) else schema


def _fill(operation: dict[str, Any], takes: Any, gives: Any, by_type: dict[str, Any]) -> None:
    if takes is not None:
        operation["requestBody"] = {"required": True, "content": _content(takes, by_type)}
    answers = {code: said for code, said in operation["responses"].items() if code != "422"}
    for code, said in answers.items():
        if code.startswith("2") and gives is not None and "text/event-stream" not in said.get("content", {}):
            said["content"] = _content(gives, by_type)
    answers["default"] = {"description": "What went wrong", "content": _content(Problem, by_type)}
    operation["responses"] = answers


def _content(kind: Any, by_type: dict[str, Any]) -> dict[str, Any]:
    if kind is BYTES:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": by_type[repr(kind)]}}

"""The routes of operators for tokens of owners and keys of callers: made, shown, given other terms, revoked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from daitn.descriptors.key_terms import KeyTerms
from daitn.node.http import bodies
from daitn.node.http.manual import Manual
from daitn.node.http.tokens import TokenBook, TokenHolder


def add_token_routes(
    app: FastAPI,
    manual: Manual,
    tokens: TokenBook,
    operator: Callable[[Request], TokenHolder],
    read: Callable[[Request, type[Any]], Awaitable[Any]],
) -> None:
    """`operator`: who calls, if they may; `read`: a JSON body of some type."""
    manual.note("post", "/v1/tokens/owner", takes=bodies.OwnerTokenAsked, gives=bodies.TokenMade)
    manual.note("get", "/v1/tokens/owner", gives=tuple[bodies.TokenNamed, ...])
    manual.note("delete", "/v1/tokens/owner/{token}", gives=bodies.TokenNamed)
    manual.note("put", "/v1/tokens/owner/{token}/terms", takes=KeyTerms, gives=bodies.TokenNamed)

    @app.post("/v1/tokens/owner", summary="A token for a model owner or operator", status_code=201)
    async def owner_token(request: Request) -> Response:
        operator(request)
        asked = await read(request, bodies.OwnerTokenAsked)
        made = tokens.create(asked.owner, asked.scopes, valid_s=asked.valid_s, terms=asked.terms)
        return _json(bodies.TokenMade(token=made), 201)

    @app.get("/v1/tokens/owner", summary="All owners' tokens, without their secrets")
    async def owner_tokens(request: Request) -> Response:
        operator(request)
        return _json([_named(holder) for holder in tokens.holders()])

    @app.delete("/v1/tokens/owner/{token}", summary="Revoke an owner's token, by its id")
    async def revoke(request: Request, token: str) -> Response:
        operator(request)
        return _json(_named(tokens.revoke(token)))

    @app.put("/v1/tokens/owner/{token}/terms", summary="What a key may ask of models, in place of what it might")
    async def set_terms(request: Request, token: str) -> Response:
        operator(request)
        return _json(_named(tokens.set_terms(token, await read(request, KeyTerms))))


def _named(holder: TokenHolder) -> bodies.TokenNamed:
    return bodies.TokenNamed(
        id=holder.id,
        owner=holder.owner,
        scopes=tuple(sorted(holder.scopes)),
        created_unix_s=holder.created_unix_s,
        expires_unix_s=holder.expires_unix_s,
        revoked_unix_s=holder.revoked_unix_s,
        terms=holder.terms,
    )


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")

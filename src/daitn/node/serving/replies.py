"""Replies of the gateway's door as its servers send them: refusals with their headers, and aiohttp's form of either."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from aiohttp import web

from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.node.http.problems import HttpError
from daitn.node.serving.quick_door import Reply

STATUS: Final = {
    QueryRefusal.UNKNOWN_MODEL: 404,
    QueryRefusal.INPUT: 400,
    QueryRefusal.QUALITY: 422,
    QueryRefusal.REGION: 503,
    QueryRefusal.ZONE: 503,
    QueryRefusal.PRICE: 422,
    QueryRefusal.NO_HOST: 503,
    QueryRefusal.LATE: 503,
    QueryRefusal.BUSY: 429,
    QueryRefusal.LOST: 503,
    QueryRefusal.DESTINATION: 422,
}
"""Of a refusal, at both doors."""


def refusal(refused: Refused, headers: dict[str, str] | None = None) -> Reply:
    """What a refused query is answered: the reason, when to come back, the nearest goal."""
    told = {"x-daitn-reason": refused.reason.value, **(headers or {})}
    if refused.retry_after_s > 0:
        told["Retry-After"] = str(max(1, math.ceil(refused.retry_after_s)))
    if refused.offer:
        told["x-daitn-offer"] = refused.offer
    return Reply(STATUS[refused.reason], msgspec.json.encode({"error": refused.what}), told)


def response_of(reply: Reply) -> web.Response:
    """A reply for the general server."""
    return web.Response(body=reply.body, status=reply.status, headers=reply.headers, content_type=reply.content_type)


def told_of(error: HttpError) -> dict[str, str]:
    """Headers of an error."""
    if error.status == 401:
        return {"WWW-Authenticate": 'Bearer realm="daitn"'}
    return {"Retry-After": str(max(1, math.ceil(error.wait_s)))} if error.wait_s else {}

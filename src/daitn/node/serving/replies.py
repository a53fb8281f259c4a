"""Replies of the gateway's door as its servers send them: refusals with their headers, and aiohttp's form of either."""

from __future__ import annotations

import math

import msgspec
from aiohttp import web

from daitn.control_center.inference.query_admission import Refused
from daitn.node.serving.openai_door import STATUS
from daitn.node.serving.quick_door import Reply


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

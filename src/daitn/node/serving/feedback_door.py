"""The gateway's door for feedback: what would have been right, from whoever asked (`outcome_book`).

    POST /v2/queries/{query}/feedback   {"right": [0, 2], "field": "cardiology"} → rows, and how many were right

A query that is to be judged is asked with `x-daitn-feedback: 1`; its answer says in a header of that name whether it
may be.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from daitn.base.errors import InputError
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.serving import NamedTensor
from daitn.node.http.problems import HttpError
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.outcome_book import OutcomeBook, decode_feedback
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.replies import response_of

HEADER = "x-daitn-feedback"


class FeedbackDoor:
    """See the module's docstring."""

    def __init__(self, book: OutcomeBook, engine: QueryRouteEngine, counters: Counters) -> None:
        self._book, self._engine, self._counters = book, engine, counters

    def add_routes(self, app: web.Application) -> None:
        """Put the route under `app`."""
        app.router.add_post("/v2/queries/{query}/feedback", self._judge)

    def remember(self, asked: Asked, key: str, outputs: Sequence[NamedTensor]) -> dict[str, str]:
        """Keep an answer that shall be judged; the header that says whether it may be."""
        model = self._engine.models.get(asked.model)
        why = (
            "its model is served no longer" if model is None else self._book.remember(asked.query, key, model, outputs)
        )
        return {HEADER: why or "may be given"}

    async def _judge(self, request: web.Request) -> web.Response:
        try:
            feedback = decode_feedback(await request.read())
            rows, right = self._book.judge(request.match_info["query"], request["key"], feedback)
        except (InputError, HttpError):
            self._counters.count("door_refused", "feedback")
            raise
        self._counters.count("feedback_taken")
        return response_of(Reply(200, msgspec.json.encode({"rows": rows, "right": right}), {}))

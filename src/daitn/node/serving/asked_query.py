"""One query of a gateway as it is asked of hosts: its copies, the steps that it took, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from daitn.base.errors import DaitnError, UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import NamedTensor, QueryGoal
from daitn.node.serving.alarms import Alarms
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused
from daitn.wire.secret_queries import SecretQuery

TRIES: Final = 4
"""Hosts one query is sent to at most."""


LATE_LEAST_S: Final = 0.05
"""No query is late before this: a machine that is shared makes queries of a millisecond wait for tens."""

TIME_OVER_S: Final = 1e-3
"""Less is left of a query's time than anybody could use: it is over."""


class Coming(Protocol):
    """What a host will say to a query; `answer_links.Whole`."""

    def done(self) -> bool:
        """Whether it is known."""

    def result(self) -> QueryAnswer | QueryRefused:
        """What it said; raises why it said nothing."""

    def call_when_done(self, wake: Callable[[], None] | None) -> None:
        """Whom to call when it is known; None: nobody any more."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


Caller = Callable[[Holder, QueryCall, float], Coming]
"""Sends a query to a host; what it says within some seconds. Errors and cancelling as `AnswerLinks.query`."""


class Step(NamedTuple):
    """One host that was asked: why, what was predicted, and what came."""

    choice: Choice
    came: str

    @property
    def host(self) -> NodeId:
        """Who was asked."""
        return self.choice.route.host.node


class Asked(NamedTuple):
    """How a query ended: the answer, or a refusal; and the way there."""

    query: str
    outcome: QueryAnswer | Refused
    steps: tuple[Step, ...]
    took_s: float
    model: ModelName = ModelName("")
    """What was asked: a new version of it has a name of its own."""

    @property
    def host(self) -> str:
        """Who answered; empty where nobody did."""
        return next((step.host for step in self.steps if step.came == "answered"), "")

    @property
    def price(self) -> float | None:
        """What whoever answered states for it; None: nothing."""
        return next((step.choice.price for step in self.steps if step.came == "answered"), None)


class Query(NamedTuple):
    """One query, as it is asked of hosts."""

    number: str
    model: str
    inputs: tuple[NamedTensor, ...]
    rows: int
    goal: QueryGoal
    session: str
    began_ns: int
    allowed_s: float
    steps: list[Step]
    tried: list[NodeId]
    secret: SecretQuery | None = None


class Copy(NamedTuple):
    """A query at one host."""

    choice: Choice
    sent_ns: int
    came: Coming


def is_last(query: Query, refused: Refused) -> bool:
    """Whether no other host is asked after this was said."""
    return refused.reason is QueryRefusal.INPUT or len(query.tried) >= TRIES


def size_of(inputs: Sequence[NamedTensor]) -> int:
    """Bytes of its tensors."""
    return sum(len(tensor.data) for tensor in inputs)


def was_lost(outcome: QueryAnswer | Refused) -> bool:
    """Whether work was lost on it."""
    return isinstance(outcome, Refused) and outcome.reason is QueryRefusal.LOST


def kind_of(error: DaitnError) -> str:
    """Who must act, and what the error says; a host's words about a query are not passed on."""
    return f"{error.kind} ({error.what[:120]})" if isinstance(error, UnavailableError) else error.kind


async def first_of(copies: Sequence[Copy], seconds: float | None, alarms: Alarms) -> list[Copy]:
    """Those that are over, once any is; none where that takes longer."""
    if not any(copy.came.done() for copy in copies):
        some: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not some.done():
                some.set_result(None)

        alarm = None if seconds is None else alarms.set(seconds, wake)
        for copy in copies:
            copy.came.call_when_done(wake)
        try:
            await some
        finally:
            if alarm is not None:
                alarms.off(alarm)
            for copy in copies:
                copy.came.call_when_done(None)
    return [copy for copy in copies if copy.came.done()]


async def raising(error: Exception) -> Asked:
    """What has to be run in place of what failed."""
    raise error

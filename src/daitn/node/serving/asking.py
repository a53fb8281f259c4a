"""Asking: one query from its arrival at a gateway to its answer, over as many hosts as it takes in the time it has.

What a model computes is a pure function of the query, so a query may be asked again wherever work was lost, and asked
twice where the first host is late; an answer is given once, since the caller waits here. A host that says busy is
believed for this query; one that does not answer counts as lost, and is left out for all when that happens again.
Second copies are paid for by a budget (`decision.query_route.hedging`). Nothing of a query is logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from daitn.base import limits
from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice, QueryRouteEngine
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import NamedTensor, QueryGoal, ServedModel
from daitn.node.serving.alarms import Alarms
from daitn.node.serving.comparing import Comparing
from daitn.node.serving.counting import QueryCounts
from daitn.node.serving.outcome_book import OutcomeBook
from daitn.node.serving.turns import Standing, Turns, alike
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused
from daitn.wire.secret_queries import SealedPart, SecretQuery

DEADLINE_S: Final = 10.0
"""Time of a query that names none."""

TRIES: Final = 4
"""Hosts one query is sent to at most."""

PATIENCE_LEAST_S: Final = 1.0
PATIENCE_FACTOR: Final = 10.0
"""A host that has not answered after ten times what was predicted, and a second at least, is not waited for."""

WAIT_S: Final = 0.05
"""Between two looks for a host where none answers yet: a lost one is replaced meanwhile."""

COMPARE_S: Final = 10.0
"""Longest a second host is waited for whose answer is only compared."""

LATE_LEAST_S: Final = 0.05
"""No query is late before this: a machine that is shared makes queries of a millisecond wait for tens."""


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


class _Copy(NamedTuple):
    """A query at one host."""

    choice: Choice
    sent_ns: int
    came: Coming


class Asking:
    """See the module's docstring."""

    def __init__(
        self,
        engine: QueryRouteEngine,
        call: Caller,
        counters: Counters,
        counts: QueryCounts | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        standing: Standing = alike,
    ) -> None:
        self._engine, self._call, self._counters, self._clock_ns = engine, call, counters, clock_ns
        self._counts = counts or QueryCounts(lambda _: None)
        self._comparing = Comparing(self._counts.outcomes, counters)
        self._turns = Turns(engine.engines, standing)
        self._versions: dict[ModelName, ServedModel] = {}
        self._random = random.Random()
        self._alarms = Alarms()
        self._prefix, self._queries = secrets.token_hex(4), 0

    async def ask(
        self,
        model: str,
        inputs: tuple[NamedTensor, ...],
        rows: int,
        goal: QueryGoal,
        session: str = "",
        key: str = "",
        secret: SecretQuery | None = None,
    ) -> Asked:
        """The answer to a query, or why there is none. `key`: who asks; queries of one key wait behind each other;
        `secret`: in place of inputs, encrypted for the only hosts that are asked.

        Where a new version of the model is tried, a share of the queries asks that first; what it does not answer in
        half of the time is asked of the model as if nothing had been."""
        newer = None if secret is not None else self._newer(model, session)
        if newer is not None:
            began_ns = self._clock_ns()
            allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
            tried = msgspec.structs.replace(goal, deadline_s=allowed_s / 2)
            asked = await self._ask(newer, inputs, rows, tried, session, key, patient=False)
            if isinstance(asked.outcome, QueryAnswer):
                return asked
            self._counters.count("newer_versions_passed")
            left_s = allowed_s - (self._clock_ns() - began_ns) / 1e9
            goal = msgspec.structs.replace(goal, deadline_s=max(left_s, 1e-3))
        return await self._ask(model, inputs, rows, goal, session, key, secret)

    @property
    def outcomes(self) -> OutcomeBook:
        """What queries came to."""
        return self._counts.outcomes

    def follow(self, models: Sequence[ServedModel]) -> None:
        """These are served now: new versions of models are asked by their share from now on."""
        self._versions = {one.canary.model: one for one in models if one.canary is not None and one.routes}
        self._counts.outcomes.follow(models)

    def _newer(self, model: str, session: str) -> str | None:
        """The new version that a query shall ask first. Queries of a session all ask the same."""
        version = self._versions.get(ModelName(model))
        if version is None or version.canary is None:
            return None
        if session:
            digest = hashlib.blake2b(session.encode(), digest_size=8).digest()
            drawn = int.from_bytes(digest, "big") / 2.0**64
        else:
            drawn = self._random.random()
        return version.model if drawn < version.canary.share else None

    async def _ask(
        self,
        model: str,
        inputs: tuple[NamedTensor, ...],
        rows: int,
        goal: QueryGoal,
        session: str = "",
        key: str = "",
        secret: SecretQuery | None = None,
        *,
        patient: bool = True,
    ) -> Asked:
        """One version of a model. Without `patient` no host that is lacking is waited for."""
        self._queries += 1
        allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
        number = f"{self._prefix}-{self._queries:x}"
        query = Query(number, model, inputs, rows, goal, session, self._clock_ns(), allowed_s, [], [], secret)
        size = sum(len(tensor.data) for tensor in inputs) + (0 if secret is None else len(secret.data))
        if size > limits.QUERY_BYTES:
            what = f"the query's tensors have {size} bytes, {limits.QUERY_BYTES} are carried"
            return self._end(query, Refused(QueryRefusal.INPUT, what, offer="fewer rows"))
        name = ModelName(model)
        if name not in self._engine.models:
            return await self._over_hosts(query, name, patient=patient)
        self._counts.asked(name, size)
        if not self._turns.now(name):
            self._counters.count("queries_waited")
            refused = await self._turns.wait(name, key, self._left_s(query))
            if refused is not None:
                return self._end(query, refused)
        asked: Asked | None = None
        try:
            asked = await self._over_hosts(query, name, patient=patient)
        finally:
            self._turns.done(name, 0.0 if asked is None else asked.took_s)
        served = self._engine.models.get(name)
        answered = isinstance(asked.outcome, QueryAnswer)
        if served is not None and (answered or _was_lost(asked.outcome)):
            self._counts.outcomes.ended(served, answered=answered)
            if isinstance(asked.outcome, QueryAnswer) and secret is None and self._comparing.due(served):
                first = NodeId(asked.host)
                self._comparing.begin(served, first, asked.outcome, self._again(query, served, first))
        return asked

    async def _over_hosts(self, query: Query, name: ModelName, *, patient: bool) -> Asked:
        """As many hosts as it takes, in the time that is left."""
        said: Refused | None = None
        while True:
            choice = self._choose(query)
            if isinstance(choice, Refused):
                if choice.reason is QueryRefusal.NO_HOST and patient and self._left_s(query) > WAIT_S:
                    self._counts.missing(name)
                    await asyncio.sleep(WAIT_S)
                    continue
                return self._end(query, choice if said is None or not query.tried else said)
            if query.steps:
                self._counters.count("queries_retried")
            else:
                self._engine.begun()
            outcome = await self._try(query, choice)
            if isinstance(outcome, QueryAnswer) or outcome.reason is QueryRefusal.INPUT:
                return self._end(query, outcome)
            said = outcome
            if len(query.tried) >= TRIES:
                return self._end(query, said)

    async def _again(self, query: Query, served: ServedModel, first: NodeId) -> tuple[NodeId, QueryAnswer] | None:
        """The same query at another host, for comparison; None where none is free or answers, or it serves another
        package by now."""
        goal = msgspec.structs.replace(query.goal, deadline_s=None)
        other = query._replace(
            goal=goal, session="", began_ns=self._clock_ns(), allowed_s=COMPARE_S, steps=[], tried=[first]
        )
        choice = self._choose(other)
        if isinstance(choice, Refused):
            return None
        if choice.artifact != served.artifact or not self._engine.may_hedge():
            self._engine.withdrawn(choice)
            return None
        copy = self._send(other, choice)
        try:
            await _first([copy], None, self._alarms)
        except asyncio.CancelledError:
            copy.came.cancel()
            self._engine.withdrawn(choice)
            raise
        came = self._came(other, copy)
        return (choice.route.host.node, came) if isinstance(came, QueryAnswer) else None

    def _left_s(self, query: Query) -> float:
        return query.allowed_s - (self._clock_ns() - query.began_ns) / 1e9

    def _choose(self, query: Query) -> Choice | Refused:
        left_out: list[NodeId] = query.tried
        if query.secret is not None and (model := self._engine.models.get(ModelName(query.model))) is not None:
            others = {route.host.node for route in model.routes} - set(query.secret.capsules)
            left_out = [*others, *query.tried]
            if model.routes and len(others) == len(model.routes):
                what = f"none of the hosts that the query was encrypted for serves {query.model} now; fetch keys again"
                return Refused(QueryRefusal.LOST, what, 1.0)
        return self._engine.choose(
            query.model, query.rows, query.goal, self._left_s(query), self._clock_ns(), left_out,
            session=query.session,
        )  # fmt: skip

    async def _try(self, query: Query, choice: Choice) -> QueryAnswer | Refused:
        """One host, and a second one where the first is late and the budget allows it: the first answer counts, the
        other copy is withdrawn."""
        copies = [self._send(query, choice)]
        try:
            done = await _first(copies, max(choice.late_s, LATE_LEAST_S), self._alarms)
            if not done and len(query.tried) < TRIES and self._engine.may_hedge():
                second = self._choose(query)
                if isinstance(second, Choice):
                    self._counters.count("queries_hedged")
                    copies.append(self._send(query, second))
            outcome: QueryAnswer | Refused | None = None
            while copies and not isinstance(outcome, QueryAnswer):
                for copy in done or await _first(copies, None, self._alarms):
                    copies.remove(copy)
                    came = self._came(query, copy)
                    outcome = outcome if isinstance(outcome, QueryAnswer) else came
                done = []
            assert outcome is not None
            return outcome
        finally:
            for copy in copies:
                copy.came.cancel()
                self._engine.withdrawn(copy.choice)
                query.steps.append(Step(copy.choice, "withdrawn"))

    def _send(self, query: Query, choice: Choice) -> _Copy:
        left_s = self._left_s(query)
        call = QueryCall(
            model=choice.model,
            artifact=choice.artifact,
            left_s=max(0.0, left_s),
            lease=choice.lease,
            wanted=choice.wanted,
            inputs=query.inputs,
            sealed=None if query.secret is None else _part_of(query.secret, choice.route.host.node),
        )
        patience_s = min(left_s, max(PATIENCE_LEAST_S, PATIENCE_FACTOR * choice.predicted_s))
        query.tried.append(choice.route.host.node)
        return _Copy(choice, self._clock_ns(), self._call(choice.route.host, call, patience_s))

    def _came(self, query: Query, copy: _Copy) -> QueryAnswer | Refused:
        """What came of a copy that is over."""
        choice, now_ns = copy.choice, self._clock_ns()
        try:
            answer = copy.came.result()
        except InputError as error:
            self._engine.withdrawn(choice)
            query.steps.append(Step(choice, QueryRefusal.INPUT.value))
            return Refused(QueryRefusal.INPUT, error.render(), offer="fewer rows")
        except (UnavailableError, PeerError, PolicyError) as error:
            self._counters.count("answers_missing")
            if self._engine.lost(choice, now_ns):
                self._counters.count("hosts_ejected")
            query.steps.append(Step(choice, QueryRefusal.LOST.value))
            return Refused(QueryRefusal.LOST, f"host {choice.route.host.node} gave no answer: {_kind(error)}", 1.0)
        if isinstance(answer, QueryRefused):
            self._engine.refused(choice, answer.load, now_ns)
            reason = QueryRefusal.INPUT if answer.reason == "input" else QueryRefusal.BUSY
            reason = QueryRefusal.LOST if answer.reason == "lost" else reason
            query.steps.append(Step(choice, reason.value))
            return Refused(reason, answer.what, 0.0 if reason is QueryRefusal.INPUT else max(0.1, answer.retry_after_s))
        self._engine.answered(choice, (now_ns - copy.sent_ns) / 1e9, answer, now_ns)
        query.steps.append(Step(choice, "answered"))
        return answer

    def _end(self, query: Query, outcome: QueryAnswer | Refused) -> Asked:
        if isinstance(outcome, Refused):
            self._counters.count("queries_not_answered", outcome.reason.value)
        else:
            self._counters.count("queries_answered")
        took_s = (self._clock_ns() - query.began_ns) / 1e9
        return Asked(query.number, outcome, tuple(query.steps), took_s, ModelName(query.model))


def _was_lost(outcome: QueryAnswer | Refused) -> bool:
    return isinstance(outcome, Refused) and outcome.reason is QueryRefusal.LOST


def _part_of(secret: SecretQuery, host: NodeId) -> SealedPart:
    return SealedPart(capsule=secret.capsules[host], data=secret.data)


def _kind(error: DaitnError) -> str:
    """Who must act, and what the error says; a host's words about a query are not passed on."""
    return f"{error.kind} ({error.what[:120]})" if isinstance(error, UnavailableError) else error.kind


async def _first(copies: Sequence[_Copy], seconds: float | None, alarms: Alarms) -> list[_Copy]:
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

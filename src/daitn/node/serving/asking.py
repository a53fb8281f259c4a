"""Asking: one query from its arrival at a gateway to its answer, over as many hosts as it takes in the time it has.

What a model computes is a pure function of the query, so a query may be asked again wherever work was lost, and asked
twice where the first host is late; an answer is given once, since the caller waits here. A host that says busy is
believed for this query; one that does not answer counts as lost, and is left out for all when that happens again.
Second copies are paid for by a budget (`decision.query_route.hedging`). Nothing of a query is logged.

Nearly every query is answered by the first host it is sent to, in time. Such a one is `Begun`: sent in the turn of the
loop in which it was read, and told in the turn in which its answer is, without a task between. Whatever comes instead
is gone on with by a task, from there.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import Choice, QueryRouteEngine
from daitn.descriptors.serving import NamedTensor, QueryGoal, ServedModel
from daitn.node.serving.alarms import Alarm, Alarms
from daitn.node.serving.asked_query import (
    LATE_LEAST_S,
    TIME_OVER_S,
    TRIES,
    Asked,
    Caller,
    Copy,
    Query,
    Step,
    first_of,
    is_last,
    kind_of,
    raising,
    size_of,
    was_lost,
)
from daitn.node.serving.comparing import Comparing
from daitn.node.serving.counting import QueryCounts
from daitn.node.serving.outcome_book import OutcomeBook
from daitn.node.serving.turns import Standing, Turns, alike
from daitn.node.serving.versions import Versions
from daitn.wire.queries import QueryAnswer, QueryCall, QueryRefused
from daitn.wire.secret_queries import SecretQuery

DEADLINE_S: Final = 10.0
"""Time of a query that names none."""

PATIENCE_LEAST_S: Final = 1.0
PATIENCE_FACTOR: Final = 10.0
"""A host that has not answered after ten times what was predicted, and a second at least, is not waited for."""

WAIT_S: Final = 0.05
"""Between two looks for a host where none answers yet: a lost one is replaced meanwhile."""

COMPARE_S: Final = 10.0
"""Longest a second host is waited for whose answer is only compared."""


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
        self._comparing = Comparing(self._counts.outcomes, counters, call)
        self._turns = Turns(engine.engines, standing)
        self._versions = Versions()
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
        newer = None if secret is not None else self._versions.newer(model, session)
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
        """These are served now."""
        self._versions.follow(models)
        self._counts.outcomes.follow(models)

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
        query = self._query(model, inputs, rows, goal, session, secret)
        size = size_of(inputs) + (0 if secret is None else len(secret.data))
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
        return await self._in_turn(query, name, patient=patient)

    def _query(
        self,
        model: str,
        inputs: tuple[NamedTensor, ...],
        rows: int,
        goal: QueryGoal,
        session: str,
        secret: SecretQuery | None = None,
    ) -> Query:
        self._queries += 1
        allowed_s = DEADLINE_S if goal.deadline_s is None else goal.deadline_s
        number = f"{self._prefix}-{self._queries:x}"
        return Query(number, model, inputs, rows, goal, session, self._clock_ns(), allowed_s, [], [], secret)

    def begin(
        self, model: str, inputs: tuple[NamedTensor, ...], rows: int, goal: QueryGoal, session: str = ""
    ) -> Begun | None:
        """Send a query to its first host now; None, and nothing was done, where there is something to wait for or to
        refuse: then `ask`."""
        name, size = ModelName(model), size_of(inputs)
        if name in self._versions or name not in self._engine.models or size > limits.QUERY_BYTES:
            return None
        if not self._turns.now(name):
            return None
        query = self._query(model, inputs, rows, goal, session)
        choice = self._choose(query)
        if isinstance(choice, Refused):
            self._turns.done(name, 0.0)
            return None
        copy = self._send(query, choice)
        self._counts.asked(name, size)
        self._engine.begun()
        return Begun(self, query, name, copy)

    async def _in_turn(
        self,
        query: Query,
        name: ModelName,
        *,
        patient: bool = True,
        copy: Copy | None = None,
        said: Refused | None = None,
    ) -> Asked:
        """A query that has its turn. `copy`: it was sent already, and is late; `said`: it was, and that was said."""
        asked: Asked | None = None
        try:
            asked = await self._over_hosts(query, name, patient=patient, copy=copy, said=said)
        finally:
            self._turns.done(name, 0.0 if asked is None else asked.took_s)
        self._note(query, name, asked)
        return asked

    def _note(self, query: Query, name: ModelName, asked: Asked) -> None:
        """What came of it counts, and may be compared."""
        served, outcome = self._engine.models.get(name), asked.outcome
        if served is None or not (isinstance(outcome, QueryAnswer) or was_lost(outcome)):
            return
        self._counts.ended(served, asked.took_s if isinstance(outcome, QueryAnswer) else None)
        if isinstance(outcome, QueryAnswer) and query.secret is None and self._comparing.due(served):
            first = NodeId(asked.host)
            self._comparing.begin(served, first, outcome, self._again(query, served, first), query)

    async def _over_hosts(
        self,
        query: Query,
        name: ModelName,
        *,
        patient: bool,
        copy: Copy | None = None,
        said: Refused | None = None,
    ) -> Asked:
        """As many hosts as it takes, in the time that is left; `copy` and `said` as in `_in_turn`."""
        if copy is not None:
            outcome = await self._try(query, copy, late=True)
            if isinstance(outcome, QueryAnswer) or is_last(query, outcome):
                return self._end(query, outcome)
            said = outcome
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
            outcome = await self._try(query, self._send(query, choice))
            if isinstance(outcome, QueryAnswer) or is_last(query, outcome):
                return self._end(query, outcome)
            said = outcome

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
            await first_of([copy], None, self._alarms)
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

    async def _try(self, query: Query, copy: Copy, *, late: bool = False) -> QueryAnswer | Refused:
        """One host, and a second one where the first is late and the budget allows it: the first answer counts, the
        other copy is withdrawn."""
        copies = [copy]
        try:
            late_s = max(copy.choice.late_s, LATE_LEAST_S)
            done = [copy][: copy.came.done()] if late else await first_of(copies, late_s, self._alarms)
            if not done and len(query.tried) < TRIES and self._engine.may_hedge():
                second = self._choose(query)
                if isinstance(second, Choice):
                    self._counters.count("queries_hedged")
                    copies.append(self._send(query, second))
            outcome: QueryAnswer | Refused | None = None
            while copies and not isinstance(outcome, QueryAnswer):
                for copy in done or await first_of(copies, None, self._alarms):
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

    def _send(self, query: Query, choice: Choice) -> Copy:
        left_s = self._left_s(query)
        call = QueryCall(
            model=choice.model,
            artifact=choice.artifact,
            left_s=max(0.0, left_s),
            lease=choice.lease,
            wanted=choice.wanted,
            inputs=query.inputs,
            sealed=None if query.secret is None else query.secret.part_for(choice.route.host.node),
        )
        patience_s = min(left_s, max(PATIENCE_LEAST_S, PATIENCE_FACTOR * choice.predicted_s))
        query.tried.append(choice.route.host.node)
        return Copy(choice, self._clock_ns(), self._call(choice.route.host, call, patience_s))

    def _came(self, query: Query, copy: Copy, *, learn: bool = True) -> QueryAnswer | Refused:
        """What came of a copy that is over. Without `learn` its answer is for `_learn` yet."""
        choice, now_ns = copy.choice, self._clock_ns()
        try:
            answer = copy.came.result()
        except InputError as error:
            self._engine.withdrawn(choice)
            query.steps.append(Step(choice, QueryRefusal.INPUT.value))
            return Refused(QueryRefusal.INPUT, error.render(), offer="fewer rows")
        except (UnavailableError, PeerError, PolicyError) as error:
            if isinstance(error, UnavailableError) and self._left_s(query) <= TIME_OVER_S:
                return self._overdue(query, copy)
            self._counters.count("answers_missing")
            if self._engine.lost(choice, now_ns):
                self._counters.count("hosts_ejected")
            query.steps.append(Step(choice, QueryRefusal.LOST.value))
            return Refused(QueryRefusal.LOST, f"host {choice.route.host.node} gave no answer: {kind_of(error)}", 1.0)
        if isinstance(answer, QueryRefused):
            self._engine.refused(choice, answer.load, now_ns)
            reason = QueryRefusal.INPUT if answer.reason == "input" else QueryRefusal.BUSY
            reason = QueryRefusal.LOST if answer.reason == "lost" else reason
            query.steps.append(Step(choice, reason.value))
            return Refused(reason, answer.what, 0.0 if reason is QueryRefusal.INPUT else max(0.1, answer.retry_after_s))
        if learn:
            self._learn(copy, answer, now_ns)
        query.steps.append(Step(choice, "answered"))
        return answer

    def _overdue(self, query: Query, copy: Copy) -> Refused:
        """The query's own time was over while a host worked on it: that is no fault of the host by itself."""
        self._counters.count("deadlines_passed")
        choice, now_ns = copy.choice, self._clock_ns()
        waited_s = (now_ns - copy.sent_ns) / 1e9
        if self._engine.overdue(choice, waited_s, now_ns):
            self._counters.count("hosts_ejected")
        query.steps.append(Step(choice, "overdue"))
        what = f"its time was over after {query.allowed_s:.3f} s, {waited_s:.3f} s of it at {choice.route.host.node}"
        return Refused(QueryRefusal.LOST, what, 1.0, "a later deadline")

    def _learn(self, copy: Copy, answer: QueryAnswer, now_ns: int) -> None:
        self._engine.answered(copy.choice, (now_ns - copy.sent_ns) / 1e9, answer, now_ns)

    def _end(self, query: Query, outcome: QueryAnswer | Refused) -> Asked:
        if isinstance(outcome, Refused):
            self._counters.count("queries_not_answered", outcome.reason.value)
        else:
            self._counters.count("queries_answered")
        took_s = (self._clock_ns() - query.began_ns) / 1e9
        return Asked(query.number, outcome, tuple(query.steps), took_s, ModelName(query.model))


class Begun:
    """A query at its first host. What it comes to is told by `then`; or it is stopped, by `stop`."""

    def __init__(self, asking: Asking, query: Query, name: ModelName, copy: Copy) -> None:
        self._asking, self._query, self._name, self._copy = asking, query, name, copy
        self._alarm: Alarm | None = None
        self._over = False
        """Whether it is none of this object's any more."""

    def then(self, told: Callable[[Asked], None], go_on: Callable[[Coroutine[Any, Any, Asked]], None]) -> None:
        """`told` is called once, where it was answered in time; otherwise `go_on`, with what has to be run."""
        self._told, self._go_on = told, go_on
        came = self._copy.came
        if came.done():
            self._come()
            return
        self._alarm = self._asking._alarms.set(max(self._copy.choice.late_s, LATE_LEAST_S), self._late)
        came.call_when_done(self._come)

    def stop(self) -> None:
        """Nobody waits for it any more: its host stops. What goes on is its task's to stop."""
        if self._over:
            return
        self._over = True
        self._copy.came.call_when_done(None)
        self._copy.came.cancel()
        self._asking._engine.withdrawn(self._copy.choice)
        self._leave()

    def _leave(self, took_s: float = 0.0) -> None:
        if self._alarm is not None:
            Alarms.off(self._alarm)
        self._asking._turns.done(self._name, took_s)

    def _come(self) -> None:
        """The first host has said something."""
        if self._over:
            return
        if self._alarm is not None:
            Alarms.off(self._alarm)
        asking, query, now_ns = self._asking, self._query, self._asking._clock_ns()
        try:
            outcome = asking._came(query, self._copy, learn=False)
            if isinstance(outcome, Refused) and not is_last(query, outcome):
                self._go_on(self._rest(None, outcome))
                return
            self._over = True
            asked = asking._end(query, outcome)
        except Exception as error:  # noqa: BLE001  # a bug of ours is for whoever waits, not for who read the answer
            self._over = True
            self._go_on(raising(error))
            return
        try:
            self._told(asked)
        finally:  # who asked does not wait for what is learnt of it
            if isinstance(outcome, QueryAnswer):
                asking._learn(self._copy, outcome, now_ns)
            self._leave(asked.took_s)
            asking._note(query, self._name, asked)

    def _late(self) -> None:
        if not self._over:
            self._copy.came.call_when_done(None)
            self._go_on(self._rest(self._copy, None))

    async def _rest(self, copy: Copy | None, said: Refused | None) -> Asked:
        self._over = True
        return await self._asking._in_turn(self._query, self._name, copy=copy, said=said)

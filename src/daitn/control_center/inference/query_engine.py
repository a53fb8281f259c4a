"""Query route engine (QIRCE, paper II-B) of one gateway: what it was told, has learnt and holds of every model's hosts.

The choice itself is `decision.query_route`: completion = path + queue + service, each with its uncertainty, filters by
goal, two choices among those that cannot be told apart, one query in a hundred to learn from. This class keeps, for
each model, the table that the choice reads: a slot is reserved at the moment of choice from what the host leased to
this gateway, whatever comes back teaches (the path, the host's load and pace, its service time), hosts that lose
queries or are far too slow are left out for a while. Gateways share nothing; what others send to a host is in what the
host says. Of a text, how long its answer will be is told from what the model answered before (`answer_length`).

Pure: moments are given, in nanoseconds of one monotonic clock, nothing is awaited. Each choice is ended exactly once,
by `answered`, `answered_text`, `refused`, `lost`, `overdue` or `withdrawn`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import numpy as np

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.control_center.inference.kept_model import PATH_S, KeptModel
from daitn.control_center.inference.query_admission import QueryRefusal, Refused, admissible, unknown_model
from daitn.decision.query_route import choosing
from daitn.decision.query_route.answer_length import TextSize
from daitn.decision.query_route.choosing import QueryAsked, Why
from daitn.decision.query_route.ejection import SLOW
from daitn.decision.query_route.explaining import ReplicaWeighed, explain
from daitn.decision.query_route.hedging import HedgeBudget, hedge_after_s
from daitn.decision.query_route.replicas import Column, Floats, ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior
from daitn.decision.query_route.slots import SlotLease
from daitn.descriptors.serving import QueryGoal, Route, ServedModel
from daitn.wire.queries import HostLoad, QueryAnswer

SHARE_WEIGHT: Final = 0.1
"""Of the newest answer in what is learnt of how much of a batch one query is."""

LOOK_S: Final = 0.05
"""How often ended leases and ejections are looked for: both last seconds."""

FORGIVEN_S: Final = 5.0
"""A loss counts half as much after this: hosts come back within seconds, and unlike a slow host's, a lost query's cost
is known at once."""

JITTER_S: Final = 0.02
"""An answer is no sign of a fault for being later than expected by less than this: machines are shared."""

SESSIONS: Final = 16_384
"""Sessions whose host is remembered, the newest."""

_IN_ZONE: Final = 1

_SAID: Final = {
    Why.BEST: "soonest",
    Why.AFFINE: "holds the session",
    Why.EXPLORED: "known least",
    Why.TWO_CHOICES: "better of two that cannot be told from the soonest",
    Why.LATE: "nearest to its deadline",
}


class Weighing(NamedTuple):
    """What a choice saw: enough to explain it afterwards. Nothing of the query but its size and goal."""

    rows: Floats
    names: tuple[str, ...]
    asked: QueryAsked
    at_s: float


class Choice(NamedTuple):
    """Where a query goes, and why."""

    model: ModelName
    artifact: ArtifactId
    route: Route
    predicted_s: float
    late_s: float
    """After this without an answer, a second copy elsewhere is worth it."""
    why: str
    lease: int
    wanted: int
    """Slots to ask the host for, with the query."""
    query: int
    rows: int
    weighing: Weighing
    price: float | None = None
    """What the host states for it; None: nothing."""
    first_s: float = 0.0
    """When its first piece is predicted; of what comes at once, `predicted_s`."""
    holds: bool = False
    """Whether the host had the query's session before."""


class TextAnswered(NamedTuple):
    """What the end of a text's answer teaches of its host."""

    first_took_s: float
    """From when it was sent to its first piece, at the gateway."""
    queued_s: float
    first_s: float
    """From its turn at the host to its first piece, and to its end."""
    engine_s: float
    tokens: int
    """That this host made; 0: it came in one piece."""
    load: HostLoad


class QueryRouteEngine:
    """See the module's docstring. `seed`: of what is drawn; gateways differ in it, so that they do not choose alike."""

    def __init__(self, seed: int = 1) -> None:
        self.models: dict[ModelName, ServedModel] = {}
        self._kept: dict[tuple[ModelName, ArtifactId], KeptModel] = {}
        self._random = choosing.random_state(seed)
        self._regions: dict[str, int] = {"": 0}
        self._operators: dict[str, int] = {"": 0}
        self._budget = HedgeBudget()
        self._sessions: OrderedDict[tuple[ModelName, str], str] = OrderedDict()

    # --- what is told -----------------------------------------------------------------------------------------------

    def follow(self, models: Sequence[ServedModel], now_ns: int) -> None:
        """These models may be asked from now on, and no others. What was learnt of hosts that stay is kept."""
        self.models = {model.model: model for model in models}
        kept: dict[tuple[ModelName, ArtifactId], KeptModel] = {}
        for model in models:
            key = (model.model, model.artifact)
            kept[key] = self._kept.get(key) or KeptModel()
            kept[key].follow(model, now_ns / 1e9, self._region_of, self._operator_of)
        self._kept = kept

    def _region_of(self, name: str) -> int:
        return self._regions.setdefault(name, len(self._regions))

    def _operator_of(self, name: str) -> int:
        return self._operators.setdefault(name, len(self._operators))

    def engines(self, name: ModelName) -> int:
        """How many engines answer for a model, at all its hosts."""
        model = self.models.get(name)
        return 0 if model is None else self._kept[name, model.artifact].engines

    # --- the choice -------------------------------------------------------------------------------------------------

    def choose(
        self,
        name: str,
        rows: int,
        goal: QueryGoal,
        left_s: float,
        now_ns: int,
        tried: Collection[NodeId] = (),
        *,
        session: str = "",
        saves_s: float = 0.0,
        units: int | None = None,
        text: TextSize | None = None,
    ) -> Choice | Refused:
        """The host for a query of so many rows that is to be answered within `left_s`; a slot there is reserved until
        the choice is ended. `tried`: hosts that have this query already; `session`: goes where it went before while
        that saves `saves_s` (of a text: what it was seen to save), or costs nothing; `units`: what it is priced by,
        where that is not its rows; `text`: its size, in place of rows. O(hosts of the model)."""
        model = self.models.get(ModelName(name))
        if model is None:
            return unknown_model(name, self.models)
        units = rows if units is None else units
        routes = admissible(model, goal, units)
        if isinstance(routes, Refused):
            return routes
        kept, now_s = self._kept[model.model, model.artifact], now_ns / 1e9
        self._look(kept, now_s)
        table = kept.table
        held = self._sessions.get((model.model, session)) if session else None
        size = rows if text is None else round(text.prompt)
        tokens, tokens_var = (0.0, 0.0) if text is None else kept.lengths.expected(text)
        affine = -1 if held is None else table.place_of(held)
        if text is not None and held is not None and affine >= 0:
            saves_s = kept.saved_frac * table.reading_s(held, float(size))
        asked = QueryAsked(
            size=float(size),
            deadline_s=left_s,
            region=self._regions[goal.region] if goal.region else choosing.ANY,
            zone=_IN_ZONE if goal.zone else choosing.ANY,
            # Admission has decided who is dear; sums of floats that differ in their last digit decide nothing here.
            price_most=math.inf if goal.price_most is None else goal.price_most * (1 + 1e-9),
            affine=affine,
            affine_saves_s=saves_s,
            tokens=max(0.0, tokens - 1.0),
            tokens_var=tokens_var,
        )
        closed = [node for node in tried if _open(table, node)]
        for node in closed:
            table.set_open(node, False)
        weighing = Weighing(self._rows(table, goal, units - size), table.names, asked, now_s)
        found = choosing.choose(weighing.rows, asked, now_s, self._random)
        why = _SAID.get(found.why, "")
        if found.place < 0 and len(tried) < len(kept.routes):
            weighing, why = _all_the_same(weighing, tried), "soonest of those that are left"
            found = choosing.choose(weighing.rows, asked, now_s, self._random)
        for node in closed:
            table.set_open(node, True)
        if found.place < 0:
            return Refused(QueryRefusal.LOST, f"all {len(routes)} hosts of {name} were asked", 1.0)
        if found.completion_s > left_s and not (text is not None and kept.is_probe(fits=found.first_s <= left_s)):
            soonest_s = min(found.completion_s, found.soonest_s)
            what = f"the soonest host of {name} is predicted to answer in {soonest_s:.3f} s, {left_s:.3f} s are left"
            return Refused(QueryRefusal.LATE, what, soonest_s, f"deadline >= {found.soonest_s:.3f} s")
        return self._reserve(model, kept, found, weighing, why, session, units)

    def _rows(self, table: ReplicaTable, goal: QueryGoal, units_more: int) -> Floats:
        """What the choice reads, as this goal has it: the column of zones says who is in the one that is asked for, and
        prices are those of all units."""
        rows = table.rows.copy()
        if goal.zone:
            trusted = [self._operators[name] for name in goal.zone if name in self._operators]
            rows[:, Column.ZONE] = np.isin(rows[:, Column.ZONE], trusted) * _IN_ZONE
        if units_more:
            rows[:, Column.PRICE] += rows[:, Column.PRICE_UNIT] * units_more
        return rows

    def _reserve(
        self,
        model: ServedModel,
        kept: KeptModel,
        found: choosing.Choice,
        weighing: Weighing,
        why: str,
        session: str,
        units: int,
    ) -> Choice:
        host, now_s = weighing.names[found.place], weighing.at_s
        purse = kept.purses[host]
        lease = purse.spend(now_s) or 0
        wanted = 0
        if purse.left(now_s) <= purse.wanted() // 2 and now_s - kept.asked_s.get(host, -1e9) > 1.0:
            wanted = purse.wanted()
            kept.asked_s[host] = now_s
        query = kept.table.sent(found.place, found.service_s * kept.shares[host], now_s)
        if session:
            self._sessions[model.model, session] = host
            self._sessions.move_to_end((model.model, session))
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        late_s = hedge_after_s(found)
        return Choice(
            model.model, model.artifact, kept.routes[host], found.completion_s, late_s, why, lease, wanted, query,
            int(weighing.asked.size), weighing, kept.routes[host].price_of(units), found.first_s,
            found.place == weighing.asked.affine,
        )  # fmt: skip

    def _look(self, kept: KeptModel, now_s: float) -> None:
        """Leases and ejections that have ended, losses that are long ago."""
        if now_s - kept.looked_s < LOOK_S:
            return
        kept.looked_s = now_s
        for name in kept.ejector.returning(now_s):
            kept.table.set_open(name, True)
        for name, purse in kept.purses.items():
            if purse.ended(now_s):
                kept.table.set_leased(name, -1)
        if now_s - kept.forgave_s >= 1.0:
            kept.table.forgive(0.5 ** (min(now_s - kept.forgave_s, 1000.0) / FORGIVEN_S))
            kept.forgave_s = now_s

    def may_hedge(self) -> bool:
        """Whether a second copy of a late query may be sent; it is paid for if so."""
        return self._budget.take()

    def begun(self) -> None:
        """A query was sent for the first time: it earns a share of a second copy."""
        self._budget.earn()

    # --- what comes back --------------------------------------------------------------------------------------------

    def answered(self, choice: Choice, took_s: float, answer: QueryAnswer, now_ns: int) -> None:
        """An answer came, after so long."""
        kept, host = self._ended(choice)
        if kept is None:
            return
        path_s = max(0.0, took_s - answer.queued_s - answer.engine_s)
        kept.table.timed(host, path_s)
        self._reported(kept, host, choice, answer.load, now_ns / 1e9, path_s)
        if answer.engine_s > 0:
            expected_s = kept.table.expected_s(host, float(choice.rows))
            kept.table.learnt(host, float(choice.rows), answer.engine_s)
            kept.shares[host] += SHARE_WEIGHT * (answer.batch_frac - kept.shares[host])
            expected_s = max(expected_s, JITTER_S)
            if kept.ejector.answered(host, answer.engine_s, expected_s, len(kept.routes), now_ns / 1e9):
                kept.table.set_open(host, False)

    def answered_text(self, choice: Choice, told: TextAnswered, now_ns: int) -> None:
        """A text's answer has ended at a host."""
        kept, host = self._ended(choice)
        if kept is None:
            return
        path_s, now_s = max(0.0, told.first_took_s - told.queued_s - told.first_s), now_ns / 1e9
        kept.table.timed(host, path_s)
        self._reported(kept, host, choice, told.load, now_s, path_s)
        size, tokens = float(choice.rows), max(0.0, told.tokens - 1.0)
        expected_s = max(kept.table.expected_s(host, size, tokens), JITTER_S)
        kept.table.learnt(host, size, told.first_s + kept.saved_s(host, size, told.first_s, holds=choice.holds))
        kept.table.learnt_tokens(host, tokens, told.engine_s - told.first_s)
        if kept.ejector.answered(host, told.engine_s, expected_s, len(kept.routes), now_s):
            kept.table.set_open(host, False)

    def length_seen(self, choice: Choice, prompt: float, tokens: int, *, cut: bool) -> None:
        """An answer had so many tokens, and where it was `cut` would have had more."""
        kept = self._kept.get((choice.model, choice.artifact))
        if kept is not None:
            kept.lengths.learn(prompt, tokens, cut=cut)

    def refused(self, choice: Choice, load: HostLoad, now_ns: int) -> None:
        """The host said that it cannot now, and how busy it is."""
        kept, host = self._ended(choice)
        if kept is not None:
            self._reported(kept, host, choice, load, now_ns / 1e9, PATH_S)

    def lost(self, choice: Choice, now_ns: int) -> bool:
        """No answer came, or none that can be read; whether the host is left out from now on."""
        kept, host = self._ended(choice, lost=True)
        if kept is None or not kept.ejector.lost(host, len(kept.routes), now_ns / 1e9):
            return False
        kept.table.set_open(host, False)
        return True

    def overdue(self, choice: Choice, waited_s: float, now_ns: int) -> bool:
        """The query's own time was over before the host had said anything, after so long; whether the host is left out
        from now on. Its client chose that time: no loss, and nothing is learnt, unless an answer after so long would
        count as far too slow by itself."""
        kept, host = self._ended(choice)
        expected_s = max(choice.first_s, JITTER_S)
        if kept is None or waited_s <= SLOW * expected_s:
            return False
        if not kept.ejector.answered(host, waited_s, expected_s, len(kept.routes), now_ns / 1e9):
            return False
        kept.table.set_open(host, False)
        return True

    def withdrawn(self, choice: Choice) -> None:
        """Another copy was answered, or whoever asked has gone: nothing is learnt."""
        self._ended(choice)

    def _ended(self, choice: Choice, *, lost: bool = False) -> tuple[KeptModel | None, str]:
        kept, host = self._kept.get((choice.model, choice.artifact)), str(choice.route.host.node)
        if kept is None or kept.table.ended(choice.query, lost=lost) is None:
            return None, host
        return kept, host

    def _reported(
        self, kept: KeptModel, host: str, choice: Choice, load: HostLoad, now_s: float, path_s: float
    ) -> None:
        kept.table.reported(host, load.queries, load.work_s, now_s - path_s / 2, load.pace)
        if choice.wanted:
            asked_s = kept.asked_s.pop(host, choice.weighing.at_s)
            if load.lease:
                kept.purses[host].granted(SlotLease(load.lease, load.slots, load.lease_s), asked_s)
                kept.table.set_leased(host, load.slots)

    # --- for people -------------------------------------------------------------------------------------------------

    @staticmethod
    def explain(choice: Choice) -> tuple[ReplicaWeighed, ...]:
        """Every host of the model as the choice saw it, the best first."""
        weighing = choice.weighing
        found = explain(weighing.rows, weighing.names, weighing.asked, weighing.at_s)
        return tuple(sorted(found, key=lambda one: (one.held_back_by != "", one.cost_s)))


def warm_up() -> None:
    """Compile what choices and learning need, or load what was compiled before: seconds the first time on a machine."""
    table = ReplicaTable()
    table.add("one", ReplicaFacts(service=ServicePrior(0.01, 0.001)))
    found = choosing.choose(table.rows, QueryAsked(), 0.0, choosing.random_state(1))
    table.ended(table.sent(found.place, found.service_s, 0.0))
    table.learnt("one", 1.0, 0.01)


def _all_the_same(weighing: Weighing, tried: Collection[NodeId]) -> Weighing:
    """Where every host left is ejected, or its slots are spent, the query is tried all the same: a host that is full
    says so."""
    rows = weighing.rows.copy()
    for place, name in enumerate(weighing.names):
        if name not in tried:
            rows[place, Column.OPEN] = 1.0
            rows[place, Column.LEASED] = -1.0
    return weighing._replace(rows=rows)


def _open(table: ReplicaTable, name: str) -> bool:
    place = table.place_of(name)
    return place >= 0 and table.rows[place, Column.OPEN] == 1.0

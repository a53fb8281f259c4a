"""Query views (QS-QRRT): from the whole map to the few hosts that one query request can be sent to.

Paper II-B: for the query network the topology is made of models, hosts and queries. Everything is read off the columns:
which model lies at which host and how it does (`model_*`), how good it is in a field, how the host is reached and
trusted, how far it is from where queries come from, and what is asked of the network (`query_*`). Whatever could have
served and may not is named with its reason.

Pure. A models at hosts that are looked at. Cost: one comparison for each row of the models' table, vector operations
over A, and structures for the `HOSTS_MOST` soonest.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.query_view import (
    DEMANDS_MOST,
    EXCLUDED_MOST,
    HOSTS_MOST,
    HostCandidate,
    HostExclusion,
    HostReason,
    QueryDemand,
    QueryRequest,
    QueryView,
)
from daitn.descriptors.questions import Measure
from daitn.descriptors.tariff import SECONDS_PER_HOUR
from daitn.topology.fact_book import FactBook
from daitn.topology.knowledge_map import CONSENT_AGE_S
from daitn.topology.questions.near import distances_to
from daitn.topology.questions.reading import Reading

Numbers = NDArray[np.float64]
Rows = NDArray[np.intp]

FORMULA_AGES: Final = ("model_queue_s", "terminal.reachable")
"""Facts by whose groups a candidate's age is told: how it does, and whether its host answers."""


class _Facts(NamedTuple):
    """What is known of A models at hosts; NaN where it is not."""

    rows: Rows
    path_A: Numbers
    service_A: Numbers
    queue_A: Numbers
    accuracy_A: Numbers
    trust_A: Numbers
    completion_A: Numbers
    price_A: Numbers


def make_query_view(book: FactBook, request: QueryRequest, now_ns: int) -> QueryView:
    """The view for one request now; empty where nobody serves such a model. InputError where `asked_from` is no
    terminal of the map."""
    reading = Reading(book, now_ns)
    facts = _facts(reading, request, _rows_of(book, request.model))
    why = _reasons(reading, request, facts)
    able = np.flatnonzero(why == 0)
    order = able[np.argsort(facts.completion_A[able], kind="stable")][:HOSTS_MOST]
    excluded = np.flatnonzero(why != 0)
    return QueryView(
        version=book.version,
        made_at_ns=now_ns,
        hosts=_candidates(reading, facts, order),
        excluded=tuple(
            _exclusion(reading, request, facts, int(place), _REASONS[why[place] - 1])
            for place in excluded[:EXCLUDED_MOST]
        ),
        excluded_in_all=len(excluded),
        demands=demands_of(book, request.kind or request.model, request.region, now_ns),
    )


def demands_of(book: FactBook, kind: str, region: str, now_ns: int) -> tuple[QueryDemand, ...]:
    """What is asked of the network, the most frequent first; `kind`, `region`: of these only, where not empty."""
    table = book[Kind.QUERY]
    wanted = table.alive().copy()
    for fact, word in (("query_kind", kind), ("query_region", region)):
        if word:
            code = book.words.find(word)
            wanted &= (table.column(fact) == code) & (code >= 0)
    rows = np.flatnonzero(wanted)
    rates = np.nan_to_num(table.column("asked_per_s")[rows], nan=-1.0)
    rows = rows[np.argsort(-rates, kind="stable")][:DEMANDS_MOST]
    ages = table.age_s("query_rate", now_ns, rows)
    return tuple(
        QueryDemand(
            kind=str(table.value(row, "query_kind") or table.id_of(row)),
            region=str(table.value(row, "query_region") or ""),
            pattern=_text(table.value(row, "query_pattern")),
            asked_per_s=_known(table.column("asked_per_s")[row]),
            asked_per_s_peak=_known(table.column("asked_per_s_peak")[row]),
            asked_per_s_soon=_known(table.column("asked_per_s_soon")[row]),
            query_bytes=_known(table.column("query_bytes")[row]),
            latency_goal_s=_known(table.column("latency_goal_s")[row]),
            age_s=_finite(age_s),
        )
        for row, age_s in zip(rows.tolist(), ages.tolist(), strict=True)
    )


_REASONS: Final = tuple(HostReason)


def _rows_of(book: FactBook, model: str) -> Rows:
    table = book[Kind.MODEL]
    if not model:
        return np.flatnonzero(table.alive())
    code = book.words.find(model)
    return np.flatnonzero((table.column("model") == code) & table.alive()) if code >= 0 else np.zeros(0, np.intp)


def _facts(reading: Reading, request: QueryRequest, rows: Rows) -> _Facts:
    def numbers(path: str) -> Numbers:
        return np.asarray(reading.numbers(Kind.MODEL, Measure(fact=path), rows), np.float64)

    path_A = numbers("terminal.round_trip_s")
    if request.asked_from:
        target = reading.row_of(Kind.TERMINAL, request.asked_from)
        measured = distances_to(reading, Kind.MODEL, rows, target, "round_trip")
        path_A = np.where(np.isnan(measured), distances_to(reading, Kind.MODEL, rows, target, "position"), measured)
    service_A, queue_A = numbers("service_s"), numbers("model_queue_s")
    queue_A = np.where(np.isnan(queue_A), numbers("terminal.queue_s"), queue_A)
    field = request.goal.field
    completion_A = np.nan_to_num(path_A) + np.nan_to_num(queue_A) + service_A
    return _Facts(
        rows,
        path_A,
        service_A,
        queue_A,
        _field_accuracy(reading.book, field, rows) if field else numbers("accuracy"),
        numbers("terminal.trust"),
        completion_A,
        numbers("terminal.price_per_hour") / SECONDS_PER_HOUR * service_A,
    )


def _field_accuracy(book: FactBook, field: str, rows: Rows) -> Numbers:
    """How good each model is in a field; NaN where nobody has measured it."""
    table, code = book[Kind.MODEL_FIELD], book.words.find(field)
    by_model = np.full(max(1, book[Kind.MODEL].high), np.nan)
    if code >= 0:
        bars = np.flatnonzero((table.column("field") == code) & table.alive())
        models = table.column("model")[bars]
        by_model[models[models >= 0]] = table.column("field_accuracy")[bars][models >= 0]
    return np.asarray(by_model[rows])


def _reasons(reading: Reading, request: QueryRequest, facts: _Facts) -> NDArray[np.uint8]:
    """Place in `_REASONS`, from 1, of the first that keeps each out; 0 for candidates: (A,)."""
    rows, goal = facts.rows, request.goal
    why = np.zeros(len(rows), np.uint8)

    def out(reason: HostReason, where: Any) -> None:
        why[(why == 0) & where] = _REASONS.index(reason) + 1

    out(HostReason.NOT_REACHABLE, reading.values(Kind.MODEL, "terminal.reachable", rows) != 1)
    out(HostReason.CLOSED, _closed(reading, rows))
    consent_A = reading.numbers(Kind.MODEL, Measure(fact="terminal.name", of="age"), rows)
    out(HostReason.CONSENT_OLD, ~(consent_A <= CONSENT_AGE_S))
    out(HostReason.NOT_ACCESSIBLE, reading.values(Kind.MODEL, "model_accessible", rows) == 0)
    if goal.region:
        region_A = reading.values(Kind.MODEL, "terminal.region", rows)
        out(HostReason.REGION, (region_A != reading.book.words.find(goal.region)) | (region_A < 0))
    if goal.zone:
        codes = [code for name in goal.zone if (code := reading.book.words.find(name)) >= 0]
        out(HostReason.ZONE, ~np.isin(reading.values(Kind.MODEL, "terminal.operator", rows), codes))
    if request.trust_floor > 0:
        out(HostReason.TRUST, ~(facts.trust_A >= request.trust_floor))
    out(HostReason.NOT_MEASURED, np.isnan(facts.service_A))
    if goal.quality_least is not None:
        out(HostReason.NOT_MEASURED, np.isnan(facts.accuracy_A))
        out(HostReason.QUALITY, facts.accuracy_A < goal.quality_least)
    if goal.price_most is not None:
        out(HostReason.PRICE, ~(facts.price_A <= goal.price_most))
    if goal.deadline_s is not None:
        out(HostReason.LATE, facts.completion_A > goal.deadline_s)
    return why


def _closed(reading: Reading, rows: Rows) -> NDArray[np.bool_]:
    """Whose host's access has windows and is not open in any now, as far as the map knows: (A,)."""
    now_s = reading.now_ns / NS_PER_S
    opens_A = reading.values(Kind.MODEL, "terminal.window_opens_unix_s", rows)
    closes_A = reading.values(Kind.MODEL, "terminal.window_closes_unix_s", rows)
    never_A = reading.values(Kind.MODEL, "terminal.available_frac", rows) == 0
    return np.asarray((opens_A > now_s) | (closes_A <= now_s) | never_A)


def _exclusion(reading: Reading, request: QueryRequest, facts: _Facts, place: int, reason: HostReason) -> HostExclusion:
    table = reading.book[Kind.MODEL]
    row, goal = int(facts.rows[place]), request.goal
    match reason:
        case HostReason.REGION:
            at = facts.rows[place : place + 1]
            code = int(reading.values(Kind.MODEL, "terminal.region", at)[0])
            region = reading.book.words.text(code) or "no named region"
            why = f"its host is in {region}, asked for is {goal.region}"
        case HostReason.ZONE:
            at = facts.rows[place : place + 1]
            code = int(reading.values(Kind.MODEL, "terminal.operator", at)[0])
            operator = reading.book.words.text(code) or "nobody known"
            why = f"its host is of {operator}, asked for is {' or '.join(goal.zone)}"
        case HostReason.PRICE:
            price = facts.price_A[place]
            told = "not stated" if math.isnan(price) else f"{price:.6g}"
            why = f"its price is {told}, asked for is {goal.price_most:.6g}"
        case HostReason.TRUST:
            trust = facts.trust_A[place]
            known = "not known" if math.isnan(trust) else f"{trust:.2f}"
            why = f"trust {known}, the request asks for {request.trust_floor:.2f}"
        case HostReason.QUALITY:
            where = f" in {goal.field}" if goal.field else ""
            why = f"accuracy{where} is {facts.accuracy_A[place]:.3f}, asked for is {goal.quality_least:.3f}"
        case HostReason.LATE:
            why = f"predicted to answer in {facts.completion_A[place]:.3f} s, asked for is {goal.deadline_s:.3f} s"
        case HostReason.NOT_MEASURED:
            lacking = "its service time" if math.isnan(facts.service_A[place]) else "the quality asked for"
            why = f"{lacking} was not measured yet"
        case HostReason.NOT_ACCESSIBLE:
            why = "its provider's policy lets nobody ask it"
        case HostReason.CONSENT_OLD:
            why = f"its host's consent was not confirmed for {CONSENT_AGE_S:.0f} s"
        case HostReason.CLOSED:
            why = "the access of its host is not there by plan"
        case HostReason.NOT_REACHABLE:
            why = "its host does not answer"
    return HostExclusion(thing=table.id_of(row), reason=reason, why=why)


def _candidates(reading: Reading, facts: _Facts, order: Rows) -> tuple[HostCandidate, ...]:
    """Structures of the rows at these places, in this order."""
    table, words = reading.book[Kind.MODEL], reading.book.words
    terminals = reading.book[Kind.TERMINAL]
    rows = facts.rows[order]
    host_A = table.column("terminal")[rows]
    model_A = table.column("model")[rows]
    region_A = reading.values(Kind.MODEL, "terminal.region", rows)
    load_A = table.column("model_load_frac")[rows]
    reachable_A = reading.values(Kind.MODEL, "terminal.reachable_frac", rows)
    ages = [reading.numbers(Kind.MODEL, Measure(fact=fact, of="age"), rows) for fact in FORMULA_AGES]
    age_A = np.max(np.stack(ages), axis=0) if len(rows) else np.zeros(0)
    deviation_A = np.zeros(len(rows))
    for fact, value_A in (
        ("terminal.round_trip_s", facts.path_A[order]),
        ("model_queue_s", facts.queue_A[order]),
        ("service_s", facts.service_A[order]),
    ):
        told_A = np.asarray(reading.deviations(Kind.MODEL, fact, rows), np.float64)
        usual = float(np.nanmean(value_A)) if len(value_A) and not np.isnan(value_A).all() else 0.0
        doubt_A = np.where(np.isnan(value_A), usual, np.where(np.isinf(told_A), 0.0, told_A))
        deviation_A = np.hypot(deviation_A, doubt_A)
    return tuple(
        HostCandidate(
            thing=table.id_of(row),
            model=words.text(int(model_A[at])) if model_A[at] >= 0 else "",
            host=NodeId(terminals.id_of(int(host_A[at]))),
            region=words.text(int(region_A[at])) if region_A[at] >= 0 else "",
            path_s=_known(facts.path_A[place]),
            service_s=float(facts.service_A[place]),
            queue_s=_known(facts.queue_A[place]),
            load_frac=_known(load_A[at]),
            accuracy=_known(facts.accuracy_A[place]),
            trust=_known(facts.trust_A[place]),
            reachable_frac=_known(reachable_A[at]),
            price=_known(facts.price_A[place]),
            completion_s=float(facts.completion_A[place]),
            deviation_s=float(deviation_A[at]),
            age_s=_finite(age_A[at]),
        )
        for at, (row, place) in enumerate(zip(rows.tolist(), order.tolist(), strict=True))
    )


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None

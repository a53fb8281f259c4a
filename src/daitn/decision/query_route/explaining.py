"""Why a query went where it went: every replica with its values, or what held it back.

Written a second time, plainly and with names, and compared with the compiled choice by tests: an explanation that was
made by the thing it explains would only repeat it. Milliseconds for a thousand replicas; made on request only.
"""

from __future__ import annotations

import math

import msgspec

from daitn.decision.query_route.choosing import (
    ANY,
    NOT_KNOWN,
    OLDEST_S,
    Barrier,
    ChoiceRules,
    QueryAsked,
)
from daitn.decision.query_route.replicas import Column, Floats
from daitn.decision.query_route.service_time import SHORTEST_S


class ReplicaWeighed(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as a choice saw it. Times in seconds."""

    replica: str
    held_back_by: str
    """The first filter that it did not pass; empty: it could be chosen."""
    path_s: float
    queue_s: float
    service_s: float
    deviation_s: float
    report_age_s: float
    price: float
    correct: float
    cost_s: float
    """What choices are made by: completion, more for the queue, caution, price and wrong answers in seconds."""


def explain(
    rows: Floats,
    names: tuple[str, ...],
    query: QueryAsked,
    now_s: float,
    *,
    rules: ChoiceRules = ChoiceRules(),  # noqa: B008  a frozen tuple
    correct_R: Floats = NOT_KNOWN,
) -> tuple[ReplicaWeighed, ...]:
    """All replicas in the order of their rows, at the moment of a choice (before the query was sent)."""
    known = len(correct_R) == len(rows)
    return tuple(
        _weigh(rows[place], name, query, now_s, rules, float(correct_R[place]) if known else None, place)
        for place, name in enumerate(names)
    )


def _weigh(
    row: Floats, name: str, query: QueryAsked, now_s: float, rules: ChoiceRules, correct: float | None, place: int
) -> ReplicaWeighed:
    value = {column: float(row[column]) for column in Column}
    age = min(max(now_s - value[Column.REPORTED_S], 0.0), OLDEST_S)
    pace = value[Column.PACE]
    service = max((value[Column.BASE_S] + value[Column.UNIT_S] * query.size) * pace, SHORTEST_S)
    queue = _queue(value)
    lost = min(value[Column.FAULTY], 0.9)
    path = value[Column.PATH_S] + lost / (1 - lost) * rules.retry_s
    doubt = (
        value[Column.VAR_BASE]
        + 2 * query.size * value[Column.VAR_BOTH]
        + (query.size**2 + query.size_var) * value[Column.VAR_UNIT]
    )
    service_var = (
        value[Column.NOISE] * (service**2 + doubt * pace**2) + (value[Column.UNIT_S] * pace) ** 2 * query.size_var
    )
    if query.tokens > 0:
        telling = value[Column.TOKEN_S] * pace * query.tokens
        service += telling
        service_var += (value[Column.TOKEN_S] * pace) ** 2 * query.tokens_var
        service_var += value[Column.TOKEN_NOISE] * telling**2
        service_var += value[Column.TOKEN_VAR] * pace**2 * (query.tokens**2 + query.tokens_var)
    waiting_var = value[Column.PATH_VAR] + value[Column.DRIFT_VAR] * age + queue * service * value[Column.NOISE]
    deviation = math.sqrt(waiting_var + service_var)
    mean = path + queue + service
    if place == query.affine:
        mean = max(mean - query.affine_saves_s, path + queue)
    price = value[Column.PRICE] + value[Column.PRICE_UNIT] * query.size
    right = value[Column.CORRECT] if correct is None else correct
    barriers = {
        Barrier.CLOSED: value[Column.OPEN] == 0,
        Barrier.UNLEASED: value[Column.LEASED] == 0,
        Barrier.REGION: query.region != ANY and value[Column.REGION] != query.region,
        Barrier.ZONE: query.zone != ANY and value[Column.ZONE] != query.zone,
        Barrier.PRICE: price > query.price_most,
        Barrier.CORRECTNESS: right < query.correct_least,
        Barrier.DEADLINE: mean + rules.deadline_z * deviation > query.deadline_s,
    }
    return ReplicaWeighed(
        replica=name,
        held_back_by=next((barrier.name.lower() for barrier, holds in barriers.items() if holds), ""),
        path_s=path,
        queue_s=queue,
        service_s=service,
        deviation_s=deviation,
        report_age_s=age,
        price=price,
        correct=right,
        cost_s=mean
        + (rules.queue_weight - 1) * queue
        + rules.caution * deviation
        + price * query.price_s
        + (1 - right) * query.wrong_s,
    )


def _queue(value: dict[Column, float]) -> float:
    """Seconds until a slot is free, reckoned from the last report and what was sent and answered since."""
    count = value[Column.COUNT] + value[Column.OWN_COUNT]
    work = value[Column.WORK_S] + value[Column.OWN_WORK_S]
    slots = value[Column.SLOTS]
    return work / slots * (count + 1 - slots) / max(count, 1.0) if count + 1 > slots else 0.0

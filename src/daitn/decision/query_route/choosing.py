"""The choice of a replica for one query (QueryRouteEngine, QIRCE, paper II-B): one pass over all, compiled.

For each replica: when the answer would be there (path, queue, service, each with a variance; of a text, service is the
time to its first piece and that of all tokens after it), how likely it is right,
what it costs. Goals are filters, each counted: open, lease, region, trust zone, price, correctness, deadline. Of those
left, the least cost wins, in seconds: expected completion with some caution, price and wrong answers at the query's own
rates of exchange. Then, in this order:

- *affinity*: the replica that holds the query's session or prefix, with what that saves, while its queue is short and
  it is behind the best by no more than what it saves;
- *exploration*: one query in a hundred goes where service is known least;
- *two choices*: two are drawn of those that cannot be told from the best, and the better is taken. How wide that is
  follows from how sure the best one's completion is: fresh facts make it the plain best, stale ones spread the load
  (M. Mitzenmacher 2001; with equal weights stale "least" choices herd).

A report that is old widens its queue's variance and closes no door; its mean stays, since as much may have come as
went (reckoned down by its age, every busy host looked idle after two seconds and was overrun). Randomness comes from a
state that is given, so a choice can be replayed. Legend: R replicas. Cost: O(R), about 25 ns each.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.decision.planning.compiling import compiled
from daitn.decision.query_route.replicas import Column, Floats
from daitn.decision.query_route.service_time import SHORTEST_S

EXPLORE_FRAC: Final = 0.01
"""Share of queries that are sent where most is to be learnt."""

CAUTION: Final = 0.5
"""Deviations of completion that count beside its mean."""

DEADLINE_Z: Final = 1.645
"""A deadline counts as kept where completion is within it by this many deviations: 95 of 100."""

BAND: Final = 0.25
"""Replicas within this many deviations (of path and queue) of the best cannot be told from it."""

QUEUE_WEIGHT: Final = 2.0
"""What a second in a queue counts beside one of work: whoever waits also delays those who come after. With 1, quick
hosts are queued at until a slow one that stands idle is as soon, and bursts find all queues full."""

STICKY_QUEUE_S: Final = 0.5
"""A session stays where it is only while it would wait no longer than this."""

OLDEST_S: Final = 60.0
"""A report's age counts up to this; what was never reported is as old."""

RETRY_S: Final = 1.0
"""What a lost query costs before it starts again elsewhere; counted by each replica's share of losses."""

ANY: Final = -1
"""Of a region or zone: no matter which."""

# Columns as plain numbers: compiled code knows no enumerations.
_OPEN, _ZONE, _REGION = int(Column.OPEN), int(Column.ZONE), int(Column.REGION)
_PATH, _PATH_VAR, _SLOTS = int(Column.PATH_S), int(Column.PATH_VAR), int(Column.SLOTS)
_COUNT, _WORK, _REPORTED = int(Column.COUNT), int(Column.WORK_S), int(Column.REPORTED_S)
_OWN_COUNT, _OWN_WORK, _BASE, _UNIT = (
    int(Column.OWN_COUNT), int(Column.OWN_WORK_S), int(Column.BASE_S), int(Column.UNIT_S),
)  # fmt: skip
_VAR_BASE, _VAR_BOTH, _VAR_UNIT, _NOISE = (
    int(Column.VAR_BASE), int(Column.VAR_BOTH), int(Column.VAR_UNIT), int(Column.NOISE),
)  # fmt: skip
_PRICE, _PRICE_UNIT, _CORRECT = int(Column.PRICE), int(Column.PRICE_UNIT), int(Column.CORRECT)
_TOKEN, _TOKEN_VAR, _TOKEN_NOISE = int(Column.TOKEN_S), int(Column.TOKEN_VAR), int(Column.TOKEN_NOISE)
_FAULTY, _LEASED, _DRIFT, _PACE = (
    int(Column.FAULTY), int(Column.LEASED), int(Column.DRIFT_VAR), int(Column.PACE),
)  # fmt: skip


class Why(IntEnum):
    """What led to a choice."""

    BEST = 0
    AFFINE = 1
    EXPLORED = 2
    TWO_CHOICES = 3
    LATE = 4
    """None is expected to keep the deadline; this one comes nearest."""
    NONE = 5
    """No replica passes the filters."""


class Barrier(IntEnum):
    """Filters, in the order in which a replica is tried; it counts at the first that it does not pass."""

    CLOSED = 0
    UNLEASED = 1
    REGION = 2
    ZONE = 3
    PRICE = 4
    CORRECTNESS = 5
    DEADLINE = 6


BARRIERS: Final = len(Barrier)


class QueryAsked(NamedTuple):
    """What a choice needs to know of a query."""

    size: float = 1.0
    """In the unit in which service is learnt (rows, tokens of a prompt)."""
    size_var: float = 0.0
    """How unsure that is."""
    deadline_s: float = math.inf
    """From now."""
    price_most: float = math.inf
    correct_least: float = 0.0
    region: int = ANY
    zone: int = ANY
    price_s: float = 0.0
    """Seconds that one unit of price is worth."""
    wrong_s: float = 0.0
    """Seconds that a wrong answer is worth."""
    affine: int = -1
    """Row that holds the session or prefix; -1: none."""
    affine_saves_s: float = 0.0
    """What it saves there."""
    tokens: float = 0.0
    """Tokens that come after the first piece; 0: all comes at once."""
    tokens_var: float = 0.0
    """How unsure that is."""


class ChoiceRules(NamedTuple):
    """How to choose; see the constants of this module."""

    explore_frac: float = EXPLORE_FRAC
    caution: float = CAUTION
    deadline_z: float = DEADLINE_Z
    band: float = BAND
    sticky_queue_s: float = STICKY_QUEUE_S
    retry_s: float = RETRY_S
    queue_weight: float = QUEUE_WEIGHT


class Choice(NamedTuple):
    """The row that was chosen (-1: none), and what is expected of it."""

    place: int
    why: Why
    completion_s: float
    deviation_s: float
    service_s: float
    """Of `completion_s`: work in the engine, to be reserved."""
    held_back: tuple[int, ...]
    """How many replicas each `Barrier` held back."""
    soonest_s: float
    """Least completion of those that pass all but the deadline, with the deviations that a deadline asks for: the
    nearest deadline that could be promised; infinite where there is none."""
    first_s: float = 0.0
    """When the first piece would be there; of what comes at once, `completion_s`."""
    first_deviation_s: float = 0.0


def random_state(seed: int) -> NDArray[np.uint64]:
    """What `choose` draws from, and moves on. Not zero."""
    return np.array([(seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) % 2**64 or 1], np.uint64)


@compiled
def _draw(state: Any) -> float:
    """A number in [0, 1) (xorshift64*, S. Vigna 2016)."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@compiled
def completion_of(
    row: Any, now: float, size: float, size_var: float, tokens: float, tokens_var: float, retry_s: float, out: Any
) -> None:
    """When a replica's answer would be there: fills path, queue, service, variance of the first two, and of all; then
    service up to the first piece, and the variance up to there."""
    age = now - row[_REPORTED]
    if not age < OLDEST_S:
        age = OLDEST_S
    if age < 0.0:
        age = 0.0
    slots = row[_SLOTS]
    count = row[_COUNT] + row[_OWN_COUNT]
    work = row[_WORK] + row[_OWN_WORK]
    queue = 0.0
    if count + 1.0 > slots:
        queue = work / slots * (count + 1.0 - slots) / max(count, 1.0)
    pace = row[_PACE]
    mean = max((row[_BASE] + row[_UNIT] * size) * pace, SHORTEST_S)
    doubt = row[_VAR_BASE] + 2.0 * size * row[_VAR_BOTH] + (size * size + size_var) * row[_VAR_UNIT]
    unit = row[_UNIT] * pace
    service_var = row[_NOISE] * (mean * mean + doubt * pace * pace) + unit * unit * size_var
    first, first_var = mean, service_var
    if tokens > 0.0:
        token = row[_TOKEN] * pace
        telling = token * tokens
        mean += telling
        service_var += token * token * tokens_var + row[_TOKEN_NOISE] * telling * telling
        service_var += row[_TOKEN_VAR] * pace * pace * (tokens * tokens + tokens_var)
    waiting_var = row[_PATH_VAR] + row[_DRIFT] * age + queue * mean * row[_NOISE]
    faulty = min(row[_FAULTY], 0.9)
    out[0] = row[_PATH] + faulty / (1.0 - faulty) * retry_s
    out[1] = queue
    out[2] = mean
    out[3] = waiting_var
    out[4] = waiting_var + service_var
    out[5] = first
    out[6] = waiting_var + first_var


@compiled
def _choose(rows: Any, now: float, asked: Any, rules: Any, correct: Any, random: Any, held: Any, out: Any) -> int:
    """See `choose`. `asked`, `rules`: the fields of the tuples of that name, in order."""
    (
        size, size_var, deadline, price_most, correct_least, region, zone, price_s, wrong_s, holder, saves, tokens,
        tokens_var,
    ) = asked  # fmt: skip
    affine = int(holder)
    explore, caution, deadline_z, band, sticky_queue, retry, queue_weight = rules
    replicas = rows.shape[0]
    parts = np.empty(7)
    costs = np.empty(replicas)
    explores = _draw(random) < explore
    best, best_cost, best_waiting = -1, np.inf, 0.0
    late, late_s = -1, np.inf
    curious, most_curious = -1, -1.0
    known = len(correct) == replicas
    sticks, affine_cost = False, np.inf
    for r in range(replicas):
        row = rows[r]
        costs[r] = np.inf
        if row[_OPEN] == 0.0:
            held[0] += 1
            continue
        if row[_LEASED] == 0.0:
            held[1] += 1
            continue
        if region >= 0 and row[_REGION] != region:
            held[2] += 1
            continue
        if zone >= 0 and row[_ZONE] != zone:
            held[3] += 1
            continue
        price = row[_PRICE] + row[_PRICE_UNIT] * size
        if price > price_most:
            held[4] += 1
            continue
        right = correct[r] if known else row[_CORRECT]
        if right < correct_least:
            held[5] += 1
            continue
        completion_of(row, now, size, size_var, tokens, tokens_var, retry, parts)
        deviation = math.sqrt(parts[4])
        mean = parts[0] + parts[1] + parts[2]
        if r == affine:
            mean = max(mean - saves, parts[0] + parts[1])
        safe = mean + deadline_z * deviation
        if safe < late_s:
            late, late_s = r, safe
        if safe > deadline:
            held[6] += 1
            continue
        cost = mean + (queue_weight - 1.0) * parts[1] + caution * deviation + price * price_s + (1.0 - right) * wrong_s
        costs[r] = cost
        if r == affine:
            sticks = parts[1] <= sticky_queue
            affine_cost = cost
        if cost < best_cost:
            best, best_cost, best_waiting = r, cost, parts[3]
        if explores:
            curiosity = math.sqrt(max(parts[4] - row[_NOISE] * parts[2] * parts[2], 0.0)) / parts[2]
            curiosity *= _draw(random)
            if curiosity > most_curious:
                curious, most_curious = r, curiosity
    out[5] = late_s
    if best < 0:
        chosen, why = late, (4 if late >= 0 else 5)
    elif sticks and affine_cost <= best_cost + saves:
        chosen, why = affine, 1
    elif explores and curious >= 0:
        chosen, why = curious, 2
    else:
        chosen, why = best, 0
        width = best_cost + band * math.sqrt(best_waiting)
        within = 0
        for r in range(replicas):
            if costs[r] <= width:
                within += 1
        if within > 1:
            first, second = int(_draw(random) * within), int(_draw(random) * (within - 1))
            if second >= first:
                second += 1
            seen, picked, least = 0, best, np.inf
            for r in range(replicas):
                if costs[r] <= width:
                    if seen in (first, second) and costs[r] < least:
                        picked, least = r, costs[r]
                    seen += 1
            if picked != best:
                chosen, why = picked, 3
    if chosen >= 0:
        completion_of(rows[chosen], now, size, size_var, tokens, tokens_var, retry, parts)
        saved = saves if chosen == affine else 0.0
        out[2] = max(parts[2] - saved, SHORTEST_S)
        out[0], out[1] = parts[0] + parts[1] + out[2], math.sqrt(parts[4])
        out[6] = parts[0] + parts[1] + max(parts[5] - saved, SHORTEST_S)
        out[7] = math.sqrt(parts[6])
    out[3] = why
    return chosen


NOT_KNOWN: Final[Floats] = np.empty(0)

PLAIN_RULES: Final = ChoiceRules()
_PLAIN_RULES: Final = np.array(PLAIN_RULES, np.float64)
_HELD: Final = np.zeros(BARRIERS, np.int64)
_OUT: Final = np.full(8, np.inf)


def choose(
    rows: Floats,
    query: QueryAsked,
    now_s: float,
    random: NDArray[np.uint64],
    *,
    rules: ChoiceRules = ChoiceRules(),  # noqa: B008  a frozen tuple
    correct_R: Floats = NOT_KNOWN,
) -> Choice:
    """The replica that a query should go to. `rows`: (R, COLUMNS) of a `ReplicaTable`; `random` is moved on.

    `correct_R`: how likely each replica's answer to this very query is right, where that is predicted; else the rows'
    measured share counts.
    """
    held, out = _HELD.copy(), _OUT.copy()
    asked = np.array(query, np.float64)
    ways = _PLAIN_RULES if rules == PLAIN_RULES else np.array(rules, np.float64)
    place = int(_choose(rows, float(now_s), asked, ways, correct_R, random, held, out))
    return Choice(place, Why(int(out[3])), float(out[0]), float(out[1]), float(out[2]), tuple(held.tolist()),
                  float(out[5]), float(out[6]), float(out[7]))  # fmt: skip

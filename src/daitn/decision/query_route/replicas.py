"""What a gateway knows of replicas: one row of numbers each, kept in step with reports, its own queries and answers.

Paper II-B, QIRCE. A row is one model on one host as seen from this gateway. Rows are what the compiled choice reads
(`choosing`), so everything is a number, and what a report says is kept apart from what this gateway sent since: a
reported counter is old when it arrives, and gateways that trust it alone all run to the same host.

No I/O and no clock: moments are given, in seconds of any one clock. One thread.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.decision.query_route.service_time import (
    ServicePrior,
    learn,
    learn_tokens,
    start_learning,
    start_learning_tokens,
)

Floats = NDArray[np.float64]

REPLICAS_MOST: Final = 100_000
"""Most rows: a choice looks at each of them."""

DRIFT_VAR_PER_S: Final = 0.02
"""By how much a host's queue may have changed since its report, as variance (s²) a second, before that is learnt."""

PACES: Final = (0.01, 100.0)
"""Paces that are believed."""

LEARN_DRIFT: Final = 0.1
"""Weight of the newest report in what is known of drift."""

LEARN_PATH: Final = 0.1
"""Weight of the newest answer in what is known of the way there and back: ten answers make a habit."""


class Column(IntEnum):
    """Numbers of a row. Seconds, variances in seconds squared."""

    OPEN = 0
    """1 where queries may be sent: known, up, not ejected."""
    ZONE = 1
    REGION = 2
    PATH_S = 3
    """There and back."""
    PATH_VAR = 4
    SLOTS = 5
    """Queries that it works on at a time."""
    COUNT = 6
    """Queries at the host at its last report, less those of ours that were answered since."""
    WORK_S = 7
    """Their work, as if one slot did it."""
    REPORTED_S = 8
    """When the report was made."""
    OWN_COUNT = 9
    """Queries of ours that the last report cannot know of."""
    OWN_WORK_S = 10
    BASE_S = 11
    """Service: base + unit · size, and what is known of both (`service_time`)."""
    UNIT_S = 12
    VAR_BASE = 13
    VAR_BOTH = 14
    VAR_UNIT = 15
    NOISE = 16
    """Variance of service around that, as a share of its square."""
    PRICE = 17
    PRICE_UNIT = 18
    CORRECT = 19
    """Share of answers that are right, measured by a verification unit."""
    FAULTY = 20
    """Share of recent queries that it lost."""
    LEASED = 21
    """Slots that this gateway may still take; negative: it needs no lease."""
    DRIFT_VAR = 22
    SIZES = 23
    """How many answers its service time was learnt from, at most the learner's memory."""
    PACE = 24
    """How many times as long as usual work takes there now, as the host measures; 1 where it does not say."""
    TOKEN_S = 25
    """Of a text: a token after its first piece, and what is known of that (`service_time`)."""
    TOKEN_VAR = 26
    TOKEN_NOISE = 27
    ANSWERS = 28
    """How many answers that was learnt from, at most the learner's memory."""


COLUMNS: Final = len(Column)

# Plain numbers: numpy takes three times as long with a member of an enumeration.
_PATH_S: Final = int(Column.PATH_S)
_PATH_VAR: Final = int(Column.PATH_VAR)
_SLOTS: Final = int(Column.SLOTS)
_COUNT: Final = int(Column.COUNT)
_WORK_S: Final = int(Column.WORK_S)
_REPORTED_S: Final = int(Column.REPORTED_S)
_OWN_COUNT: Final = int(Column.OWN_COUNT)
_OWN_WORK_S: Final = int(Column.OWN_WORK_S)
_BASE_S: Final = int(Column.BASE_S)
_UNIT_S: Final = int(Column.UNIT_S)
_NOISE: Final = int(Column.NOISE)
_FAULTY: Final = int(Column.FAULTY)
_LEASED: Final = int(Column.LEASED)
_DRIFT_VAR: Final = int(Column.DRIFT_VAR)
_SIZES: Final = int(Column.SIZES)
_PACE: Final = int(Column.PACE)
_TOKEN_S: Final = int(Column.TOKEN_S)
_TOKEN_NOISE: Final = int(Column.TOKEN_NOISE)
_ANSWERS: Final = int(Column.ANSWERS)


class ReplicaFacts(NamedTuple):
    """What is known of a replica before it answered anything."""

    region: int = 0
    zone: int = 0
    slots: int = 1
    path_s: float = 0.0
    path_dev_s: float = 0.0
    price: float = 0.0
    price_unit: float = 0.0
    correct: float = 1.0
    service: ServicePrior = ServicePrior()
    leased: int = -1


class _Sent(NamedTuple):
    query: int
    at_s: float
    work_s: float
    """Work of ours at a host that no report has told of yet."""


class ReplicaTable:
    """All replicas that a gateway may choose from, by name; `rows` is (R, COLUMNS), valid up to `count`."""

    def __init__(self) -> None:
        self._rows: Floats = np.zeros((16, COLUMNS))
        self._places: dict[str, int] = {}
        self._names: list[str] = []
        self._sent: list[deque[_Sent]] = []
        self._queries = 0
        self._at: dict[int, str] = {}
        """Queries under way, and where."""

    @property
    def rows(self) -> Floats:
        """The rows in use. A view: read it, do not keep it over a change."""
        return self._rows[: len(self._names)]

    @property
    def names(self) -> tuple[str, ...]:
        """Replicas in the order of their rows."""
        return tuple(self._names)

    @property
    def under_way(self) -> int:
        """Queries that were sent and neither answered nor lost."""
        return len(self._at)

    def name_at(self, place: int) -> str:
        """The replica of a row."""
        return self._names[place]

    def place_of(self, name: str) -> int:
        """The row of a replica; -1 where it is not known."""
        return self._places.get(name, -1)

    def add(self, name: str, facts: ReplicaFacts) -> None:
        """A replica is there, or its facts are others; what was learnt of it stays. InputError on impossible facts."""
        if not 0 < facts.slots <= 1e6 or not 0 <= facts.correct <= 1:
            raise InputError(f"replica {name}: {facts.slots} slots, {facts.correct} of its answers right")
        numbers = np.array([facts.path_s, facts.path_dev_s, facts.price, facts.price_unit, *facts.service])
        if not np.isfinite(numbers).all() or numbers.min() < 0:
            raise InputError(f"replica {name}: a time, price or prior is negative or not finite: {numbers.tolist()}")
        place = self._places.get(name)
        if place is None:
            if len(self._names) >= REPLICAS_MOST:
                raise InputError(f"replica {name} is one more than {REPLICAS_MOST}")
            place = len(self._names)
            if place == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[place] = 0.0
            self._places[name] = place
            self._names.append(name)
            self._sent.append(deque())
            self._rows[place, Column.DRIFT_VAR] = DRIFT_VAR_PER_S
            self._rows[place, Column.REPORTED_S] = -np.inf
            self._rows[place, Column.PACE] = 1.0
            start_learning(self._rows[place, Column.BASE_S : Column.NOISE + 1], facts.service)
            start_learning_tokens(self._rows[place, Column.TOKEN_S : Column.TOKEN_NOISE + 1], facts.service)
        row = self._rows[place]
        row[Column.OPEN] = 1.0
        row[[Column.ZONE, Column.REGION, Column.SLOTS]] = facts.zone, facts.region, facts.slots
        row[[Column.PATH_S, Column.PATH_VAR]] = facts.path_s, facts.path_dev_s**2
        row[[Column.PRICE, Column.PRICE_UNIT]] = facts.price, facts.price_unit
        row[[Column.CORRECT, Column.LEASED]] = facts.correct, facts.leased

    def remove(self, name: str) -> None:
        """A replica is gone; the last row takes its place. Queries at it are no longer counted."""
        place = self._places.pop(name, None)
        if place is None:
            return
        last = len(self._names) - 1
        if place != last:
            self._rows[place] = self._rows[last]
            self._names[place] = self._names[last]
            self._sent[place] = self._sent[last]
            self._places[self._names[place]] = place
        self._names.pop()
        self._sent.pop()
        self._at = {query: at for query, at in self._at.items() if at != name}

    def set_open(self, name: str, is_open: bool) -> None:
        """Open or close a replica for queries, where it is known."""
        place = self._places.get(name)
        if place is not None:
            self._rows[place, Column.OPEN] = float(is_open)

    def set_leased(self, name: str, slots: int) -> None:
        """How many slots of it are this gateway's to take; negative: no lease is needed."""
        place = self._places.get(name)
        if place is not None:
            self._rows[place, Column.LEASED] = float(slots)

    def set_price(self, name: str, price: float, price_unit: float) -> None:
        """What a query is charged there from now on: at all, and for each unit of its size."""
        place = self._places.get(name)
        if place is not None:
            self._rows[place, [Column.PRICE, Column.PRICE_UNIT]] = price, price_unit

    def reported(self, name: str, count: int, work_s: float, at_s: float, pace: float = 1.0) -> None:
        """A host says how many queries it has, how much work they are, and at what pace it works (2: all takes twice as
        long as usual). Older reports than the last, and those that cannot be, are passed over.

        How far it is from what was reckoned teaches how fast reports age.
        """
        place = self._places.get(name)
        if place is None or not (0 <= work_s < np.inf) or count < 0 or not (PACES[0] <= pace <= PACES[1]):
            return
        row = self._rows[place]
        if at_s <= row[_REPORTED_S]:
            return
        age = at_s - row[_REPORTED_S]
        if np.isfinite(age) and age > 1e-3:
            slots = row[_SLOTS]
            reckoned = row[_WORK_S] + row[_OWN_WORK_S]
            seen = ((work_s - reckoned) / slots) ** 2 / age
            row[_DRIFT_VAR] += LEARN_DRIFT * (seen - row[_DRIFT_VAR])
        row[_COUNT], row[_WORK_S], row[_REPORTED_S] = count, work_s, at_s
        row[_PACE] = pace
        sent = self._sent[place]
        half = row[_PATH_S] / 2
        while sent and sent[0].at_s + half <= at_s:
            sent.popleft()
        row[_OWN_COUNT] = len(sent)
        row[_OWN_WORK_S] = sum(one.work_s for one in sent)

    def sent(self, place: int, work_s: float, at_s: float) -> int:
        """A query goes to a row, counted from this moment on; returns its number. One leased slot is taken."""
        row = self._rows[place]
        self._queries += 1
        self._sent[place].append(_Sent(self._queries, at_s, work_s))
        row[_OWN_COUNT] += 1
        row[_OWN_WORK_S] += work_s
        if row[_LEASED] > 0:
            row[_LEASED] -= 1
        self._at[self._queries] = self._names[place]
        return self._queries

    def ended(self, query: int, *, lost: bool = False) -> str | None:
        """A query was answered or lost: it is no longer at its host. Returns the replica; None where it is gone."""
        name = self._at.pop(query, None)
        if name is None:
            return None
        place = self._places[name]
        row, sent = self._rows[place], self._sent[place]
        unknown = None
        for one in sent:
            if one.query == query:
                unknown = one
                break
        if unknown is not None:
            sent.remove(unknown)
            row[_OWN_COUNT] = len(sent)
            row[_OWN_WORK_S] = sum(one.work_s for one in sent)
        elif row[_COUNT] >= 1:
            row[_WORK_S] *= 1 - 1 / row[_COUNT]
            row[_COUNT] -= 1
        row[_FAULTY] += 0.05 * (float(lost) - row[_FAULTY])
        return name

    def timed(self, name: str, path_s: float) -> None:
        """An answer was under way for so long, beside what its host did with it: the path is better known now."""
        place = self._places.get(name)
        if place is None or not 0 <= path_s < np.inf:
            return
        row = self._rows[place]
        off = path_s - row[_PATH_S]
        row[_PATH_S] += LEARN_PATH * off
        row[_PATH_VAR] += LEARN_PATH * (off * off - row[_PATH_VAR])

    def forgive(self, share: float) -> None:
        """Losses are long ago: this share of what is held against each replica is left."""
        self.rows[:, _FAULTY] *= share

    def expected_s(self, name: str, size: float, tokens: float = 0.0) -> float:
        """How long a query of this size takes in the engine there, with so many tokens after its first piece, at the
        pace last told."""
        row = self._rows[self._places[name]]
        return float((row[_BASE_S] + row[_UNIT_S] * size + row[_TOKEN_S] * tokens) * row[_PACE])

    def reading_s(self, name: str, size: float) -> float:
        """Of that, what grows with the size: of a text, the time to read its prompt."""
        row = self._rows[self._places[name]]
        return float(row[_UNIT_S] * size * row[_PACE])

    def learnt_tokens(self, name: str, tokens: float, seconds: float) -> None:
        """So many tokens after a first piece took this long, at the pace last told."""
        place = self._places.get(name)
        if place is not None:
            row = self._rows[place]
            state = row[_TOKEN_S : _TOKEN_NOISE + 1]
            row[_ANSWERS] = learn_tokens(state, row[_ANSWERS], tokens, seconds / row[_PACE])

    def learnt(self, name: str, size: float, service_s: float) -> None:
        """A query of this size took this long in the engine, at the pace last told: better known from now on."""
        place = self._places.get(name)
        if place is not None:
            row = self._rows[place]
            row[_SIZES] = learn(row[_BASE_S : _NOISE + 1], row[_SIZES], size, service_s / row[_PACE])

"""The world of the trace benchmark: hosts of unequal speed, paths, faults and reports, in virtual time.

Queries come as in Azure's trace of conversations, to four gateways; round trips are PlanetLab's. A host works on as
many queries at a time as it has slots, the rest wait in order. What a query takes is tokens times the host's time a
token, with noise; the prompt's tokens count a fortieth, less what is still cached of its session. Sessions are ours:
the trace has none. Hosts crash (queries there are refused), hang (noticed after five seconds) and slow down for a
while; reports come every two seconds, arrive late, and stop altogether for half a minute at a time.
"""

# ruff: noqa: ARG002, B027  a policy that never hedges inherits methods that do nothing

from __future__ import annotations

import csv
import gzip
import heapq
import itertools
from abc import ABC, abstractmethod
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.orlib import folder

HOSTS, GATEWAYS = 12, 4
HALF_S = 1800.0
PROMPT_SHARE = 1 / 40
"""Of a generated token's time that a token of the prompt takes."""
CACHED_SHARE, CACHED_S = 0.8, 300.0
"""How much of a session's prompt a host has cached, and for how long."""
REPORT_S, HANG_S, ATTEMPTS = 2.0, 5.0, 4
GOOD_BASE_S, GOOD_TOKEN_S = 3.0, 0.04
"""An answer is good if it came within this, and this for each token it has."""


class Query(NamedTuple):
    number: int
    at_s: float
    gateway: int
    prompt: int
    answer: int
    session: int
    noise: float


class Host(NamedTuple):
    slots: int
    token_s: float
    declared_token_s: float


class Fault(NamedTuple):
    at_s: float
    until_s: float
    host: int
    kind: str
    """crash, hang, slow or silent."""


class World(NamedTuple):
    queries: list[Query]
    hosts: list[Host]
    rtt_s: Any
    """(GATEWAYS, HOSTS)."""
    faults: list[Fault]


def data(name: str) -> Path:
    """A file of the data folder; SystemExit where it is not there."""
    path = folder().parent / name
    if not path.is_file():
        raise SystemExit(f"{name} is not here: set DAITN_DATA to the folder that holds it")
    return path


def make_world(seed: int, room: int = 1) -> World:
    """One world for all policies; the trace is always the same. `room`: how many times the slots."""
    rng = np.random.default_rng(seed)
    with gzip.open(data("latency/PlanetLabData_1.txt.gz"), "rt") as file:
        matrix = np.array([[float(one) for one in line.split()] for line in file if line.strip()])
    nodes = rng.choice(len(matrix), HOSTS + GATEWAYS, replace=False)
    rtt = np.maximum(matrix[np.ix_(nodes[:GATEWAYS], nodes[GATEWAYS:])], 0.2) / 1e3
    speeds = 0.012 * np.exp(rng.permutation(np.linspace(0, np.log(4), HOSTS)))
    hosts = [
        Host(int(rng.choice([3, 4, 6])) * room, float(token), float(token * np.exp(rng.normal(0, 0.25))))
        for token in speeds
    ]
    return World(_queries(rng), hosts, rtt, _faults(rng))


def _queries(rng: Any) -> list[Query]:
    found: list[Query] = []
    with gzip.open(data("azure_llm/AzureLLMInferenceTrace_conv.csv.gz"), "rt") as file:
        rows = list(csv.reader(file))[1:]
    first = datetime.fromisoformat(rows[0][0][:26])
    recent: list[deque[int]] = [deque(maxlen=40) for _ in range(GATEWAYS)]
    for number, (moment, prompt, answer) in enumerate(rows):
        at = (datetime.fromisoformat(moment[:26]) - first).total_seconds()
        gateway = int(rng.choice(GATEWAYS, p=[0.4, 0.3, 0.2, 0.1]))
        known = recent[gateway]
        session = int(known[rng.integers(len(known))]) if known and rng.random() < 0.5 else number
        known.append(session)
        found.append(Query(number, at, gateway, int(prompt), int(answer), session, float(rng.lognormal(-0.02, 0.2))))
    return found


def _faults(rng: Any) -> list[Fault]:
    found: list[Fault] = []
    for kind, every_s, lasts_s in (("crash", 1500, 60), ("hang", 3000, 60), ("slow", 1500, 180), ("silent", 300, 30)):
        for host in range(HOSTS):
            at = rng.exponential(every_s)
            while at < 2 * HALF_S:
                until = at + lasts_s * rng.uniform(0.5, 1.5)
                found.append(Fault(float(at), float(until), host, kind))
                at = until + rng.exponential(every_s)
    return found


class Policy(ABC):
    """A way to choose hosts; one object for all gateways, which must not share between them what they do not tell."""

    @abstractmethod
    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """A host for this query, not among those tried if that can be helped."""

    @abstractmethod
    def sent(self, query: Query, host: int, now: float) -> None:
        """The query goes there."""

    @abstractmethod
    def ended(self, query: Query, host: int, now: float, service_s: float | None, units: float) -> None:
        """An answer came, with what the host says it worked on it and on how many units; None: it was lost."""

    @abstractmethod
    def reported(self, gateway: int, host: int, count: int, work_s: float, at: float, pace: float) -> None:
        """A report of a host comes to a gateway."""

    def hedge_after(self, query: Query, host: int) -> float | None:
        """When a copy is worth it; None: never."""
        return None

    def may_hedge(self, query: Query) -> bool:
        """Whether a copy may be sent."""
        return False

    def withdrawn(self, query: Query, host: int, now: float) -> None:
        """A copy that is no longer wanted."""


class _Site:
    """A host while it runs."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.down = ""
        self.slow = 1.0
        self.silent = False
        self.running: dict[int, tuple[Query, float]] = {}
        self.waiting: deque[Query] = deque()
        self.cached: dict[int, float] = {}
        self.mean_s = 200 * host.declared_token_s
        self.square = 1.6 * self.mean_s**2


class Outcome(NamedTuple):
    """Latencies of all queries in order; infinite where none of the attempts was answered."""

    latency_s: Any
    good: Any


class Run:
    """One policy in one world."""

    def __init__(self, world: World, policy: Policy, until_s: float) -> None:
        self.world, self.policy = world, policy
        self.sites = [_Site(host) for host in world.hosts]
        self.heap: list[tuple[float, int, str, Any]] = []
        self.order = itertools.count()
        self.random = np.random.default_rng(11)
        self.tried: dict[int, set[int]] = {}
        self.attempts: dict[int, int] = {}
        self.flying: dict[int, set[int]] = {}
        """Copies of a query whose end the gateway does not know of."""
        self.copies = 0
        queries = [query for query in world.queries if query.at_s < until_s]
        self.queries = queries
        self.latency = np.full(len(queries), np.inf)
        for query in queries:
            self.push(query.at_s, "arrive", query)
        for fault in world.faults:
            self.push(fault.at_s, "fault", fault)
            self.push(fault.until_s, "mend", fault)
        for host in range(HOSTS):
            self.push(REPORT_S * host / HOSTS, "tick", host)
        self.until_s = until_s

    def push(self, at: float, kind: str, what: Any) -> None:
        """Something will happen."""
        heapq.heappush(self.heap, (at, next(self.order), kind, what))

    def run(self) -> Outcome:
        """Until all queries have an end."""
        left = len(self.queries)
        while left:
            now, _, kind, what = heapq.heappop(self.heap)
            left -= bool(getattr(self, "on_" + kind)(now, what))
        answer = np.array([query.answer for query in self.queries])
        return Outcome(self.latency, self.latency <= GOOD_BASE_S + GOOD_TOKEN_S * answer)

    def on_arrive(self, now: float, query: Query) -> None:
        """A query at its gateway, new or lost before."""
        host = self.send(now, query)
        after = self.policy.hedge_after(query, host)
        if after is not None:
            self.push(now + after, "hedge", query)

    def send(self, now: float, query: Query) -> int:
        """Choose a host and send it there."""
        tried = self.tried.setdefault(query.number, set())
        host = self.policy.choose(query, now, tried)
        tried.add(host)
        self.attempts[query.number] = self.attempts.get(query.number, 0) + 1
        self.flying.setdefault(query.number, set()).add(host)
        self.policy.sent(query, host, now)
        self.push(now + self.world.rtt_s[query.gateway, host] / 2, "reach", (query, host))
        return host

    def on_hedge(self, now: float, query: Query) -> None:
        """A query is late: send a copy, if that is allowed and there is but one."""
        flying = self.flying[query.number]
        if len(flying) == 1 and self.attempts[query.number] < ATTEMPTS and self.policy.may_hedge(query):
            self.copies += 1
            self.send(now, query)

    def on_withdraw(self, now: float, what: tuple[Query, int]) -> None:
        """A copy is no longer wanted at its host."""
        query, host = what
        site = self.sites[host]
        if site.running.pop(query.number, None) is not None:
            self.fill(now, host)
        elif query in site.waiting:
            site.waiting.remove(query)

    def fill(self, now: float, host: int) -> None:
        """The next in the queue, if a slot is free."""
        site = self.sites[host]
        if site.waiting and len(site.running) < site.host.slots:
            self.start(now, site.waiting.popleft(), host)

    def on_reach(self, now: float, what: tuple[Query, int]) -> None:
        """A query at a host."""
        query, host = what
        site = self.sites[host]
        if site.down:
            self.lose(now, query, host, site.down)
        elif len(site.running) < site.host.slots:
            self.start(now, query, host)
        else:
            site.waiting.append(query)

    def start(self, now: float, query: Query, host: int) -> None:
        """Work begins."""
        site = self.sites[host]
        fresh = now - site.cached.get(query.session, -np.inf) < CACHED_S
        units = query.prompt * PROMPT_SHARE * (1 - CACHED_SHARE * fresh) + query.answer
        service = units * site.host.token_s * site.slow * query.noise
        site.cached[query.session] = now
        site.running[query.number] = (query, now)
        self.push(now + service, "done", (query, host, now, service, units))

    def on_done(self, now: float, what: tuple[Query, int, float, float, float]) -> None:
        """Work ends, unless the host has fallen since or the query was withdrawn."""
        query, host, began, service, units = what
        site = self.sites[host]
        if site.running.get(query.number) != (query, began):
            return
        del site.running[query.number]
        site.mean_s += 0.05 * (service - site.mean_s)
        site.square += 0.05 * (service**2 - site.square)
        self.push(now + self.world.rtt_s[query.gateway, host] / 2, "answer", (query, host, service, units))
        self.fill(now, host)

    def on_answer(self, now: float, what: tuple[Query, int, float, float]) -> bool:
        """An answer at its gateway."""
        query, host, service, units = what
        flying = self.flying[query.number]
        if host not in flying:
            return False
        self.policy.ended(query, host, now, service, units)
        flying.discard(host)
        for other in sorted(flying):
            self.policy.withdrawn(query, other, now)
            self.push(now + self.world.rtt_s[query.gateway, other] / 2, "withdraw", (query, other))
        flying.clear()
        self.latency[query.number] = now - query.at_s
        return True

    def lose(self, now: float, query: Query, host: int, how: str) -> None:
        """A query is lost; its gateway learns of it later."""
        after = HANG_S if how == "hang" else self.world.rtt_s[query.gateway, host] / 2
        self.push(now + after, "lost", (query, host))

    def on_lost(self, now: float, what: tuple[Query, int]) -> bool:
        """The gateway knows: try elsewhere, or give up."""
        query, host = what
        flying = self.flying[query.number]
        if host not in flying:
            return False
        self.policy.ended(query, host, now, None, 0.0)
        flying.discard(host)
        if flying:
            return False
        if self.attempts[query.number] >= ATTEMPTS:
            return True
        self.on_arrive(now, query)
        return False

    def on_fault(self, now: float, fault: Fault) -> None:
        """A host falls, slows down or is silent."""
        site = self.sites[fault.host]
        if fault.kind == "silent":
            site.silent = True
        elif fault.kind == "slow":
            site.slow = 2.5
        elif not site.down:
            site.down = fault.kind
            for query in [*(query for query, _ in site.running.values()), *site.waiting]:
                self.lose(now, query, fault.host, fault.kind)
            site.running, site.waiting, site.cached = {}, deque(), {}

    def on_mend(self, now: float, fault: Fault) -> None:
        """It is over."""
        site = self.sites[fault.host]
        if fault.kind == "silent":
            site.silent = False
        elif fault.kind == "slow":
            site.slow = 1.0
        elif site.down == fault.kind:
            site.down = ""

    def on_tick(self, now: float, host: int) -> None:
        """A host tells every gateway how many queries it has, and what work that is by its own means: what
        is left of one that runs is that of a renewal process. And at what pace it works, a tenth off."""
        site = self.sites[host]
        self.push(now + REPORT_S, "tick", host)
        if site.silent or site.down:
            return
        count = len(site.running) + len(site.waiting)
        rest = site.square / (2 * site.mean_s)
        work = len(site.running) * rest + len(site.waiting) * site.mean_s
        pace = site.slow * float(self.random.lognormal(0, 0.1)) if site.running else 1.0
        for gateway in range(GATEWAYS):
            at = now + self.world.rtt_s[gateway, host] / 2
            self.push(at, "report", (gateway, host, count, work, now, pace))

    def on_report(self, now: float, what: tuple[int, int, int, float, float, float]) -> None:
        """A report at a gateway."""
        self.policy.reported(*what)

"""Question: do queries come back sooner when their route is computed, on real traffic, with hosts that fail?

Workload: `benchmarks.trace_world`. Five ways to choose: round robin; least load; the less loaded of two random hosts;
cache-aware (the session's host unless it is much more loaded than the least); and the product's QIRCE, one table for
each gateway, in virtual time. All count their own queries, all leave out a host for a while after a loss, all get the
same reports and the same declared speeds (a quarter off, which all but round robin may use or not), and all retry
alike. Only ours reads the pace that reports tell, learns speeds, and hedges (at most one copy for twenty queries). Each
has its parameters tuned on the first half hour of one world, by p99 divided by goodput, and is judged on the second, in
that world and in three others.

Not the whole gateway: ours are the product's table, choice, ejection and budget of copies, with a band of its own and
told what share a prompt's token takes and what a cached one saves; the gateway's `QueryRouteEngine` learns these, keeps
its own rules for all, and sends no copy behind a first piece.

Measure: goodput is the share of queries answered within 3 s and 40 ms a token. `p99_ratio`: ours by the best of the
others'; `goodput_ratio`: ours by the best of the others'. Twice: with room to spare, and crowded (half the slots).
"""

# ruff: noqa: ARG002  methods of policies have the signatures of `Policy`

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.report import Bounds, arguments, print_report
from benchmarks.trace_world import (
    CACHED_SHARE,
    GATEWAYS,
    HALF_S,
    HOSTS,
    PROMPT_SHARE,
    Policy,
    Query,
    Run,
    World,
    make_world,
)
from daitn.decision.query_route.choosing import Choice, ChoiceRules, QueryAsked, choose, random_state
from daitn.decision.query_route.ejection import Ejector
from daitn.decision.query_route.hedging import HedgeBudget, hedge_after_s
from daitn.decision.query_route.replicas import ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior

BOUNDS: Bounds = {"p99_ratio": ("<=", 0.7), "goodput_ratio": (">=", 1.0)}
SEEDS = (1, 2, 3)
TUNED_IN = 0
ROOMY, CROWDED = 2, 1
"""Times the slots: all hosts together are busy for 0.28 and 0.55 of the time on average, 0.4 and 0.8 in the busiest
minutes, before faults."""
Make = Callable[[World], Policy]
Rows = dict[str, dict[str, float]]


class Counting(Policy):
    """What the simple policies share: reported and own counts, and hosts left out after a loss."""

    def __init__(self, world: World, *, out_s: float, by_speed: bool = False) -> None:
        self.world, self.out_s = world, out_s
        self.own = np.zeros((GATEWAYS, HOSTS))
        self.others = np.zeros((GATEWAYS, HOSTS))
        self.out_until = np.zeros((GATEWAYS, HOSTS))
        self.room = np.array([host.slots / (host.declared_token_s if by_speed else 1.0) for host in world.hosts])
        self.random = np.random.default_rng(7)

    def able(self, query: Query, now: float, tried: set[int]) -> list[int]:
        """Hosts that may be chosen."""
        out = self.out_until[query.gateway] > now
        fresh = [host for host in range(HOSTS) if host not in tried]
        return [host for host in fresh if not out[host]] or fresh or list(range(HOSTS))

    def load(self, gateway: int) -> Any:
        """Queries at each host by its room, one more included."""
        return (self.own[gateway] + self.others[gateway] + 1) / self.room

    def sent(self, query: Query, host: int, now: float) -> None:
        """Counted at once."""
        self.own[query.gateway, host] += 1

    def ended(self, query: Query, host: int, now: float, service_s: float | None, units: float) -> None:
        """No longer counted; a loss leaves the host out."""
        self.own[query.gateway, host] -= 1
        if service_s is None:
            self.out_until[query.gateway, host] = now + self.out_s

    def reported(self, gateway: int, host: int, count: int, work_s: float, at: float, pace: float) -> None:
        """What is there beside one's own."""
        self.others[gateway, host] = max(0.0, count - self.own[gateway, host])


class RoundRobin(Counting):
    """The next host."""

    next = 0

    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """See the class."""
        hosts = self.able(query, now, tried)
        self.next += 1
        return hosts[self.next % len(hosts)]


class LeastLoad(Counting):
    """The host with the fewest queries for its room."""

    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """See the class."""
        hosts, load = self.able(query, now, tried), self.load(query.gateway)
        return min(hosts, key=lambda host: (load[host], self.random.random()))


class TwoChoices(Counting):
    """The less loaded of two random hosts."""

    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """See the class."""
        hosts, load = self.able(query, now, tried), self.load(query.gateway)
        drawn = [int(host) for host in self.random.choice(hosts, min(2, len(hosts)), replace=False)]
        return min(drawn, key=lambda host: float(load[host]))


class CacheAware(LeastLoad):
    """The session's host, unless it has more than so many times the least load."""

    def __init__(self, world: World, *, out_s: float, by_speed: bool, times: float) -> None:
        super().__init__(world, out_s=out_s, by_speed=by_speed)
        self.times = times
        self.holder: dict[int, int] = {}

    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """See the class."""
        hosts, load = self.able(query, now, tried), self.load(query.gateway)
        holder = self.holder.get(query.session, -1)
        if holder in hosts and load[holder] <= self.times * min(load[host] for host in hosts):
            return holder
        chosen: int = super().choose(query, now, tried)
        self.holder[query.session] = chosen
        return chosen


class Routed(Policy):
    """The product's tables, choices and ejection, for each gateway its own."""

    def __init__(self, world: World, *, late_z: float, queue: float) -> None:
        self.rules = ChoiceRules(band=0.05, queue_weight=queue)
        self.tables = [ReplicaTable() for _ in range(GATEWAYS)]
        self.ejectors = [Ejector() for _ in range(GATEWAYS)]
        self.random = random_state(7)
        self.late_z = late_z
        self.budgets = [HedgeBudget() for _ in range(GATEWAYS)]
        self.numbers: dict[tuple[int, int], int] = {}
        self.expected: dict[int, Choice] = {}
        self.holder: dict[int, int] = {}
        self.answers = [200.0, 40_000.0]
        for gateway, table in enumerate(self.tables):
            for number, host in enumerate(world.hosts):
                path = float(world.rtt_s[gateway, number])
                prior = ServicePrior(0.05, host.declared_token_s, 0.3, 0.3)
                table.add(str(number), ReplicaFacts(slots=host.slots, path_s=path, path_dev_s=path / 10, service=prior))

    def choose(self, query: Query, now: float, tried: set[int]) -> int:
        """Hosts tried before are closed for this one choice."""
        table = self.tables[query.gateway]
        for name in self.ejectors[query.gateway].returning(now):
            table.set_open(name, True)
        closed = [str(host) for host in tried if table.rows[host, 0]]
        for name in closed:
            table.set_open(name, False)
        holder = self.holder.get(query.session, -1)
        prompt = query.prompt * PROMPT_SHARE
        saves = prompt * CACHED_SHARE * table.rows[holder, 12] if holder >= 0 else 0.0
        asked = QueryAsked(
            size=prompt + self.answers[0], size_var=self.answers[1], affine=holder, affine_saves_s=float(saves)
        )
        choice = choose(table.rows, asked, now, self.random, rules=self.rules)
        for name in closed:
            table.set_open(name, True)
        place = choice.place if choice.place >= 0 else int(np.random.default_rng(query.number).integers(HOSTS))
        self.expected[query.number] = choice
        if not tried:
            self.budgets[query.gateway].earn()
        self.holder[query.session] = place
        return place

    def sent(self, query: Query, host: int, now: float) -> None:
        """Reserved at the moment of choice."""
        table = self.tables[query.gateway]
        work = self.expected[query.number].service_s
        work = work if np.isfinite(work) else 1.0
        self.numbers[query.number, host] = table.sent(host, work, now)

    def ended(self, query: Query, host: int, now: float, service_s: float | None, units: float) -> None:
        """Learn from answers, eject after losses."""
        table, ejector = self.tables[query.gateway], self.ejectors[query.gateway]
        table.ended(self.numbers.pop((query.number, host)), lost=service_s is None)
        if service_s is None:
            if ejector.lost(str(host), HOSTS, now):
                table.set_open(str(host), False)
            return
        table.learnt(str(host), units, service_s)
        row = table.rows[host]
        ejector.answered(str(host), service_s, float(row[11] + row[12] * units), HOSTS, now)
        off = query.answer - self.answers[0]
        self.answers[0] += 0.01 * off
        self.answers[1] += 0.01 * (off * off - self.answers[1])

    def hedge_after(self, query: Query, host: int) -> float | None:
        """As late as was decided."""
        return hedge_after_s(self.expected[query.number], self.late_z)

    def may_hedge(self, query: Query) -> bool:
        """Within the gateway's budget."""
        return self.budgets[query.gateway].take()

    def withdrawn(self, query: Query, host: int, now: float) -> None:
        """No longer counted there, and no sign of a fault."""
        self.tables[query.gateway].ended(self.numbers.pop((query.number, host)))

    def reported(self, gateway: int, host: int, count: int, work_s: float, at: float, pace: float) -> None:
        """As it comes."""
        self.tables[gateway].reported(str(host), count, work_s, at, pace)


def ways() -> dict[str, list[tuple[str, Make]]]:
    """Each way to choose, with the parameters among which it is tuned."""
    found: dict[str, list[tuple[str, Make]]] = {}
    for out_s in (5.0, 30.0):
        add(found, "round robin", f"out {out_s} s", partial(RoundRobin, out_s=out_s))
        for speed in (False, True):
            said = f"out {out_s} s, by speed {speed}"
            add(found, "least load", said, partial(LeastLoad, out_s=out_s, by_speed=speed))
            add(found, "two choices", said, partial(TwoChoices, out_s=out_s, by_speed=speed))
            for times in (1.5, 3.0):
                cached = partial(CacheAware, out_s=out_s, by_speed=speed, times=times)
                add(found, "cache-aware", f"{said}, {times} times", cached)
    for late_z in (1.5, 2.5, 3.5):
        for queue in (2.0, 5.0):
            make = partial(Routed, late_z=late_z, queue=queue)
            add(found, "routed", f"late {late_z}, queue {queue}", make)
    return found


def add(found: dict[str, list[tuple[str, Make]]], name: str, said: str, make: Make) -> None:
    """One more set of parameters."""
    found.setdefault(name, []).append((said, make))


def judge(world: World, policy: Policy, first: bool) -> dict[str, float]:
    """Run a policy; what became of the queries of the first or the second half hour."""
    run = Run(world, policy, HALF_S if first else 2 * HALF_S)
    outcome = run.run()
    mine = np.array([(query.at_s < HALF_S) == first for query in run.queries])
    latency = outcome.latency_s[mine]
    p50, p95, p99 = (float(np.quantile(latency, share, method="lower")) for share in (0.5, 0.95, 0.99))
    return {
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "goodput": float(outcome.good[mine].mean()),
        "unanswered": float(np.isinf(latency).sum()),
        "copies_frac": run.copies / len(run.queries),
    }


def tune(room: int, said: list[str]) -> dict[str, Make]:
    """The best parameters of each way in the first half hour of one world."""
    world = make_world(TUNED_IN, room)
    tuned: dict[str, Make] = {}
    for name, choices in ways().items():
        scores = []
        for _, make in choices:
            found = judge(world, make(world), first=True)
            scores.append(found["p99_s"] / found["goodput"])
        best = int(np.argmin(scores))
        tuned[name] = choices[best][1]
        said.append(f"room {room}, {name}: tuned to {choices[best][0]}")
    return tuned


def compare(room: int, seeds: tuple[int, ...], said: list[str]) -> tuple[Rows, dict[str, float]]:
    """Means over worlds of each way, and the ratios of ours."""
    tuned = tune(room, said)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in tuned}
    for seed in seeds:
        world = make_world(seed, room)
        for name, make in tuned.items():
            rows[name].append(judge(world, make(world), first=False))
            shown = ", ".join(f"{key} {value:.3f}" for key, value in rows[name][-1].items())
            said.append(f"room {room}, world {seed}, {name}: {shown}")
    mean = {
        name: {key: statistics.fmean(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    others = [name for name in mean if name != "routed"]
    ratios = {
        "p99_ratio": mean["routed"]["p99_s"] / min(mean[name]["p99_s"] for name in others),
        "goodput_ratio": mean["routed"]["goodput"] / max(mean[name]["goodput"] for name in others),
        "p99_ratio_worst_world": max(
            ours["p99_s"] / min(rows[name][place]["p99_s"] for name in others)
            for place, ours in enumerate(rows["routed"])
        ),
    }
    return mean, ratios


def main() -> None:
    """Tune, judge, print: with room to spare, and crowded."""
    asked = arguments(__doc__)
    said: list[str] = []
    seeds = (TUNED_IN,) if asked.quick else (TUNED_IN, *SEEDS)
    mean, ratios = compare(ROOMY, seeds, said)
    figures = ratios | mean.pop("routed")
    peers = dict(mean)
    if not asked.quick:
        crowded, crowded_ratios = compare(CROWDED, seeds, said)
        figures |= {f"crowded_{key}": value for key, value in (crowded_ratios | crowded.pop("routed")).items()}
        peers |= {f"crowded, {name}": row for name, row in crowded.items()}
    print_report("trace", figures, peers, seeds, only_json=asked.json, said=said, bounds=BOUNDS)


if __name__ == "__main__":
    main()

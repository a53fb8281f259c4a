"""Question: how long does the choice of a host for one query take?

Workload: 1,000 and 10,000 replicas of all kinds (regions, zones, prices, slots, learnt service, reports of different
age, queries of ours since), queries with and without goals in turn. The choice is the product's, from Python to Python;
before the clock runs, what it picks is compared with the plain account of every replica. Sending is counted apart.

Peer, in the same run: the same arithmetic by numpy over columns, without two choices, affinity and exploration.
"""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np

from benchmarks.report import Bounds, arguments, print_report
from daitn.decision.query_route.choosing import ChoiceRules, QueryAsked, choose, random_state
from daitn.decision.query_route.explaining import explain
from daitn.decision.query_route.replicas import Column, Floats, ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior

NOW_S = 100.0
BOUNDS: Bounds = {"us_1000": ("<=", 50.0), "us_10000": ("<=", 300.0)}
PLAIN = ChoiceRules(explore_frac=0.0, band=0.0, sticky_queue_s=-1.0)
QUERIES = (
    QueryAsked(size=20.0),
    QueryAsked(size=200.0, size_var=900.0, deadline_s=3.0, price_s=0.1, wrong_s=0.5),
    QueryAsked(size=50.0, deadline_s=2.0, correct_least=0.7, region=2, price_most=0.8),
    QueryAsked(size=10.0, zone=1, affine=17, affine_saves_s=0.1),
)


def make_table(replicas: int, seed: int) -> ReplicaTable:
    """Replicas of all kinds, in the middle of their work."""
    rng = np.random.default_rng(seed)
    table = ReplicaTable()
    for number in range(replicas):
        facts = ReplicaFacts(
            region=int(rng.integers(5)),
            zone=int(rng.integers(3)),
            slots=int(rng.integers(1, 9)),
            path_s=rng.uniform(0.001, 0.2),
            path_dev_s=rng.uniform(0.0, 0.05),
            price=rng.uniform(0, 1),
            correct=rng.uniform(0.5, 1),
            service=ServicePrior(rng.uniform(0.01, 0.3), rng.uniform(0.0005, 0.01)),
        )
        table.add(f"replica-{number}", facts)
        table.reported(f"replica-{number}", int(rng.integers(0, 20)), rng.uniform(0, 5), NOW_S - rng.exponential(2.0))
        for _ in range(int(rng.integers(0, 3))):
            table.sent(number, rng.uniform(0, 1), NOW_S)
        table.learnt(f"replica-{number}", rng.uniform(1, 100), rng.uniform(0.05, 1))
    return table


def check(table: ReplicaTable) -> None:
    """SystemExit where the compiled choice is not the least cost of the plain account."""
    for query in QUERIES:
        choice = choose(table.rows, query, NOW_S, random_state(1), rules=PLAIN)
        weighed = explain(table.rows, table.names, query, NOW_S, rules=PLAIN)
        least = min(one.cost_s for one in weighed if not one.held_back_by)
        if abs(weighed[choice.place].cost_s - least) > 1e-9:
            raise SystemExit(f"chose {weighed[choice.place]}, the least cost is {least}")


def by_columns(rows: Floats, query: QueryAsked) -> int:
    """The peer: the same arithmetic, column after column."""
    age = np.clip(NOW_S - rows[:, Column.REPORTED_S], 0, 60)
    slots, pace = rows[:, Column.SLOTS], rows[:, Column.PACE]
    count = rows[:, Column.COUNT] + rows[:, Column.OWN_COUNT]
    work = rows[:, Column.WORK_S] + rows[:, Column.OWN_WORK_S]
    queue = np.where(count + 1 > slots, work / slots * (count + 1 - slots) / np.maximum(count, 1), 0)
    mean = np.maximum((rows[:, Column.BASE_S] + rows[:, Column.UNIT_S] * query.size) * pace, 1e-6)
    doubt = rows[:, Column.VAR_BASE] + 2 * query.size * rows[:, Column.VAR_BOTH]
    doubt += (query.size**2 + query.size_var) * rows[:, Column.VAR_UNIT]
    noise = rows[:, Column.NOISE]
    variance = noise * (mean**2 + doubt * pace**2) + (rows[:, Column.UNIT_S] * pace) ** 2 * query.size_var
    variance += rows[:, Column.PATH_VAR] + rows[:, Column.DRIFT_VAR] * age + queue * mean * noise
    faulty = np.minimum(rows[:, Column.FAULTY], 0.9)
    completion = rows[:, Column.PATH_S] + faulty / (1 - faulty) + queue + mean
    price = rows[:, Column.PRICE] + rows[:, Column.PRICE_UNIT] * query.size
    able = (rows[:, Column.OPEN] > 0) & (rows[:, Column.LEASED] != 0) & (price <= query.price_most)
    able &= (rows[:, Column.CORRECT] >= query.correct_least) & (
        (rows[:, Column.REGION] == query.region) | (query.region < 0)
    )
    able &= (rows[:, Column.ZONE] == query.zone) | (query.zone < 0)
    able &= completion + 1.645 * np.sqrt(variance) <= query.deadline_s
    cost = (
        completion
        + queue
        + 0.5 * np.sqrt(variance)
        + price * query.price_s
        + (1 - rows[:, Column.CORRECT]) * query.wrong_s
    )
    return int(np.where(able, cost, np.inf).argmin())


def main() -> None:
    """Check, then time, at both sizes."""
    asked = arguments(__doc__)
    figures: dict[str, float] = {}
    peer: dict[str, float] = {}
    for replicas in (1_000, 10_000):
        table = make_table(replicas, seed=replicas)
        check(table)
        rows, random = table.rows, random_state(1)
        times, columns = [], []
        for query in itertools.islice(itertools.cycle(QUERIES), 1_000 if asked.quick else 10_000):
            began = time.perf_counter_ns()
            choose(rows, query, NOW_S, random)
            times.append(time.perf_counter_ns() - began)
        for query in itertools.islice(itertools.cycle(QUERIES), 200):
            began = time.perf_counter_ns()
            by_columns(rows, query)
            columns.append(time.perf_counter_ns() - began)
        times.sort()
        figures[f"us_{replicas}"] = statistics.median(times) / 1e3
        figures[f"us_{replicas}_p95"] = times[int(0.95 * len(times))] / 1e3
        peer[f"us_{replicas}"] = statistics.median(columns) / 1e3
    table = make_table(1_000, seed=1)
    began = time.perf_counter_ns()
    sent = [table.sent(number, 0.1, NOW_S) for number in range(1_000)]
    for query_number in sent:
        table.ended(query_number)
    figures["us_sent_and_ended"] = (time.perf_counter_ns() - began) / 1e6
    print_report("decision", figures, {"numpy columns": peer}, [1], only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

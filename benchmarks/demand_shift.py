"""Question: does a model follow demand that changes its region, and what does that gain and cost?

Workload: virtual time. Eight regions with a gateway and two hosts each, round trips between them as PlanetLab measured
them between eight of its sites; one model of 200 MB, one to three replicas, 5 ms a query. Within two hours 60 queries a
second wander: each half hour another region asks most, handing over within ten minutes, as working days do; every
other region asks a little. Gateways count what arrives (Poisson) and tell it every two seconds.

What follows is the product's: `DemandBook` makes levels and forecasts, `PlacementSought` is solved when a forecast has
changed by a step, with the costs of replicas, moves and changes. A new replica answers once it was fetched (25 MB/s)
and started; an old one answers until then. Hosts are near enough to idle that queues play no part.

Measure: the mean latency of all queries (round trip to the nearest replica and service), beside *still*: the best
places for the first ten minutes, kept; and *optimum*: at each moment the best places for demand as it then is, moved in
no time for nothing, with as many replicas as the goal allows. `share_of_optimum`: of what the optimum saves over
`still`, so much is saved. `moves` and `moved_mb`: replicas that were fetched, and their bytes.
"""

from __future__ import annotations

import gzip
import itertools
import math
import statistics
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Bounds, arguments, print_report
from benchmarks.trace_world import data
from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.demand_book import Asked, DemandBook
from daitn.control_center.inference.placing import STEP
from daitn.decision.model_placement import START_S, DemandSeen, HostOffered, PlacementSought
from daitn.wire.center_serving import DemandTold, QueriesOf

BOUNDS: Bounds = {"share_of_optimum": (">=", 0.8)}
REGIONS, HOSTS_EACH = 8, 2
LEAST, MOST = 1, 3
MODEL = ModelName("follows")
MODEL_BYTES, BYTES_PER_S = 200_000_000, 25_000_000.0
SERVICE_S, SERVES_PER_S = 0.005, 400.0
ASKED_PER_S, ELSEWHERE_FRAC = 60.0, 0.03
PERIOD_S, HANDOVER_S, LASTS_S = 1800.0, 600.0, 7200.0
TELL_S = 2.0

Floats = NDArray[np.float64]

_PLACES = np.array(list(itertools.combinations(range(REGIONS), MOST)))
"""All P sets of regions, as many as replicas may be."""


class World(NamedTuple):
    """Round trips between regions (s), and which region asks most in each period."""

    trip_RR: Floats
    order: tuple[int, ...]


class Played(NamedTuple):
    """Mean latency of all queries, and what was moved."""

    mean_s: float
    moves: int


def make_world(seed: int) -> World:
    """Eight sites of PlanetLab, drawn; regions take turns."""
    rng = np.random.default_rng(seed)
    with gzip.open(data("latency/PlanetLabData_1.txt.gz"), "rt") as file:
        trips = np.array([[float(word) for word in line.split()] for line in file if line.strip()])
    sites = rng.choice(len(trips), REGIONS, replace=False)
    trip_RR = trips[np.ix_(sites, sites)] / 1000
    trip_RR = (trip_RR + trip_RR.T) / 2
    np.fill_diagonal(trip_RR, 0.002)
    return World(trip_RR, tuple(int(one) for one in rng.permutation(REGIONS)[: int(LASTS_S / PERIOD_S)]))


def asked_at(world: World, at_s: float) -> Floats:
    """Queries a second from each region."""
    period = int(at_s / PERIOD_S)
    rate = np.full(REGIONS, ASKED_PER_S * ELSEWHERE_FRAC)
    most = ASKED_PER_S - rate.sum()
    handed = min(1.0, (at_s - period * PERIOD_S) / HANDOVER_S) if period else 1.0
    rate[world.order[period]] += most * handed
    if period:
        rate[world.order[period - 1]] += most * (1 - handed)
    return rate


def latency_s(world: World, rate: Floats, regions: set[int]) -> float:
    """Mean over what is asked now, each from its nearest replica."""
    nearest = world.trip_RR[:, sorted(regions)].min(axis=1)
    return float(rate @ nearest / rate.sum()) + SERVICE_S


def best_for(world: World, rate: Floats) -> set[int]:
    """The places of least latency, as many as may be; by trying all."""
    nearest_PR = world.trip_RR[:, _PLACES].min(axis=2).T
    return {int(place) for place in _PLACES[int((nearest_PR @ rate).argmin())]}


class Following:
    """The product's decisions, moment by moment."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._rng = world, np.random.default_rng(seed + 1000)
        self._book = DemandBook()
        self._signature: tuple[int, ...] = ()
        self.held: dict[int, float] = {}
        """Hosts that have the model or will, and from when they answer."""
        self._leaving: dict[int, float] = {}
        """Hosts that answer until others do."""
        self.moves = 0

    def serving(self, now_s: float) -> set[int]:
        """Regions from which it is answered now."""
        hosts = [host for host, from_s in self.held.items() if from_s <= now_s]
        hosts += [host for host, until_s in self._leaving.items() if now_s < until_s]
        return {host // HOSTS_EACH for host in hosts}

    def tick(self, now_s: float) -> None:
        """Gateways tell what arrived; places are thought over where that is another demand."""
        now_ns = int(now_s * 1e9)
        counts = self._rng.poisson(asked_at(self._world, now_s) * TELL_S)
        for region, count in enumerate(counts):
            of = (QueriesOf(model=MODEL, queries=int(count)),) if count else ()
            told = DemandTold(seconds=TELL_S, counts=of)
            self._book.take(NodeId(f"g{region}"), f"r{region}", told, [MODEL], now_ns)
        asked = self._book.asked(MODEL, now_ns)
        signature = tuple(round(math.log(max(one.forecast_per_s, 1e-3)) / math.log(STEP)) for one in asked)
        if signature != self._signature:
            self._signature = signature
            self._place(now_s, asked)

    def _place(self, now_s: float, asked: tuple[Asked, ...]) -> None:
        hosts = tuple(
            HostOffered(
                node=NodeId(f"h{host}"),
                region=f"r{host // HOSTS_EACH}",
                held=host in self.held,
                memory_frac=0.1,
                move_s=MODEL_BYTES / BYTES_PER_S,
                service_s=SERVICE_S,
                serves_per_s=SERVES_PER_S,
                path_s=tuple(float(self._world.trip_RR[host // HOSTS_EACH, int(one.gateway[1:])]) for one in asked),
            )
            for host in range(REGIONS * HOSTS_EACH)
        )
        demands = tuple(
            DemandSeen(region=one.region, asked_per_s=one.forecast_per_s, spread_per_s=one.spread_per_s)
            for one in asked
        )
        plan = PlacementSought(model=MODEL, hosts=hosts, demands=demands, least=LEAST, most=MOST).solve()
        chosen = {int(node[1:]) for node in plan.nodes}
        begun = not self.held
        for host in chosen - set(self.held):
            self.held[host] = now_s if begun else now_s + START_S + MODEL_BYTES / BYTES_PER_S
            self.moves += not begun
        ready_s = max(self.held[host] for host in chosen)
        for host in set(self.held) - chosen:
            if self.held.pop(host) <= now_s:
                self._leaving[host] = max(ready_s, now_s)


def play(world: World, seed: int) -> dict[str, Played]:
    """All three ways over the same demand."""
    following = Following(world, seed)
    early: Floats = np.mean([asked_at(world, at_s) for at_s in np.arange(0, 600, TELL_S)], axis=0)
    still = best_for(world, early)
    last: set[int] = set()
    took: dict[str, list[float]] = {"ours": [], "still": [], "optimum": []}
    optimum_moves = 0
    for at_s in np.arange(0.0, LASTS_S, TELL_S):
        rate = asked_at(world, float(at_s))
        following.tick(float(at_s))
        best = best_for(world, rate)
        optimum_moves += len(best - last) if last else 0
        last = best
        took["ours"].append(latency_s(world, rate, following.serving(float(at_s))))
        took["still"].append(latency_s(world, rate, still))
        took["optimum"].append(latency_s(world, rate, best))
    moves = {"ours": following.moves, "still": 0, "optimum": optimum_moves}
    return {name: Played(statistics.fmean(times), moves[name]) for name, times in took.items()}


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__)
    seeds = range(2 if asked.quick else 5)
    found = [play(make_world(seed), seed) for seed in seeds]
    means = {name: statistics.fmean(one[name].mean_s for one in found) for name in ("ours", "still", "optimum")}
    shares = [
        (one["still"].mean_s - one["ours"].mean_s) / (one["still"].mean_s - one["optimum"].mean_s) for one in found
    ]
    moves = statistics.fmean(one["ours"].moves for one in found)
    figures = {
        "mean_ms": 1000 * means["ours"],
        "share_of_optimum": (means["still"] - means["ours"]) / (means["still"] - means["optimum"]),
        "share_least": min(shares),
        "moves": moves,
        "moved_mb": moves * MODEL_BYTES / 1e6,
    }
    others = {
        name: {"mean_ms": 1000 * means[name], "moves": statistics.fmean(one[name].moves for one in found)}
        for name in ("still", "optimum")
    }
    print_report("demand_shift", figures, others, list(seeds), only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

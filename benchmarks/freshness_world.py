"""The world that `benchmarks.freshness` measures in: terminals whose facts move as recorded traces say.

What is replayed. *Churn*: failure intervals of 34 services (cloud-uptime-archive); a terminal follows one service from
a seeded moment on: it computes slower by the recorded share, and not at all where that is 1. *Load*: requests of a
language-model service (Azure), thinned by chance to each terminal's utilisation, through its queue. *Speeds*: those of
phones of the AI benchmark. *Latencies*: PlanetLab round trips between requesters, sites and the centre; they delay
reports, and are part of what is decided on.

The decision. A requester asks for the `CHOSEN` terminals that would complete a task soonest: round trip + wait + work
over speed. The error is how much later those chosen on the map complete than the best ones would have: one that is down
costs `PATIENCE_S` and is replaced by the next that the map names.

Legend: N terminals, D decisions, R requesters.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.describe.reporting import registered_shape

Floats = NDArray[np.float64]

CHOSEN: Final = 3
PATIENCE_S: Final = 4.0
"""The default patience of a domain."""
WORK: Final = 20.0
"""Work of the task that is placed, in seconds at median speed."""
LOAD: Final = registered_shape("load")
CAPACITY: Final = registered_shape("capacity")
WAIT, SLOTS, SPEED = LOAD.facts.index("wait_s"), CAPACITY.facts.index("slots"), CAPACITY.facts.index("flops")
FLOPS: Final = 1e9
"""FLOP/s of median speed."""


class Track(msgspec.Struct):
    """How one group of one terminal moves: from each moment on, these values."""

    at_s: Floats
    values: Floats
    """(moments, facts)."""

    def when(self, moments_s: Floats) -> Floats:
        """Values at some moments; those before the first are the first."""
        return np.asarray(self.values[np.maximum(0, np.searchsorted(self.at_s, moments_s, side="right") - 1)])


class World(msgspec.Struct):
    """One seed's terminals and what is asked of them."""

    load: list[Track]
    capacity: list[Track]
    site_of: NDArray[np.int64]
    delay_s: Floats
    """(N,): from a terminal's site to the centre, one way."""
    round_trip_RN: Floats
    asked_s: Floats
    """(D,): moments of decisions."""
    asker: NDArray[np.int64]
    """(D,): who decides."""
    horizon_s: float
    warm_s: float
    """Decisions before this do not count: rules are learning, maps are empty."""


def read_latencies(data: Path) -> Floats:
    """Round trips between all nodes in seconds; missing ones are the median."""
    with gzip.open(data / "latency" / "PlanetLabData_1.txt.gz", "rt") as lines:
        matrix = np.array([[float(one) for one in line.split()] for line in lines if line.strip()])
    matrix = (matrix + matrix.T) / 2000.0
    return np.asarray(np.where(matrix > 0, matrix, np.median(matrix[matrix > 0])))


def read_failures(data: Path) -> dict[str, Floats]:
    """By service: (start_s, end_s, share lost), sorted."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    with gzip.open(data / "availability_load" / "cua_service_failures.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            interval = (float(row["start_time"]), float(row["end_time"]), float(row["status"]))
            rows.setdefault(row["trace"], []).append(interval)
    return {name: np.array(sorted(found)) for name, found in sorted(rows.items())}


def read_requests(data: Path) -> Floats:
    """(arrival_s, tokens made) of each request."""
    with gzip.open(data / "azure_llm" / "AzureLLMInferenceTrace_conv.csv.gz", "rt") as lines:
        rows = [(row["TIMESTAMP"], float(row["GeneratedTokens"])) for row in csv.DictReader(lines)]
    moments = np.array([np.datetime64(stamp[:26].strip().replace(" ", "T")) for stamp, _ in rows])
    seconds = (moments - moments[0]) / np.timedelta64(1, "s")
    return np.stack([seconds, np.array([tokens for _, tokens in rows])], axis=1)


def read_speeds(data: Path) -> Floats:
    """Speeds of phones relative to their median."""
    with open(data / "device_capacity" / "ai_benchmark_venn.csv") as lines:
        speeds = np.array([float(row["speed"]) for row in csv.DictReader(lines)])
    speeds = speeds[speeds > 0]
    return np.asarray(speeds / np.median(speeds))


def make_world(data: Path, seed: int, *, terminals: int, per_site: int, horizon_s: float, every_s: float) -> World:
    """One seed's world."""
    rng = np.random.default_rng(seed)
    round_trip, failures, requests = read_latencies(data), read_failures(data), read_requests(data)
    speeds = read_speeds(data)
    names = list(failures)
    sites = -(-terminals // per_site)
    places = rng.permutation(len(round_trip))
    centre, site_places, asker_places = places[0], places[1 : 1 + sites], places[1 + sites : 1 + sites + 40]
    site_of = np.arange(terminals) // per_site
    load: list[Track] = []
    capacity: list[Track] = []
    for _ in range(terminals):
        slots, speed = int(rng.integers(1, 9)), float(rng.choice(speeds))
        lost = _churn(failures[names[rng.integers(len(names))]], rng, horizon_s)
        capacity.append(_capacity_track(lost, slots, speed))
        load.append(_load_track(requests, rng, lost, slots, speed, horizon_s))
    asked = np.arange(every_s, horizon_s, every_s)
    return World(
        load=load,
        capacity=capacity,
        site_of=site_of,
        delay_s=round_trip[site_places[site_of], centre] / 2,
        round_trip_RN=round_trip[np.ix_(asker_places, site_places[site_of])],
        asked_s=asked,
        asker=rng.integers(len(asker_places), size=len(asked)),
        horizon_s=horizon_s,
        warm_s=horizon_s / 4,
    )


def _churn(intervals: Floats, rng: np.random.Generator, horizon_s: float) -> Track:
    """The share of speed that is lost, over the horizon, from a moment of the trace on."""
    began = rng.uniform(0.0, max(1.0, intervals[-1, 1] - horizon_s))
    at, lost = [0.0], [[0.0]]
    for start, end, share in intervals[(intervals[:, 1] > began) & (intervals[:, 0] < began + horizon_s)]:
        at += [max(0.0, start - began), end - began]
        lost += [[min(1.0, max(0.0, share))], [0.0]]
    order = np.argsort(np.array(at), kind="stable")
    return Track(np.array(at)[order], np.array(lost)[order])


def _capacity_track(lost: Track, slots: int, speed: float) -> Track:
    values = np.zeros((len(lost.at_s), len(CAPACITY.facts)))
    up = lost.values[:, 0] < 0.999
    values[:, CAPACITY.facts.index("cores")] = slots
    values[:, SLOTS] = np.where(up, slots, 0)
    values[:, CAPACITY.facts.index("memory_bytes")] = 8e9
    values[:, CAPACITY.facts.index("storage_bytes")] = 1e11
    values[:, SPEED] = speed * FLOPS * np.where(up, 1 - lost.values[:, 0], 1.0)
    return Track(lost.at_s, values)


def _load_track(
    requests: Floats, rng: np.random.Generator, lost: Track, slots: int, speed: float, horizon_s: float
) -> Track:
    """A queue with `slots` servers, first come first served, at the utilisation drawn for it."""
    tokens_per_s = 20.0 * speed
    service = requests[:, 1] / tokens_per_s
    span = requests[-1, 0]
    utilisation = rng.uniform(0.2, 0.95)
    keep = min(1.0, utilisation * slots * span / service.sum())
    moments: list[float] = []
    ends: list[float] = []
    free = np.zeros(slots)
    shift = rng.uniform(0.0, span)
    for lap in range(int(horizon_s // span) + 2):
        mine = rng.random(len(requests)) < keep
        for at, takes in zip(requests[mine, 0] + lap * span - shift, service[mine], strict=True):
            server = int(np.argmin(free))
            begun = max(at, free[server])
            free[server] = begun + takes
            moments.append(at)
            ends.append(begun + takes)
    events = np.concatenate([np.array(moments), np.array(ends)])
    steps = np.concatenate([np.ones(len(moments)), -np.ones(len(ends))])
    order = np.argsort(events, kind="stable")
    at, jobs = events[order], np.cumsum(steps[order])
    inside = (at >= 0) & (at < horizon_s)
    at, jobs = np.concatenate([[0.0], at[inside]]), np.concatenate([[0.0], jobs[inside]])
    at = np.concatenate([at, lost.at_s[lost.at_s < horizon_s]])
    jobs = np.concatenate([jobs, np.full(len(at) - len(jobs), np.nan)])
    order = np.argsort(at, kind="stable")
    at, jobs = at[order], _last_known(jobs[order])
    rate = 1 - lost.when(at)[:, 0]
    busy = np.minimum(jobs, slots)
    values = np.zeros((len(at), len(LOAD.facts)))
    values[:, LOAD.facts.index("load_frac")] = busy / slots
    values[:, LOAD.facts.index("busy_slots")] = busy
    values[:, LOAD.facts.index("free_slots")] = slots - busy
    mean = float(service.mean())
    values[:, WAIT] = np.maximum(0.0, jobs - slots + 1) * mean / slots / np.maximum(0.05, rate)
    values[:, LOAD.facts.index("memory_free_bytes")] = 8e9 * (1 - busy / slots)
    values[:, LOAD.facts.index("storage_free_bytes")] = 1e11
    return Track(at, values)


def _last_known(values: Floats) -> Floats:
    places = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return np.asarray(values[places])


# --- deciding ---------------------------------------------------------------------------------------------------------


def completion(round_trip: Floats, load: Floats, capacity: Floats) -> Floats:
    """Predicted seconds of the task at each terminal; infinite where it has no slots. Facts last, any shape before."""
    seconds = round_trip + load[..., WAIT] + WORK * FLOPS / capacity[..., SPEED]
    return np.asarray(np.where(capacity[..., SLOTS] > 0, seconds, np.inf))


def true_facts(world: World) -> tuple[Floats, Floats]:
    """(D, N, facts) of load and of capacity as they are at each decision."""
    load = np.stack([track.when(world.asked_s) for track in world.load], axis=1)
    capacity = np.stack([track.when(world.asked_s) for track in world.capacity], axis=1)
    return load, capacity


def regrets(known: Floats, true: Floats) -> Floats:
    """(D,): how much longer the choice by `known` seconds takes than the best, as a share, both in `true` seconds."""
    out = np.empty(len(known))
    for place, (mine, real) in enumerate(zip(known, true, strict=True)):
        best = np.sort(real)[:CHOSEN]
        spent = 0.0
        order = np.argsort(mine, kind="stable")
        order = order[np.isfinite(mine[order])] if np.isfinite(mine).sum() >= CHOSEN else order
        costs: list[float] = []
        for terminal in order:
            if np.isinf(real[terminal]):
                spent += PATIENCE_S
            else:
                costs.append(real[terminal])
            if len(costs) == CHOSEN:
                break
        taken = (sum(costs) + spent) / max(1, len(costs))
        out[place] = taken / best[np.isfinite(best)].mean() - 1.0
    return out


def keep_best(scores_N: Floats, chosen: int) -> tuple[Floats, Floats]:
    """For a choice of the `chosen` least scores: how far each score may move so that the choice stands.

    Those chosen may rise to the boundary, the others may fall to it, where the boundary is half-way between the last
    one in and the first one out (Babcock & Olston 2003, the split that needs no history). (low_N, high_N); O(N).
    """
    low, high = np.full(scores_N.shape, -np.inf), np.full(scores_N.shape, np.inf)
    order = np.argpartition(scores_N, [chosen - 1, chosen])
    last_in, first_out = scores_N[order[chosen - 1]], scores_N[order[chosen]]
    boundary = last_in if np.isinf(first_out) else (last_in + first_out) / 2
    if np.isfinite(boundary):
        high[order[:chosen]] = boundary
        low[order[chosen:]] = boundary
    return low, high

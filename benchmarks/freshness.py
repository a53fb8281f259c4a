"""How stale may a map be, and what does keeping it fresh cost? Decision error against bytes (paper V-A).

Question: how many bytes a terminal and second does it take to keep decisions made on the map within an error of those
made on the truth? Workload: `freshness_world`. Ours: the reporting rule at each site, tuned by the orchestrator to
budgets; baselines: every site reports everything in every period, in the same batches and the same packed messages.
Both start with an empty map, and the first quarter does not count. Bytes are those of the real codec: reports, and for
ours also the tunings and their acknowledgements; the headers of the carrier and heartbeats, which are alike, are not.

Seeds. What is set in the product for small budgets was chosen on `SEEDS`; `HELD_OUT` were never looked at before it
was fixed, and are reported beside them, as `…_held_out`.

`bytes_ratio_at_equal_error`: bytes of periodic reporting over bytes of ours at the same error, by interpolation of the
logarithms of both curves (means over the seeds): the median over errors evenly spaced in logarithm between the least
and the most that both reach, with the least and the most of the ratio beside it. A second baseline, `periodic_split`,
knows that capacities change seldom. Holders of views (`freshness_views`): an adapter's deltas against periodic
triggers.

A *cell* is kind/parameter/seed; finished ones are kept in `results/freshness.json` with the hash of their source:

    python -m benchmarks.freshness --cells 'tuned/*/1' --seconds 200

`--quick` runs one cell again, drawn at random, and fails where its error is outside what the seeds spread over.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from blake3 import blake3

from benchmarks import freshness_world as fw
from benchmarks.freshness_views import run_views
from benchmarks.report import make_document, print_report
from daitn.base.effects import Compute, Delivered, Effect, Send, SetTimer, Started, TimerFired, computed
from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S, ns_to_seconds, seconds_to_ns
from daitn.describe.reporting import ReportingRule, registered_shape, report_bytes
from daitn.descriptors.facts import group_named
from daitn.descriptors.plan import FactRange
from daitn.descriptors.reporting import Reading, Tuning
from daitn.terminal.fact_reporter import REPEAT_S, TELL_S, merge_tuning
from daitn.topology.orchestrator import (
    NodeSignalled,
    OrchestratorConfig,
    RangesStated,
    ReadingsAccepted,
    TopologyOrchestrator,
)
from daitn.topology.tuning import TunerConfig
from daitn.wire.codec import encode
from daitn.wire.packed_facts import HEADER, encode_records, record_dtype, records_most
from daitn.wire.topology_tools import Heartbeat, ReportingTuned, TuneReporting

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "freshness.json"
MEASURED: Final = (
    "benchmarks/freshness*.py",
    "src/daitn/describe/damping.py",
    "src/daitn/describe/reporting.py",
    "src/daitn/describe/sweeping.py",
    "src/daitn/descriptors/reporting.py",
    "src/daitn/topology/adapter.py",
    "src/daitn/topology/budget.py",
    "src/daitn/topology/orchestrator.py",
    "src/daitn/topology/thresholds.py",
    "src/daitn/topology/tuning.py",
    "src/daitn/topology/watched.py",
    "src/daitn/wire/packed_facts.py",
)
"""Files on which the figures depend."""
SEEDS: Final = (1, 2, 3, 4, 5)
HELD_OUT: Final = (6, 7, 8, 9, 10)
TUNE_S: Final = 60.0
"""The product's default between two tunings."""
CAPACITY_S: Final = 600.0
"""Of the split baseline: capacities, which change seldom, are told this often."""
LEVELS: Final = 9
KINDS: Final[dict[str, tuple[float, ...]]] = {
    "tuned": (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    "periodic": (1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0, 600.0, 1800.0),
    "periodic-split": (1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0),
    "view-adapter": (0.0,),
    "view-periodic": (5.0, 10.0, 30.0, 60.0, 180.0, 600.0),
}
"""Budgets in bytes a terminal and second, and periods in seconds."""
GROUPS: Final = ("load", "capacity")
NUMBER_BYTES: Final = 4
"""Numbers of tunings are seconds of Unix time in real domains; here time begins at nothing, and they are shorter."""
BEAT: Final = Heartbeat(sequence=1, incarnation=1, told=1)
BEAT_NS: Final = NS_PER_S
"""Between two heartbeats, by the product's default patience."""
TAKEN_BYTES: Final = len(encode(msgspec.structs.replace(BEAT, tuned=1))) - len(encode(BEAT)) + NUMBER_BYTES
"""What acknowledging a tuning adds to a heartbeat; the rest of it is alike for all."""
WEIGH_S: Final = 10.0
"""Ranges of decisions are told to the orchestrator this often: of every fifth decision."""


class Outcome(msgspec.Struct):
    """One run: what it cost and how wrong decisions were."""

    bytes_per_terminal_s: float
    error: float
    age_p50_s: float
    age_p95_s: float
    age_p99_s: float


def packed_bytes(counts: dict[str, int]) -> int:
    """Bytes of the messages that carry so many records of each group."""
    total = 0
    for group, count in counts.items():
        known = group_named(group)
        for begin in range(0, count, records_most(known)):
            records = np.zeros(min(count - begin, records_most(known)), record_dtype(known))
            total += len(encode_records(known, records, sequence=1, incarnation=1))
    return total


# --- periodic -----------------------------------------------------------------------------------------------------


def run_periodic(world: fw.World, period_s: float, seed: int, capacity_period_s: float | None = None) -> Outcome:
    """Every site reports everything in every period, from a seeded phase on. `capacity_period_s`: another period for
    capacities."""
    sites = int(world.site_of.max()) + 1
    phase = np.random.default_rng(seed).uniform(0.0, period_s, sites)[world.site_of]
    periods = (period_s, capacity_period_s or period_s)
    told = [np.maximum(0.0, _last_told(world, period, phase * period / period_s)) for period in periods]
    load = np.stack([track.when(told[0][:, n]) for n, track in enumerate(world.load)], axis=1)
    capacity = np.stack([track.when(told[1][:, n]) for n, track in enumerate(world.capacity)], axis=1)
    sizes = [
        sum(packed_bytes({group: int(count)}) for count in np.bincount(world.site_of)) / period
        for group, period in zip(GROUPS, periods, strict=True)
    ]
    ages = (world.asked_s[:, None, None] - np.stack(told, axis=2))[world.asked_s > world.warm_s]
    return _outcome(world, load, capacity, sum(sizes) / len(world.load), ages)


def _last_told(world: fw.World, period_s: float, phase_N: fw.Floats) -> fw.Floats:
    """(D, N): when what the map holds at each decision was told."""
    laps = np.floor((world.asked_s[:, None] - world.delay_s - phase_N) / period_s)
    return np.asarray(phase_N + laps * period_s)


def _outcome(world: fw.World, load: fw.Floats, capacity: fw.Floats, cost: float, ages: fw.Floats) -> Outcome:
    near = world.round_trip_RN[world.asker]
    true = fw.completion(near, *fw.true_facts(world))
    errors = fw.regrets(fw.completion(near, load, capacity), true)
    p50, p95, p99 = np.percentile(ages, [50, 95, 99])
    return Outcome(cost, float(errors[world.asked_s > world.warm_s].mean()), float(p50), float(p95), float(p99))


# --- ours ---------------------------------------------------------------------------------------------------------


class Domain:
    """Sites with the reporting rule, and a centre with a map and the orchestrator, in virtual time."""

    def __init__(self, world: fw.World, budget: float, period_s: float) -> None:
        self.world = world
        count = len(world.load)
        config = OrchestratorConfig(tuner=TunerConfig(budget_bytes_per_s=budget * count, period_s=period_s))
        self.orchestrator = TopologyOrchestrator(config, registered_shape, HEADER.itemsize)
        sites = int(world.site_of.max()) + 1
        self.rules = [ReportingRule(registered_shape, HEADER.itemsize, Tuning()) for _ in range(sites)]
        self.tunings = [Tuning() for _ in range(sites)]
        self.known = [np.zeros((count, len(fw.LOAD.facts))), np.zeros((count, len(fw.CAPACITY.facts)))]
        self.told_s = np.zeros((count, len(GROUPS)))
        self.bytes = 0
        self.counted = 0
        self._delays_ns = [seconds_to_ns(float(world.delay_s[world.site_of == site][0])) for site in range(sites)]
        self._heap: list[tuple[int, int, str, Any]] = []
        self._order = 0
        self._wakes_ns: dict[int, int] = {}

    def run(self) -> Outcome:
        """The whole horizon."""
        world = self.world
        self._effects(self.orchestrator.handle(Started(), 0), 0)
        readings = self._readings()
        coming = next(readings, None)
        asked, seen_load, seen_capacity, ages = 0, [], [], []
        weigh_every = max(1, round(WEIGH_S / float(world.asked_s[0])))
        while asked < len(world.asked_s):
            due_ns = seconds_to_ns(float(world.asked_s[asked]))
            next_ns = self._heap[0][0] if self._heap else due_ns
            if coming is not None and coming[0] <= min(due_ns, next_ns):
                self.rules[coming[1]].take(coming[2], coming[0])
                self._wake(coming[1], coming[0])
                coming = next(readings, None)
            elif next_ns <= due_ns:
                self._next()
            else:
                seen_load.append(self.known[0].copy())
                seen_capacity.append(self.known[1].copy())
                ages.append(world.asked_s[asked] - self.told_s)
                if asked % weigh_every == 0:
                    ranges = tuple(self._ranges(asked))
                    self._effects(
                        self.orchestrator.handle(RangesStated(holder="requests", ranges=ranges), due_ns), due_ns
                    )
                asked += 1
        self.orchestrator.check_invariants()
        cost = self.counted / (world.horizon_s - world.warm_s) / len(world.load)
        kept = np.stack(ages)[world.asked_s > world.warm_s]
        return _outcome(world, np.stack(seen_load), np.stack(seen_capacity), cost, kept)

    def _readings(self) -> Iterator[tuple[int, int, Reading]]:
        """All readings of all terminals, by time."""
        moments: list[tuple[float, int, int, int]] = []
        for group, tracks in enumerate((self.world.load, self.world.capacity)):
            for terminal, track in enumerate(tracks):
                moments += [(float(at), terminal, group, place) for place, at in enumerate(track.at_s)]
        for at_s, terminal, group, place in sorted(moments):
            values = (self.world.load, self.world.capacity)[group][terminal].values[place]
            at_ns = seconds_to_ns(at_s)
            reading = Reading(thing=f"t{terminal}", group=GROUPS[group], values=tuple(values), measured_ns=at_ns)
            yield at_ns, int(self.world.site_of[terminal]), reading

    def _next(self) -> None:
        now_ns, _, what, subject = heapq.heappop(self._heap)
        match what:
            case "tell":
                if self._wakes_ns.get(subject) != now_ns:
                    return  # another moment took its place
                del self._wakes_ns[subject]
                chosen = self.rules[subject].collect(now_ns, records_most=512)
                if chosen:
                    size = report_bytes(chosen)
                    self._count(size, now_ns)
                    self._at(now_ns + self._delay_ns(subject), "arrive", (subject, chosen, size))
                self._wake(subject, now_ns)
            case "arrive":
                site, chosen, size = subject
                for one in chosen:
                    terminal, group = int(one.thing[1:]), GROUPS.index(one.group)
                    self.known[group][terminal] = one.values
                    self.told_s[terminal, group] = ns_to_seconds(now_ns - self._delay_ns(site))
                event = ReadingsAccepted(site=NodeId(f"s{site}"), readings=chosen, wire_bytes=size)
                self._effects(self.orchestrator.handle(event, now_ns), now_ns)
            case "timer":
                for site in range(len(self.rules)):  # heartbeats, which are alike whatever is reported
                    self.orchestrator.handle(NodeSignalled(node=NodeId(f"s{site}"), beat=True), now_ns)
                self._effects(self.orchestrator.handle(TimerFired(name=subject), now_ns), now_ns)
            case "tuned":
                site, message = subject
                merged = merge_tuning(self.tunings[site], message)
                if merged is not None and self.rules[site].tune(merged, now_ns):
                    self.tunings[site] = merged
                    self._wake(site, now_ns)
                    self._count(TAKEN_BYTES, now_ns)
                    said_ns = now_ns - now_ns % BEAT_NS + BEAT_NS
                else:
                    self._count(len(encode(ReportingTuned(number=self.tunings[site].number))) + NUMBER_BYTES, now_ns)
                    said_ns = now_ns
                answer = ReportingTuned(number=self.tunings[site].number)
                self._at(said_ns + self._delay_ns(site), "answer", (site, answer))
            case "answer":
                site, answer = subject
                came = Delivered(sender=NodeId(f"s{site}"), message=answer)
                self._effects(self.orchestrator.handle(came, now_ns), now_ns)

    def _effects(self, effects: Sequence[Effect], now_ns: int) -> None:
        for effect in effects:
            match effect:
                case SetTimer(name=name, at_ns=at_ns):
                    self._heap = [entry for entry in self._heap if (entry[2], entry[3]) != ("timer", name)]
                    heapq.heapify(self._heap)
                    self._at(at_ns, "timer", name)
                case Compute():
                    self._effects(self.orchestrator.handle(computed(effect), now_ns), now_ns)
                case Send(receiver=receiver, message=TuneReporting() as message):
                    site = int(receiver[1:])
                    self._count(len(encode(message)) + NUMBER_BYTES, now_ns)
                    self._at(now_ns + self._delay_ns(site), "tuned", (site, message))
                case _:
                    pass

    def _wake(self, site: int, now_ns: int) -> None:
        """As `terminal.fact_reporter` does."""
        soonest_ns = now_ns + seconds_to_ns(TELL_S)
        wakes_ns = self._wakes_ns.get(site)
        if wakes_ns is not None and wakes_ns <= soonest_ns:
            return
        next_ns = self.rules[site].next_ns(now_ns)
        latest_ns = now_ns + seconds_to_ns(REPEAT_S)
        at_ns = latest_ns if next_ns is None else min(latest_ns, max(soonest_ns, next_ns))
        if wakes_ns is None or at_ns < wakes_ns:
            self._wakes_ns[site] = at_ns
            self._at(at_ns, "tell", site)

    def _count(self, size: int, now_ns: int) -> None:
        self.bytes += size
        if now_ns > self.world.warm_s * NS_PER_S:
            self.counted += size

    def _delay_ns(self, site: int) -> int:
        return self._delays_ns[site]

    def _at(self, at_ns: int, what: str, subject: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ns, self._order, what, subject))

    def _ranges(self, asked: int) -> Iterator[FactRange]:
        """Within which ranges the decision made now on the map stands: half of each terminal's distance from the
        boundary for its wait, half for its speed, and whether it is there at all."""
        near = self.world.round_trip_RN[self.world.asker[asked]]
        load, capacity = self.known
        there = fw.completion(near, load, np.where(np.arange(capacity.shape[1]) == fw.SLOTS, 1.0, capacity))
        up = capacity[:, fw.SLOTS] > 0
        scores = np.where(up & np.isfinite(there), there, np.inf)
        low, high = fw.keep_best(scores, fw.CHOSEN)
        boundary = (
            float(np.min(high)) if np.isfinite(np.min(high)) else float(np.max(np.where(np.isfinite(low), low, 0)))
        )
        if boundary <= 0:
            return
        share = 1.0 / boundary
        for terminal, score in enumerate(there):
            thing = f"t{terminal}"
            if not np.isfinite(score):
                continue
            wait, speed = load[terminal, fw.WAIT], capacity[terminal, fw.SPEED]
            slack, steep = abs(boundary - score) / 2, fw.WORK * fw.FLOPS / speed**2
            slots = float(capacity[terminal, fw.SLOTS])
            if up[terminal] and score <= boundary:
                yield FactRange(thing=thing, fact="wait_s", high=wait + slack, loss=share)
                yield FactRange(thing=thing, fact="flops", low=speed - min(speed, slack / steep), loss=share * steep)
                yield FactRange(thing=thing, fact="slots", low=0.5, loss=share * (fw.PATIENCE_S + slack) / slots)
            elif up[terminal]:
                if wait > slack:
                    yield FactRange(thing=thing, fact="wait_s", low=wait - slack, loss=share)
                yield FactRange(thing=thing, fact="flops", high=speed + slack / steep, loss=share * steep)
            elif score < boundary:
                yield FactRange(thing=thing, fact="slots", high=0.5, loss=share * 2 * slack)


# --- cells and report -----------------------------------------------------------------------------------------------


def run_cell(data: Path, name: str) -> dict[str, float]:
    """One cell: `kind/parameter/seed`."""
    kind, parameter, seed_text = name.split("/")
    seed, value = int(seed_text), float(parameter)
    if kind in ("view-adapter", "view-periodic"):
        world = fw.make_world(data, seed, terminals=40, per_site=4, horizon_s=3600.0, every_s=5.0)
        seen: dict[str, float] = msgspec.to_builtins(run_views(world, None if kind == "view-adapter" else value))
        return seen
    world = _world(data, seed)
    match kind:
        case "tuned":
            outcome = Domain(world, value, TUNE_S).run()
        case "periodic":
            outcome = run_periodic(world, value, seed)
        case "periodic-split":
            outcome = run_periodic(world, value, seed, capacity_period_s=CAPACITY_S)
        case _:
            raise SystemExit(f"no cell is called {name!r}: kinds are {', '.join(KINDS)}")
    found: dict[str, float] = msgspec.to_builtins(outcome)
    return found


@lru_cache(maxsize=1)
def _world(data: Path, seed: int) -> fw.World:
    """The world of a seed: cells of one seed are run one after the other, and making it takes as long as a cell."""
    return fw.make_world(data, seed, terminals=80, per_site=4, horizon_s=5400.0, every_s=5.0)


def curve(
    cells: Mapping[str, Mapping[str, float]], kind: str, seeds: Sequence[int] = SEEDS
) -> list[tuple[float, float]]:
    """(bytes, error) of each parameter, means over the seeds that all have been run; by falling bytes, and only where
    fewer bytes mean more error: what costs more and is worse nobody would choose."""
    points = []
    for parameter in KINDS[kind]:
        rows = [cells[name] for seed in seeds if (name := f"{kind}/{parameter:g}/{seed}") in cells]
        if len(rows) == len(seeds):
            cost = float(np.mean([row["bytes_per_terminal_s"] for row in rows]))
            points.append((cost, float(np.mean([row["error"] for row in rows]))))
    best: list[tuple[float, float]] = []
    for cost, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((cost, error))
    return best


def bytes_at(points: Sequence[tuple[float, float]], error: float) -> float:
    """Bytes that a curve takes to an error, by interpolation of logarithms."""
    errors = np.log([one[1] for one in points])[::-1]
    costs = np.log([one[0] for one in points])[::-1]
    return float(np.exp(np.interp(np.log(error), errors, costs)))


def ratios(cells: Mapping[str, Mapping[str, float]], peer: str, seeds: Sequence[int] = SEEDS) -> dict[str, float]:
    """Peer's bytes over ours at `LEVELS` errors, evenly spaced in logarithm over those that both curves reach."""
    ours, theirs = curve(cells, "tuned", seeds), curve(cells, peer, seeds)
    if len(ours) < 2 or len(theirs) < 2:
        return {}
    least = max(ours[-1][1], theirs[-1][1])
    most = min(ours[0][1], theirs[0][1])
    if least >= most:
        return {}
    errors = np.exp(np.linspace(np.log(least), np.log(most), LEVELS))
    found = [bytes_at(theirs, float(error)) / bytes_at(ours, float(error)) for error in errors]
    return {
        "bytes_ratio_at_equal_error": float(np.median(found)),
        "bytes_ratio_least": float(min(found)),
        "bytes_ratio_most": float(max(found)),
        "error_least": float(least),
        "error_most": float(most),
    }


def make_report(cells: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures and peers of what is stored."""
    figures = ratios(cells, "periodic")
    figures |= {f"{key}_split": value for key, value in ratios(cells, "periodic-split").items() if "ratio" in key}
    figures |= {f"{key}_held_out": value for key, value in ratios(cells, "periodic", HELD_OUT).items()}
    peers: dict[str, dict[str, float]] = {"periodic": {}, "periodic_split": {}, "view_periodic": {}}
    places = {"tuned": figures, "periodic": peers["periodic"], "periodic-split": peers["periodic_split"]}
    for kind, into in places.items():
        for parameter in KINDS[kind]:
            rows = [cells[name] for seed in SEEDS if (name := f"{kind}/{parameter:g}/{seed}") in cells]
            for key in ("bytes_per_terminal_s", "error", "age_p50_s", "age_p95_s", "age_p99_s") if rows else ():
                into[f"{key}_{parameter:g}"] = float(np.mean([row[key] for row in rows]))
            if rows:
                into[f"error_least_seed_{parameter:g}"] = min(row["error"] for row in rows)
                into[f"error_most_seed_{parameter:g}"] = max(row["error"] for row in rows)
    for kind, into in (("view-adapter", figures), ("view-periodic", peers["view_periodic"])):
        for parameter in KINDS[kind]:
            rows = [cells[name] for seed in SEEDS if (name := f"{kind}/{parameter:g}/{seed}") in cells]
            for key in ("bytes_per_view_s", "error", "deltas_per_view_s") if rows else ():
                suffix = "" if kind == "view-adapter" else f"_{parameter:g}"
                name = f"view_{key}" if kind == "view-adapter" and key == "error" else key
                into[f"{name}{suffix}"] = float(np.mean([row[key] for row in rows]))
    return figures, peers


def source_hash() -> str:
    """Digest of the code that the figures depend on; comments, docstrings and layout do not count."""
    digest = blake3()
    for pattern in MEASURED:
        for path in sorted(ROOT.glob(pattern)):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def all_cells() -> list[str]:
    """Every cell."""
    return [
        f"{kind}/{parameter:g}/{seed}"
        for seed in (*SEEDS, *HELD_OUT)
        for kind, all_of in KINDS.items()
        for parameter in all_of
    ]


def main() -> None:
    """Run what is asked for, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run one stored cell again, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--cells", action="append", default=[], help="pattern of cells to run: kind/parameter/seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after this long")
    chosen = parser.parse_args()
    data = Path(os.environ.get("DAITN_DATA", ROOT.parent / "shared" / "data"))
    if (chosen.quick or chosen.cells) and not (data / "availability_load").is_dir():
        raise SystemExit(f"{data} holds no availability_load: set DAITN_DATA to the folder that does")
    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}
    cells: dict[str, dict[str, Any]] = document["cells"]
    said = []
    if chosen.quick and cells:
        name = random.choice(sorted(cells))
        found, stored = run_cell(data, name), cells[name]
        spread = [cells[one]["error"] for one in cells if one.rpartition("/")[0] == name.rpartition("/")[0]]
        said.append(f"{name} again: error {found['error']:.5f}, stored {stored['error']:.5f}")
        if not min(spread) - 1e-9 <= found["error"] <= max(spread) + 1e-9:
            raise SystemExit(said[-1] + f", outside {min(spread):.5f} to {max(spread):.5f}")
    began = time.monotonic()
    wanted = [name for name in all_cells() if any(fnmatchcase(name, pattern) for pattern in chosen.cells)]
    source = source_hash()
    for name in wanted:
        if cells.get(name, {}).get("source") == source or time.monotonic() - began > chosen.seconds:
            continue
        cells[name] = run_cell(data, name) | {"source": source}
        print(name, cells[name], file=sys.stderr)
        figures, peers = make_report(cells)
        document = make_document("freshness", figures, peers, (*SEEDS, *HELD_OUT)) | {"cells": cells}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    figures, peers = make_report(cells)
    sources = {cell["source"] for cell in cells.values()}
    if sources - {source}:
        said.append(f"stored cells were measured on {', '.join(sorted(sources))}; this source is {source}")
    print_report("freshness", figures, peers, (*SEEDS, *HELD_OUT), only_json=chosen.json, said=said)


if __name__ == "__main__":
    main()

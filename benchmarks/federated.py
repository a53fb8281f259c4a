"""Question: what does a round of a hundred sites cost besides their training, on two cores?

Workload: data sets, each a site with a policy, a visit and a sandboxed child of its own, spread over eight node
processes; a verification unit, an aggregator, a router and a control centre, all processes of their own on loopback,
with mutual TLS and journals with fsync. Federated averaging of a small model (1,348 weights, 20 batches of 32), all
sites in every round. A child takes 0.2 GB, so that a hundred sites need a machine of 32 GB (`--sites 100 --nodes 10`);
a run in full has 8 and 24, and tells what each further site costs.

Measure: a round from the centre's orders to the average that it accepts, by its own log; the first two, which start the
children, are left out. From that the floor is taken away: processor time of the same visits' steps, by the product's
training loop on records in memory, in a process of the same run (before and after; the mean), spread over the cores:
what a machine with nothing else to do would need. `round_overhead_s_<sites>` is the median. What each kind of process
used of the processor is told beside it; others' work on the machine stretches the round and not that.

Masked: one round of a hundred sites of which ten are lost, in one process (`benchmarks.federated_masked`), against the
sum of the plain updates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.federated_masked import measure_masked
from benchmarks.federated_world import (
    BATCHES,
    CORES,
    Round,
    fill_shelves,
    measure_floor,
    node_specs,
    run_rounds,
    site_names,
)
from benchmarks.report import Bounds, make_document, print_report
from daitn.node.processes import LocalDomain

RESULTS: Final = Path(__file__).resolve().parent / "results" / "federated.json"
BOUNDS: Final[Bounds] = {"round_overhead_s_100": ("<=", 0.5), "masked_sum_off_by": ("<=", 0.0)}
WARM: Final = 2
"""Rounds that start children."""
PATIENCE_S: Final = 30.0
"""A hundred children that start at once leave two cores no time to answer for seconds."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


class ProcessorTimes:
    """What the domain's processes have used, twice a second: (Unix seconds, kind of process → seconds)."""

    def __init__(self, domain: LocalDomain) -> None:
        self._domain = domain
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, dict[str, float]]] = []

    def __enter__(self) -> ProcessorTimes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.seen.append((time.time(), self._look()))

    def _look(self) -> dict[str, float]:
        names = {self._domain.processes.pid(name): name for name in self._domain.processes.names()}
        parents: dict[int, int] = {}
        used: dict[int, float] = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(fields[1])
            used[int(entry)] = (int(fields[11]) + int(fields[12])) / TICKS
        found: dict[str, float] = {}
        for pid, seconds in used.items():
            root, below = pid, False
            while root not in names and root in parents:
                root, below = parents[root], True
            if root in names:
                kind = names[root].rstrip("0123456789")
                kind = "children" if below else kind
                found[kind] = found.get(kind, 0.0) + seconds
        return found

    def between(self, begin_s: float, end_s: float) -> dict[str, float]:
        """Seconds of each kind between two moments, to half a second."""
        inside = [one for at_s, one in self.seen if begin_s <= at_s <= end_s]
        if len(inside) < 2:
            return {}
        return {kind: inside[-1][kind] - inside[0].get(kind, 0.0) for kind in inside[-1]}


def measure_rounds(folder: Path, nodes: int, sizes: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Figures of one domain with as many sites as the largest size, a job after the other, each of some of them."""
    most, figures = max(sizes), dict[str, float]()
    with LocalDomain(folder / "domain", "federated", patience_s=PATIENCE_S) as domain:
        fill_shelves(domain, nodes, most)
        floors = [measure_floor(domain, nodes, most, BATCHES)]
        domain.start()
        specs = node_specs(nodes, slots=max(1, most // nodes))
        for place in range(0, len(specs), CORES):  # each describes its data sets before it is ready
            domain.join_all(specs[place : place + CORES], {})
        names, found = site_names(nodes, most), dict[int, tuple[list[Round], ProcessorTimes]]()
        for size in sizes:
            with ProcessorTimes(domain) as times:
                chosen = [names[place * most // size] for place in range(size)]
                made, status = run_rounds(domain, chosen, rounds + WARM, BATCHES)
            found[size] = (made, times)
            if not any(one.visits == size for one in made[WARM:]):
                raise SystemExit(f"no whole round of {size} sites: {status.phase}, {status.reason}; {made}")
        floors.append(measure_floor(domain, nodes, most, BATCHES))
    for size, (made, times) in found.items():
        figures |= _figures(made, statistics.fmean(floors) * size / most, size, times)
    if len(sizes) > 1:
        small, large = min(sizes), most
        more = figures[f"round_overhead_s_{large}"] - figures[f"round_overhead_s_{small}"]
        figures["overhead_ms_for_each_site_more"] = 1000 * more / (large - small)
    return figures


def _figures(found: list[Round], floor_s: float, sites: int, times: ProcessorTimes) -> dict[str, float]:
    kept = [one for one in found[WARM:] if one.visits == sites]
    took = [one.seconds for one in kept]
    figures = {
        f"round_overhead_s_{sites}": statistics.median(took) - floor_s,
        f"round_s_{sites}": statistics.median(took),
        f"round_s_{sites}_min": min(took),
        f"round_s_{sites}_max": max(took),
        f"floor_s_{sites}": floor_s,
        f"average_s_{sites}": statistics.median(one.average_s for one in kept),
        f"rounds_{sites}": len(kept),
        f"rounds_{sites}_not_whole": len(found) - WARM - len(kept),
    }
    spent = times.between(kept[0].began_s, kept[-1].began_s + kept[-1].seconds)
    for kind, seconds in sorted(spent.items()):
        figures[f"processor_ms_a_visit_{sites}_{kind}"] = 1000 * seconds / (len(kept) * sites)
    return figures


def main() -> None:
    """Run, print, and keep the figures of a run in full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="twelve sites at three nodes, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--rounds", type=int, default=12, help="measured, of a run in full")
    parser.add_argument("--sites", type=int, nargs="+", default=[8, 24], help="sizes; a hundred take 24 GB of memory")
    parser.add_argument("--nodes", type=int, default=8, help="processes among which the sites are spread evenly")
    parser.add_argument("--masked", action="store_true", help="the masked round alone")
    chosen = parser.parse_args()
    nodes, sizes, rounds = (3, (12,), 4) if chosen.quick else (chosen.nodes, tuple(chosen.sites), chosen.rounds)
    if max(sizes) % nodes:
        parser.error(f"{max(sizes)} sites cannot be spread evenly among {nodes} nodes")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="daitn-federated-") as name:
        members, lost = (20, 2) if chosen.quick else (100, 10)
        figures |= measure_masked(Path(name) / "masked", members, lost, seed=0)
        if not chosen.masked:
            figures |= measure_rounds(Path(name), nodes, sizes, rounds)
    bounds = BOUNDS if not (chosen.quick or chosen.masked) else {"masked_sum_off_by": BOUNDS["masked_sum_off_by"]}
    print_report("federated", figures, {}, [0], only_json=chosen.json, bounds=bounds)
    if not (chosen.quick or chosen.masked):
        document = make_document("federated", figures, {}, [0], bounds=bounds)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Question: what does a round of a hundred sites cost besides their training, on two cores?

Workload: data sets, each a site with a policy, an order, a visit, a signed result and a model of its own, spread over
node processes; a verification unit, an aggregator, a router and a control centre, all processes of their own on
loopback, with mutual TLS and journals with fsync. Federated averaging of a small model (1,348 weights, 20 batches of
32), all sites in every round. At eight nodes 8 and 24 sites have a sandboxed child each. A child holds 0.15 GB of its
own (proportional set size, with a hundred of them about), so a hundred need 15 GB and ten nodes 2 GB: in a run in full
the hundred sites at ten nodes have thirty, which are used in turns (`benchmarks.federated_node`), and
`own_processes_100` counts nodes and children; `--sites 100 --nodes 10 --rounds 4` gives each its own.

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
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.federated_masked import measure_masked
from benchmarks.federated_node import CHILDREN
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
from daitn.node.processes import DAITN, LocalDomain

RESULTS: Final = Path(__file__).resolve().parent / "results" / "federated.json"
BOUNDS: Final[Bounds] = {"round_overhead_s_100": ("<=", 0.5), "masked_sum_off_by": ("<=", 0.0)}
ROOT: Final = Path(__file__).resolve().parents[1]
WHOLE: Final[tuple[tuple[int, tuple[int, ...], int], ...]] = ((8, (8, 24), 0), (10, (100,), 3))
"""A run in full: nodes, sizes, and children of a node that its sites share (0: one for each site)."""
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


def measure_rounds(
    folder: Path, nodes: int, sizes: tuple[int, ...], rounds: int, children: int = 0
) -> dict[str, float]:
    """Figures of one domain with as many sites as the largest size, a job after the other, each of some of them.

    `children`: of each node, shared among its sites; 0: one for each site."""
    most, figures = max(sizes), dict[str, float]()
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    environment = {"PYTHONPATH": path, CHILDREN: str(children)} if children else {}
    command = (sys.executable, "-m", "benchmarks.federated_node") if children else DAITN
    with LocalDomain(folder, "federated", patience_s=PATIENCE_S, command=command, environment=environment) as domain:
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
        figures[f"own_processes_{size}"] = nodes + (nodes * children or size)
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
    parser.add_argument("--sites", type=int, nargs="+", help="these sizes alone, not kept; each takes 0.15 GB")
    parser.add_argument("--nodes", type=int, default=8, help="processes among which the sites are spread evenly")
    parser.add_argument("--children", type=int, default=0, help="of each node, taken in turns; 0: one for each site")
    parser.add_argument("--masked", action="store_true", help="the masked round alone")
    chosen = parser.parse_args()
    runs = [(chosen.nodes, tuple(chosen.sites), chosen.children)] if chosen.sites else list(WHOLE)
    runs, rounds = ([(3, (12,), 0)], 4) if chosen.quick else (runs, chosen.rounds)
    for nodes, sizes, _ in runs:
        if max(sizes) % nodes:
            parser.error(f"{max(sizes)} sites cannot be spread evenly among {nodes} nodes")
    in_full = not (chosen.quick or chosen.masked or chosen.sites)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="daitn-federated-") as name:
        members, lost = (20, 2) if chosen.quick else (100, 10)
        if not chosen.sites:
            figures |= measure_masked(Path(name) / "masked", members, lost, seed=0)
        for number, (nodes, sizes, children) in enumerate([] if chosen.masked else runs):
            figures |= measure_rounds(Path(name) / f"domain{number}", nodes, sizes, rounds, children)
    bounds: Bounds = {name: bound for name, bound in BOUNDS.items() if in_full or name in figures}
    print_report("federated", figures, {}, [0], only_json=chosen.json, bounds=bounds)
    if in_full:
        document = make_document("federated", figures, {}, [0], bounds=bounds)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

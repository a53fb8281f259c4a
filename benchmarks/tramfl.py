"""Question: after how many steps and transfers does a model that moves between sites of few labels reach 90 and 99 %?

Workload: MNIST in Tram-FL's setting (Maejima et al., CCNC 2024 and its journal version): 3, 5 and 10 nodes with 2 to 5
labels each; 15, 25 and 50 batches a visit; model, rate, batch and momentum the same for all methods; tested on all
10,000 test images after every visit or round (`benchmarks.tramfl_world`, which also says what is product and what is
not). Ours is the method that the network chooses by itself; peers are Tram-FL's rule, the cycle, chance, and federated
averaging in the same harness.

Measure, each the median over the seeds, with least and most: `updates` (steps of all sites together), `transfers`
(between sites, or sites and aggregator), `checks` (to the verification unit), `reached` (seeds that arrived before the
cap of 2,000 steps for 90 % and 8,000 for 99 %, or that of `--give-up`; the others count as where they were then).

A *cell* is (method, nodes, seed, accuracy in per cent). A full run takes hours, so finished cells are kept in
`results/tramfl.json` with the hash of the source that made them, and only those are run that are missing or were given
up sooner than they would be now:

    python -m benchmarks.tramfl --cells 'routed/*/*/90' --seconds 200 --part 0/2

`--quick` runs one cell again, drawn at random, and fails where it falls outside what the cell's seeds spread over.
Without either the stored cells are only reported.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import torch
from blake3 import blake3

from benchmarks.report import make_document, print_report
from benchmarks.tramfl_world import BATCHES, CAPS, Arrival, Exam, find_data, read_digits, run_method
from daitn.learning.methods import FIRST_CHOICE

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "tramfl.json"
MEASURED: Final = (
    "benchmarks/payloads.py",
    "benchmarks/tramfl_world.py",
    "src/daitn/decision/hyperparameters.py",
    "src/daitn/decision/routes/*.py",
    "src/daitn/learning/methods/*.py",
    "src/daitn/learning/numerics/aggregate.py",
    "src/daitn/learning/numerics/averaging.py",
    "src/daitn/learning/numerics/blocks.py",
    "src/daitn/learning/numerics/optimizers.py",
    "src/daitn/learning/numerics/sampler.py",
    "src/daitn/learning/numerics/train.py",
    "src/daitn/learning/tasks/classification.py",
)
"""Files on which the figures depend."""
OURS: Final = FIRST_CHOICE
PEERS: Final = {"tram-fl": "tram_fl", "cyclic": "cyclic", "random": "random", "fedavg": "fedavg"}
"""Methods → names in the report."""
METHODS: Final = (OURS, *PEERS)
SEEDS: Final = tuple(range(5))
ACCURACIES: Final = (90, 99)
QUICK_UPDATES: Final = 1500
"""Cells of at most so many steps are drawn by `--quick`: 13 to 20 ms each, tests included."""


def cell_name(method: str, nodes: int, seed: int, accuracy: int) -> str:
    """`routed/3/0/90`."""
    return f"{method}/{nodes}/{seed}/{accuracy}"


def source_hash() -> str:
    """BLAKE3 of the files that were measured, and their names."""
    found = blake3()
    for path in sorted(path for pattern in MEASURED for path in ROOT.glob(pattern)):
        found.update(str(path.relative_to(ROOT)).encode() + b"\x00" + path.read_bytes() + b"\x00")
    return found.hexdigest()[:16]


@contextmanager
def stored() -> Iterator[dict[str, Any]]:
    """The cells on disk, replaced at the end where they have changed; several processes may do so at once."""
    RESULTS.parent.mkdir(exist_ok=True)
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        cells: dict[str, Any] = document.setdefault("cells", {})
        before = json.dumps(cells, sort_keys=True)
        yield cells
        if json.dumps(cells, sort_keys=True) != before:
            report = make_report(cells) | {"cells": dict(sorted(cells.items()))}
            # Replaced as a whole, so that neither a reader nor a crash finds half of it.
            written = RESULTS.with_suffix(".new")
            written.write_text(json.dumps(report, indent=1) + "\n")
            written.replace(RESULTS)
    finally:
        os.close(folder)


def make_report(cells: dict[str, Any]) -> dict[str, Any]:
    """Figures and peers from cells."""
    rows = {method: _figures(method, cells) for method in METHODS}
    seeds = sorted({int(name.split("/")[2]) for name in cells})
    return make_document("tramfl", rows[OURS], {name: rows[method] for method, name in PEERS.items()}, seeds)


def _figures(method: str, cells: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for accuracy in ACCURACIES:
        for nodes in BATCHES:
            names = [cell_name(method, nodes, seed, accuracy) for seed in SEEDS]
            found = [cells[name] for name in names if name in cells]
            if not found:
                continue
            for key in ("updates", "transfers", "checks"):
                values = [cell[key] for cell in found]
                figures[f"{key}_{accuracy}_n{nodes}"] = statistics.median(values)
                figures[f"{key}_{accuracy}_n{nodes}_min"] = min(values)
                figures[f"{key}_{accuracy}_n{nodes}_max"] = max(values)
            figures[f"reached_{accuracy}_n{nodes}"] = sum(cell["reached"] for cell in found)
            figures[f"seeds_{accuracy}_n{nodes}"] = len(found)
    return figures


def table(cells: dict[str, Any]) -> list[str]:
    """Median (least to most) of each method, and how many of the seeds arrived where not all did."""
    lines = ["| to | nodes | method | updates | transfers | checks | arrived |", "|---|---|---|---|---|---|---|"]
    for accuracy in ACCURACIES:
        for nodes in BATCHES:
            for method in METHODS:
                row, key = _figures(method, cells), f"{accuracy}_n{nodes}"
                if f"updates_{key}" not in row:
                    continue
                figures = [
                    f"{row[f'{what}_{key}']:g} ({row[f'{what}_{key}_min']:g}–{row[f'{what}_{key}_max']:g})"
                    for what in ("updates", "transfers", "checks")
                ]
                arrived = f"{row[f'reached_{key}']:g} of {row[f'seeds_{key}']:g}"
                lines.append(f"| {accuracy} % | {nodes} | `{method}` | {' | '.join(figures)} | {arrived} |")
    return lines


def caps_of(give_up: int | None) -> dict[float, int]:
    """Accuracy → steps after which a run is given up."""
    return {accuracy: cap if give_up is None else min(cap, give_up) for accuracy, cap in CAPS.items()}


def missing_cells(wanted: Iterable[str], known: Mapping[str, Any], caps: Mapping[float, int]) -> list[str]:
    """Those not known, and those given up before their cap of now."""

    def finished(name: str) -> bool:
        cell = known.get(name)
        return cell is not None and (cell["reached"] or cell["updates"] >= caps[int(name.rsplit("/", 1)[1]) / 100])

    return [name for name in wanted if not finished(name)]


def run_cells(
    folder: Path, names: list[str], seconds: float, *, give_up: int | None = None, store: bool, quiet: bool
) -> dict[str, Arrival]:
    """Run cells one after another; none is begun after `seconds`. Cells of a lower accuracy come with a higher one."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    train_set, test_set = read_digits(folder, "train"), read_digits(folder, "t10k")
    caps = caps_of(give_up)
    arrivals: dict[str, Arrival] = {}
    for name in names:
        if name in arrivals or time.perf_counter() - began > seconds:
            continue
        method, nodes, seed, accuracy = name.split("/")
        wanted = tuple(each / 100 for each in ACCURACIES if each <= int(accuracy))
        cell_began = time.perf_counter()
        found = run_method(method, int(nodes), int(seed), wanted, train_set, Exam(test_set), caps)
        for each, arrival in found.items():
            arrivals[cell_name(method, int(nodes), int(seed), round(100 * each))] = arrival
            if not quiet:
                took = time.perf_counter() - cell_began
                print(f"{method}/{nodes}/{seed}/{round(100 * each)}: {arrival} in {took:.0f} s", flush=True)
        if store:
            keep(arrivals)
    return arrivals


def keep(arrivals: dict[str, Arrival]) -> None:
    """Add cells to those on disk; one that is there already must be the same, since nothing is left to chance."""
    source = source_hash()
    with stored() as cells:
        for name, arrival in arrivals.items():
            cell = {
                "updates": arrival.updates,
                "transfers": arrival.transfers,
                "checks": arrival.checks,
                "reached": arrival.reached,
                "source": source,
            }
            old = cells.get(name)
            if old is not None and old["source"] == source and old != cell:
                print(f"{name} was {old}, is {cell} now, from the same source", flush=True)
            cells[name] = cell


def run_quick(folder: Path, *, only_json: bool) -> None:
    """One stored cell again. SystemExit where it falls outside the spread of its seeds."""
    with stored() as cells:
        known = dict(cells)
    short = [name for name, cell in known.items() if cell["updates"] <= QUICK_UPDATES]
    if not short:
        raise SystemExit(f"{RESULTS} has no cell of at most {QUICK_UPDATES} updates: run some with --cells first")
    name = random.SystemRandom().choice(sorted(short))
    method, nodes, _, accuracy = name.split("/")
    found = run_cells(folder, [name], float("inf"), store=False, quiet=True)[name]
    spread = [known[one]["updates"] for seed in SEEDS if (one := f"{method}/{nodes}/{seed}/{accuracy}") in known]
    report = make_report(known)
    said = (
        f"{name} again: {found.updates} updates, stored {known[name]['updates']}, spread {min(spread)} to {max(spread)}"
    )
    print_report("tramfl", report["figures"], report["peers"], SEEDS, only_json=only_json, said=[said])
    if not min(spread) <= found.updates <= max(spread):
        raise SystemExit(said)


def main() -> None:
    """Run what is asked for, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run one stored cell again, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument(
        "--cells", action="append", default=[], help="pattern of cells to run: method/nodes/seed/accuracy"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after this long")
    parser.add_argument("--give-up", type=int, help="steps after which a run is given up, if before the cap")
    parser.add_argument("--table", action="store_true", help="the stored cells as the table of docs/performance.md")
    parser.add_argument("--part", default="0/1", help="i/k: only every k-th of the missing cells, from the i-th")
    chosen = parser.parse_args()
    if chosen.table:
        with stored() as cells:
            print("\n".join(table(cells)))
        return
    folder = find_data()
    if folder is None:
        raise SystemExit("MNIST is not here: set DAITN_DATA to the folder that holds mnist/")
    if chosen.quick:
        run_quick(folder, only_json=chosen.json)
        return
    with stored() as cells:
        known = dict(cells)
    every = [
        cell_name(method, nodes, seed, accuracy)
        for accuracy in ACCURACIES
        for seed in SEEDS
        for nodes in BATCHES
        for method in METHODS
    ]
    wanted = dict.fromkeys(name for pattern in chosen.cells for name in every if fnmatchcase(name, pattern))
    missing = missing_cells(wanted, known, caps_of(chosen.give_up))
    part, parts = (int(text) for text in chosen.part.split("/"))
    if missing:
        run_cells(folder, missing[part::parts], chosen.seconds, give_up=chosen.give_up, store=True, quiet=chosen.json)
    with stored() as cells:
        report = make_report(cells)
    sources = sorted({cell["source"] for cell in known.values()} | {source_hash()})
    said = [f"{len(cells)} cells stored; sources, this one among them: {', '.join(sources)}"]
    print_report("tramfl", report["figures"], report["peers"], report["seeds"], only_json=chosen.json, said=said)


if __name__ == "__main__":
    main()

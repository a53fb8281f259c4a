"""Question: do private sketches tell, before any record is read, how much each data set helps each field of a request?

Workload: MedQuAD's nine institutes, and MNIST parted by hand into twelve sites (`benchmarks.relevance_world`), all pairs
of site and field. The truth is training: a model is trained on one site's data alone by the product's numerics, and the
gain is what that adds to the field's figure. The prediction is `topology.relevance` on what the sites publish under a
budget of ε = 1 each, everything included, by OpenDP; the noise is drawn anew five times.

Measure: Spearman's rank correlation of predicted and real gain over all pairs, mean over the draws, and its 95 %
interval by bootstrap over sites and draws. Beside it, on the same draws: label histograms alone (the same formula
without sketches), the share of a field's records (what views used before), and sketches without noise. `needs`: what the
request says of its fields, the figures of its untrained model at the unit; every row has them.

A *cell* is (world, seed, site): the gains of all fields. A full run takes half an hour on a busy machine, so finished
cells are kept in `results/relevance.json` with the hash of the source that made them:

    python -m benchmarks.relevance --cells 'medquad/0/*' --seconds 200

`--quick` trains one cell anew, drawn at random, and fails where a field's gain is further from the stored one than two
points (the same seed on another machine rounds otherwise), then draws the noise anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray

from benchmarks.relevance_world import (
    SITES,
    World,
    descriptors,
    figures,
    find_folder,
    make_model,
    medquad_world,
    mnist_world,
    tests_for,
    train_on,
)
from benchmarks.report import make_document, print_report
from daitn.demo.medquad.sites import INSTITUTES
from daitn.describe.mechanisms import Noise
from daitn.descriptors.policy import Policy

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "relevance.json"
MEASURED: Final = (
    "benchmarks/relevance_world.py",
    "src/daitn/learning/numerics/train.py",
    "src/daitn/learning/tasks/classification.py",
    "src/daitn/learning/tasks/retrieval.py",
    "src/daitn/demo/medquad/models.py",
)
"""Files on which the gains depend; predictions are made anew each time."""
EPSILON: Final = 1.0
SEEDS: Final = {"medquad": (0, 1), "mnist": (0, 1, 2, 3), "mnist-digits": (0, 1)}
"""World → seeds of split and training. MedQuAD's split is given; its seeds are the model's first weights."""
QUICK_POINTS: Final = 0.02


def source_hash() -> str:
    """BLAKE3 of the files that were measured, and their names."""
    found = blake3()
    for path in sorted(path for pattern in MEASURED for path in ROOT.glob(pattern)):
        found.update(str(path.relative_to(ROOT)).encode() + b"\x00" + path.read_bytes() + b"\x00")
    return str(found.hexdigest())[:16]


def make_world(name: str, seed: int, folder: Path, noise: Noise | None = None) -> World:
    """The sites of a world on a new shelf, under the benchmark's policy."""
    policy = Policy(epsilon_per_period=EPSILON, releases_per_period=1)
    data = find_folder("medquad" if name == "medquad" else "mnist")
    if data is None:
        raise SystemExit(f"the data of {name} is not here: set DAITN_DATA to the folder that holds it")
    if name == "medquad":
        return medquad_world(data, folder, policy, noise)
    return mnist_world(data, folder, policy, seed, all_digits=name == "mnist", noise=noise)


def run_cell(world: World, seed: int, site: str) -> dict[str, Any]:
    """Gains of all fields from training at one site."""
    tests = tests_for(world, site)
    model = make_model(world, seed)
    before = figures(world, model, tests)
    began = time.perf_counter()
    train_on(world, site, model, seed)
    seconds = time.perf_counter() - began
    after = figures(world, model, tests)
    return {
        "before": [round(float(value), 5) for value in before],
        "gain": [round(float(value), 5) for value in after - before],
        "train_s": round(seconds, 2),
        "source": source_hash(),
    }


def all_cells() -> list[str]:
    """Names of all cells."""
    sites = {"medquad": [one.name for one in INSTITUTES]}
    names = [f"site{number:02d}" for number in range(SITES)]
    return [
        f"{world}/{seed}/{site}" for world, seeds in SEEDS.items() for seed in seeds for site in sites.get(world, names)
    ]


def stored_cells() -> dict[str, Any]:
    """Cells on disk."""
    return dict(json.loads(RESULTS.read_text())["cells"]) if RESULTS.exists() else {}


def fill(pattern: str, seconds: float) -> None:
    """Run missing cells until time is up, writing after each."""
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as temporary:
        worlds: dict[tuple[str, str], World] = {}
        for name in all_cells():
            cells = stored_cells()
            if not fnmatchcase(name, pattern) or cells.get(name, {}).get("source") == source_hash():
                continue
            if time.monotonic() > ends:
                return
            kind, seed, site = name.split("/")
            if (kind, seed) not in worlds:
                folder = Path(temporary) / f"{kind}-{seed}"
                folder.mkdir()
                worlds[kind, seed] = make_world(kind, int(seed), folder)
            cell = run_cell(worlds[kind, seed], int(seed), site)
            cells = stored_cells() | {name: cell}
            RESULTS.parent.mkdir(exist_ok=True)
            written = RESULTS.with_suffix(".new")
            written.write_text(json.dumps({"cells": dict(sorted(cells.items()))}, indent=1) + "\n")
            os.replace(written, RESULTS)
            print(name, cell["gain"], flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cells", default="")
    parser.add_argument("--seconds", type=float, default=200.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cells:
        fill(given.cells, given.seconds)


if __name__ == "__main__":
    main()

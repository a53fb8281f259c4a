"""Question: do private sketches tell, before any record is read, how much each data set helps each field?

Workload: MedQuAD's nine institutes, and MNIST parted by hand into twelve sites (`benchmarks.relevance_world`), all
pairs of site and field. The truth is training: a model is trained on one site's data alone by the product's numerics,
and the gain is what that adds to the field's figure. The prediction is `topology.relevance` on what the sites publish
under a budget of ε = 1 each, everything included, by OpenDP, with the noise drawn anew five times, and on what a
verification unit tried (`learning.numerics.transfer`) with the samples that sites agree to give it: held-out records, a
fifth of all. A sample costs no ε, because nothing of it is published; the unit never sees other records.

Measure: Spearman's rank correlation of predicted and real gain over all pairs, mean over the draws, and its 95 %
interval by bootstrap over sites and draws. Beside it, on the same draws: descriptions alone, without the trial; label
histograms alone (that without sketches), the share of a field's records (what views used before), and descriptions
without noise. What the model lacks in each field before training, as a unit measures it, is known to all of them.

A *cell* is (world, seed, site): the gains of all fields. A full run takes half an hour on a busy machine, so finished
cells are kept in `results/relevance.json` with the hash of the source that made them:

    python -m benchmarks.relevance --cells 'medquad/0/*' --seconds 200

`--quick` trains one cell anew, drawn at random, and fails where a field's gain is further from the stored one than two
points (the same seed on another machine rounds otherwise), then draws the noise anew.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec
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
from daitn.base.ids import DataSetId
from daitn.demo.medquad.sites import INSTITUTES
from daitn.describe.splits import sample_rows
from daitn.descriptors.descriptions import sketches_of
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import DataDescriptor
from daitn.descriptors.work import TaughtBy
from daitn.learning.numerics.transfer import transfer_trial
from daitn.learning.records import encode_records
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice, take_rows
from daitn.topology.field_counts import field_counts
from daitn.topology.relevance import predicted_help

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
TRIED: Final = (
    "benchmarks/relevance_world.py",
    "src/daitn/learning/numerics/transfer.py",
    "src/daitn/learning/numerics/train.py",
    "src/daitn/learning/tasks/classification.py",
    "src/daitn/learning/tasks/retrieval.py",
    "src/daitn/demo/medquad/models.py",
)
"""Files on which the trials depend."""
EPSILON: Final = 1.0
SAMPLE_FRAC: Final = 0.2
SEEDS: Final = {"medquad": (0,), "mnist": (0, 1, 2, 3), "mnist-digits": (0, 1)}
"""World → seeds of split and training. MedQuAD's split is given; its seed is that of the model's first weights."""
QUICK_POINTS: Final = 0.02
DRAWS: Final = 5
BOOTSTRAPS: Final = 2000
CHOSEN_ON: Final = 0
"""Split of MNIST on which `relevance.SOFTNESS` was chosen: not among those that are reported."""


def source_hash(files: tuple[str, ...] = MEASURED) -> str:
    """BLAKE3 of the files that were measured, without their comments and docstrings, and their names."""
    found = blake3()
    for path in sorted(path for pattern in files for path in ROOT.glob(pattern)):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
        found.update(str(path.relative_to(ROOT)).encode() + b"\x00" + ast.dump(tree).encode() + b"\x00")
    return str(found.hexdigest())[:16]


def _is_text(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def make_world(name: str, seed: int, folder: Path) -> World:
    """The sites of a world on a new shelf, under the benchmark's policy."""
    policy = Policy(epsilon_per_period=EPSILON, releases_per_period=1, sample_frac=SAMPLE_FRAC)
    data = find_folder("medquad" if name == "medquad" else "mnist")
    if data is None:
        raise SystemExit(f"the data of {name} is not here: set DAITN_DATA to the folder that holds it")
    if name == "medquad":
        return medquad_world(data, folder, policy)
    return mnist_world(data, folder, policy, seed, all_digits=name == "mnist")


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


def run_trial(world: World, seed: int) -> dict[str, Any]:
    """What a unit that holds all sites' samples finds out: the product's trial, with all the time it wants."""
    sets: list[RecordSlice] = []
    for site in world.sites:
        table = world.shelf.table(site)
        rows = sample_rows(table, world.contract, Policy(sample_frac=SAMPLE_FRAC))
        sets.append(take_rows(encode_records(table, world.contract, rows, DataSetId(f"node/{site}")), slice(None)))
    model, task = make_model(world, seed), numerics_for(world.contract.task, world.contract)
    names = [f"accuracy@{field}" for field in world.fields]
    began = time.perf_counter()
    taught = transfer_trial(model, task, sets, names, world.training, seconds=1e9)
    seconds = time.perf_counter() - began
    return {
        "taught": msgspec.to_builtins(taught),
        "trial_s": round(seconds, 1),
        "source": source_hash(TRIED),
    }


def trial_of(name: str, seed: int) -> tuple[TaughtBy, ...] | None:
    """The stored trial of a world; None where there is none."""
    cell = stored_cells().get(f"trial/{name}/{seed}")
    return None if cell is None else msgspec.convert(cell["taught"], tuple[TaughtBy, ...])


def all_cells() -> list[str]:
    """Names of all cells."""
    sites = {"medquad": [one.name for one in INSTITUTES]}
    names = [f"site{number:02d}" for number in range(SITES)]
    trials = [f"trial/{world}/{seed}" for world, seeds in SEEDS.items() for seed in seeds]
    return trials + [
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
            wanted = source_hash(TRIED if name.startswith("trial/") else MEASURED)
            if not fnmatchcase(name, pattern) or cells.get(name, {}).get("source") == wanted:
                continue
            if time.monotonic() > ends:
                return
            first, second, third = name.split("/")
            kind, seed, site = (second, third, "") if first == "trial" else (first, second, third)
            if (kind, seed) not in worlds:
                folder = Path(temporary) / f"{kind}-{seed}"
                folder.mkdir()
                worlds[kind, seed] = make_world(kind, int(seed), folder)
            world = worlds[kind, seed]
            cell = run_cell(world, int(seed), site) if site else run_trial(world, int(seed))
            cells = stored_cells() | {name: cell}
            RESULTS.parent.mkdir(exist_ok=True)
            written = RESULTS.with_suffix(".new")
            written.write_text(json.dumps({"cells": dict(sorted(cells.items()))}, indent=1) + "\n")
            os.replace(written, RESULTS)
            print(name, cell.get("gain") or cell["trial_s"], flush=True)


def gains_of(name: str, seed: int, sites: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Gains (S, F) and what the model lacks before (F,); None where a cell is missing."""
    cells = stored_cells()
    found = [cells.get(f"{name}/{seed}/{site}") for site in sites]
    if any(one is None for one in found):
        return None
    gain_SF = np.array([one["gain"] for one in found if one])
    before_SF = np.array([one["before"] for one in found if one])
    return gain_SF, 1.0 - before_SF.mean(axis=0)


def predictions(
    world: World, data: list[DataDescriptor], need_F: NDArray[np.float64], taught: tuple[TaughtBy, ...]
) -> dict[str, NDArray[np.float64]]:
    """Ways to predict → (S, F), from what the sites of a world publish."""
    contract = world.contract
    counts = [field_counts(contract, one) for one in data]
    fields_SF = np.array([[count[field] for field in contract.target_fields()] for count in counts])
    needs = dict(zip(world.fields, need_F.tolist(), strict=True))
    columns = slice(0, len(world.fields))
    share_SF = (fields_SF / np.maximum(fields_SF.sum(axis=0), 1.0))[:, columns]
    return {
        "ours": predicted_help(contract, data, fields_SF, needs, taught=taught)[:, columns],
        "descriptions": predicted_help(contract, data, fields_SF, needs)[:, columns],
        "labels_alone": predicted_help(contract, data, fields_SF, needs, by_sketch=False)[:, columns],
        "field_share": share_SF * need_F,
    }


def without_noise(one: DataDescriptor) -> DataDescriptor:
    """A descriptor of exact numbers, which says so."""
    exact = tuple(msgspec.structs.replace(sketch, noise_std=0.0) for sketch in sketches_of(one.descriptions))
    return msgspec.structs.replace(one, descriptions=exact)


def rank_correlations(
    name: str, seed: int, draws: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]] | None:
    """Way to predict → correlations: first the one of each draw, then those of bootstrapped sites and draws."""
    found: list[dict[str, float]] = []
    samples: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        world = make_world(name, seed, Path(temporary))
        truth = gains_of(name, seed, world.sites)
        if truth is None:
            return None
        gain_SF, need_F = truth
        taught = trial_of(name, seed)
        if taught is None:
            return None
        for _ in range(draws):
            ways = predictions(world, descriptors(world), need_F, taught)
            found.append({way: spearman(value_SF, gain_SF) for way, value_SF in ways.items()})
            for _ in range(BOOTSTRAPS // draws):
                rows = rng.integers(len(gain_SF), size=len(gain_SF))
                samples.append({way: spearman(value_SF[rows], gain_SF[rows]) for way, value_SF in ways.items()})
        data = [without_noise(one) for one in descriptors(world, lambda counts, _, __: list(counts))]
        exact = spearman(predictions(world, data, need_F, taught)["descriptions"], gain_SF)
    ways_of = {way: np.array([one[way] for one in (*found, *samples)]) for way in found[0]}
    return ways_of | {"without_noise": np.full(draws + len(samples), exact)}


def spearman(left_SF: NDArray[np.float64], right_SF: NDArray[np.float64]) -> float:
    """Spearman's rank correlation over all pairs; 0 where one side is all alike."""
    if np.ptp(left_SF) == 0 or np.ptp(right_SF) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(left_SF), _ranks(right_SF))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, those of equal values averaged."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse.reshape(-1)])


def measure(draws: int = DRAWS, only: tuple[str, ...] = tuple(SEEDS)) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and peers of all worlds whose cells are there."""
    figures_found: dict[str, float] = {"epsilon": EPSILON}
    peers: dict[str, dict[str, float]] = {
        "descriptions": {},
        "labels_alone": {},
        "field_share": {},
        "without_noise": {},
    }
    for name in only:
        seeds = [seed for seed in SEEDS[name] if name == "medquad" or seed != CHOSEN_ON]
        rng = np.random.default_rng(7)
        found = [one for seed in seeds if (one := rank_correlations(name, seed, draws, rng)) is not None]
        if not found:
            continue
        key = f"rank_correlation_{name.replace('-', '_')}"
        # Sites of several seeds are drawn together: the mean over seeds of each bootstrap sample.
        means = {way: np.mean([one[way] for one in found], axis=0) for way in found[0]}
        for way, values in means.items():
            row = figures_found if way == "ours" else peers[way]
            row[key] = float(values[:draws].mean())
            if way != "without_noise":
                low, high = np.quantile(values[draws:], (0.025, 0.975))
                row[f"{key}_low"], row[f"{key}_high"] = float(low), float(high)
        gap = means["ours"][draws:] - means["labels_alone"][draws:]
        figures_found[f"{key}_above_labels"] = float((means["ours"] - means["labels_alone"])[:draws].mean())
        figures_found[f"{key}_above_labels_low"] = float(np.quantile(gap, 0.025))
        figures_found[f"{key}_splits"] = float(len(found))
    return figures_found, peers


def check_one_cell() -> str:
    """Train one cell anew; SystemExit where it is far from the stored one."""
    cells = {name: cell for name, cell in stored_cells().items() if name.startswith("mnist") and cell["train_s"] < 15}
    if not cells:
        return "no cell is stored: nothing to compare with"
    name = random.choice(sorted(cells))
    kind, seed, site = name.split("/")
    with tempfile.TemporaryDirectory() as temporary:
        again = run_cell(make_world(kind, int(seed), Path(temporary)), int(seed), site)
    worst = float(np.abs(np.array(again["gain"]) - np.array(cells[name]["gain"])).max())
    if worst > QUICK_POINTS:
        raise SystemExit(f"cell {name}: a field's gain is {worst:.3f} from the stored one, more than {QUICK_POINTS}")
    return f"cell {name} again: gains within {worst:.3f} of the stored ones"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one cell again, one draw of the noise")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--cells", default="", help="run missing cells whose names match")
    parser.add_argument("--seconds", type=float, default=200.0, help="begin no cell after so long")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cells:
        fill(given.cells, given.seconds)
        return
    said = [check_one_cell()] if given.quick else []
    found, peers = measure(1 if given.quick else DRAWS, ("mnist",) if given.quick else tuple(SEEDS))
    if given.quick:
        stored = json.loads(RESULTS.read_text()).get("figures", {})
        low, high = stored.get("rank_correlation_mnist_low", -1), stored.get("rank_correlation_mnist_high", 1)
        if not low <= found["rank_correlation_mnist"] <= high:
            raise SystemExit(f"rank correlation {found['rank_correlation_mnist']:.3f} is outside {low:.3f}–{high:.3f}")
        found = dict(stored) | {"quick_rank_correlation_mnist": found["rank_correlation_mnist"]}
        peers = json.loads(RESULTS.read_text()).get("peers", {})
    else:
        document = make_document("relevance", found, peers, sorted({s for seeds in SEEDS.values() for s in seeds}))
        cells = {"cells": dict(sorted(stored_cells().items())), "source": source_hash()}
        RESULTS.write_text(json.dumps(document | cells, indent=1) + "\n")
    print_report("relevance", found, peers, sorted(SEEDS["mnist"]), only_json=given.json, said=said)


if __name__ == "__main__":
    main()

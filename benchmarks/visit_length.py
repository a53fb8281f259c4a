"""Question: what do visits gain that are as long as a site's records make them, where sites are of unequal size?

Workload: 50,000 images of MNIST at eight sites with two to five of ten labels each, sixteen times as many records at
the largest as at the smallest, in an order drawn anew for each seed; a perceptron (784-128-10), one copy that travels
by the network's own choice of route, and federated averaging. Hyper-parameters, lengths of visits, rules, steps and
averages are the product's, the network between them is left out. Compared are visits by records
(`decision.visit_length`) with visits that are all as long as those of a typical site, from equal starts.

Measures, of each pair: steps of all sites together, visits, and *turns* (steps one after another: of a round those of
its longest visit) until 90 % and 93 % of the test images are told right, measured after each visit or round. A run that
has not got there counts as where it was given up.

    python -m benchmarks.visit_length           # five seeds
    python -m benchmarks.visit_length --quick   # one seed, 90 % alone
"""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from benchmarks.report import arguments, make_document, print_report
from benchmarks.tramfl_world import LABELS, Digits, find_data, read_digits, split
from benchmarks.tuning import TASK, Perceptron, World, view_of
from daitn.base.ids import DataSetId
from daitn.decision.hyperparameters import at_site, propose_training, typical_records, usual_epochs
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.visit_length import batches_at, epochs_of
from daitn.descriptors.contract import CategoryColumn, DataContract, VectorColumn, VectorInput
from daitn.descriptors.request import Hyperparameters
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.evaluate import evaluate, keep_state, restore_state
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, Seeds, train
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice

RESULTS: Final = Path(__file__).resolve().parent / "results" / "visit_length.json"
SEEDS: Final = tuple(range(5))
SITES: Final = 8
RECORDS: Final = 50_000
UNEQUAL: Final = 16.0
"""Records of the largest site in those of the smallest."""
TARGETS: Final = (0.9, 0.93)
STEPS_MOST: Final = {FIRST_CHOICE: 6_000, "fedavg": 24_000}
"""Steps of all sites together after which a run is given up."""
WAYS: Final = ("records", "alike")


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a run took to a target; `reached`: 1, or 0 where it was given up."""

    steps: int
    visits: int
    turns: int
    reached: int


def make_world(train_set: Digits, test_set: Digits, seed: int) -> World:
    """Sites of unequal size, none of whose records another has."""
    draw = np.random.default_rng(seed)
    shares = UNEQUAL ** (np.arange(SITES) / (SITES - 1))
    sizes = draw.permutation(np.round(RECORDS * shares / shares.sum()).astype(int))
    left = {label: list(draw.permutation(np.flatnonzero(train_set.labels == label))) for label in range(LABELS)}
    rng, sites = random.Random(f"visit_length/{seed}"), []
    for number, held in sorted(enumerate(split(SITES, seed)), key=lambda one: sizes[one[0]]):  # the small ones first
        rows: list[int] = []
        while len(rows) < sizes[number] and any(left[label] for label in held):
            label = rng.choice([label for label in held if left[label]])
            rows += [left[label].pop() for _ in range(min(20, len(left[label]), int(sizes[number]) - len(rows)))]
        sites.append(_part(train_set, np.array(rows), f"site{number}/digits"))
    width = train_set.images[0].size
    contract = DataContract(
        name="digits",
        columns=(VectorColumn(name="x", length=width), CategoryColumn(name="digit", values=tuple("0123456789"))),
        inputs=(VectorInput(name="x", column="x"),),
        task=TASK,
    )
    sites.sort(key=lambda one: one.dataset)
    test = _part(test_set, np.arange(len(test_set.labels)), "test")
    return World(sites, [], test, ClassificationNumerics(TASK, contract, torch.device("cpu")))


def _part(digits: Digits, rows: np.ndarray, name: str) -> RecordSlice:
    flat = digits.images[rows].reshape(len(rows), -1)
    return RecordSlice({"x": flat}, digits.labels[rows], np.zeros((len(rows), 0), np.bool_), name)


def run(
    world: World, model: torch.nn.Module, method: str, seed: int, targets: tuple[float, ...], *, by_records: bool
) -> list[Cost]:
    """Train until the last of `targets` (ascending) is reached, or given up."""
    kind, view, pinned = METHODS[method], view_of(world), Hyperparameters()
    options = {"parallel": kind.aggregates, "steady": kind.steady, "prefers": kind.prefers}
    planned, _ = propose_training(view, pinned, **options)  # type: ignore[arg-type]
    usual = usual_epochs(kind.prefers, parallel=kind.aggregates)
    epochs = epochs_of(kind, pinned, planned, typical_records(view), usual) if by_records else 0.0
    by_name = {DataSetId(site.dataset): site for site in world.sites}
    lengths = {
        name: batches_at(planned.batches, planned.batch_size, epochs, float(len(site.fields)))
        for name, site in by_name.items()
    }
    steps = visits = turns = 0
    found: list[Cost] = []

    def visit(dataset: DataSetId, state: ModelState) -> ModelState:
        source = MemorySlice(dataset, by_name[dataset])
        training = at_site(planned, lengths[dataset], pinned)
        return train(model, world.numerics, source, training, state, seeds=Seeds(job=seed, visit=visits)).state

    def is_over() -> bool:
        accuracy = evaluate(model, world.numerics, [world.test], ["accuracy"])[0].value
        given_up = steps >= STEPS_MOST[method]
        while len(found) < len(targets) and (given_up or accuracy >= targets[len(found)]):
            reached = int(accuracy >= targets[len(found)])
            found.append(Cost(steps=steps, visits=visits, turns=turns, reached=reached))
        return len(found) == len(targets)

    if isinstance(kind, Sequential):
        state, seen = ModelState(), Seen(seed=seed)
        while not is_over():
            stop = RULES[kind.rule].next_stop(view, seen, planned.batches * planned.batch_size)
            assert stop is not None
            state = visit(stop.dataset, state)
            length = lengths[stop.dataset]
            seen = Seen(visits=(*seen.visits, (stop.dataset, length * planned.batch_size)), seed=seed)
            steps, visits, turns = steps + length, visits + 1, turns + length
        return found
    total = sum(len(site.fields) for site in world.sites)
    cursors: dict[DataSetId, ModelState] = {}
    while not is_over():
        base, mean = keep_state(model), dict[str, Tensor]()
        for name, site in by_name.items():
            restore_state(model, base)
            cursors[name] = ModelState(visit(name, cursors.get(name, ModelState())).travelling)
            for key, tensor in keep_state(model).items():
                share = tensor * (len(site.fields) / total)
                mean[key] = mean[key] + share if key in mean else share
        restore_state(model, mean)
        steps, visits, turns = steps + sum(lengths.values()), visits + SITES, turns + max(lengths.values())
    return found


def compare(
    train_set: Digits, test_set: Digits, method: str, seed: int, targets: tuple[float, ...]
) -> dict[str, float]:
    """Both ways from one start."""
    world = make_world(train_set, test_set, seed)
    torch.manual_seed(seed)
    model = Perceptron(train_set.images[0].size)
    begin, found = keep_state(model), dict[str, float]()
    for way in WAYS:
        restore_state(model, begin)
        for target, cost in zip(
            targets, run(world, model, method, seed, targets, by_records=way == "records"), strict=True
        ):
            found |= {f"{way}_{100 * target:.0f}_{key}": float(getattr(cost, key)) for key in Cost.__struct_fields__}
    print(f"# {method} seed {seed}: {found}", flush=True)
    return found


def main() -> None:
    """Measure, print, and keep the figures of a run in full."""
    given = arguments(__doc__)
    folder = find_data()
    if folder is None:
        raise SystemExit("MNIST is not here: set DAITN_DATA to the folder that holds mnist/")
    torch.set_num_threads(1)
    train_set, test_set = read_digits(folder, "train"), read_digits(folder, "t10k")
    seeds, targets = (SEEDS[:1], TARGETS[:1]) if given.quick else (SEEDS, TARGETS)
    figures: dict[str, float] = {}
    for method in (FIRST_CHOICE, "fedavg"):
        runs = [compare(train_set, test_set, method, seed, targets) for seed in seeds]
        for key in runs[0]:
            figures[f"{method}_{key}"] = statistics.median(one[key] for one in runs)
        for target in targets:
            for key in ("steps", "visits", "turns"):
                name = f"{100 * target:.0f}_{key}"
                ratios = [one[f"records_{name}"] / one[f"alike_{name}"] for one in runs]
                figures[f"{method}_{name}_ratio"] = statistics.median(ratios)
                figures[f"{method}_{name}_ratio_worst"] = max(ratios)
    print_report("visit_length", figures, {}, list(seeds), only_json=given.json)
    if not given.quick:
        document = make_document("visit_length", figures, {}, list(seeds))
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What searching hyper-parameters before a run gains over the rules: accuracy after equally many visits.

Question: with the same number of visits, how good is a model whose hyper-parameters were searched at the verification
unit (`decision.tuning`, twelve tries), against one trained by the rules (`decision.hyperparameters`)?

Six sites with two to five of ten labels each, a fifth of their records given to the unit, accuracy on records that
neither has. Small digits (1,797 images of 8 × 8, scikit-learn's) with a perceptron and with a recurrent network that
reads rows one after another; MNIST (10,000 of its images) with a perceptron. One copy that travels, by the network's
own choice of route, and federated averaging. The search, the numerics and the choices are the product's; the network
between them is left out. A searched visit may be up to twice as long as one by the rules, and its batches larger: told
beside the accuracies as `records_ratio`.

    python -m benchmarks.tuning [--quick] [--json]

`--quick`: small digits with the perceptron, one seed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.report import arguments, make_document, print_report
from benchmarks.tramfl_world import Digits, find_data, make_view, read_digits, split
from daitn.base.ids import DataSetId, NodeId
from daitn.decision.facts import Searched
from daitn.decision.hyperparameters import propose_training
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.tuning import (
    CandidatesSought,
    Go,
    Propose,
    Setting,
    Stage,
    choose,
    next_move,
    optimizers_of,
    order_of,
    said_of,
    seconds_of,
    starts_of,
    trials_of,
    trying_of,
)
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, VectorColumn, VectorInput
from daitn.descriptors.request import Hyperparameters, Tuning
from daitn.descriptors.trials import Training
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.evaluate import evaluate, keep_state, restore_state
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, Seeds, train
from daitn.learning.numerics.tuning_trial import tuning_trial
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice

RESULTS: Final = Path(__file__).parent / "results" / "tuning.json"
SEEDS: Final = (0, 1, 2, 3, 4)
SITES: Final = 6
VISITS: Final = {"early": 2 * SITES, "late": 6 * SITES}
"""Visits after which accuracies are compared; in federated averaging a round is one visit of each site."""
MNIST_IMAGES: Final = 10_000
TASK: Final = Classification(label="digit")


class World(NamedTuple):
    """Sites' records, the unit's samples of them, and what nobody trains on."""

    sites: list[RecordSlice]
    samples: list[RecordSlice]
    test: RecordSlice
    numerics: ClassificationNumerics


class Perceptron(nn.Module):
    """One hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10)."""
        logits: Tensor = self.layers(x)
        return logits


class Rows(nn.Module):
    """A recurrent network that reads an image's rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.side = round(width**0.5)
        self.cell = nn.GRU(self.side, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10)."""
        read, _ = self.cell(x.reshape(len(x), self.side, self.side))
        logits: Tensor = self.head(read[:, -1])
        return logits


def make_world(images: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> World:
    """Six sites of a data set (N, D): a fifth of all for the test, a fifth of each site's for the unit."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(images))
    test, rest = order[: len(order) // 5], order[len(order) // 5 :]

    def part(rows: NDArray[np.int64], name: str) -> RecordSlice:
        return RecordSlice({"x": images[rows]}, labels[rows], np.zeros((len(rows), 0), np.bool_), name)

    sites, samples = [], []
    for number, held in enumerate(split(SITES, seed)):
        own = rest[np.isin(labels[rest], held)]
        own = draw.permutation(own)[: max(120, len(rest) // SITES)]
        sites.append(part(own[len(own) // 5 :], f"site{number}/digits"))
        samples.append(part(own[: len(own) // 5], f"site{number}/digits"))
    width = images.shape[1]
    contract = DataContract(
        name="digits",
        columns=(VectorColumn(name="x", length=width), CategoryColumn(name="digit", values=tuple("0123456789"))),
        inputs=(VectorInput(name="x", column="x"),),
        task=TASK,
    )
    return World(sites, samples, part(test, "test"), ClassificationNumerics(TASK, contract, torch.device("cpu")))


class _Seen(NamedTuple):
    """A site as `tramfl_world.make_view` wants it."""

    dataset: DataSetId
    node: NodeId
    counts: dict[str, float]
    size: int

    def __len__(self) -> int:
        return self.size


def view_of(world: World):  # type: ignore[no-untyped-def]
    """What rules see."""
    seen = []
    for site in world.sites:
        assert site.labels is not None
        labels, counts = np.unique(site.labels, return_counts=True)
        told = {str(label): float(count) for label, count in zip(labels, counts, strict=True)}
        seen.append(_Seen(DataSetId(site.dataset), NodeId(site.dataset.partition("/")[0]), told, len(site.labels)))
    return make_view(seen)  # type: ignore[arg-type]


def search(world: World, model: nn.Module, method: str, base: Training, seed: int) -> tuple[Searched, float]:
    """As the control centre does it, with the unit at hand; and the unit's seconds."""
    kind, tuning, pinned = METHODS[method], Tuning(seconds=900.0), Hyperparameters()
    stages: list[Stage] = []
    setting = Setting(base, ("accuracy",), SITES, order_of(kind), 0.0)
    while (move := next_move(tuning, base, stages)) is not None:
        if isinstance(move, Propose):
            sought = CandidatesSought(
                base=base, pinned=pinned, optimizers=optimizers_of(kind, base),
                starts=starts_of(kind, base, pinned, ()), count=move.many, seed=seed,
                tried=tuple((one.training, one.error) for one in trials_of(stages, 0)),
            )  # fmt: skip
            move = Go(0, sought.solve().trainings)
        trying = trying_of(tuning, move, setting, stages)
        tried = tuning_trial(model, world.numerics, world.samples, trying)
        stages.append(Stage(rung=move.rung, trainings=trying.trainings, tried=tried))
    return choose(base, stages), seconds_of(stages)


def run(world: World, model: nn.Module, method: str, training: Training, seed: int) -> dict[str, float]:
    """Accuracy after so many visits."""
    kind, view = METHODS[method], view_of(world)
    by_name = {site.dataset: site for site in world.sites}
    found: dict[str, float] = {}

    def visit(dataset: str, state: ModelState, number: int) -> ModelState:
        site = by_name[dataset]
        source = MemorySlice(DataSetId(dataset), site)
        return train(model, world.numerics, source, training, state, seeds=Seeds(job=seed, visit=number)).state

    def look(visits: int) -> None:
        for name, after in VISITS.items():
            if visits == after:
                found[name] = evaluate(model, world.numerics, [world.test], ["accuracy"])[0].value

    if isinstance(kind, Sequential):
        state, seen = ModelState(), Seen(seed=seed)
        for number in range(max(VISITS.values())):
            stop = RULES[kind.rule].next_stop(view, seen, training.batches * training.batch_size)
            assert stop is not None
            state = visit(stop.dataset, state, number)
            seen = Seen(visits=(*seen.visits, (stop.dataset, training.batches * training.batch_size)), seed=seed)
            look(number + 1)
        return found
    total = sum(len(site.fields) for site in world.sites)
    for number in range(max(VISITS.values()) // SITES):
        base = keep_state(model)
        mean: dict[str, Tensor] = {}
        for site in world.sites:
            restore_state(model, base)
            visit(site.dataset, ModelState(), number)
            for name, tensor in keep_state(model).items():
                share = tensor * (len(site.fields) / total)
                mean[name] = mean[name] + share if name in mean else share
        restore_state(model, mean)
        look((number + 1) * SITES)
    return found


def compare(
    images: NDArray[np.float32], labels: NDArray[np.int64], net: Callable[[int], nn.Module], method: str, seed: int
) -> dict[str, float]:
    """Both ways on one split and one start."""
    world, kind = make_world(images, labels, seed), METHODS[method]
    torch.manual_seed(seed)
    model = net(images.shape[1])
    begin = keep_state(model)
    options = {"parallel": kind.aggregates, "steady": kind.steady, "prefers": kind.prefers}
    rules, _ = propose_training(view_of(world), Hyperparameters(), **options)  # type: ignore[arg-type]
    began = time.perf_counter()
    searched, unit_s = search(world, model, method, rules, seed)
    search_s = time.perf_counter() - began
    tuned, _ = propose_training(view_of(world), Hyperparameters(), searched=searched, **options)  # type: ignore[arg-type]
    found = {"search_s": search_s, "unit_s": unit_s, "changed": float(searched.chosen is not None)}
    found["records_ratio"] = tuned.batches * tuned.batch_size / (rules.batches * rules.batch_size)
    for name, training in (("rules", rules), ("searched", tuned)):
        restore_state(model, begin)
        for when, accuracy in run(world, model, method, training, seed).items():
            found[f"{name}_{when}"] = accuracy
    print(f"# {method} seed {seed}: {said_of(rules)} -> {said_of(tuned)}; {found}", flush=True)
    return found


def worlds(quick: bool) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64], Callable[[int], nn.Module]]]:
    """Data and models by name."""
    pixels, labels = load_digits(return_X_y=True)
    small = (pixels / 16).astype(np.float32)
    found = {"digits": (small, labels, Perceptron)}
    folder = find_data()
    if quick:
        return found  # type: ignore[return-value]
    found["digits_rows"] = (small, labels, Rows)  # type: ignore[assignment]
    if folder is not None:
        digits: Digits = read_digits(folder, "train")
        flat = digits.images[:MNIST_IMAGES].reshape(MNIST_IMAGES, -1)
        found["mnist"] = (flat, digits.labels[:MNIST_IMAGES], Perceptron)
    return found  # type: ignore[return-value]


def main() -> None:
    """Measure, print, and keep the figures of a run in full."""
    given = arguments(__doc__)
    torch.set_num_threads(1)
    seeds: Sequence[int] = SEEDS[:1] if given.quick else SEEDS
    figures: dict[str, float] = {}
    for name, (images, labels, net) in worlds(given.quick).items():
        for method in (FIRST_CHOICE, "fedavg"):
            runs = [compare(images, labels, net, method, seed) for seed in seeds]
            for key in runs[0]:
                values = [one[key] for one in runs]
                figures[f"{name}_{method}_{key}"] = statistics.median(values)
            for when in VISITS:
                gains = [one[f"searched_{when}"] - one[f"rules_{when}"] for one in runs]
                figures[f"{name}_{method}_gain_{when}"] = statistics.median(gains)
                figures[f"{name}_{method}_gain_{when}_worst"] = min(gains)
    print_report("tuning", figures, {}, list(seeds), only_json=given.json)
    if not given.quick:
        document = make_document("tuning", figures, {}, list(seeds))
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

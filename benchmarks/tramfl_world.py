"""The world of `benchmarks.tramfl`: data, split, model, test, and one run of one method in it.

One process: the numerics (`learning.numerics.train`, `aggregate`) and the decisions (`learning.methods`,
`decision.routes`, `decision.hyperparameters`) are the product's, the network between them is left out. Transfers are
counted, not made: a visit to another site than the last one is a transfer from site to site (the first is the one from
the owner), a test is one to the verification unit, a round of averaging is one to and one from every site.

The setting is Tram-FL's where it is published: MNIST, n nodes with 2 to 5 random labels each and all training images
of those (drawn again until every label is somewhere), a convolutional network of 1.2 M parameters, batches of 100, rate
0.005, momentum 0.9. Its layers are not published; ours are 32 filters of 5 × 5 with stride 2, 64 of 3 × 3, a maximum
over 2 × 2, 730 hidden units: 1,195,368 parameters that a core can train at 10 ms a step. Weights start as K. He et al.
(2015) say. Products are computed in bfloat16 (autocast), sums and weights in float32; trained centrally, that and
float32 differ by less than two seeds do.

Legend: N images, n nodes.
"""

from __future__ import annotations

import gzip
import math
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.payloads import layout_of, load_weights, store_weights
from daitn.artifacts.manifest import TravellingState
from daitn.base.ids import DataSetId, NodeId
from daitn.decision.hyperparameters import propose_training
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, ImageColumn, ImageInput
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.view import Candidate, TrainingView
from daitn.descriptors.work import Training
from daitn.learning.methods import METHODS
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.aggregate import Update, average, merge_states, plan_average
from daitn.learning.numerics.train import ModelState, Seeds, train
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice

LABELS: Final = 10
BATCHES: Final = {3: 15, 5: 25, 10: 50}
"""Nodes → batches of a visit."""
PINNED: Final = Hyperparameters(
    batch_size=100, learning_rate=0.005, optimizer="momentum", momentum=0.9, weight_decay=0.0
)
CAPS: Final = {0.9: 2000, 0.99: 8000}
"""Accuracy → steps after which a run that has not reached it is given up; it counts as where it was then."""
MEAN: Final = 0.1307
DEVIATION: Final = 0.3081
"""Of the training images' pixels, scaled to 0 … 1."""

Rows = NDArray[np.int64]

CONTRACT: Final = DataContract(
    name="digits",
    columns=(
        ImageColumn(name="image", height=28, width=28, channels=1),
        CategoryColumn(name="digit", values=tuple("0123456789")),
    ),
    inputs=(ImageInput(name="image", column="image", center=MEAN, scale=DEVIATION),),
    task=Classification(label="digit"),
)


class Net(nn.Module):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1600, 730), nn.ReLU(), nn.Linear(730, LABELS),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                # The layout of memory in which convolutions are a third faster here.
                if layer.weight.ndim == 4:
                    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 28, 28)."""
        logits: Tensor = self.layers(image)
        return logits


@dataclass(frozen=True)
class Digits:
    """MNIST: normalised images (N, 1, 28, 28) and labels."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def find_data() -> Path | None:
    """The folder with MNIST's four files: `DAITN_DATA`/mnist, or ../shared/data/mnist beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DAITN_DATA", str(beside))) / "mnist"
    return folder if (folder / "train-images-idx3-ubyte.gz").exists() else None


def read_digits(folder: Path, part: str) -> Digits:
    """`part`: `train` or `t10k`."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    scaled = (pixels.astype(np.float32) / 255 - MEAN) / DEVIATION
    return Digits(scaled.astype(np.float32), np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def split(nodes: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Labels of each node."""
    rng = random.Random(f"tramfl/{nodes}/{seed}")
    while True:
        held = tuple(tuple(sorted(rng.sample(range(LABELS), rng.randint(2, 5)))) for _ in range(nodes))
        if len({label for labels in held for label in labels}) == LABELS:
            return held


class Site:
    """Training images of some labels, as a record source (`learning.tasks.contract.RecordSource`)."""

    def __init__(self, number: int, digits: Digits, labels: tuple[int, ...]) -> None:
        self.dataset = DataSetId(f"node{number}/digits")
        self.node = NodeId(f"node{number}")
        self._digits = digits
        self._rows = np.flatnonzero(np.isin(digits.labels, labels))
        self.counts = {str(label): float((digits.labels == label).sum()) for label in labels}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Rows) -> RecordSlice:
        """The records at these positions."""
        chosen = self._rows[rows]
        no_fields = np.zeros((len(chosen), 0), np.bool_)
        return RecordSlice({"image": self._digits.images[chosen]}, self._digits.labels[chosen], no_fields, self.dataset)


def make_view(sites: list[Site]) -> TrainingView:
    """What a rule sees: every site with its label counts, all reachable, trusted and alike."""
    candidates = tuple(
        Candidate(
            dataset=site.dataset, data_node=site.node, compute_node=site.node, streamed=False,
            records=float(len(site)), groups=float(len(site)), labels=site.counts, fields={}, record_bytes=785.0,
            relevance={}, flops=1e11, memory_bytes=8e9, slots=1, batch_s=None, bytes_per_s=1e8, latency_s=0.01,
            trust=1.0, availability=1.0, age_s=0.0,
        )
        for site in sites
    )  # fmt: skip
    return TrainingView(version=1, made_at_ns=0, candidates=candidates, excluded=(), verifiers=(), aggregators=())


class Exam:
    """Whether a model reaches an accuracy on all test images: exact, and cheap while it is far from it.

    Images are looked at in the order of how often they were missed so far in this run, and the exam ends as soon as
    more are missed than the accuracy allows.
    """

    def __init__(self, digits: Digits) -> None:
        self._images, self._labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
        self._missed = torch.zeros(len(self._labels))

    def passes(self, model: nn.Module, accuracy: float) -> bool:
        """Whether at least this share of all test images is told right."""
        allowed = math.floor((1 - accuracy) * len(self._labels) + 1e-9)
        order = torch.argsort(self._missed, descending=True, stable=True)
        model.eval()
        missed, start = 0, 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            while start < len(order):
                rows = order[start : start + max(250, min(1000, start))]
                wrong = model(self._images[rows]).argmax(dim=1) != self._labels[rows]
                self._missed[rows[wrong]] += 1
                missed += int(wrong.sum())
                start += len(rows)
                if missed > allowed:
                    return False
        return True


class Count(msgspec.Struct, kw_only=True):
    """What a run has cost so far. `updates`: steps of all sites together."""

    updates: int = 0
    transfers: int = 0
    """From site to site, or between sites and the aggregator."""
    checks: int = 0
    """To the verification unit."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run was when it first reached an accuracy, or was given up."""

    updates: int
    transfers: int
    checks: int
    reached: bool


def run_method(
    method: str,
    nodes: int,
    seed: int,
    accuracies: tuple[float, ...],
    train_set: Digits,
    exam: Exam,
    caps: Mapping[float, int] = CAPS,
) -> dict[float, Arrival]:
    """Train until the last of `accuracies` (ascending) is reached, or to its cap; tested after every visit or round."""
    held = split(nodes, seed)
    sites = [Site(number, train_set, labels) for number, labels in enumerate(held)]
    torch.manual_seed(seed)
    model = Net()
    kind = METHODS[method]
    pinned = msgspec.structs.replace(PINNED, batches_per_visit=BATCHES[nodes])
    proposed, _ = propose_training(make_view(sites), pinned, parallel=kind.parallel, steady=kind.steady)
    training = msgspec.structs.replace(proposed, gradient_clip=0.0)
    count = Count()
    if isinstance(kind, Sequential):
        advance = _sequential(kind.rule, sites, model, training, seed, count)
    else:
        advance = _federated(sites, model, training, seed, count)
    found: dict[float, Arrival] = {}
    while len(found) < len(accuracies):
        next(advance)
        count.checks += 1
        while len(found) < len(accuracies) and exam.passes(model, accuracies[len(found)]):
            found[accuracies[len(found)]] = _arrival(count, reached=True)
        while len(found) < len(accuracies) and count.updates >= caps[accuracies[len(found)]]:
            found[accuracies[len(found)]] = _arrival(count, reached=False)
    return found


def _arrival(count: Count, *, reached: bool) -> Arrival:
    return Arrival(updates=count.updates, transfers=count.transfers, checks=count.checks, reached=reached)


def visit(model: nn.Module, site: Site, training: Training, state: ModelState, seed: int) -> ModelState:
    """One visit, as a site's child does it."""
    numerics = ClassificationNumerics(Classification(label="digit"), CONTRACT, torch.device("cpu"))
    # Without its cache, which would keep the weights of the first step.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return train(model, numerics, site, training, state, seeds=Seeds(job=seed, visit=seed)).state


def _sequential(
    rule: str, sites: list[Site], model: nn.Module, training: Training, seed: int, count: Count
) -> Iterator[None]:
    """Visit after visit, as the job machine orders them; yields when `model` is to be tested."""
    view, state = make_view(sites), ModelState()
    records = training.batches * training.batch_size
    by_dataset = {site.dataset: site for site in sites}
    seen = Seen(seed=seed)
    while True:
        stop = RULES[rule].next_stop(view, seen, records)
        if stop is None:
            raise SystemExit(f"rule {rule} finds no stop")
        count.transfers += stop.dataset != seen.last
        batches = max(1, round(training.batches * stop.length))
        longer = msgspec.structs.replace(training, batches=batches)
        state = visit(model, by_dataset[stop.dataset], longer, state, seed)
        seen = Seen(visits=(*seen.visits, (stop.dataset, batches * training.batch_size)), seed=seed)
        count.updates += batches
        yield


def _federated(sites: list[Site], model: nn.Module, training: Training, seed: int, count: Count) -> Iterator[None]:
    """Round after round: every site trains from one model, the mean by records is the next one."""
    layout = layout_of(model)
    payload, state = bytearray(layout.payload_bytes), TravellingState()
    store_weights(model, layout, payload)
    while True:
        updates, states = [], []
        for site in sites:
            load_weights(model, layout, payload)
            states.append(visit(model, site, training, ModelState(state), seed).travelling)
            own = bytearray(layout.payload_bytes)
            store_weights(model, layout, own)
            updates.append(Update(site.dataset, float(len(site)), layout.entries, memoryview(own), states[-1]))
            count.updates += training.batches
            count.transfers += 2
        average(updates, plan_average(updates), memoryview(payload))
        state = merge_states(states)
        load_weights(model, layout, payload)
        yield

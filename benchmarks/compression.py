"""Question: what do compressed updates cost in accuracy and rounds, and what is error feedback worth?

Workload: the digits of scikit-learn (1,797 images of 8 × 8, 360 of them held out), parted among five sites by a
Dirichlet draw of 0.3 per label; federated averaging by the product's numerics, a network of 64-128-10, 20 batches of 32
a visit, 60 rounds; updates in full, and each way of compressing them, with the residual and (which the product never
does) without.

Measure, over five seeds: `accuracy` at the end, `rounds` until 95 % is reached first (61: never), `size_frac`, bytes of
an update over those of the model.

    python -m benchmarks.compression [--quick] [--json]

`--quick`: two seeds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.payloads import layout_of, load_weights, store_weights
from benchmarks.report import arguments, make_document, print_report
from daitn.descriptors.compression import Compression
from daitn.learning.numerics.aggregate import Update, average
from daitn.learning.numerics.compression import plan_residual, plan_update, restore_model, write_update
from daitn.learning.numerics.server_step import Area

RESULTS: Final = Path(__file__).with_name("results") / "compression.json"
SEEDS: Final = (0, 1, 2, 3, 4)
ROUNDS: Final = 60
SITES: Final = 5
TARGET: Final = 0.95


class Way(NamedTuple):
    """How updates are handed in."""

    compression: Compression | None
    feedback: bool = True

    @property
    def name(self) -> str:
        """As the figures call it."""
        return f"{self.compression or 'full'}{'' if self.feedback else ', no residual'}"


WAYS: Final = (
    Way(None),
    Way(Compression()),
    Way(Compression(keep=0.05)),
    Way(Compression(keep=0.05), feedback=False),
    Way(Compression(keep=0.01)),
    Way(Compression(keep=0.01), feedback=False),
)


def run(way: Way, seed: int) -> tuple[float, int]:
    """Accuracy at the end, and the first round that reached the target."""
    draw = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = draw.permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    shares = draw.dirichlet([0.3] * SITES, size=10)
    home = np.array([draw.choice(SITES, p=shares[label]) for label in labels[360:]])
    sites = [np.flatnonzero(home == site) + 360 for site in range(SITES)]
    sites = [records for records in sites if len(records)]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    layout = layout_of(model)
    head = bytearray(layout.payload_bytes)
    store_weights(model, layout, head)
    residuals: list[Area | None] = [None] * len(sites)
    first, right = ROUNDS + 1, 0.0
    for number in range(ROUNDS):
        updates: list[Update] = []
        for site, records in enumerate(sites):
            load_weights(model, layout, head)
            _train(model, images, labels, records, draw)
            made = bytearray(layout.payload_bytes)
            store_weights(model, layout, made)
            base, trained = Area(layout.entries, memoryview(head)), Area(layout.entries, memoryview(made))
            if way.compression is not None:
                before = residuals[site] if way.feedback else None
                trained, residuals[site] = _through(way.compression, base, trained, before)
            payload = memoryview(bytes(trained.payload))
            updates.append(Update(name=str(site), weight=len(records), entries=layout.entries, payload=payload))
        head = bytearray(layout.payload_bytes)
        average(updates, layout, memoryview(head))
        load_weights(model, layout, head)
        with torch.no_grad():
            right = float((model(torch.from_numpy(images[:360])).argmax(1).numpy() == labels[:360]).mean())
        first = min(first, number + 1) if right >= TARGET else first
    return right, first


def _train(model: nn.Module, images: np.ndarray, labels: np.ndarray, records: np.ndarray, draw) -> None:  # type: ignore[no-untyped-def]
    descent = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        batch = draw.choice(records, 32)
        descent.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(images[batch])), torch.from_numpy(labels[batch]))
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()


def _through(compression: Compression, base: Area, trained: Area, before: Area | None) -> tuple[Area, Area]:
    """The model that the aggregator reads, and the new residual."""
    plans = plan_update(base.entries, compression), plan_residual(base.entries)
    sent, left = (Area(one.entries, memoryview(bytearray(one.payload_bytes))) for one in plans)
    write_update(base, trained, before, compression, sent, left)
    model = Area(base.entries, memoryview(bytearray(len(base.payload))))
    restore_model("update", base, sent, compression, model)
    return model, left


def main() -> None:
    """Measure, print, and keep the figures of a run in full."""
    given = arguments(__doc__)
    torch.set_num_threads(1)
    seeds = SEEDS[:2] if given.quick else SEEDS
    layout = layout_of(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    figures: dict[str, float] = {}
    for way in WAYS:
        ends = [run(way, seed) for seed in seeds]
        sent = layout if way.compression is None else plan_update(layout.entries, way.compression)
        figures[f"size_frac {way.name}"] = sent.payload_bytes / layout.payload_bytes
        for name, values in (("accuracy", [one for one, _ in ends]), ("rounds", [one for _, one in ends])):
            figures[f"{name} {way.name}"] = statistics.median(values)
            figures[f"{name}_worst {way.name}"] = min(values) if name == "accuracy" else max(values)
    print_report("compression", figures, {}, seeds, only_json=given.json)
    if not given.quick:
        RESULTS.write_text(json.dumps(make_document("compression", figures, {}, seeds), indent=1) + "\n")


if __name__ == "__main__":
    main()

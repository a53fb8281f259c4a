"""Question: is a model that is trained in two places the model that would have been trained in one, and what crosses?

Workload: a dense model with running statistics and a way around, a convolutional one and a transformer, each cut in two
where most of it lies in the middle. Two members, each with its half, train by the product's numerics
(`daitn.learning.numerics.split`) and meet in memory; beside them the same model trains whole by the ordinary numerics,
on the same records in the same order. Optimizers: momentum, Adam, clipped gradients, proximal with weight decay.

Measures: `max_difference`: the largest difference of any weight, buffer or slot of the optimizer between the two, over
all models, optimizers and seeds, after one visit of `BATCHES` batches. `between_members`: the same between the two
members, which must be nought. `drift_batches_40`: the largest difference after more than three times as many batches:
Adam divides by the root of a second moment, so rounding grows there where gradients are nearly nought; told, not bound.
`bytes_per_batch`: what crosses, both ways together, the tensors that are exchanged at the end included.
"""

from __future__ import annotations

from typing import Final

import msgspec
import torch
from tests.split_world import Layers, Picture, Sequence, Trained, rebuilt, some_cut, train_split, train_whole

from benchmarks.report import Bounds, arguments, print_report
from daitn.descriptors.work import Training

BOUNDS: Final[Bounds] = {"max_difference": ("<=", 1e-5), "between_members": ("<=", 0.0)}
KINDS: Final = (Layers, Picture, Sequence)
BATCHES: Final = 12
DRIFT_BATCHES: Final = 40
SEEDS: Final = 5
OPTIMIZERS: Final = {
    "momentum": Training(batch_size=16, batches=BATCHES, learning_rate=0.01),
    "adam": Training(batch_size=16, batches=BATCHES, learning_rate=0.01, optimizer="adam"),
    "clipped": Training(batch_size=16, batches=BATCHES, learning_rate=0.01, gradient_clip=0.3),
    "adam_clipped": Training(batch_size=16, batches=BATCHES, learning_rate=0.01, optimizer="adam", gradient_clip=0.3),
    "proximal": Training(batch_size=16, batches=BATCHES, learning_rate=0.01, proximal=0.1, weight_decay=0.01),
}


def difference(one: Trained, other: Trained) -> float:
    """The largest between tensors of the same name; infinite where one has a tensor that the other lacks."""
    most = 0.0
    for mine, its in ((one.tensors, other.tensors), (dict(one.result.state.slots), dict(other.result.state.slots))):
        if set(mine) != set(its):
            return float("inf")
        for name, tensor in mine.items():
            most = max(most, float((tensor.double() - its[name].double()).abs().max()))
    return most


def main() -> None:
    """Run, check, print."""
    chosen = arguments(__doc__)
    torch.set_num_threads(1)
    seeds = range(2 if chosen.quick else SEEDS)
    figures: dict[str, float] = {"max_difference": 0.0, "between_members": 0.0, f"drift_batches_{DRIFT_BATCHES}": 0.0}
    for kind in KINDS:
        for label, training in OPTIMIZERS.items():
            for seed in seeds:
                module = rebuilt(kind, seed)
                cut = some_cut(module)
                whole = train_whole(rebuilt(kind, seed), training, seed=seed)
                at_records, at_middle = train_split(module, cut, training, seed=seed)
                for member in (at_records, at_middle):
                    if not isinstance(member, Trained):
                        raise member
                found = difference(at_records, whole)
                key = f"max_difference_{label}"
                figures[key] = max(figures.get(key, 0.0), found)
                figures["max_difference"] = max(figures["max_difference"], found)
                figures["between_members"] = max(figures["between_members"], difference(at_records, at_middle))
            crossed = f"bytes_per_batch_{kind.__name__.lower()}"
            figures[crossed] = (at_records.moved_bytes + at_middle.moved_bytes) / 2 / BATCHES
        for training in OPTIMIZERS.values():
            longer = msgspec.structs.replace(training, batches=DRIFT_BATCHES)
            drift = difference(train_split(module, cut, longer)[0], train_whole(rebuilt(kind, seeds[-1]), longer))
            key = f"drift_batches_{DRIFT_BATCHES}"
            figures[key] = max(figures[key], drift)
    print_report("split", figures, {}, list(seeds), only_json=chosen.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

"""Question: does a model that is served in stages say what it says whole, and what does finding the cut cost?

Workload: dense, convolutional and transformer models (`tests.split_world`, `tests.unit.test_stages`), cut into two to
five stages at places that the product finds (`daitn.learning.graphs.stages`). Each stage is rebuilt from its own bytes
with its own tensors only, as a host does; between two stages the activation goes through the bytes of a query. Rows
and lengths are others than those that were traced. The cut for seven hosts and the most places a profile may have is
computed by `daitn.decision.staging`, its profile and hosts drawn by seed.

Measures: `max_difference`: the largest difference of any output to the whole model's, over all models, cuts and seeds.
`cuts`: how many were tried. `cut_ms`: median time of one choice of the cut; `profile_ms`: of finding where a
transformer of 3 blocks can be cut.
"""

from __future__ import annotations

import itertools
import time
from statistics import median
from typing import Final

import numpy as np
import torch
from tests.split_world import INPUTS, Layers, Picture
from tests.unit.test_stages import DYNAMIC, Reader, example
from torch import Tensor

from benchmarks.report import Bounds, arguments, print_report
from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_schema import GraphPair
from daitn.artifacts.graph_stages import cut_stage, tensors_of_stage
from daitn.base.ids import NodeId
from daitn.decision.staging import StageHost, cut_stages
from daitn.descriptors.stages import PLACES_MOST, Activation, CutPlace, GraphProfile
from daitn.learning.graphs.export import export_pair
from daitn.learning.graphs.rebuild import rebuild
from daitn.learning.graphs.stages import profile_stages
from daitn.serving.tensors import arrays_of, tensors_of

BOUNDS: Final[Bounds] = {"max_difference": ("<=", 1e-5)}
SEEDS: Final = 5
HOSTS: Final = 7
CHOICES: Final = 9

Exported = tuple[GraphPair, dict[str, Tensor]]


def exported(kind: str, seed: int) -> tuple[Exported, list[dict[str, Tensor]]]:
    """A model, and queries of it."""
    torch.manual_seed(seed)
    if kind == "transformer":
        return export_pair(Reader().eval(), example(), DYNAMIC), [example(1, 3), example(7, 11)]
    module = (Layers if kind == "dense" else Picture)().eval()
    pair = export_pair(module, {"x": torch.randn(4, INPUTS)}, {"x": ("batch", None)})
    return pair, [{"x": torch.randn(rows, INPUTS)} for rows in (1, 9)]


def run(exported: Exported, pair: GraphPair, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What one host says: a model of its own bytes and tensors, asked and answered in the bytes of a query."""
    module = rebuild(
        decode_graph_pair(encode_graph_pair(pair)), {name: exported[1][name] for name in tensors_of_stage(pair)}
    ).eval()
    asked = arrays_of(tensors_of({port.name: given[port.name].numpy() for port in pair.inputs}))
    with torch.inference_mode():
        said = module(**{name: torch.from_numpy(np.array(array)) for name, array in asked.items()})
    carried = arrays_of(tensors_of({name: value.numpy() for name, value in said.items()}))
    return {name: torch.from_numpy(np.array(array)) for name, array in carried.items()}


def difference(model: Exported, cuts: list[Activation], given: dict[str, Tensor]) -> float:
    """Between the stages one after the other and the whole."""
    whole = run(model, cut_stage(model[0], None, None), given)
    known, said = dict(given), dict[str, Tensor]()
    for begin, end in itertools.pairwise([None, *cuts, None]):
        said = run(model, cut_stage(model[0], begin, end), known)
        known |= said
    if set(said) != set(whole):
        return float("inf")
    return max(float((said[name].double() - whole[name].double()).abs().max()) for name in whole)


def drawn(seed: int) -> tuple[GraphProfile, list[StageHost]]:
    """A profile of as many places as there may be, and hosts of unlike memory, speed and bandwidth."""
    draw = np.random.default_rng(seed)
    fracs, weights = np.sort(draw.random(PLACES_MOST)), np.sort(draw.integers(0, 10**9, PLACES_MOST))
    places = tuple(
        CutPlace(
            activation=Activation(place=number + 1, node=number, dtype="float32", sides=("batch", 8)),
            before_frac=float(frac),
            before_bytes=int(weight),
            row_bytes=float(draw.integers(10**3, 10**7)),
        )
        for number, (frac, weight) in enumerate(zip(fracs, weights, strict=True))
    )
    hosts = [
        StageHost(
            node=NodeId(f"n{number}"),
            memory_bytes=int(draw.integers(2 * 10**8, 10**9)),
            flops=float(draw.integers(10**9, 10**12)),
            bytes_per_s=float(draw.integers(10**6, 10**9)),
            way_s=float(draw.random() / 20),
        )
        for number in range(HOSTS)
    ]
    return GraphProfile(row_flops=1e9, weight_bytes=10**9, places=places), hosts


def main() -> None:
    """Run, check, print."""
    chosen = arguments(__doc__)
    torch.set_num_threads(1)
    seeds = range(2 if chosen.quick else SEEDS)
    figures: dict[str, float] = {"max_difference": 0.0, "cuts": 0.0}
    for kind, seed in itertools.product(("dense", "picture", "transformer"), seeds):
        model, queries = exported(kind, seed)
        began = time.perf_counter()
        places = [one.activation for one in profile_stages(model[0]).places]
        if kind == "transformer":
            figures["profile_ms"] = (time.perf_counter() - began) * 1000
        figures[f"places_{kind}"] = len(places)
        draw = np.random.default_rng(seed)
        for count in range(1, min(4, len(places)) + 1):
            cuts = [places[at] for at in sorted(draw.choice(len(places), count, replace=False))]
            for given in queries:
                figures["max_difference"] = max(figures["max_difference"], difference(model, cuts, given))
                figures["cuts"] += 1
    times = []
    for seed in range(CHOICES):
        profile, hosts = drawn(seed)
        began = time.perf_counter()
        cut_stages(profile, hosts, base_bytes=10**7)
        times.append(time.perf_counter() - began)
    figures["cut_ms"] = median(times) * 1000
    print_report("stages", figures, {}, list(seeds), only_json=chosen.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

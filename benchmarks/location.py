"""Location: how well a few probes tell the round trip to everybody else, on 490 PlanetLab nodes.

Question: a node joins a domain and probes 16 or 32 peers; how far off are estimates of its round trips to all the
others? Workload: round trips measured between 490 PlanetLab nodes (`latency/` of the data folder, milliseconds, one
value a pair). Nine tenths of the nodes join one after another and go on measuring 32 neighbours each with the product's
own functions (`tools.vivaldi`); then each of the last tenth is placed among them from its probes alone. That the cores
around these functions keep to their probes, budget and neighbours is tested (`tests/unit/test_measuring.py`), not
measured here.

Measures: relative error |estimate - measured| / measured, over pairs that were never probed; its median and 90th
percentile for nodes that joined last (a tenth of all), by number of probes; of those that were there, over all pairs.
Baselines on the same pairs: the median round trip of the node's own samples, for everybody
(`own_median`). One run a seed; the seed gives who joins last and the order.
"""

from __future__ import annotations

import gzip
import os
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import arguments, print_report
from daitn.descriptors.places import Place, estimate_s
from daitn.tools.vivaldi import move, settle

PROBES: Final = (8, 16, 24, 32)
SEEDS: Final = (1, 2, 3, 4, 5)
NEWCOMERS_FRAC: Final = 0.1
ROUNDS: Final = 60
"""Measurements of each neighbour by the nodes that are there already."""


def load_round_trips() -> np.ndarray:
    """Seconds between nodes (N, N)."""
    folder = Path(os.environ.get("DAITN_DATA", "../shared/data")) / "latency"
    with gzip.open(folder / "PlanetLabData_1.txt.gz", "rt") as file:
        return np.loadtxt(file) / 1000.0


def grow(round_trips_NN: np.ndarray, nodes: Sequence[int], neighbors: int, rng: random.Random) -> dict[int, Place]:
    """Places of nodes that joined one after another and went on measuring their neighbours."""
    places: dict[int, Place] = {}
    asked: dict[int, list[int]] = {}
    for node in nodes:
        there = list(places)
        asked[node] = rng.sample(there, min(neighbors, len(there)))
        samples = [(str(one), places[one], float(round_trips_NN[node, one])) for one in asked[node]]
        places[node] = settle(Place(), samples) if samples else Place(height_s=0.001)
    everybody = list(nodes)
    for node in everybody:
        others = [one for one in everybody if one != node and one not in asked[node]]
        asked[node] += rng.sample(others, max(0, min(neighbors - len(asked[node]), len(others))))
    for _ in range(ROUNDS):
        rng.shuffle(everybody)
        for node in everybody:
            for peer in rng.sample(asked[node], max(1, len(asked[node]) // 8)):
                places[node] = move(places[node], places[peer], float(round_trips_NN[node, peer]), str(peer))
    return places


def errors_of(
    round_trips_NN: np.ndarray, places: dict[int, Place], newcomer: int, probes: int, rng: random.Random
) -> dict[str, list[float]]:
    """Relative errors to all that a newcomer did not probe, by estimator."""
    asked = rng.sample(list(places), probes)
    seconds = [float(round_trips_NN[newcomer, one]) for one in asked]
    place = settle(Place(), [(str(one), places[one], took) for one, took in zip(asked, seconds, strict=True)])
    own = statistics.median(seconds)
    found: dict[str, list[float]] = {"vivaldi": [], "own_median": []}
    for other in places.keys() - set(asked):
        truth = float(round_trips_NN[newcomer, other])
        found["vivaldi"].append(abs(estimate_s(place, places[other]) - truth) / truth)
        found["own_median"].append(abs(own - truth) / truth)
    return found


def main() -> int:
    """All seeds, or one of them with `--quick`."""
    asked = arguments(__doc__)
    try:
        round_trips_NN = load_round_trips()
    except FileNotFoundError as error:
        print(f"the round trips are not there: {error.filename}; set DAITN_DATA", file=sys.stderr)
        return 4
    count = len(round_trips_NN)
    figures: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {"own_median": {}}
    medians: dict[str, list[float]] = {}
    seeds = SEEDS[:1] if asked.quick else SEEDS
    for seed in seeds:
        rng = random.Random(seed)
        nodes = rng.sample(range(count), count)
        cut = int(count * (1 - NEWCOMERS_FRAC))
        places = grow(round_trips_NN, nodes[:cut], 32, rng)
        pairs = [(one, other) for one in places for other in places if one < other]
        inside = [abs(estimate_s(places[a], places[b]) / float(round_trips_NN[a, b]) - 1) for a, b in pairs]
        medians.setdefault("settled", []).append(statistics.median(inside))
        for probes in PROBES:
            found: dict[str, list[float]] = {"vivaldi": [], "own_median": []}
            for newcomer in nodes[cut:]:
                for name, values in errors_of(round_trips_NN, places, newcomer, probes, rng).items():
                    found[name] += values
            medians.setdefault(f"median_{probes}", []).append(statistics.median(found["vivaldi"]))
            medians.setdefault(f"p90_{probes}", []).append(float(np.percentile(found["vivaldi"], 90)))
            medians.setdefault(f"own_median_{probes}", []).append(statistics.median(found["own_median"]))
    for probes in PROBES:
        for what in ("median", "p90"):
            values = medians[f"{what}_{probes}"]
            figures[f"relative_error_{what}_{probes}"] = statistics.median(values)
            figures[f"relative_error_{what}_{probes}_most"] = max(values)
        peers["own_median"][f"relative_error_median_{probes}"] = statistics.median(medians[f"own_median_{probes}"])
    figures["relative_error_median_settled"] = statistics.median(medians["settled"])
    figures["newcomers"] = float(count - int(count * (1 - NEWCOMERS_FRAC)))
    figures["nodes"] = float(count)
    print_report("location", figures, peers, seeds, only_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

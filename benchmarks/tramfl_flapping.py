"""Question: in what share of Tram-FL's seconds does a model reach 90 % where one site is slow and one comes and goes?

Workload: that of `benchmarks.tramfl` (MNIST, 3, 5 and 10 nodes of 2 to 5 labels, real training, tested after every
visit), on a clock of its own: a batch takes `BATCH_S`, at the slow site `SLOW` times as long, a move `MOVE_S`; the
flapping site is up and down by turns, exponentially, `UP_S` and `DOWN_S` in the mean. Nobody waits for real.

A visit whose site goes down is lost; that is noticed `LEASE_S` later, and the site rests for twice that, as the control
centre has it. A site that has been down for `LEASE_S` is in no view. Availability is what `tools.availability` makes of
what was seen, times of batches are those of earlier visits: what a view has of them in a running domain.

Measures, medians over seeds: `seconds_n<nodes>` of each method; `seconds_ratio_flapping`, the mean over node counts of
ours to Tram-FL *as published*, which assumes reliable links: it chooses among all sites, waits for one that is away,
and repeats a visit that is lost; `seconds_ratio_flapping_same`, the same to Tram-FL's rule within our network, that is,
with views, leases and rests as ours has them. Both wait for cells of every node count. A run that is given up counts as
the seconds it had used by then.

    python -m benchmarks.tramfl_flapping            # all cells, some minutes a node count
    python -m benchmarks.tramfl_flapping --quick    # one stored cell again
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from benchmarks.report import Bounds, make_document, print_report
from benchmarks.tramfl import source_hash
from benchmarks.tramfl_world import (
    BATCHES,
    CAPS,
    PINNED,
    Digits,
    Exam,
    Net,
    Site,
    find_data,
    make_view,
    read_digits,
    split,
    visit,
)
from daitn.base.ids import DataSetId
from daitn.decision.hyperparameters import propose_training
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.routes.errand import Errand
from daitn.descriptors.access import Access
from daitn.descriptors.availability import UpTime
from daitn.descriptors.view import TrainingView
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.train import ModelState
from daitn.tools.availability import forecast_span, observe

BATCH_S: Final = 0.2
SLOW: Final = 5.0
MOVE_S: Final = 1.0
UP_S: Final = 60.0
DOWN_S: Final = 60.0
LEASE_S: Final = 4.0
FORECAST_S: Final = 300.0
"""As views have it."""
ACCURACY: Final = 0.9
SEEDS: Final = tuple(range(5))
PUBLISHED: Final = "tram-fl-published"
"""Tram-FL as published: waits for sites that are away."""
OURS: Final = FIRST_CHOICE
RESULTS: Final = Path(__file__).resolve().parent / "results" / "tramfl_flapping.json"
CELLS: Final = (OURS, PUBLISHED, "tram-fl")
BOUNDS: Final[Bounds] = {"seconds_ratio_flapping": ("<=", 0.5)}
SLOW_SITE: Final = 0
FLAPPING_SITE: Final = 1


class Flapper:
    """A site that is up and down by turns. What it does in a run depends on the seed only."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"flapping/{seed}")
        self._turns: list[float] = [0.0]

    def turns(self, until_s: float) -> list[float]:
        """Moments at which it changed, the first at 0, when it comes up."""
        while self._turns[-1] <= until_s:
            mean_s = UP_S if len(self._turns) % 2 == 1 else DOWN_S
            self._turns.append(self._turns[-1] + self._rng.expovariate(1 / mean_s))
        return [one for one in self._turns if one <= until_s]

    def is_up(self, at_s: float) -> bool:
        """Whether it is up."""
        return len(self.turns(at_s)) % 2 == 1

    def next_turn(self, at_s: float) -> float:
        """When it changes next."""
        self.turns(at_s)
        return next(one for one in self._turns if one > at_s)


class Clocked:
    """What views know of the sites at a moment."""

    def __init__(self, sites: list[Site], seed: int) -> None:
        self.sites = sites
        self.flapper = Flapper(seed)
        self.batch_s: dict[DataSetId, float] = {}
        self.resting_until_s: dict[DataSetId, float] = {}
        self._up_time, self._told = UpTime(since_s=0.0), 0

    def seconds_per_batch(self, dataset: DataSetId) -> float:
        """As it is, known or not."""
        return BATCH_S * (SLOW if dataset == self.sites[SLOW_SITE].dataset else 1.0)

    def flaps(self, dataset: DataSetId) -> bool:
        """Whether it is the one that comes and goes."""
        return dataset == self.sites[FLAPPING_SITE].dataset

    def view(self, at_s: float, *, all_sites: bool) -> TrainingView:
        """What a rule sees now. `all_sites`: nothing of who is there and how fast."""
        made = make_view(self.sites)
        if all_sites:
            return made
        for turn_s in self.flapper.turns(at_s)[self._told :]:
            self._up_time = observe(self._up_time, self._told % 2 == 0, turn_s, Access())
            self._told += 1
        up_time = observe(self._up_time, self._told % 2 == 1, at_s, Access())
        sure = forecast_span(up_time, Access(), at_s, FORECAST_S)
        away = not self.flapper.is_up(at_s) and self.flapper.turns(at_s)[-1] + LEASE_S < at_s
        candidates = []
        for one in made.candidates:
            if self.flaps(one.dataset) and away:
                continue
            availability = sure if self.flaps(one.dataset) else 1.0
            known = self.batch_s.get(one.dataset)
            candidates.append(msgspec.structs.replace(one, batch_s=known, availability=availability))
        awake = [one for one in candidates if self.resting_until_s.get(one.dataset, 0.0) <= at_s]
        return msgspec.structs.replace(made, candidates=tuple(awake or candidates))


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run was when it arrived or was given up."""

    seconds: float
    updates: int
    visits: int
    lost: int
    reached: bool


def run(method: str, nodes: int, seed: int, train_set: Digits, exam: Exam) -> Finished:
    """One run of one method."""
    waits = method == PUBLISHED
    kind = METHODS["tram-fl" if waits else method]
    assert isinstance(kind, Sequential)
    rule = RULES[kind.rule]
    sites = [Site(number, train_set, labels) for number, labels in enumerate(split(nodes, seed))]
    by_dataset = {site.dataset: site for site in sites}
    torch.manual_seed(seed)
    model = Net()
    pinned = msgspec.structs.replace(PINNED, batches_per_visit=BATCHES[nodes])
    proposed, _ = propose_training(make_view(sites), pinned, parallel=False, steady=kind.steady)
    training = msgspec.structs.replace(proposed, gradient_clip=0.0)
    records = training.batches * training.batch_size
    world, state = Clocked(sites, seed), ModelState()
    errand = Errand(batches=training.batches, model_bytes=round(MOVE_S * 1e8))
    visits: tuple[tuple[DataSetId, int], ...] = ()
    at_s, updates, lost = 0.0, 0, 0
    while True:
        seen = Seen(visits=visits, seed=seed, errand=errand)
        stop = rule.next_stop(world.view(at_s, all_sites=waits), seen, records)
        assert stop is not None
        dataset = stop.dataset
        batches = max(1, round(training.batches * stop.length))
        if waits and world.flaps(dataset) and not world.flapper.is_up(at_s):
            at_s = world.flapper.next_turn(at_s)
        begun_s = at_s
        at_s += (MOVE_S if dataset != seen.last else 0.0) + batches * world.seconds_per_batch(dataset)
        if world.flaps(dataset):
            there = world.flapper.is_up(begun_s)
            down_s = world.flapper.next_turn(begun_s) if there else begun_s
            if down_s < at_s:
                lost += 1
                at_s = down_s + LEASE_S
                world.resting_until_s[dataset] = at_s + 2 * LEASE_S
                continue
        world.batch_s[dataset] = world.seconds_per_batch(dataset)
        state = visit(model, by_dataset[dataset], msgspec.structs.replace(training, batches=batches), state, seed)
        visits = (*visits, (dataset, batches * training.batch_size))
        updates += batches
        reached = exam.passes(model, ACCURACY)
        if reached or updates >= CAPS[ACCURACY]:
            return Finished(seconds=at_s, updates=updates, visits=len(visits), lost=lost, reached=reached)


def cell_names(patterns: tuple[str, ...] = CELLS) -> Iterator[str]:
    """`routed/5/0` …"""
    for seed in SEEDS:
        for nodes in BATCHES:
            for method in patterns:
                yield f"{method}/{nodes}/{seed}"


def report(cells: dict[str, Any]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures of ours and rows of the peers, from the cells there are."""
    rows: dict[str, dict[str, float]] = {}
    for method in CELLS:
        row: dict[str, float] = {}
        for nodes in BATCHES:
            found = [cells[name] for seed in SEEDS if (name := f"{method}/{nodes}/{seed}") in cells]
            if found:
                row[f"seconds_n{nodes}"] = statistics.median(one["seconds"] for one in found)
                row[f"updates_n{nodes}"] = statistics.median(one["updates"] for one in found)
                row[f"lost_n{nodes}"] = statistics.median(one["lost"] for one in found)
                row[f"reached_n{nodes}"] = sum(one["reached"] for one in found)
        rows[method] = row
    figures = dict(rows[OURS])
    for name, peer in (("seconds_ratio_flapping", PUBLISHED), ("seconds_ratio_flapping_same", "tram-fl")):
        keys = [f"seconds_n{nodes}" for nodes in BATCHES]
        if all(key in rows[OURS] and key in rows[peer] for key in keys):
            ratios = [rows[OURS][key] / rows[peer][key] for key in keys]
            figures[name] = statistics.fmean(ratios)
            figures |= {f"{name}_{key.rpartition('_')[2]}": one for key, one in zip(keys, ratios, strict=True)}
    return figures, {peer: rows[peer] for peer in CELLS if peer != OURS}


def main() -> None:
    """Run the cells that are missing or of another source, keep and report them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run one stored cell again, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after this long")
    chosen = parser.parse_args()
    folder = find_data()
    if folder is None:
        raise SystemExit("MNIST is not here: set DAITN_DATA to the folder that holds mnist/")
    torch.set_num_threads(1)
    train_set, test_set = read_digits(folder, "train"), read_digits(folder, "t10k")
    cells: dict[str, Any] = json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else {}
    source, began, said = source_hash(), time.perf_counter(), []
    if chosen.quick:
        short = [name for name, cell in cells.items() if cell["updates"] <= 1000 and cell["reached"]]
        wanted = [random.SystemRandom().choice(sorted(short))] if short else [f"{OURS}/5/0"]
    else:
        wanted = [name for name in cell_names() if cells.get(name, {}).get("source") != source]
    for name in wanted:
        if time.perf_counter() - began > chosen.seconds:
            break
        method, nodes, seed = name.split("/")
        found = run(method, int(nodes), int(seed), train_set, Exam(test_set))
        said.append(f"{name}: {found.seconds:.0f} s, {found.updates} updates, {found.lost} lost")
        if chosen.quick:
            said.append(f"stored: {cells.get(name)}")
            continue
        cells[name] = msgspec.to_builtins(found) | {"source": source}
        figures, peers = report(cells)
        document = make_document("tramfl_flapping", figures, peers, SEEDS, bounds=BOUNDS)
        RESULTS.write_text(json.dumps(document | {"cells": dict(sorted(cells.items()))}, indent=1) + "\n")
    figures, peers = report(cells)
    print_report("tramfl_flapping", figures, peers, SEEDS, only_json=chosen.json, said=said, bounds=BOUNDS)


if __name__ == "__main__":
    main()

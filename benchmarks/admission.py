"""Question: how well does the network know beforehand whether a goal is reached within its budget?

Workload: `benchmarks.admission_world`: 140 scenarios (ten data sets, five splits over sites, four models, three
methods) were really run, and what the unit measured after visits is stored. A *judgement* is a goal for one metric
with a budget of visits, seconds or bytes, put to the product's own functions (`decision.feasibility`) with what the
unit's trial of that scenario had found. It is *feasible* if the stored run reached the goal within the budget. The
*frontier* of a budget is the best that was reached within it: four judgements in ten ask for a gain over the
untrained model that lies within ±20 % of the frontier's, three for clearly less, and three for clearly more, or the
same in clearly less.

Measure: whole scenarios are held out in turn: what the network has learnt from earlier runs is learnt from the others
(`FOLDS` folds), with settings that the others chose (`benchmarks.admission_settings`; `…_as_shipped`: with the
product's own, which were once chosen on all folds).
`auc`: chance that of a feasible and an infeasible judgement the former was given the greater
probability. `ece`: mean distance between probability and share that were feasible, over 5 bins of equal mass, with the
interval (95 %) of 1,000 draws of scenarios. `brier`: mean square of the distance. A judgement that fails another
condition than attainability counts as probability 0. `admitted_without`: judgements admitted although even the first
measured model of the run came later, or after more visits or bytes, than the budget allowed. `assess_ms_1000`: one
assessment by `TrainingAdmission`, view included, on a map of a thousand candidates, with a trial and experience
(`assess_core_ms_1000`: of a core, which a busy machine does not stretch). `auc_near` and `auc_far`: of the judgements
near the frontier, and of the others; `auc_new_data`: with all scenarios of a data set held out together.

Peer: logistic regression (scikit-learn) on what is known without a trial: records, seconds, visits and bytes allowed
for, the goal, the untrained figure; same folds.

    python -m benchmarks.admission --seconds 600     # run scenarios that are missing or of another source
    python -m benchmarks.admission --choose          # choose the settings of each fold anew, and judge
    python -m benchmarks.admission                   # judge the stored ones
    python -m benchmarks.admission --quick           # and run one of them again; fails where it comes out otherwise
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray

from benchmarks.admission_settings import choose
from benchmarks.admission_world import (
    ASSESSED_S,
    METRICS,
    Cell,
    Moment,
    Scenario,
    World,
    assessed_bytes,
    make_world,
    run_scenario,
    scenarios,
)
from benchmarks.map.views import CONTRACT, NOW_NS, make_knowledge
from benchmarks.report import Bounds, make_document, print_report
from daitn.base.ids import ArtifactId, DomainId, OwnerId
from daitn.base.units import NS_PER_S
from daitn.control_center.training.admission import TrainingAdmission
from daitn.decision.attainability import error_of, value_of
from daitn.decision.experience import SETTINGS, Lessons, PastRun, Reached
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.feasibility import Known, judge, verdict_of
from daitn.decision.gaussian_process import Settings
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.request import METRIC_SENSES, Budget, Request, Target, parse_target
from daitn.descriptors.view import TrainingView
from daitn.topology.views import Asker, make_training_view

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "admission.json"
MEASURED: Final = (
    "benchmarks/admission_world.py",
    "benchmarks/payloads.py",
    "src/daitn/decision/costs.py",
    "src/daitn/decision/drafting.py",
    "src/daitn/decision/hyperparameters.py",
    "src/daitn/decision/keeping.py",
    "src/daitn/decision/routes/*.py",
    "src/daitn/learning/methods/*.py",
    "src/daitn/learning/numerics/aggregate.py",
    "src/daitn/learning/numerics/averaging.py",
    "src/daitn/learning/numerics/curve.py",
    "src/daitn/learning/numerics/optimizers.py",
    "src/daitn/learning/numerics/sampler.py",
    "src/daitn/learning/numerics/train.py",
    "src/daitn/learning/tasks/classification.py",
)
"""Files on which the stored runs depend; what is judged from them is worked out anew each time."""
FOLDS: Final = 5
BINS: Final = 5
DRAWS: Final = 1000
SEED: Final = 5
ALIKE: Final = 0.05
"""How far a figure of a scenario that is run again may lie from the stored one: another machine rounds otherwise, and
what is rounded otherwise early is a few records of the test set later."""
NEAR: Final = 0.2
PER_CELL: Final = {"near": 4, "easy": 3, "hard": 3}
"""Judgements of each kind in a scenario."""
BOUNDS: Final[Bounds] = {
    "auc": (">=", 0.9),
    "ece": ("<=", 0.07),
    "brier_ratio": ("<=", 1.0),
    "admitted_without": ("<=", 0),
    "assess_ms_1000": ("<=", 200),
    "scenarios": (">=", 60),
    "judgements": (">=", 500),
    "feasible_percent": (">=", 35),
    "infeasible_percent": (">=", 35),
    "near_percent": (">=", 40),
}
Floats = NDArray[np.float64]


class Judgement(NamedTuple):
    """A goal with a budget, and whether the stored run reached it."""

    scenario: str
    near: bool
    request: Request
    feasible: bool
    """Whether the run reached the goal within the budget."""
    possible: bool
    """Whether anything at all was measured within the budget."""


def source_hash() -> str:
    """BLAKE3 of the files that make runs, and their names."""
    found = blake3()
    for path in sorted(path for pattern in MEASURED for path in ROOT.glob(pattern)):
        found.update(str(path.relative_to(ROOT)).encode() + b"\x00" + path.read_bytes() + b"\x00")
    return found.hexdigest()[:16]


def stored_cells() -> dict[str, Cell]:
    """Scenarios on disk, by name."""
    if not RESULTS.exists():
        return {}
    return msgspec.convert(json.loads(RESULTS.read_text())["cells"], dict[str, Cell])


# --- judgements -----------------------------------------------------------------------------------------------------


def make_judgements(cells: Mapping[str, Cell]) -> list[Judgement]:
    """Goals and budgets drawn around each stored run; the same for the same cells."""
    found: list[Judgement] = []
    for scenario in scenarios():
        if scenario.name in cells:
            rng = random.Random(f"judgements/{SEED}/{scenario.name}")
            request = make_world(scenario).request
            for kind, count in PER_CELL.items():
                for _ in range(count):
                    found.append(_draw(scenario.name, request, cells[scenario.name].moments, kind, rng))
    return found


def _draw(name: str, request: Request, moments: Sequence[Moment], kind: str, rng: random.Random) -> Judgement:
    """One judgement of a kind; drawn again where it would ask for nothing, or for better than perfect."""
    while True:
        place = rng.randrange(len(METRICS))
        metric = METRICS[place]
        target = Target(metric=metric, value=0.0, sense=">=" if METRIC_SENSES[metric] == "up" else "<=")
        errors = [error_of(target, one.figures[place]) for one in moments]
        what = rng.choice(("visits", "seconds", "transfer_bytes"))
        spent = [float(getattr(one, what)) for one in moments]
        least, most = spent[1], spent[-1]
        allowed = least * (most / least) ** rng.random()
        frontier = min(errors[at] for at in _looks(moments, spent, allowed, what))
        gain = errors[0] - frontier
        error = frontier
        if kind == "near":
            error = errors[0] - gain * (1 + rng.uniform(-NEAR, NEAR))
        elif kind == "hard" and rng.random() < 0.5:
            error = errors[0] - (errors[0] - min(errors)) * rng.uniform(0.5, 0.98)
            first = next((at for at in range(1, len(errors)) if errors[at] <= error), 0)
            if not first:
                continue
            allowed = spent[first] * rng.uniform(0.2, 0.8)
        elif kind == "easy":
            error = errors[0] - gain * rng.uniform(0.2, 0.8)
        else:
            error = frontier * rng.uniform(0.1, 0.8)
        error = round(error, 4)
        if not 0 <= error < errors[0] - 0.005 or (metric != "loss" and error > 1):
            continue
        value = round(value_of(target, error), 4)
        target = msgspec.structs.replace(target, value=value)
        allowed = float(round(allowed)) if what != "seconds" else round(allowed, 2)
        deadline_s = allowed if what == "seconds" else 3 * moments[-1].seconds
        budget = Budget() if what == "seconds" else Budget(**{what: int(allowed)})
        asked = msgspec.structs.replace(request, targets=(target,), deadline_s=deadline_s, budget=budget)
        met = any(target.met_by(moments[at].figures[place]) for at in _looks(moments, spent, allowed, what))
        return Judgement(name, kind == "near", asked, met, least <= allowed)


def _looks(moments: Sequence[Moment], spent: Sequence[float], allowed: float, what: str) -> list[int]:
    """Which moments the network measures within a budget: those that are due, and, where visits or bytes are used up,
    the last one."""
    within = [at for at in range(len(moments)) if spent[at] <= allowed]
    return [at for at in within if moments[at].due or (what != "seconds" and at == within[-1])] or [0]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for each fold that is held out, and a hash of the runs that they were chosen by."""

    cells: str
    settings: tuple[Settings, ...]


class Answer(NamedTuple):
    """What the network said: the probability (0 where another condition fails), and whether it was admitted."""

    probability: float
    admitted: bool


def answer(world: World, request: Request, found: Preflight, lessons: Lessons) -> Answer:
    """The product's verdict on one judgement."""
    judged = judge(
        world.view, request, world.package, Known(found, lessons, ASSESSED_S, moved_bytes=assessed_bytes(world.package))
    )
    verdict = verdict_of(world.view, request, judged)
    failed = [one for one in verdict.failed() if one.code is not ReasonCode.ATTAINABILITY]
    probability = 0.5 if verdict.probability is None else verdict.probability
    return Answer(0.0 if failed else probability, verdict.outcome == "admitted")


def fold_of(name: str) -> int:
    """The fold in which a scenario is held out."""
    return int(blake3(name.encode()).hexdigest()[:8], 16) % FOLDS


def judge_all(
    cells: Mapping[str, Cell],
    judgements: Sequence[Judgement],
    fold: Callable[[str], int] = fold_of,
    settings: Mapping[int, Settings] | None = None,
) -> list[Answer]:
    """Every judgement, with what was learnt from the scenarios of other folds; `settings`: what it is learnt with, by
    the fold that is held out (default: the product's own)."""
    by_name = {one.name: one for one in scenarios()}
    runs = {name: past_run(by_name[name], cell) for name, cell in cells.items()}
    folds = range(1 + max(map(fold, cells)))
    lessons = [
        Lessons(
            [run for name, run in runs.items() if fold(name) != held],
            SETTINGS if settings is None else settings[held],
        )
        for held in folds
    ]
    answers: list[Answer] = []
    world, last = None, ""
    for one in judgements:
        if world is None or one.scenario != last:
            world, last = make_world(by_name[one.scenario]), one.scenario
        answers.append(answer(world, one.request, cells[one.scenario].found, lessons[fold(one.scenario)]))
    return answers


def past_run(scenario: Scenario, cell: Cell) -> PastRun:
    """What a stored run teaches, as the centre would have kept it: the least error so far of each measured model."""
    world = make_world(scenario)
    asked = msgspec.structs.replace(world.request, targets=tuple(_perfect(metric) for metric in METRICS))
    situation = judge(world.view, asked, world.package, Known(cell.found)).situation
    assert situation is not None
    looks = [(at, one) for at, one in enumerate(cell.moments) if at and one.due]
    reached: list[Reached] = []
    for place, metric in enumerate(METRICS):
        errors = [error_of(_perfect(metric), one.figures[place]) for _, one in looks]
        least = tuple(
            itertools.accumulate(errors, min, initial=error_of(_perfect(metric), cell.moments[0].figures[place]))
        )
        reached.append(Reached(name=metric, rounds=tuple(at for at, _ in looks), errors=least[1:]))
    return PastRun(situation=situation, reached=tuple(reached))


def _perfect(metric: str) -> Target:
    up = METRIC_SENSES[metric] == "up"
    return Target(metric=metric, value=1.0 if up else 0.0, sense=">=" if up else "<=")


# --- scores ---------------------------------------------------------------------------------------------------------


def auc(chances: Floats, feasible: NDArray[np.bool_]) -> float:
    """Area under the curve of true against false positives: ties count half."""
    _, place, counts = np.unique(chances, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    yes, no = int(feasible.sum()), int((~feasible).sum())
    return float((ranks[feasible].sum() - yes * (yes + 1) / 2) / (yes * no)) if yes and no else float("nan")


def calibration_error(chances: Floats, feasible: NDArray[np.bool_]) -> float:
    """Mean distance between chance and share, over `BINS` bins of equal mass."""
    order = np.argsort(chances, kind="stable")
    parts = np.array_split(order, BINS)
    return float(sum(len(p) * abs(chances[p].mean() - feasible[p].mean()) for p in parts) / len(chances))


def by_draws(names: Sequence[str], measure: Callable[[NDArray[np.int64]], float]) -> tuple[float, float]:
    """Interval (95 %) of a measure over draws of whole scenarios."""
    rng = np.random.default_rng(SEED)
    rows = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)}
    known = list(rows)
    drawn = [
        measure(np.concatenate([rows[known[at]] for at in rng.integers(0, len(known), len(known))]))
        for _ in range(DRAWS)
    ]
    return float(np.nanquantile(drawn, 0.025)), float(np.nanquantile(drawn, 0.975))


def regression(cells: Mapping[str, Cell], judgements: Sequence[Judgement]) -> Floats:
    """Chances that the peer gives, held out by the same folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    volumes = {one.name: sum(c.records for c in make_world(one).view.candidates) for one in scenarios()}
    rows: list[list[float]] = []
    for one in judgements:
        target, budget = one.request.targets[0], one.request.budget
        untrained = next(m for m in cells[one.scenario].found.measurements if m.name == target.name)
        rows.append([
            np.log(volumes[one.scenario]), np.log(one.request.deadline_s), np.log(budget.visits or 1000),
            np.log(budget.transfer_bytes or 1e9), error_of(target, target.value),
            error_of(target, target.value) / max(1e-6, error_of(target, untrained.value)),
            *(float(target.metric == metric) for metric in METRICS),
        ])  # fmt: skip
    x, y = np.array(rows), np.array([one.feasible for one in judgements])
    folds = np.array([fold_of(one.scenario) for one in judgements])
    chances = np.zeros(len(y))
    for fold in range(FOLDS):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x[folds != fold], y[folds != fold])
        chances[folds == fold] = model.predict_proba(x[folds == fold])[:, 1]
    return chances


def scores(names: Sequence[str], chances: Floats, feasible: NDArray[np.bool_]) -> dict[str, float]:
    """`auc`, `ece` and `brier`, the first two with intervals."""
    found = {"auc": auc(chances, feasible), "ece": calibration_error(chances, feasible)}
    found["brier"] = float(np.mean((chances - feasible) ** 2))
    for key, measure in (("auc", auc), ("ece", calibration_error)):
        low, high = by_draws(names, lambda rows, measure=measure: measure(chances[rows], feasible[rows]))  # type: ignore[misc]
        found[f"{key}_low"], found[f"{key}_high"] = low, high
    return found


# --- time -----------------------------------------------------------------------------------------------------------


def assess_ms(cells: Mapping[str, Cell], repeats: int = 7) -> tuple[float, float]:
    """Milliseconds of one assessment on a map of a thousand candidates, by the clock and of a core: medians."""
    knowledge = make_knowledge()
    by_name = {one.name: one for one in scenarios()}
    found = next(iter(cells.values())).found
    known = Known(found, Lessons([past_run(by_name[name], cell) for name, cell in cells.items()]))
    request = Request(
        name="digits",
        package=ArtifactId("0" * 64),
        purpose="care",
        targets=(parse_target("accuracy >= 0.5"), parse_target("balanced_accuracy >= 0.5")),
        deadline_s=36000.0,
    )
    package = PackageFacts(contract=CONTRACT, kind="graph", signer="signer", payload_bytes=100_000, parts_bytes=2000)
    asker = Asker(owner=OwnerId("owner"), signer="signer", method="routed", domain=DomainId("benchmark"))

    def make_view(asked: Request) -> TrainingView:
        return make_training_view(knowledge, asked, CONTRACT, asker, {}, (), NOW_NS + NS_PER_S)

    admission = TrainingAdmission(make_view)
    took: list[float] = []
    spent: list[float] = []
    for _ in range(repeats):
        began, before = time.perf_counter(), time.thread_time()
        verdict, _, view = admission.assess(request, package, known)
        took.append(1000 * (time.perf_counter() - began))
        spent.append(1000 * (time.thread_time() - before))
        if len(view.candidates) != 1000 or not verdict.predictions or verdict.outcome != "admitted":
            raise SystemExit(f"{len(view.candidates)} candidates, {verdict.outcome}: {verdict.failed()}")
    return statistics.median(took), statistics.median(spent)


# --- report ---------------------------------------------------------------------------------------------------------


def cells_hash(cells: Mapping[str, Cell]) -> str:
    """BLAKE3 of the stored runs: what settings were chosen by."""
    return blake3(msgspec.json.encode(dict(sorted(cells.items())))).hexdigest()[:16]


def choose_settings(cells: Mapping[str, Cell]) -> Chosen:
    """The settings of each fold, by the others alone."""
    by_name = {one.name: one for one in scenarios()}
    runs = {name: past_run(by_name[name], cell) for name, cell in cells.items()}
    found = choose(runs, {name: fold_of(name) for name in cells})
    return Chosen(cells=cells_hash(cells), settings=tuple(found[held] for held in sorted(found)))


def stored_choice(cells: Mapping[str, Cell]) -> Chosen:
    """The same as it is kept; SystemExit where it was made by other runs."""
    kept = json.loads(RESULTS.read_text()).get("chosen") if RESULTS.exists() else None
    if kept is None or kept["cells"] != cells_hash(cells):
        raise SystemExit("no settings were chosen by these runs: --choose")
    return msgspec.convert(kept, Chosen)


def make_report(cells: Mapping[str, Cell], chosen: Chosen, *, whole: bool) -> dict[str, Any]:
    """Figures and the peer's, from stored scenarios. `whole`: also with the product's own settings."""
    judgements = make_judgements(cells)
    names = [one.scenario for one in judgements]
    feasible = np.array([one.feasible for one in judgements])
    answers = judge_all(cells, judgements, settings=dict(enumerate(chosen.settings)))
    ours = scores(names, np.array([one.probability for one in answers]), feasible)
    peer = scores(names, regression(cells, judgements), feasible)
    near = np.array([one.near for one in judgements])
    chances = np.array([one.probability for one in answers])
    sources = sorted({one.source for one in scenarios()})
    fresh = judge_all(cells, judgements, lambda name: sources.index(name.partition("/")[0]))
    wall_ms, core_ms = assess_ms(cells)
    shipped: dict[str, float] = {}
    if whole:
        said = scores(names, np.array([one.probability for one in judge_all(cells, judgements)]), feasible)
        shipped = {f"{key}_as_shipped": said[key] for key in ("auc", "ece", "brier")}
    figures = (
        ours
        | shipped
        | {
            "brier_ratio": ours["brier"] / peer["brier"],
            "admitted_without": sum(
                said.admitted and not one.possible for said, one in zip(answers, judgements, strict=True)
            ),
            "assess_ms_1000": wall_ms,
            "assess_core_ms_1000": core_ms,
            "auc_near": auc(chances[near], feasible[near]),
            "auc_far": auc(chances[~near], feasible[~near]),
            "auc_new_data": auc(np.array([one.probability for one in fresh]), feasible),
            "scenarios": len(cells),
            "judgements": len(judgements),
            "feasible_percent": 100 * float(feasible.mean()),
            "infeasible_percent": 100 * float((~feasible).mean()),
            "near_percent": 100 * statistics.mean(one.near for one in judgements),
        }
    )
    return make_document("admission", figures, {"logistic": peer}, (SEED,), bounds=BOUNDS)


def keep(cells: Mapping[str, Cell], report: Mapping[str, Any], chosen: Chosen | None = None) -> None:
    """Write cells and what came of them."""
    kept = {} if chosen is None else {"chosen": msgspec.to_builtins(chosen)}
    document = {**report, **kept, "cells": msgspec.to_builtins(dict(sorted(cells.items())))}
    written = RESULTS.with_suffix(".new")
    written.write_bytes(msgspec.json.encode(document) + b"\n")
    written.replace(RESULTS)


def run_again(cells: Mapping[str, Cell]) -> str:
    """One stored scenario anew; SystemExit where it differs."""
    scenario: Scenario = random.SystemRandom().choice([one for one in scenarios() if one.name in cells])
    stored, again = cells[scenario.name], run_scenario(scenario, source_hash())
    if len(stored.moments) != len(again.moments):
        raise SystemExit(f"{scenario.name}: measured {len(again.moments)} times, was {len(stored.moments)}")
    pairs = list(zip(stored.moments, again.moments, strict=True))
    off = statistics.mean(abs(now.figures[0] - then.figures[0]) for then, now in pairs)
    costs = all((then.visits, then.transfer_bytes) == (now.visits, now.transfer_bytes) for then, now in pairs)
    said = f"{scenario.name} again: {METRICS[0]} {100 * off:.2f} points off in the mean"
    if off > ALIKE or not costs:
        raise SystemExit(said + ("" if costs else "; visits or bytes differ"))
    return said


def main() -> None:
    """Run what is asked for, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run one stored scenario again, within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--seconds", type=float, default=0.0, help="run scenarios, beginning none after this long")
    parser.add_argument("--keep", action="store_true", help="store the report")
    parser.add_argument("--choose", action="store_true", help="choose the settings of each fold anew: some minutes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cells, began, said = stored_cells(), time.monotonic(), []
    for scenario in scenarios():
        known = scenario.name in cells and cells[scenario.name].source == source_hash()
        if not known and time.monotonic() - began < chosen.seconds:
            cells[scenario.name] = run_scenario(scenario, source_hash())
            keep(cells, {"name": "admission"})
            if not chosen.json:
                print(f"{scenario.name} after {time.monotonic() - began:.0f} s", flush=True)
    if not cells:
        raise SystemExit("no scenario is stored; run some: --seconds 600")
    if chosen.quick:
        said.append(run_again(cells))
    settings = choose_settings(cells) if chosen.choose else stored_choice(cells)
    report = make_report(cells, settings, whole=not chosen.quick)
    if chosen.keep:
        keep(cells, report, settings)
    said.append(f"{len(cells)} scenarios; sources {', '.join(sorted({cell.source for cell in cells.values()}))}")
    print_report(
        "admission", report["figures"], report["peers"], (SEED,), only_json=chosen.json, said=said, bounds=BOUNDS
    )


if __name__ == "__main__":
    main()

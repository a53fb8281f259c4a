"""The benchmark of admission measures what it says: scores as others define them, judgements as the run bears out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from benchmarks import admission, admission_settings
from benchmarks.admission_world import METRICS, Cell, Moment, make_world, play, scenarios, try_model

from daitn.decision.drafting import draft_plan
from daitn.decision.experience import SETTINGS, Outlook, PastRun, Reached, Situation
from daitn.decision.facts import Preflight
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.work import Measurement

SHORT = next(one for one in scenarios() if one.source == "iris" and one.method == "routed")


def run_of(*accuracies: float, every: int = 1) -> Cell:
    """A run with these accuracies, a visit of 2 s and 1,000 bytes each, measured at every so many."""
    moments = tuple(
        Moment(
            visits=at,
            seconds=5.0 + 2.0 * at,
            transfer_bytes=1000 * at,
            due=at % every == 0,
            figures=(value, value, 1 - value),
        )
        for at, value in enumerate(accuracies)
    )
    untrained = tuple(
        Measurement(name=name, value=value, low=value, high=value, records=100)
        for name, value in zip(METRICS, moments[0].figures, strict=True)
    )
    return Cell(found=Preflight(measurements=untrained), moments=moments, source="")


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    chances = rng.integers(0, 20, 300) / 20  # with ties
    feasible = rng.random(300) < chances

    assert admission.auc(chances, feasible) == pytest.approx(metrics.roc_auc_score(feasible, chances))
    assert admission.calibration_error(chances, feasible) < 0.08
    assert admission.calibration_error(1 - chances, feasible) > 0.4


def test_judgement_is_feasible_exactly_if_a_measured_model_reached_it_within_the_budget():
    cell = run_of(0.2, 0.5, 0.6, 0.9, 0.8, 0.85, 0.95, every=2)
    found = admission.make_judgements({SHORT.name: cell})

    assert len(found) == sum(admission.PER_CELL.values())
    for one in found:
        (target,), budget = one.request.targets, one.request.budget
        reached = [
            at
            for at, moment in enumerate(cell.moments)
            if target.met_by(moment.figures[METRICS.index(target.metric)])
            and at <= (budget.visits if budget.visits is not None else 6)
            and moment.transfer_bytes <= (budget.transfer_bytes if budget.transfer_bytes is not None else 6000)
            and moment.seconds <= one.request.deadline_s
        ]
        last = budget.visits if budget.visits is not None else (budget.transfer_bytes or 0) // 1000
        assert one.feasible == any(at % 2 == 0 or at == last for at in reached)


def test_judgements_are_the_same_each_time_and_two_in_five_near_the_frontier():
    cells = {SHORT.name: run_of(0.2, 0.5, 0.6, 0.9, 0.8, 0.85, 0.95)}

    found = admission.make_judgements(cells)

    assert found == admission.make_judgements(cells)
    assert sum(one.near for one in found) / len(found) == pytest.approx(0.4)


def test_scenario_begins_with_what_the_unit_found_and_can_be_played_again():
    world = make_world(SHORT)
    found = try_model(world)
    first = [moment for _, moment in zip(range(4), play(world, found, SHORT.seed), strict=False)]
    again = [moment for _, moment in zip(range(4), play(world, found, SHORT.seed), strict=False)]

    assert first == again
    assert [moment.visits for moment in first] == [0, 1, 2, 3]
    assert first[0].figures[0] == pytest.approx(found.measurements[0].value, abs=1e-4)
    assert len(found.curve) == 3


@pytest.mark.parametrize("method", ["routed", "cyclic", "fedavg"])
def test_runs_are_judged_by_the_plan_that_they_were_made_with(method):
    """Stored runs have visits that are alike at all sites, by the rules for a typical one."""
    world = make_world(next(one for one in scenarios() if one.source == "iris" and one.method == method))
    plan = draft_plan(world.view, world.request, world.package, None)
    free = msgspec.structs.replace(world.request, hyperparameters=Hyperparameters())
    usual = draft_plan(world.view, free, world.package, None)

    assert (plan.method, plan.epochs) == (method, 0.0)
    assert plan.training == usual.training


def test_settings_of_a_fold_are_chosen_without_its_runs(monkeypatch):
    """Runs of the held-out fold may be anything: what the others choose stays."""
    wide = msgspec.structs.replace(SETTINGS, noise=5.0)
    monkeypatch.setattr(admission_settings, "candidates", lambda: (wide, SETTINGS))
    situation = Situation(
        contract="c", method="routed", parallel=False, steady=True, sites=3, skew=0.5, records=1000.0, labels=2,
        payload_bytes=10_000, batches=16, unseen=(), lopsided=(),
        outlooks=(Outlook(name="accuracy", untrained=0.5, tried=0.5, quarter=0.3, half=0.2, whole=0.1),),
    )  # fmt: skip

    def ended(number: int, last: float) -> PastRun:
        reached = Reached(name="accuracy", rounds=(1, 4, 16), errors=(0.4, 0.2 + 0.001 * number, last))
        return PastRun(situation=msgspec.structs.replace(situation, records=900.0 + number), reached=(reached,))

    runs = {f"r{number}": ended(number, 0.1) for number in range(15)}
    folds = {name: number % 3 for number, name in enumerate(runs)}
    chosen = admission_settings.choose(runs, folds)
    wild = {name: ended(number, 0.3) if folds[name] == 0 else runs[name] for number, name in enumerate(runs)}

    assert chosen == dict.fromkeys(range(3), SETTINGS)
    assert admission_settings.choose(wild, folds)[0] == chosen[0]

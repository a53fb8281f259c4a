"""What is told of a search for hyper-parameters, apart from other words: those who only read them need no estimator."""

from __future__ import annotations

from daitn.decision.facts import Searched
from daitn.decision.tuning import PASSES, Stage, said_of, said_of_trial, trials_of


def say_stage(one: Stage) -> str:
    """What the unit found of the hyper-parameters it compared."""
    trials = sorted(trials_of([one], one.rung), key=lambda trial: trial.error)
    passes = f"{PASSES[one.rung]} pass{'es' if PASSES[one.rung] > 1 else ''}"
    left = len(one.trainings) - len(trials)
    best = ", ".join(said_of_trial(trial) for trial in trials[:3])
    untried = f"; no time was left for {left}" if left else ""
    return f"{len(trials)} hyper-parameters compared over {passes}: {best or 'nothing'}{untried}"


def say_searched(found: Searched) -> str:
    """What a search for hyper-parameters came to."""
    chosen = said_of(found.chosen) if found.chosen is not None else "hyper-parameters by the rules"
    return f"{chosen}: {found.why}" + (f" (not: {'; '.join(found.rejected)})" if found.rejected else "")

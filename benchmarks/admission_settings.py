"""Settings of what finished runs teach, chosen inside the folds of `benchmarks.admission`.

The settings of the Gaussian process (`decision.experience.SETTINGS`) are constants of the product. Chosen on the runs
that are then judged they would flatter the figure. So for each fold that is held out they are chosen by the other folds
alone: each candidate learns from all of these but one and is scored by how likely it finds the curves of that one (mean
logarithm of the density of each point), in turn. The held-out fold is judged with what was chosen so.

Candidates: the product's own, each of its numbers moved by a half either way, and `DRAWN` drawn at random around them.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from typing import Final

import msgspec

from daitn.decision.experience import ERROR_LEAST, SETTINGS, Lessons, PastRun
from daitn.decision.gaussian_process import Settings

DRAWN: Final = 8
SPREAD: Final = 0.5
"""Standard deviation of the logarithm of a drawn number around the product's own."""
SEED: Final = 11
POINTS: Final = 6
"""Points of a curve that are scored, evenly over the logarithm of rounds."""


def candidates() -> tuple[Settings, ...]:
    """What is chosen from, the product's own first."""
    names = Settings.__struct_fields__
    moved = [
        msgspec.structs.replace(SETTINGS, **{name: getattr(SETTINGS, name) * factor})
        for name in names
        for factor in (1 / 1.5, 1.5)
    ]
    rng = random.Random(SEED)
    drawn = [
        Settings(**{name: round(getattr(SETTINGS, name) * math.exp(rng.gauss(0.0, SPREAD)), 4) for name in names})
        for _ in range(DRAWN)
    ]
    return (SETTINGS, *moved, *drawn)


def likelihood(lessons: Lessons, run: PastRun) -> float:
    """Mean logarithm of the density that is given to the points of a run's curves."""
    found: list[float] = []
    for reached in run.reached:
        outlook = run.situation.outlook(reached.name)
        if outlook is None or not reached.rounds or not lessons.runs(outlook.metric):
            continue
        count = len(reached.rounds)
        at = sorted({round(count ** (place / (POINTS - 1))) - 1 for place in range(POINTS)})
        expected = lessons.expect(run.situation, outlook, [float(reached.rounds[one]) for one in at])
        for one, said in zip(at, expected, strict=True):
            share = math.log((reached.errors[one] + ERROR_LEAST) / (outlook.untrained + ERROR_LEAST))
            far = (share - said.mean) / said.deviation
            found.append(-0.5 * far * far - math.log(said.deviation) - 0.5 * math.log(2 * math.pi))
    return statistics.fmean(found) if found else 0.0


def choose(runs: Mapping[str, PastRun], folds: Mapping[str, int]) -> dict[int, Settings]:
    """For each fold the settings that the others choose. Cost: a fit of all runs for each candidate and pair of folds
    (minutes)."""
    known = sorted(set(folds.values()))
    scores: dict[tuple[int, int, Settings], float] = {}
    for place, one in enumerate(known):
        for other in known[place + 1 :]:
            rest = [run for name, run in runs.items() if folds[name] not in (one, other)]
            for settings in candidates():
                lessons = Lessons(rest, settings)
                for held, inner in ((one, other), (other, one)):
                    scored = [likelihood(lessons, run) for name, run in runs.items() if folds[name] == inner]
                    scores[held, inner, settings] = statistics.fmean(scored)
    return {
        held: max(
            candidates(),
            key=lambda settings, held=held: statistics.fmean(  # type: ignore[misc]
                scores[held, inner, settings] for inner in known if inner != held
            ),
        )
        for held in known
    }

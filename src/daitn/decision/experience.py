"""Experience (T-FAM learns): what finished runs teach about how far the next one gets within its budget.

Paper II-A. The unit's trial says what all the records could teach, not how soon, nor what a method makes of sites that
differ. Earlier runs do: of each is kept what was known before it (`Situation`: sites, records, how far labels lie
apart, size of the model, method, steps of a visit, and for each target what the trial had found) and which error it had
reached after how many rounds (`Reached`). From these the logarithm of the share of the untrained error that is left
after so many rounds is told for the next run, with its uncertainty (`decision.gaussian_process`), each metric by runs
that had it.

Trial and experience are weighted by how many runs there are (`Lessons.weight`): without any the trial speaks alone; and
beyond the longest run seen it speaks the louder the further, or a network whose runs all ended early, because their
goals were modest, would never believe that more can be reached.

What it does not do: tell sites or owners apart. A situation says nothing of who trained on whose data.

Legend: N points of curves, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.effects import Problem, Solution
from daitn.decision.gaussian_process import GaussianProcess, Settings
from daitn.descriptors.trials import Training

RUNS_LEAST: Final = 4
"""Runs with a metric below which nothing is learnt of it."""
RUNS_HALF: Final = 2.0
"""Runs at which experience weighs as much as the trial."""
RUNS_MOST: Final = 128
"""Newest runs that are learnt from: fitted in a fifth of a second for each metric, beside the turn."""
WORKED_AMONG: Final = 8
"""Nearest runs among which hyper-parameters are looked for that worked."""
WORKED_MOST: Final = 2
"""Of these, how many: the rest of what is tried is to be new."""
POINTS_MOST: Final = 6
"""Points of one run's curve, evenly spread over the logarithm of rounds."""
ERROR_LEAST: Final = 0.01
"""Added to errors before their logarithm: what a test set of a hundred records tells apart."""
SETTINGS: Final = Settings(linear=0.3, bend=0.4, reach=3.0, kind=0.3, group=0.3, noise=0.15)
"""In units of the logarithm: runs alike differ by a fifth to a quarter of their error."""

Floats = NDArray[np.float64]


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What the trial found for one figure, as errors (0 is perfect): untrained, after about a quarter and a half of the
    sample, and as the law of learning curves continues it to all records."""

    name: str
    untrained: float
    tried: float
    """Untrained, on the halves that the trial measured."""
    quarter: float
    half: float
    whole: float

    @property
    def metric(self) -> str:
        """The figure without label and field."""
        return self.name.partition("@")[0].partition("[")[0]


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run before its first visit."""

    contract: str
    """Digest of the data contract: runs on the same kind of records have more in common than numbers tell."""
    method: str
    parallel: bool
    """Whether a round is a visit of every site."""
    steady: bool
    sites: int
    skew: float
    """How far apart the label mixes of sites are: 0 alike, near 1 disjoint."""
    records: float
    labels: int
    payload_bytes: int
    batches: int
    """Steps of a visit."""
    unseen: tuple[float, ...]
    """After each of the first visits of the planned route, the distance between the mix of labels seen so far and that
    of all sites: 0 nothing is missing, near 1 nothing was seen."""
    lopsided: tuple[float, ...]
    """The same of the least lopsided site visited so far, alone."""
    outlooks: tuple[Outlook, ...]

    def outlook(self, name: str) -> Outlook | None:
        """Of one figure."""
        return next((one for one in self.outlooks if one.name == name), None)


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """The least error of one figure that a run had measured after so many rounds; both ascend in rounds."""

    name: str
    rounds: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    errors: tuple[float, ...]


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run that is over."""

    situation: Situation
    reached: tuple[Reached, ...]
    training: Training | None = None
    """Hyper-parameters that it was planned with."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What runs say: mean and deviation of the logarithm of `(error + ERROR_LEAST) / (untrained + ERROR_LEAST)`."""

    mean: float
    deviation: float


class _Row(NamedTuple):
    """One point of a run's curve."""

    run: int
    contract: str
    features_D: Floats
    share: float


class _Lesson:
    """What runs with one metric teach."""

    def __init__(self, rows: Sequence[_Row], longest: dict[bool, int], settings: Settings) -> None:
        self.runs = len({row.run for row in rows})
        self.longest = longest
        x_ND, y_N = np.array([row.features_D for row in rows]), np.array([row.share for row in rows])
        groups, kinds = [row.run for row in rows], [row.contract for row in rows]
        self.process = GaussianProcess(x_ND, y_N, groups, kinds, settings)


class Lessons:
    """What all runs teach, by metric. Cost: 10⁸ flops for `RUNS_MOST` runs of each metric; a prediction 10⁶."""

    def __init__(self, runs: Sequence[PastRun] = (), settings: Settings = SETTINGS) -> None:
        self._lessons: dict[str, _Lesson] = {}
        points: dict[str, list[_Row]] = {}
        longest: dict[str, dict[bool, int]] = {}
        for number, run in enumerate(runs[-RUNS_MOST:]):
            for reached in run.reached:
                outlook = run.situation.outlook(reached.name)
                if outlook is None or not reached.rounds:
                    continue
                for at in _spread(len(reached.rounds)):
                    share = _log_share(outlook.untrained, reached.errors[at])
                    x_D = features(run.situation, outlook, reached.rounds[at])
                    points.setdefault(outlook.metric, []).append(_Row(number, run.situation.contract, x_D, share))
                most = longest.setdefault(outlook.metric, {})
                parallel = run.situation.parallel
                most[parallel] = max(most.get(parallel, 0), reached.rounds[-1])
        for metric, rows in points.items():
            if len({row.run for row in rows}) >= RUNS_LEAST:
                self._lessons[metric] = _Lesson(rows, longest[metric], settings)

    def runs(self, metric: str) -> int:
        """How many runs taught something about this metric."""
        return self._lessons[metric].runs if metric in self._lessons else 0

    def weight(self, situation: Situation, metric: str, rounds: float) -> float:
        """How far runs are believed, against the trial, about so many rounds: 0 not at all, 1 alone."""
        lesson = self._lessons.get(metric)
        if lesson is None:
            return 0.0
        seen = lesson.longest.get(situation.parallel, 0)
        return lesson.runs / (lesson.runs + RUNS_HALF) * min(1.0, seen / max(1.0, rounds))

    def expect(self, situation: Situation, outlook: Outlook, rounds: Sequence[float]) -> list[Expected]:
        """What is left of the untrained error after each of these numbers of rounds, at most as many as were seen."""
        lesson = self._lessons[outlook.metric]
        seen = float(lesson.longest.get(situation.parallel, max(lesson.longest.values())))
        x_MD = np.array([features(situation, outlook, min(seen, one)) for one in rounds])
        mean_M, deviation_M = lesson.process.predict(x_MD, situation.contract)
        return [Expected(mean=float(m), deviation=float(d)) for m, d in zip(mean_M, deviation_M, strict=True)]


def worked(runs: Sequence[PastRun], situation: Situation) -> tuple[Training, ...]:
    """Hyper-parameters that did best in runs like one to come: of the nearest, those that left the least error. Runs on
    the same contract are nearer than any other. O(runs)."""

    def apart(run: PastRun) -> tuple[bool, float]:
        other = run.situation
        sizes = ((other.payload_bytes, situation.payload_bytes), (other.records, situation.records))
        far = sum(abs(math.log(max(1.0, one) / max(1.0, two))) for one, two in sizes)
        return other.contract != situation.contract, far + abs(other.skew - situation.skew)

    def left(run: PastRun) -> float:
        shares = [
            _log_share(found.untrained, one.errors[-1])
            for one in run.reached
            if one.errors and (found := run.situation.outlook(one.name)) is not None
        ]
        return sum(shares) / len(shares) if shares else 0.0

    alike = [one for one in runs if one.training is not None and one.situation.parallel == situation.parallel]
    nearest = sorted(alike, key=apart)[:WORKED_AMONG]
    best = [run.training for run in sorted(nearest, key=left) if run.training is not None]
    return tuple(dict.fromkeys(best))[:WORKED_MOST]


class LessonsFound(Solution, frozen=True, kw_only=True):
    """What runs teach, worked out."""

    lessons: Lessons


class LessonsSought(Problem, frozen=True, kw_only=True):
    """What do these runs teach?"""

    runs: tuple[PastRun, ...]

    def solve(self) -> LessonsFound:
        """See `Lessons`."""
        return LessonsFound(lessons=Lessons(self.runs))


def features(situation: Situation, outlook: Outlook, rounds: float) -> Floats:
    """A run after so many rounds as numbers (D,): what the trial says first, then how much was trained, then how."""
    passes = rounds if situation.parallel else rounds / max(1, situation.sites)
    gone = math.log1p(passes)
    return np.array([
        _log_share(outlook.tried, outlook.whole),
        _log_share(outlook.tried, outlook.half),
        _log_share(outlook.tried, outlook.quarter),
        math.log(outlook.half + ERROR_LEAST),
        math.log(outlook.untrained + ERROR_LEAST),
        math.log(max(1.0, rounds * situation.batches)),
        gone,
        situation.skew,
        situation.skew * gone,
        _after(situation.unseen, rounds),
        _after(situation.lopsided, rounds),
        float(situation.parallel),
        float(situation.steady),
        math.log(max(1, situation.payload_bytes)),
        math.log(max(1.0, situation.records)),
        math.log(max(1, situation.labels)),
    ])  # fmt: skip


def _after(distances: Sequence[float], rounds: float) -> float:
    """After so many visits of a route; of one that goes on, as after the last that was planned."""
    return distances[max(0, min(len(distances), int(rounds)) - 1)] if distances else 0.0


def _log_share(untrained: float, error: float) -> float:
    return math.log((max(0.0, error) + ERROR_LEAST) / (max(0.0, untrained) + ERROR_LEAST))


def _spread(count: int) -> list[int]:
    """Places of at most `POINTS_MOST` of so many points, close at first."""
    wanted = np.geomspace(1, count, min(count, POINTS_MOST))
    return sorted({round(float(one)) - 1 for one in wanted})

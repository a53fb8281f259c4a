"""Attainability (T-FAM): from how a model learnt on parts of the test set, how far it will get on all the data.

Paper II-A. The unit's trial gives the error e at 0, about a quarter and about a half of the sample's records. What it
will be at all N training records is extrapolated with the usual law of learning curves, a power of the records above a
floor (J. Hestness and others, "Deep learning scaling is predictable, empirically", 2017):

    e(n) = f + (e₀ − f) · (1 + n/c)^(−b)

Three points fix nothing, so floor f, scale c and exponent b are not fitted but averaged over: a grid of laws, each
weighted by how well it explains the points within their noise. What remains is a distribution of e(N), hence a chance
for each target, an interval, and the figure that can be promised. A last factor, `DRIFT`, stands for what the law does
not know: that the records of the sites are others than the sample, and that a run is stopped, rolled back, cut short.

That is what the records can teach, however long it takes. Where earlier runs have taught something
(`decision.experience`), what they say of the rounds that deadline and budgets leave room for (`decision.allowance`) is
weighted with it, so that the chance becomes that of reaching the target *within its budget*.

What it does not do: guess without a trial. Where there is none it says that it does not know.

Legend: L laws, P points, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.decision.allowance import Allowance
from daitn.decision.experience import ERROR_LEAST, Lessons, Outlook, Situation
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.label_mix import label_gaps, label_skew
from daitn.decision.routes.contract import datasets
from daitn.descriptors.outcome import Prediction
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import METRIC_SENSES, UNIT_METRICS, Request, Target
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Measurement
from daitn.learning.methods import METHODS

FLOORS: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9)
"""Floors, as shares of the untrained error."""
SCALES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Records at which learning sets in: few for a model from scratch, thousands for one that knows its matter already."""
EXPONENTS: Final = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Measured exponents lie between 0.1 and 0.5 for large models, up to 1 for linear ones (Hestness and others)."""
DRIFT: Final = (0.75, 0.86, 0.93, 1.0, 1.08, 1.17, 1.33)
"""Factors on the error that is left, equally likely: a spread of about a fifth."""
NOISE_LEAST: Final = 0.004
"""Least noise believed of a point: a test set of thousands is still one draw of batches."""
PROMISE: Final = 0.8
"""Chance with which all offered figures are reached, unless the owner asks for more of each."""
PROMISE_LEAST: Final = 0.5
"""The same where what can be offered with `PROMISE` is no more than what the submitted model does untrained: then what
is rather reached than missed."""
TRIAL_FRAC: Final = 0.05
"""Share of the time to the deadline that the trial may take: an owner who gives an hour can wait three minutes to hear
that it would be in vain. Most trials take seconds; one that is cut short knows less."""
TRIAL_LEAST_S: Final = 10.0
"""Seconds allowed however near the deadline is, up to a quarter of the time to it."""
TRIAL_MOST_S: Final = 300.0
"""Seconds allowed however far the deadline is: later the trial would take what a few visits take."""
LOW: Final = 0.05
HIGH: Final = 0.95
"""The interval shown holds with 90 %."""
Z95: Final = 1.959963984540054
QUANTILES: Final = 81
"""Equally likely errors that stand for what runs say: a chance is told to a percent."""
PACES: Final = ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6))
"""Deviations from the rounds that are expected to fit, and their mass: Gauss and Hermite's three points."""

Floats = NDArray[np.float64]
NORMAL_Q: Final[Floats] = np.array([NormalDist().inv_cdf((place + 0.5) / QUANTILES) for place in range(QUANTILES)])


def trial_seconds(deadline_s: float) -> float:
    """Seconds that the trial of a request with this deadline may take."""
    least_s = min(TRIAL_LEAST_S, deadline_s / 4)
    return min(TRIAL_MOST_S, max(least_s, TRIAL_FRAC * deadline_s))


class Ahead(NamedTuple):
    """What a prediction can rest on besides the trial: the run to come, the rounds it has, and what others taught."""

    situation: Situation
    allowance: Allowance
    lessons: Lessons


def situation_of(
    view: TrainingView, request: Request, package: PackageFacts, plan: Plan, preflight: Preflight | None
) -> Situation | None:
    """What is known of a run before its first visit; None without a trial."""
    if preflight is None or not preflight.curve:
        return None
    method, records = METHODS[plan.method], _records(view)
    outlooks = [_outlook(target, preflight, records) for target in request.targets]
    unseen, lopsided = ((), ()) if method.parallel else label_gaps(view, [stop.dataset for stop in plan.route])
    return Situation(
        contract=package.contract.digest(),
        method=plan.method,
        parallel=method.parallel,
        steady=method.steady,
        sites=len(datasets(view)),
        skew=label_skew(view),
        records=records,
        labels=len(package.contract.labels()),
        payload_bytes=package.payload_bytes,
        batches=plan.training.batches,
        unseen=unseen,
        lopsided=lopsided,
        outlooks=tuple(one for one in outlooks if one is not None),
    )


def predict(
    view: TrainingView, request: Request, preflight: Preflight | None, ahead: Ahead | None = None
) -> tuple[Prediction, ...]:
    """A prediction for each target that the trial measured. Cost: 10⁴ flops a target, 10⁶ with experience."""
    if preflight is None or not (preflight.curve or preflight.probe):
        return ()
    records = _records(view)
    # As if never two were missed together (Bonferroni): whatever they have to do with each other, PROMISE holds.
    promises = [max(1 - (1 - one) / len(request.targets), request.chance_floor) for one in (PROMISE, PROMISE_LEAST)]
    found = [_predict(target, preflight, records, promises, ahead) for target in request.targets]
    return tuple(one for one in found if one is not None)


def _records(view: TrainingView) -> float:
    """Training records of all data sets."""
    return sum({one.dataset: one.records for one in view.candidates}.values())


def joint_chance(predictions: Sequence[Prediction]) -> tuple[float, float, float]:
    """Chance that all targets are reached, with what it can at least and at most be (Fréchet's bounds)."""
    chances = [one.probability for one in predictions]
    low, high = max(0.0, sum(chances) - (len(chances) - 1)), min(chances)
    return min(high, max(low, math.prod(chances))), low, high


def improves(target: Target, prediction: Prediction) -> bool:
    """Whether what is promised, written as one would write it, is more than what the submitted model does already."""
    offered, untrained = easier(target, prediction.promised), prediction.untrained
    return offered > untrained if METRIC_SENSES[target.metric] == "up" else offered < untrained


class _Trial(NamedTuple):
    """What a trial found for one target: errors with their noise at numbers of records, and the submitted model's.
    A probe's point comes last, as the same share of the untrained error."""

    records_P: Floats
    errors_P: Floats
    noise_P: Floats
    start: float
    loose_P: Floats
    """By how much of the untrained error each point may lie above the law, besides noise: a probe's learnt from one
    site's labels."""
    tried: int
    """Points of the trial itself."""


def _trial(target: Target, preflight: Preflight) -> _Trial | None:
    measured = [(float(point.records), _named(target.name, point.measurements)) for point in preflight.curve]
    points = [(n, one) for n, one in measured if one is not None and one.records and not math.isnan(one.value)]
    if len(points) < 2 or points[0][0] != 0:
        return _probe_alone(target, preflight)
    errors_P = np.array([error_of(target, one.value) for _, one in points])
    noise_P = np.array([max(NOISE_LEAST, (one.high - one.low) / (2 * Z95)) for _, one in points])
    untrained = _named(target.name, preflight.measurements)
    start = error_of(target, untrained.value) if untrained is not None and untrained.records else float(errors_P[0])
    records_P = np.array([n for n, _ in points])
    trial = _Trial(records_P, errors_P, noise_P, start, np.zeros(len(points)), len(points))
    return _with_probe(target, preflight, trial)


def _probe_alone(target: Target, preflight: Preflight) -> _Trial | None:
    """Where there was no trial: the submitted model on the test set, and a probe's; None without a probe."""
    untrained = _named(target.name, preflight.measurements)
    if untrained is None or not untrained.records or math.isnan(untrained.value):
        return None
    start = error_of(target, untrained.value)
    first = _Trial(np.zeros(1), np.array([start]), np.array([NOISE_LEAST]), start, np.zeros(1), 0)
    trial = _with_probe(target, preflight, first)
    return trial if len(trial.records_P) > 1 else None


def _with_probe(target: Target, preflight: Preflight, trial: _Trial) -> _Trial:
    """The trial with a probe's point, where one was made and measured this."""
    probe = preflight.probe
    found = _named(target.name, probe.measurements) if probe is not None else None
    if probe is None or found is None or not found.records or math.isnan(found.value) or trial.start <= 0:
        return trial
    scale = trial.errors_P[0] / trial.start
    noise = max(NOISE_LEAST, (found.high - found.low) / (2 * Z95)) * scale
    return trial._replace(
        records_P=np.append(trial.records_P, float(probe.records)),
        errors_P=np.append(trial.errors_P, error_of(target, found.value) * scale),
        noise_P=np.append(trial.noise_P, noise),
        loose_P=np.append(trial.loose_P, probe.gap),
    )


def _outlook(target: Target, preflight: Preflight, records: float) -> Outlook | None:
    """What the trial says of one target, in five numbers."""
    trial = _trial(target, preflight)
    if trial is None or trial.tried < 2 or trial.errors_P[0] <= 0 or trial.start <= 0:
        return None
    shares_L, weights_L = _laws(trial, records)
    order = np.argsort(shares_L)
    mass_L = np.cumsum(weights_L[order]) / weights_L.sum()
    errors_P = trial.errors_P[: trial.tried]
    return Outlook(
        name=target.name,
        untrained=trial.start,
        tried=float(errors_P[0]),
        quarter=float(errors_P[min(1, len(errors_P) - 2)]) if len(errors_P) > 2 else float(errors_P[-1]),
        half=float(errors_P[-1]),
        whole=float(errors_P[0] * shares_L[order][int(np.searchsorted(mass_L, 0.5))]),
    )


def _predict(
    target: Target, preflight: Preflight, records: float, promises: Sequence[float], ahead: Ahead | None
) -> Prediction | None:
    trial = _trial(target, preflight)
    if trial is None:
        return None
    if trial.errors_P[0] <= 0 or trial.start <= 0:
        untrained = _named(target.name, preflight.measurements)
        return _certain(target, untrained.value if untrained is not None else value_of(target, trial.start))
    start = trial.start
    shares_L, weights_L = _laws(trial, records)
    ends_L, mass_L, runs = start * shares_L, weights_L / weights_L.sum(), 0
    experienced = _experienced(target, ahead)
    if experienced is not None:
        runs, believed = experienced.runs, experienced.weight
        ends_L = np.concatenate([ends_L, experienced.errors_Q])
        mass_L = np.concatenate([(1 - believed) * mass_L, believed * experienced.mass_Q])
    ends_L = np.minimum(start, ends_L)  # the submitted model is kept where nothing better comes
    order = np.argsort(ends_L)
    ends, mass = ends_L[order], np.cumsum(mass_L[order])

    def quantile(share: float) -> float:
        return float(ends[min(len(ends) - 1, int(np.searchsorted(mass, share)))])

    wanted = error_of(target, target.value)
    chance = float(mass_L[order][ends <= wanted + 1e-12].sum())
    values = [value_of(target, quantile(share)) for share in (HIGH, 0.5, LOW)]
    low, high = sorted((values[0], values[2]))
    offers = [
        Prediction(
            name=target.name,
            untrained=value_of(target, start),
            expected=values[1],
            low=low,
            high=high,
            probability=min(1.0, max(0.0, chance)),
            promised=value_of(target, quantile(promise)),
            runs=runs,
        )
        for promise in promises
    ]
    return next((one for one in offers if improves(target, one)), offers[0])


class _Experienced(NamedTuple):
    """Errors that earlier runs make likely, each with its mass; how far they are believed; how many runs there were."""

    errors_Q: Floats
    mass_Q: Floats
    weight: float
    runs: int


def _experienced(target: Target, ahead: Ahead | None) -> _Experienced | None:
    """What runs say of the error within the rounds there are; None where none had this metric."""
    outlook = ahead.situation.outlook(target.name) if ahead is not None else None
    if ahead is None or outlook is None:
        return None
    situation, (rounds, spread), lessons = (
        ahead.situation,
        (ahead.allowance.rounds, ahead.allowance.spread),
        ahead.lessons,
    )
    weight = lessons.weight(situation, outlook.metric, rounds)
    if not weight:
        return None
    paces = [(rounds * math.exp(spread * move), mass) for move, mass in PACES] if spread else [(rounds, 1.0)]
    told = lessons.expect(situation, outlook, [max(1.0, many) for many, _ in paces])
    errors: list[Floats] = []
    masses: list[Floats] = []
    for (many, mass), one in zip(paces, told, strict=True):
        shares_Q = np.exp(one.mean + one.deviation * NORMAL_Q)
        ends_Q = np.maximum(0.0, (outlook.untrained + ERROR_LEAST) * shares_Q - ERROR_LEAST)
        # Where not even one round fits, the model comes back as it went.
        errors.append(ends_Q if many >= 1 else np.full(len(NORMAL_Q), outlook.untrained))
        masses.append(np.full(len(NORMAL_Q), mass / len(NORMAL_Q)))
    return _Experienced(np.concatenate(errors), np.concatenate(masses), weight, lessons.runs(outlook.metric))


def _laws(trial: _Trial, records: float) -> tuple[Floats, Floats]:
    """Share of the untrained error left at `records` under each law and drift, and the weight of each."""
    records_P, first = trial.records_P, trial.errors_P[0]
    ratios_P, noise_P = trial.errors_P / first, trial.noise_P / first
    grid = np.array(list(product(FLOORS, SCALES, EXPONENTS)))
    floor_L, scale_L, exponent_L = grid.T

    def left(n: Floats | float) -> Floats:
        falls: Floats = (1.0 + np.asarray(n)[..., None] / scale_L) ** -exponent_L
        remaining: Floats = floor_L + (1.0 - floor_L) * falls
        return remaining

    misses = left(records_P[1:]) - ratios_P[1:, None]
    misses /= noise_P[1:, None] + np.where(misses < 0, trial.loose_P[1:, None], 0.0)
    log_weight_L = -0.5 * np.sum(np.clip(misses**2, 0.0, 1e6), axis=0)
    weight_L = np.exp(log_weight_L - log_weight_L.max())
    drift = np.array(DRIFT)
    shares = (left(max(records, float(records_P.max())))[:, None] * drift[None, :]).reshape(-1)
    return shares, np.repeat(weight_L, len(drift))


def _certain(target: Target, value: float) -> Prediction:
    """A model without an error to lose."""
    met = 1.0 if target.met_by(value) else 0.0
    return Prediction(
        name=target.name, untrained=value, expected=value, low=value, high=value, probability=met, promised=value
    )


def _named(name: str, measurements: Sequence[Measurement]) -> Measurement | None:
    return next((one for one in measurements if one.name == name), None)


def error_of(target: Target, value: float) -> float:
    """A figure as an error: 0 is perfect."""
    if METRIC_SENSES[target.metric] == "up":
        return 1.0 - value
    return value - 1.0 if target.metric == "perplexity" else value


def value_of(target: Target, error: float) -> float:
    """The figure of an error."""
    if METRIC_SENSES[target.metric] == "up":
        value = 1.0 - error
        return min(1.0, max(0.0, value)) if target.metric in UNIT_METRICS else value
    return error + 1.0 if target.metric == "perplexity" else error


def easier(target: Target, value: float) -> float:
    """A figure rounded to what one would write, on the easier side: half percents, two digits where there is no one."""
    if target.metric in UNIT_METRICS:
        return math.floor(value * 200 + 1e-9) / 200
    if value == 0:
        return 0.0
    digits = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounding = math.floor if target.sense == ">=" else math.ceil
    return rounding(value / digits) * digits

"""Attainability (T-FAM): from how a model learnt on parts of the test set, how far it will get on all the data.

Paper II-A. The unit's trial gives the error e at 0, about a quarter and about a half of the sample's records. What it
will be at all N training records is extrapolated with the usual law of learning curves, a power of the records above a
floor (J. Hestness and others, "Deep learning scaling is predictable, empirically", 2017):

    e(n) = f + (e₀ − f) · (1 + n/c)^(−b)

Three points fix nothing, so floor f, scale c and exponent b are not fitted but averaged over: a grid of laws, each
weighted by how well it explains the points within their noise. What remains is a distribution of e(N), hence a chance
for each target, an interval, and the figure that can be promised. A last factor, `DRIFT`, stands for what the law does
not know: that the records of the sites are others than the sample, and that a run is stopped, rolled back, cut short.

What it does not do: guess without a trial. Where there is none it says that it does not know.

Legend: L laws, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.decision.facts import Preflight
from daitn.descriptors.outcome import Prediction
from daitn.descriptors.request import METRIC_SENSES, UNIT_METRICS, Request, Target
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Measurement

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

Floats = NDArray[np.float64]


def trial_seconds(deadline_s: float) -> float:
    """Seconds that the trial of a request with this deadline may take."""
    least_s = min(TRIAL_LEAST_S, deadline_s / 4)
    return min(TRIAL_MOST_S, max(least_s, TRIAL_FRAC * deadline_s))


def predict(view: TrainingView, request: Request, preflight: Preflight | None) -> tuple[Prediction, ...]:
    """A prediction for each target that the trial measured. Cost: 10⁴ flops a target."""
    if preflight is None or not preflight.curve:
        return ()
    records = sum({one.dataset: one.records for one in view.candidates}.values())
    # As if never two were missed together (Bonferroni): whatever they have to do with each other, PROMISE holds.
    promises = [max(1 - (1 - one) / len(request.targets), request.chance_floor) for one in (PROMISE, PROMISE_LEAST)]
    found = [_predict(target, preflight, records, promises) for target in request.targets]
    return tuple(one for one in found if one is not None)


def joint_chance(predictions: Sequence[Prediction]) -> tuple[float, float, float]:
    """Chance that all targets are reached, with what it can at least and at most be (Fréchet's bounds)."""
    chances = [one.probability for one in predictions]
    low, high = max(0.0, sum(chances) - (len(chances) - 1)), min(chances)
    return min(high, max(low, math.prod(chances))), low, high


def improves(target: Target, prediction: Prediction) -> bool:
    """Whether what is promised, written as one would write it, is more than what the submitted model does already."""
    offered, untrained = easier(target, prediction.promised), prediction.untrained
    return offered > untrained if METRIC_SENSES[target.metric] == "up" else offered < untrained


def _predict(target: Target, preflight: Preflight, records: float, promises: Sequence[float]) -> Prediction | None:
    measured = [(float(point.records), _named(target.name, point.measurements)) for point in preflight.curve]
    points = [(n, one) for n, one in measured if one is not None and one.records and not math.isnan(one.value)]
    if len(points) < 2 or points[0][0] != 0:
        return None
    errors = np.array([error_of(target, one.value) for _, one in points])
    noise = np.array([max(NOISE_LEAST, (one.high - one.low) / (2 * Z95)) for _, one in points])
    untrained = _named(target.name, preflight.measurements)
    start = error_of(target, untrained.value) if untrained is not None and untrained.records else errors[0]
    if errors[0] <= 0 or start <= 0:
        return _certain(target, untrained.value if untrained is not None else points[0][1].value)
    shares, weights = _laws(np.array([n for n, _ in points]), errors / errors[0], noise / errors[0], records)
    ends_L = np.minimum(start, start * shares)  # the submitted model is kept where nothing better comes
    order = np.argsort(ends_L)
    ends, mass = ends_L[order], np.cumsum(weights[order]) / weights.sum()

    def quantile(share: float) -> float:
        return float(ends[min(len(ends) - 1, int(np.searchsorted(mass, share)))])

    wanted = error_of(target, target.value)
    chance = float(weights[order][ends <= wanted + 1e-12].sum() / weights.sum())
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
        )
        for promise in promises
    ]
    return next((one for one in offers if improves(target, one)), offers[0])


def _laws(records_P: Floats, ratios_P: Floats, noise_P: Floats, records: float) -> tuple[Floats, Floats]:
    """Share of the untrained error left at `records` under each law and drift, and the weight of each."""
    grid = np.array(list(product(FLOORS, SCALES, EXPONENTS)))
    floor_L, scale_L, exponent_L = grid.T

    def left(n: Floats | float) -> Floats:
        falls: Floats = (1.0 + np.asarray(n)[..., None] / scale_L) ** -exponent_L
        remaining: Floats = floor_L + (1.0 - floor_L) * falls
        return remaining

    misses = (left(records_P[1:]) - ratios_P[1:, None]) / noise_P[1:, None]
    log_weight_L = -0.5 * np.sum(np.clip(misses**2, 0.0, 1e6), axis=0)
    weight_L = np.exp(log_weight_L - log_weight_L.max())
    drift = np.array(DRIFT)
    shares = (left(max(records, float(records_P[-1])))[:, None] * drift[None, :]).reshape(-1)
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

"""How long a replica works on a query of some size: learnt as answers come, with how sure that is.

Recursive least squares with forgetting on service = base + unit · size, weighted so that relative errors count alike:
a short query tells as much as a long one. Kept in six numbers a replica, so that a choice among thousands reads them
in a row. The first answer says by which factor the host is quicker or slower than declared, and moves both numbers by
it. Forgetting stops at `MEMORY` answers: a host that slowed down is believed within about as many.

Of a text this is the time to its first piece, by its prompt; what comes after it is learnt as seconds a token, in
three numbers more (`learn_tokens`).

Why not a histogram or a forest: those need hundreds of answers a host before they say anything, and a host that just
joined has none.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from daitn.decision.planning.compiling import compiled

MEMORY: Final = 100.0
"""Answers that are remembered; older ones fade."""

NOISE_MEMORY: Final = 50.0

TOKENS_ENOUGH: Final = 16.0
"""Tokens of an answer that counts whole for the time of one."""

SHORTEST_S: Final = 1e-6
"""Service is no shorter: weights are finite."""

OUTLIER: Final = 4.0
"""An answer counts at most as if it were this many deviations from what was expected: one stall is no new speed."""


class ServicePrior(NamedTuple):
    """What is believed of service before any answer, from what the host declares or measured while warming up."""

    base_s: float = 0.01
    unit_s: float = 0.0
    doubt_frac: float = 1.0
    """Deviation of either, as a share of it."""
    noise_frac: float = 0.3
    """Deviation of single queries around the mean, as a share of it."""

    token_s: float = 0.0
    """A token after the first piece of a text."""


def start_learning(state: Any, prior: ServicePrior) -> None:
    """Fill a replica's numbers: base, unit, variances of both and their covariance, noise (a squared share)."""
    base, unit = max(prior.base_s, SHORTEST_S), prior.unit_s
    noise = max(prior.noise_frac, 0.01) ** 2
    doubt = max(prior.doubt_frac, 0.01) ** 2 / noise
    state[:] = base, unit, base * base * doubt, 0.0, max(unit, base * 1e-3) ** 2 * doubt, noise


def learn(state: Any, known: float, size: float, service_s: float) -> float:
    """Take in one answer; returns of how many answers the state is now. What is not a positive time is passed over."""
    if not (np.isfinite(service_s) and np.isfinite(size) and service_s > 0 and size >= 0):
        return known
    return float(_learn(state, known, size, service_s))


def start_learning_tokens(state: Any, prior: ServicePrior) -> None:
    """Fill a replica's numbers of tokens: seconds of one, the variance of that, and of single answers around it as a
    share of its square."""
    token, noise = prior.token_s, max(prior.noise_frac, 0.01) ** 2
    state[:] = token, (token * max(prior.doubt_frac, 0.01)) ** 2, noise


def learn_tokens(state: Any, known: float, tokens: float, seconds: float) -> float:
    """Take in that so many tokens after the first piece took so long; returns of how many answers the state is now.
    Few tokens say little, and count so."""
    if not (np.isfinite(seconds) and tokens >= 1 and seconds > 0):
        return known
    seen, weight = seconds / tokens, min(1.0, tokens / TOKENS_ENOUGH)
    token, noise = float(state[0]), float(state[2])
    if known == 0.0:
        state[0], state[1] = seen, noise * seen * seen / weight
        return weight
    error = seen - token
    if known >= 3.0:
        far = OUTLIER * token * noise**0.5
        error = min(max(error, -far), far)
    known = min(known + weight, MEMORY)
    token = max(token + error * weight / known, SHORTEST_S)
    noise += weight * ((error / token) ** 2 - noise) / min(known + 4.0, NOISE_MEMORY)
    state[0], state[1], state[2] = token, noise * token * token / known, max(noise, 1e-6)
    return known


@compiled
def predicted(state: Any, size: float, size_var: float) -> tuple[float, float]:
    """Mean and variance of the service of one query whose size is known with this variance."""
    base, unit = state[0], state[1]
    mean = max(base + unit * size, SHORTEST_S)
    doubt = state[2] + 2 * size * state[3] + (size * size + size_var) * state[4]
    return mean, state[5] * (mean * mean + doubt) + unit * unit * size_var


@compiled
def _learn(state: Any, known: float, size: float, service_s: float) -> float:
    mean = max(state[0] + state[1] * size, SHORTEST_S)
    if known == 0.0:
        ratio = service_s / mean
        state[0] *= ratio
        state[1] *= ratio
        state[2:5] *= ratio * ratio
        mean = max(service_s, SHORTEST_S)
    weight = 1.0 / (mean * mean)
    pull_base = state[2] + size * state[3]
    pull_unit = state[3] + size * state[4]
    spread = pull_base + size * pull_unit
    error = service_s - mean
    far = OUTLIER * np.sqrt(state[5] * (mean * mean + spread))
    noise = error * error / (mean * mean + spread)
    if known >= 3.0:
        error = min(max(error, -far), far)
        noise = min(noise, OUTLIER * OUTLIER * state[5])
    keep = 1.0 - 1.0 / MEMORY if known >= MEMORY else 1.0
    gain = 1.0 / (keep / weight + spread)
    # Neither is below nothing. What one of them cannot take is the other's: otherwise queries of one size would push
    # the mean away from what is seen, each a little further.
    base, unit = state[0] + pull_base * gain * error, state[1] + pull_unit * gain * error
    aimed = max(mean + spread * gain * error, 0.0)
    if unit < 0.0:
        base, unit = aimed, 0.0
    elif base < 0.0:
        base, unit = 0.0, aimed / size if size > 0.0 else unit
    state[0], state[1] = base, unit
    most_base = 4.0 * mean * mean
    state[2] = min(max((state[2] - pull_base * pull_base * gain) / keep, 0.0), most_base)
    state[4] = min(max((state[4] - pull_unit * pull_unit * gain) / keep, 0.0), most_base)
    both = (state[3] - pull_base * pull_unit * gain) / keep
    most_both = np.sqrt(state[2] * state[4])
    state[3] = min(max(both, -most_both), most_both)
    if known > 0.0:
        state[5] = max(state[5] + (noise - state[5]) / min(known + 4.0, NOISE_MEMORY), 1e-6)
    return min(known + 1.0, MEMORY)

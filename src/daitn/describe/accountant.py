"""What training with noise costs: a moments accountant of the sampled Gaussian mechanism.

A step takes each group with chance q, adds up clipped gradients and adds Gaussian noise of σ times the clip. Its Rényi
divergence at an integer order α, for one group more or less, is (I. Mironov, K. Talwar, L. Zhang, Rényi Differential
Privacy of the Sampled Gaussian Mechanism, 2019, section 3.3)

    1 / (α - 1) · log Σ_k C(α, k) (1 - q)^(α - k) q^k exp((k² - k) / 2σ²)

Steps add up order by order, whatever was done with earlier results (I. Mironov, 2017, proposition 1), and the sum turns
into (ε, δ) by B. Balle et al., Hypothesis Testing Interpretations and Rényi Differential Privacy, 2020, theorem 21, at
the order where ε is least. Integer orders alone cost a little at small q and large σ: the bound stays one.

Pure; a cost of one mechanism is kept, since every visit of a job repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

ORDERS: Final = (*range(2, 65), 80, 96, 128, 192, 256, 512)
"""Where the divergence is looked at: small ones serve little noise, large ones much."""

NOISE_MOST: Final = 1e5
"""Noise multipliers that are tried: with more, nothing would be learnt anyway."""

_TRIES: Final = 24
"""Halvings when a noise is sought: to a millionth of itself."""

_alphas: Final = np.array(ORDERS, dtype=np.float64)
_k: Final = np.arange(max(ORDERS) + 1, dtype=np.float64)
_inside: Final = _k[None, :] <= _alphas[:, None]
_log_factorials: Final = np.array([math.lgamma(k + 1) for k in range(max(ORDERS) + 1)])
"""By the standard library: every node and centre imports this module, and scipy's functions would cost them 0.2 s."""

_orders: Final = np.array(ORDERS)
_binomials: Final = np.where(
    _inside,
    _log_factorials[_orders][:, None]
    - _log_factorials[None, :]
    - _log_factorials[np.maximum(_orders[:, None] - np.arange(max(ORDERS) + 1), 0)],
    -np.inf,
)


class Mechanism(msgspec.Struct, frozen=True, kw_only=True):
    """So many equal steps of the sampled Gaussian mechanism."""

    sampling_rate: Annotated[float, msgspec.Meta(gt=0, le=1)]
    noise_multiplier: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


@lru_cache(maxsize=4096)
def divergences(sampling_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of `ORDERS`. Cost: O(orders²), about a millisecond, once."""
    q, twice_variance = sampling_rate, 2 * noise_multiplier**2
    if q >= 1:
        return _alphas / twice_variance
    terms = _binomials + _k * math.log(q) + (_k * _k - _k) / twice_variance
    terms = terms + np.where(_inside, (_alphas[:, None] - _k) * math.log1p(-q), 0.0)
    highest = terms.max(axis=1)
    total = highest + np.log(np.exp(terms - highest[:, None]).sum(axis=1))
    found: NDArray[np.float64] = np.maximum(0.0, total) / (_alphas - 1)
    return found


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """ε at `delta` of all mechanisms together, one after the other on the same data; 0 for none. O(mechanisms)."""
    total = np.zeros(len(ORDERS))
    for one in mechanisms:
        total += one.steps * divergences(one.sampling_rate, one.noise_multiplier)
    if not total.any():
        return 0.0
    each = total + np.log1p(-1 / _alphas) - (math.log(delta) + np.log(_alphas)) / (_alphas - 1)
    return max(0.0, float(each.min()))


@lru_cache(maxsize=4096)
def noise_for(sampling_rate: float, steps: int, epsilon: float, delta: float) -> float | None:
    """The least noise multiplier, up to a rounding upwards, with which `steps` cost at most `epsilon`.

    None where not even `NOISE_MOST` is enough. Cost: about 20 milliseconds, once.
    """
    low, high = 1e-2, NOISE_MOST

    def cost(noise: float) -> float:
        return epsilon_of([Mechanism(sampling_rate=sampling_rate, noise_multiplier=noise, steps=steps)], delta)

    if cost(high) > epsilon:
        return None
    for _ in range(_TRIES):
        middle = math.sqrt(low * high)
        if cost(middle) > epsilon:
            low = middle
        else:
            high = middle
    return high

"""The accountant of private training: against another implementation, published figures, and what has to hold."""

from __future__ import annotations

import numpy as np
import pytest

from daitn.describe.accountant import ORDERS, Mechanism, divergences, epsilon_of, noise_for

CASES = ((0.01, 1.1, 1000), (0.1, 2.0, 100), (0.5, 4.0, 50), (1.0, 5.0, 10), (0.02, 0.7, 300), (0.3, 0.8, 10))


def steps(rate: float, noise: float, count: int) -> Mechanism:
    return Mechanism(sampling_rate=rate, noise_multiplier=noise, steps=count)


@pytest.mark.parametrize(("rate", "noise", "count"), CASES)
def test_divergences_and_epsilon_are_those_of_opacus(rate, noise, count):
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp", reason="opacus is not installed")
    orders = list(ORDERS)
    theirs = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=np.asarray(theirs) * count, delta=1e-5)
    finer = [1 + step / 10 for step in range(1, 100)] + list(range(12, 64))
    whole = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=finer)
    least, _ = rdp.get_privacy_spent(orders=finer, rdp=whole, delta=1e-5)

    ours = epsilon_of([steps(rate, noise, count)], 1e-5)

    np.testing.assert_allclose(divergences(rate, noise), theirs, rtol=1e-9)
    assert ours == pytest.approx(epsilon, rel=1e-9)
    assert least * (1 - 1e-9) <= ours <= least * 1.12  # integer orders alone bound it from above


@pytest.mark.parametrize(("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_epsilon_is_no_more_than_published_by_a_looser_conversion_and_not_far_below(noise, epochs, published):
    """The figures for MNIST in the tutorial of TensorFlow Privacy: batches of 256 of 60,000, δ = 1e-5."""
    ours = epsilon_of([steps(256 / 60_000, noise, epochs * 60_000 // 256)], 1e-5)

    assert 0.75 * published < ours <= published


def test_without_sampling_it_is_the_gaussian_mechanism():
    np.testing.assert_allclose(divergences(1.0, 3.0), np.array(ORDERS) / 18.0)


def test_nothing_costs_nothing_and_more_costs_more():
    one = steps(0.1, 1.5, 20)

    assert epsilon_of([], 1e-5) == 0.0
    assert epsilon_of([one, one], 1e-5) == pytest.approx(epsilon_of([steps(0.1, 1.5, 40)], 1e-5))
    assert epsilon_of([one, one], 1e-5) > epsilon_of([one], 1e-5)
    assert epsilon_of([steps(0.2, 1.5, 20)], 1e-5) > epsilon_of([one], 1e-5)
    assert epsilon_of([steps(0.1, 1.0, 20)], 1e-5) > epsilon_of([one], 1e-5)
    assert epsilon_of([one], 1e-7) > epsilon_of([one], 1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0, 100.0])
def test_noise_found_costs_what_was_asked_and_less_would_cost_more(epsilon):
    noise = noise_for(0.11, 160, epsilon, 1e-5)

    assert noise is not None
    assert 0.999 * epsilon < epsilon_of([steps(0.11, noise, 160)], 1e-5) <= epsilon
    assert epsilon_of([steps(0.11, noise * 0.99, 160)], 1e-5) > epsilon


def test_bound_that_no_noise_keeps_is_said():
    assert noise_for(0.5, 100, 1e-4, 1e-5) is None

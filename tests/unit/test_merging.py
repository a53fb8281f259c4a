"""How answers become one."""

from __future__ import annotations

import numpy as np
import pytest

from daitn.base.errors import InputError
from daitn.serving.merging import calibrated, join_mean, join_votes, odds_weights, sureness


def test_weights_are_odds_and_of_whom_nothing_is_known_counts_as_the_least() -> None:
    weights = odds_weights([0.9, 0.6, None])
    assert weights.sum() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(np.log(9) / np.log(1.5))
    assert weights[1] == weights[2]
    assert odds_weights([0.3, 0.4]).tolist() == [0.5, 0.5]
    assert np.isfinite(odds_weights([1.0, 0.0])).all()


def test_weighted_votes_beat_the_best_voter_and_equal_votes() -> None:
    rng = np.random.default_rng(1)
    accuracies = [0.85, 0.7, 0.7, 0.55, 0.55]
    truth = rng.integers(0, 2, 20_000)
    answers = []
    for accuracy in accuracies:
        said = np.where(rng.random(len(truth)) < accuracy, truth, 1 - truth)
        answers.append(np.eye(2, dtype=np.float32)[said])
    right = [
        float((join_votes(answers, weights).argmax(axis=1) == truth).mean())
        for weights in (odds_weights(accuracies), odds_weights([0.7] * 5))
    ]
    assert right[0] > 0.855 > max(accuracies)
    assert right[0] > right[1] + 0.02


def test_mean_keeps_the_type_and_refuses_other_shapes() -> None:
    one, two = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    joined = join_mean([one, two], np.array([0.25, 0.75]))
    assert joined.dtype == np.float32
    assert (joined == 0.75).all()
    with pytest.raises(InputError, match="cannot be joined"):
        join_mean([one, two[:1]], np.array([0.5, 0.5]))
    with pytest.raises(InputError, match="rows and entries"):
        join_votes([one[0], two[0]], np.array([0.5, 0.5]))


def test_sureness_is_the_largest_share_of_shares_or_scores() -> None:
    np.testing.assert_allclose(sureness(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32)), [0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(sureness(np.array([[2.0, 0.0]], np.float32)), [1 / (1 + np.exp(-2))])
    for wrong in (np.zeros(3, np.float32), np.zeros((2, 1), np.float32), np.zeros((2, 2), np.int64)):
        with pytest.raises(InputError):
            sureness(wrong)


def test_calibrated_shares_change_sides_at_the_threshold_whatever_the_temperature() -> None:
    shares = np.array([[0.7, 0.3], [0.61, 0.39], [0.59, 0.41], [0.1, 0.9]], np.float32)
    for temperature in (0.5, 1.0, 4.0):
        found = calibrated(shares, temperature, 0.4)
        np.testing.assert_array_equal(found.argmax(axis=1), [0, 0, 1, 1])
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert sureness(shares, temperature, 0.4)[1] < sureness(shares, temperature, 0.4)[0]
    np.testing.assert_array_equal(calibrated(shares), shares.astype(np.float64))
    three = np.array([[0.2, 0.3, 0.5]])
    np.testing.assert_array_equal(calibrated(three, threshold=0.9), three)

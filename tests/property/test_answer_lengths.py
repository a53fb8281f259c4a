"""How long texts' answers are: within their bound, learnt, and without bias by what is cut off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.decision.query_route.answer_length import UNKNOWN_TOKENS, AnswerLengths, TextSize


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 200_000), st.booleans()), max_size=30),
    st.integers(0, 131_072),
    st.integers(0, 131_072),
    st.floats(0, 1e6),
)
def test_expectation_is_within_what_is_left_whatever_was_learnt(learnt, most: int, told: int, prompt: float) -> None:
    lengths = AnswerLengths()
    for about, tokens, cut in learnt:
        lengths.learn(about, tokens, cut=cut)

    mean, variance = lengths.expected(TextSize(prompt, most, told))

    left = max(0, most - told)
    assert 0 <= mean <= left + 1e-6
    assert 0 <= variance <= (left / 2) ** 2 * 1.001 + 1e-6
    assert lengths.known == len(learnt)


def test_nothing_known_is_anything_up_to_the_bound_alike() -> None:
    mean, variance = AnswerLengths().expected(TextSize(10.0, 200))
    assert mean == pytest.approx(100, rel=0.05)
    assert variance == pytest.approx(200**2 / 12, rel=0.1)
    assert AnswerLengths().expected(TextSize(10.0, 100_000))[0] == pytest.approx(UNKNOWN_TOKENS / 2, rel=0.05)


def test_mean_and_spread_of_what_was_answered_are_found_and_a_bound_cuts_them() -> None:
    rng = np.random.default_rng(1)
    drawn = np.ceil(rng.lognormal(5, 0.8, 400)).astype(int)
    lengths = AnswerLengths()
    for tokens in drawn:
        lengths.learn(100.0, int(tokens))

    for most in (100, 4096):
        mean, variance = lengths.expected(TextSize(100.0, most))
        true = np.minimum(drawn, most)
        assert mean == pytest.approx(true.mean(), rel=0.12)
        assert variance**0.5 == pytest.approx(true.std(), rel=0.25)
    longer = drawn[drawn > 300] - 300
    assert lengths.expected(TextSize(100.0, 4096, 300))[0] == pytest.approx(longer.mean(), rel=0.3)


def test_answers_that_were_cut_off_do_not_make_the_others_short() -> None:
    rng = np.random.default_rng(2)
    drawn = np.ceil(rng.lognormal(5, 0.8, 600)).astype(int)
    lengths = AnswerLengths()
    for place, tokens in enumerate(drawn):
        most = 60 if place % 2 else 4096
        lengths.learn(100.0, int(min(tokens, most)), cut=bool(tokens > most))

    assert lengths.expected(TextSize(100.0, 4096))[0] == pytest.approx(drawn.mean(), rel=0.15)


def test_prompts_of_other_lengths_are_told_apart_and_one_never_seen_leans_on_all() -> None:
    lengths = AnswerLengths()
    for _ in range(60):
        lengths.learn(20.0, 30)
        lengths.learn(5000.0, 900)

    assert lengths.expected(TextSize(20.0, 4096))[0] < 200
    assert lengths.expected(TextSize(5000.0, 4096))[0] > 650
    assert 300 < lengths.expected(TextSize(400.0, 4096))[0] < 650


def test_what_changed_is_believed_within_some_hundred_answers() -> None:
    lengths = AnswerLengths()
    for _ in range(2000):
        lengths.learn(20.0, 1000)
    for _ in range(500):
        lengths.learn(20.0, 50)

    assert lengths.expected(TextSize(20.0, 4096))[0] < 300

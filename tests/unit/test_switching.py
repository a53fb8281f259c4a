"""Which of two models suffices, told from a text: learnt from outcomes, sensible, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from daitn.base.errors import InputError
from daitn.decision.switching import chances, counts_of, learn_switch, signs_of


def questions(count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Hard ones speak of integrals and only the strong model knows them; easy ones of cats, and both do."""
    rng = np.random.default_rng(1)
    hard = rng.random(count) < 0.5
    filler = ["please", "tell", "me", "what", "follows", "from", "this"]
    texts = [
        " ".join([*rng.permutation(filler), "integral" if one else "kitten", str(rng.integers(100))]) for one in hard
    ]
    return texts, ~hard, np.ones(count, bool)


def taught(count: int = 200):
    texts, weak, strong = questions(count)
    strong[::20] = False
    return learn_switch(counts_of(texts), np.array([signs_of(one) for one in texts]), [weak, strong])


def asked(switch, *texts: str) -> np.ndarray:
    return chances(switch, counts_of(texts), np.array([signs_of(one) for one in texts]))


def test_weak_model_is_trusted_with_what_it_answers_and_not_with_the_rest() -> None:
    texts = ["please tell me what follows from this integral 7", "please tell me what follows from this kitten 7"]
    weak, strong = asked(taught(), *texts)

    assert weak[0] < 0.5 < weak[1]
    assert (strong > 0.8).all()
    assert strong[0] - weak[0] > strong[1] - weak[1] + 0.3


@pytest.mark.parametrize("text", ["", "\n\n", "漢字" * 50_000, "$$$ 1 + 1 = ?", "\x00"])
def test_any_text_has_a_chance(text: str) -> None:
    found = asked(taught(), text)

    assert ((found > 0) & (found < 1)).all()


def test_equal_texts_teach_equally() -> None:
    first, second = (asked(taught(), "one integral", "one kitten") for _ in range(2))

    assert (first == second).all()


def test_too_little_or_unequal_is_an_error() -> None:
    texts, weak, strong = questions(30)
    counts, signs = counts_of(texts), np.array([signs_of(one) for one in texts])

    with pytest.raises(InputError, match="30 texts"):
        learn_switch(counts, signs, [weak, strong[:-1]])
    with pytest.raises(InputError, match="10 texts"):
        learn_switch(counts[:10], signs[:10], [weak[:10], strong[:10]])

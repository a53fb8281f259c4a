"""Switched inference: which of two models suffices for a query, told from its text before either is asked (paper II-B).

For each model a head predicts whether it would answer rightly; a query goes to the dearer one where that is worth it:
its chance less the cheaper one's. Two heads and not one on the difference: most queries are answered alike by both and
say nothing of the difference, but much of each (one head on the difference reached 0.62 where two reached 0.64).

Each head is the mean, in log-odds, of two logistic regressions that err differently: on words and pairs of words
(hashed, weighted by rarity), and on what a query looks like (length, digits, signs, how its lines vary). What is learnt
is a few hundred kilobytes, made from some thousand queries of known outcome; texts are not kept.

Pure; scipy is imported when something is learnt. T texts, W hashed words, S signs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

WORDS: Final = 2**18
"""Places that words and pairs are hashed to."""

TEXT_CHARS: Final = 20_000
"""Of a longer text the beginning is read."""

LEAST_TEXTS: Final = 20
"""With fewer, nothing can be learnt."""

WORD_PENALTY: Final = 1.0
SIGN_PENALTY: Final = 10.0
"""How much weights are held back (L2); the signs more, since there are few and they are scaled."""

LEAST_SCALE: Final = 0.05
"""A sign that hardly varies among what was learnt from says little of what is new."""

FAR: Final = 4.0
"""Deviations beyond which a sign counts no more."""

_WORD = re.compile(r"\w\w+")


class _Head(NamedTuple):
    """Weights and offsets of both regressions of one model."""

    words: Floats
    words_offset: float
    signs: Floats
    signs_offset: float


class Switch(NamedTuple):
    """What was learnt of two models."""

    rarity: Floats
    """(W,) of the hashed words; zero where a word was not seen twice."""
    mean: Floats
    scale: Floats
    """(S,) of the signs."""
    heads: tuple[_Head, ...]


def signs_of(text: str) -> list[float]:
    """What a text looks like, in numbers of about one."""
    text = text[:TEXT_CHARS] or " "
    first, _, rest = text.partition("\n")
    length = len(text)
    words = text.split()
    lines = [len(line) for line in text.split("\n")]
    return [
        float(np.log1p(length)),
        float(np.log1p(len(first))),
        float(np.log1p(len(rest))),
        5 * sum(char.isdigit() for char in text) / length,
        10 * sum(char in "+-*/=^()<>$" for char in text) / length,
        5 * sum(char.isupper() for char in text) / length,
        length / max(len(words), 1),
        float("__" in text),
        float(" not " in text.lower()),
        float("?" in text),
        float(np.std(lines)) / 20,
    ]


def counts_of(texts: Sequence[str]) -> Any:
    """How often each hashed word and pair stands in each text, damped: a sparse (T, W)."""
    from scipy.sparse import csr_array

    places: list[int] = []
    ends = [0]
    for text in texts:
        words = _WORD.findall(text[:TEXT_CHARS].lower())
        pairs = [f"{one} {other}" for one, other in pairwise(words)]
        places += [zlib.crc32(word.encode()) % WORDS for word in (*words, *pairs)]
        ends.append(len(places))
    found = csr_array((np.ones(len(places)), np.array(places, np.int64), np.array(ends)), shape=(len(texts), WORDS))
    found.sum_duplicates()
    found.data = 1 + np.log(found.data)
    return found


def learn_switch(counts: Any, signs: Floats, right_of: Sequence[Flags]) -> Switch:
    """Learn from texts of known outcome. `counts`: of `counts_of`; `signs`: (T, S); for each model, (T,): was it right.

    InputError where that does not fit, or is too little. About a second for 1,500 texts.
    """
    texts = counts.shape[0]
    if texts < LEAST_TEXTS or signs.shape[0] != texts or any(one.shape != (texts,) for one in right_of):
        raise InputError(
            f"{texts} texts, {signs.shape[0]} rows of signs, outcomes of {[len(one) for one in right_of]}",
            todo=f"give at least {LEAST_TEXTS} texts, and as many of each",
        )
    seen = np.bincount(counts.indices, minlength=WORDS)
    rarity = np.where(seen >= 2, np.log((1 + texts) / (1 + seen)) + 1, 0.0)
    mean, scale = signs.mean(axis=0), np.maximum(signs.std(axis=0), LEAST_SCALE)
    words, looks = _weighted(counts, rarity), _scaled(signs, mean, scale)
    heads = tuple(
        _Head(*_regression(words, one, WORD_PENALTY), *_regression(looks, one, SIGN_PENALTY)) for one in right_of
    )
    return Switch(rarity, mean, scale, heads)


def chances(switch: Switch, counts: Any, signs: Floats) -> Floats:
    """How likely each model answers each text rightly: (models, T)."""
    words, looks = _weighted(counts, switch.rarity), _scaled(signs, switch.mean, switch.scale)
    odds = [
        (words @ head.words + head.words_offset + looks @ head.signs + head.signs_offset) / 2 for head in switch.heads
    ]
    found: Floats = 1 / (1 + np.exp(-np.clip(np.array(odds), -30, 30)))
    return found


def _scaled(signs: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.clip((signs - mean) / scale, -FAR, FAR)


def _weighted(counts: Any, rarity: Floats) -> Any:
    """Rows of equal length, rare words counting more."""
    from scipy.sparse import csr_array, diags_array

    weighted = csr_array(counts @ diags_array(rarity))
    length = np.sqrt(np.asarray((weighted * weighted).sum(axis=1)).ravel())
    return csr_array(diags_array(1 / np.maximum(length, 1e-12)) @ weighted)


def _regression(features: Any, right: Flags, penalty: float) -> tuple[Floats, float]:
    """Weights and offset of a logistic regression, held back by `penalty` / 2 times the square of the weights."""
    from scipy.optimize import minimize

    sign = np.where(right, 1.0, -1.0)

    def loss(at: Floats) -> tuple[float, Floats]:
        margin = sign * (features @ at[:-1] + at[-1])
        pull = -sign / (1 + np.exp(np.clip(margin, -30, 30)))
        slope = np.append(features.T @ pull + penalty * at[:-1], pull.sum())
        return float(np.logaddexp(0, -margin).sum() + penalty / 2 * (at[:-1] @ at[:-1])), slope

    columns = features.shape[1]
    used = np.flatnonzero(np.asarray(abs(features).sum(axis=0)).ravel())
    features = features[:, used]
    found = minimize(loss, np.zeros(len(used) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    weights = np.zeros(columns)
    weights[used] = found.x[:-1]
    return weights, float(found.x[-1])

"""What a simulated language model says and how long it takes: functions of seeds, the same on every machine.

Words are drawn by a digest of the model's seed, the conversation and the word's place, so that a continuation can be
taken up by any other simulation of the same model. Times follow the two numbers that describe real servers well: time
to the first token, growing with the prompt, and time between tokens, both longer with what else is under way.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.descriptors.offers import SimulatedOffer
from daitn.descriptors.texts import Generation, TextBatch

_ONSETS: Final = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ch", "st")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
WORDS: Final = (len(_ONSETS) * len(_VOWELS)) ** 2
"""Words there are: two syllables each. A word is a token, its number is its id."""


class SimulatedAnswer:
    """One continuation, whole, before any time has passed."""

    def __init__(self, offer: SimulatedOffer, asked: Generation) -> None:
        text = asked.prompt or "\n".join(f"{turn.role}: {turn.text}" for turn in asked.turns)
        drawn = asked.seed if asked.temperature > 0 else 0
        self._key = blake3(f"{offer.seed}\x00{drawn}\x00{text}".encode("utf-8", "surrogatepass")).digest()
        self._offer = offer
        self.prompt_tokens = max(1, len(text.split()))
        self.words = 1 + self._number("length", 0) % offer.words_most
        """How long it is where nothing ends it before."""

    def token(self, place: int) -> int:
        """The token at a place."""
        return self._number("word", place) % WORDS

    def wait_s(self, place: int, others: int) -> float:
        """From the token before to this one, with so many other continuations under way."""
        offer = self._offer
        alone_s = offer.token_s if place else offer.first_s + offer.prompt_token_s * self.prompt_tokens
        jitter = 1 + offer.jitter_frac * (2 * (self._number("wait", place) % 10_000) / 10_000 - 1)
        return alone_s * jitter * (1 + offer.load_frac * others)

    def _number(self, what: str, place: int) -> int:
        return int.from_bytes(blake3(f"{what} {place}".encode(), key=self._key).digest(8), "little")


def word_of(token: int) -> str:
    """A token's text."""
    syllables = []
    for _ in range(2):
        token, part = divmod(token, len(_ONSETS) * len(_VOWELS))
        onset, vowel = divmod(part, len(_VOWELS))
        syllables.append(_ONSETS[onset] + _VOWELS[vowel])
    return "".join(syllables)


def text_of(tokens: list[int]) -> str:
    """Some tokens as text."""
    return " ".join(map(word_of, tokens))


def values_of(offer: SimulatedOffer, asked: TextBatch) -> NDArray[np.float32]:
    """(N, D) unit vectors, or (N, labels) scores that sum to one: of each text by its digest."""
    width = offer.width if asked.task == "embed" else len(offer.labels)
    rows = np.empty((len(asked.texts), width), np.float32)
    for row, text in enumerate(asked.texts):
        digest = blake3(f"{offer.seed} {asked.task} {text}".encode("utf-8", "surrogatepass")).digest(4 * width)
        rows[row] = np.frombuffer(digest, "<u4") / 2**32 - (0.5 if asked.task == "embed" else 0)
    scale = np.linalg.norm(rows, axis=1) if asked.task == "embed" else rows.sum(axis=1)
    made: NDArray[np.float32] = rows / np.maximum(scale, 1e-9)[:, None]
    return made

"""How long a text's answer will be: told from what its model answered before, never longer than it may be.

Paper II-B, QIRCE: service is predicted from what a query is, and of a text most of that is not in the query. Lengths
are counted in buckets that double in two steps: their spread is wide and skewed, and from counts both mean and variance
follow under any bound (`tokens_most`) and behind any beginning (an answer that is taken up in the middle). Counts of
queries with prompts of like length lean on those of all, and these on what is believed of a model that never answered:
anything up to `UNKNOWN_TOKENS` alike. An answer that was cut off, by its bound or its client, says only that it would
have been longer: it counts where longer ones were. Old answers fade.

Why not a mean and a variance: both are ruled by the few longest answers, and neither says what a bound leaves of them.

Pure. Cost: O(buckets), about 10 µs.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

UNKNOWN_TOKENS: Final = 512
"""Longest answer that is thought of where nothing is known: the longest of most conversations."""

BELIEF: Final = 2.0
"""Answers that this counts for."""

ALL_WEIGHT: Final = 8.0
"""Answers for which those to prompts of any length count beside those to prompts like this one."""

FADING: Final = 256.0
"""Beyond so many answers all of them count half."""

KNOWN: Final = 8
"""Answers after which a length is known well enough to refuse by."""

_BUCKETS: Final = 36
_TOPS: Final = tuple(2.0 ** (place / 2) for place in range(_BUCKETS))
"""A bucket holds lengths above the last one's top, up to its own: 1, 1.4, 2, ... 185,000 tokens."""


class TextSize(NamedTuple):
    """What is known of a text before it is answered."""

    prompt: float
    """Tokens of the prompt, about; what is there of the answer included."""
    tokens_most: int = 0
    """Longest answer; 0: it comes in one piece (vectors, labels)."""
    told: int = 0
    """Tokens of the answer that are there."""


class AnswerLengths:
    """See the module's docstring; of one model."""

    def __init__(self) -> None:
        self.known = 0
        """Answers that were learnt from."""
        self._all = [0.0] * _BUCKETS
        self._alike: dict[int, list[float]] = {}

    def learn(self, prompt: float, tokens: int, *, cut: bool = False) -> None:
        """An answer had so many tokens; `cut`: and would have had more."""
        if tokens < 0 or not math.isfinite(prompt):
            return
        self.known += 1
        alike = self._alike.setdefault(_class_of(prompt), [0.0] * _BUCKETS)
        place = _bucket_of(tokens)
        if not cut:
            for counts in (alike, self._all):
                counts[place] += 1.0
        else:
            tail = [alike[at] + self._all[at] if at >= place else 0.0 for at in range(_BUCKETS)]
            tail[min(place + 1, _BUCKETS - 1)] += BELIEF / 2
            whole = sum(tail)
            for counts in (alike, self._all):
                for at in range(place, _BUCKETS):
                    counts[at] += tail[at] / whole
        for counts in (alike, self._all):
            if sum(counts) > FADING:
                counts[:] = [one / 2 for one in counts]

    def expected(self, size: TextSize) -> tuple[float, float]:
        """Mean and variance of the tokens that are still to come. 0 of what comes in one piece."""
        most, told = float(size.tokens_most), float(size.told)
        if most <= told:
            return 0.0, 0.0
        alike, all_alike = self._alike.get(_class_of(size.prompt)), sum(self._all)
        lean = ALL_WEIGHT / all_alike if all_alike else 0.0
        believed = min(most, UNKNOWN_TOKENS)
        whole = first = second = low = 0.0
        for place, top in enumerate(_TOPS):
            weight = self._all[place] * lean + BELIEF * max(0.0, min(top, believed) - low) / believed
            if alike is not None:
                weight += alike[place]
            if top > told and weight > 0.0:
                begin = max(low, told)
                weight *= (top - begin) / (top - low)
                more = min((begin + top) / 2, most) - told
                whole += weight
                first += weight * more
                second += weight * more * more
            low = top
        if whole <= 0.0:  # longer already than anything known
            left = min(most - told, UNKNOWN_TOKENS)
            return left / 2, left * left / 12
        mean = first / whole
        return mean, max(0.0, second / whole - mean * mean)


def _class_of(prompt: float) -> int:
    """Prompts are alike within four times their length."""
    return int(math.log2(max(prompt, 1.0))) // 2


def _bucket_of(tokens: int) -> int:
    return min(max(0, math.ceil(2 * math.log2(max(tokens, 1)))), _BUCKETS - 1)

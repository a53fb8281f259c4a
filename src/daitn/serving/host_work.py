"""What a host knows of the texts it works on, to tell gateways: how much work there is, and at what pace it goes.

What is left of an answer under way is that of a renewal process, mean square by twice the mean of what answers took:
half of one where all are alike, more where a few are long. The pace is the time of a token now by what it was when the
host measured itself: with many under way at once, or on a machine that others use, all takes longer by it. Pure.
"""

from __future__ import annotations

from typing import Final

SMOOTHING: Final = 0.05
"""Weight of the newest answer in what is known of the time of one."""

TOKEN_SMOOTHING: Final = 1 / 32
"""Weight of the newest piece in the pace."""

SPREAD: Final = 1.6
"""Mean square by squared mean of what answers take, before any is known."""

SHORTEST_S: Final = 1e-4
"""Shorter answers and tokens are not measured."""

PACES: Final = (0.02, 50.0)
"""Paces that are told."""


class HostWork:
    """See the module's docstring. `mean_s`: of an answer, `token_s`: of a token, as measured; 0: not known."""

    def __init__(self, mean_s: float, token_s: float = 0.0) -> None:
        self.mean_s = max(mean_s, SHORTEST_S)
        self._square = SPREAD * self.mean_s**2
        self._token_s, self._now_s = token_s, token_s

    def ended(self, took_s: float) -> None:
        """An answer took so long in the engine."""
        self.mean_s = max(self.mean_s + SMOOTHING * (took_s - self.mean_s), SHORTEST_S)
        self._square += SMOOTHING * (took_s * took_s - self._square)

    def told(self, tokens: int, seconds: float) -> None:
        """A piece of so many tokens took so long."""
        self._now_s += TOKEN_SMOOTHING * (seconds / tokens - self._now_s)

    def work_s(self, under_way: int, waiting: int) -> float:
        """How long one engine alone would work on so many answers."""
        return under_way * self._square / (2 * self.mean_s) + waiting * self.mean_s

    def pace(self, under_way: int) -> float:
        """How many times as long as when it was measured a token takes now; 1 where nothing is under way."""
        if not under_way or self._token_s < SHORTEST_S:
            return 1.0
        return min(max(self._now_s / self._token_s, PACES[0]), PACES[1])

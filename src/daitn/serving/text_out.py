"""What of a growing text may be told: nothing of a stop, and nothing twice. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class TextOut:
    """Cuts what is new out of a text that grows. `told`: what was told of it before, by whomever."""

    def __init__(self, stops: Sequence[str], told: str = "") -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._told = len(told)
        self.stopped = False
        """Whether a stop was met; nothing more is told."""

    def take(self, text: str, *, last: bool = False) -> str:
        """What is new in the whole text so far and cannot be part of a stop; `last`: it grows no more."""
        if self.stopped:
            return ""
        begin = max(0, self._told - self._longest)
        found = [place for stop in self._stops if (place := text.find(stop, begin)) >= 0]
        end = len(text)
        if found:
            self.stopped, end = True, min(found)
        elif not last:
            end -= self._held(text)
        new = text[self._told : end]
        self._told = max(self._told, end)
        return new

    def _held(self, text: str) -> int:
        """How much of the end may become a stop."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0

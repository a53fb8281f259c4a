"""Tokens to text, one by one: a character is told when all its tokens are there. Pure.

What the last tokens mean depends on those before (a space, a half of a character), so they are decoded together with
the ones that were told last, and only what is new counts. O(1) decodes of a few tokens for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

HALF: Final = "\ufffd"
"""What a decoder writes for a character that is not whole yet."""


class Detokenizer:
    """The text of a growing list of tokens. `decode`: of any tokens."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._before = self._told = 0
        self.text = ""
        """As far as it is certain."""

    def push(self, token: int) -> str:
        """One token more; the text so far."""
        self._tokens.append(token)
        known = self._decode(self._tokens[self._before : self._told])
        now = self._decode(self._tokens[self._before :])
        if len(now) > len(known) and not now.endswith(HALF):
            self.text += now[len(known) :]
            self._before, self._told = self._told, len(self._tokens)
        return self.text

    def end(self) -> str:
        """The whole text: nothing more comes, and what is half stays so."""
        known = self._decode(self._tokens[self._before : self._told])
        self.text += self._decode(self._tokens[self._before :])[len(known) :]
        self._before = self._told = len(self._tokens)
        return self.text

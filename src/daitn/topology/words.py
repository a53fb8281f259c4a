"""Words: the open vocabularies of the map (regions, operators, labels, fields), each word once, known by its number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NO_WORD: Final = -1
"""What stands in a column where a word is not known."""

WORDS_MOST: Final = 4_000_000
"""Words of one map: a million names and three more words for each terminal; beyond it new ones are not known."""


class Words:
    """Interned words. All calls O(1)."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._texts: list[str] = list(words)
        self._codes: dict[str, int] = {text: code for code, text in enumerate(self._texts)}

    def __len__(self) -> int:
        return len(self._texts)

    def code(self, text: str) -> int:
        """The number of a word, new or known; `NO_WORD` when the map has no room for another."""
        found = self._codes.get(text)
        if found is None:
            if len(self._texts) >= WORDS_MOST:
                return NO_WORD
            found = self._codes[text] = len(self._texts)
            self._texts.append(text)
        return found

    def find(self, text: str) -> int:
        """The number of a word, `NO_WORD` where nothing on the map has it."""
        return self._codes.get(text, NO_WORD)

    def text(self, code: int) -> str:
        """The word with this number; empty for `NO_WORD`."""
        return self._texts[code] if code >= 0 else ""

    def texts(self, first: int = 0, beyond: int | None = None) -> tuple[str, ...]:
        """Words by number, from `first` up to but not `beyond`; all of them where neither is given."""
        return tuple(self._texts[first:beyond])

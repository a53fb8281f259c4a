"""What is told of a text so far: where the next piece has to begin, and what another host needs to go on behind it."""

from __future__ import annotations

import hashlib

from daitn.base.errors import PeerError
from daitn.decision.query_route.answer_length import TextSize
from daitn.descriptors.texts import Generation, Given, TextAsk, TextBatch, TextTask, task_of
from daitn.wire.answers import SealedPiece, TextPiece
from daitn.wire.secret_queries import SecretTextQuery

Piece = TextPiece | SealedPiece

CHARS_PER_TOKEN = 4
"""In most languages and vocabularies, about. How far off it is of a model and its texts is learnt with the time that
reading takes."""


BEGINNING_CHARS = 1024
"""Of a prompt: some blocks of what engines keep."""


class ToldText:
    """See the module's docstring."""

    def __init__(self, asked: TextAsk | SecretTextQuery) -> None:
        self._secret = isinstance(asked, SecretTextQuery)
        self.task = asked.task if isinstance(asked, SecretTextQuery) else task_of(asked)
        self.units = _units_of(asked, self.task)
        """What it is priced by: tokens at most, or texts."""
        self.prompt = 1 + _chars_of(asked) // CHARS_PER_TOKEN
        """Tokens to be read, about."""
        self.at = 0
        """Characters told; of a secret query, pieces."""
        self._ids: list[int] = []
        self._parts: list[str] = []
        self._pieces = 0

    @property
    def tokens(self) -> int:
        """That were told; of an engine that names none, pieces."""
        return len(self._ids) or self._pieces

    @property
    def ids(self) -> int:
        """Tokens that were told by name."""
        return len(self._ids)

    @property
    def size(self) -> TextSize:
        """What a choice goes by: an engine that takes up an answer reads what is there of it, too."""
        most = self.units if self.task is TextTask.GENERATE else 0
        return TextSize(self.prompt + self.tokens, most, self.tokens)

    @property
    def given(self) -> Given:
        """What another host goes on behind."""
        return Given(tokens=tuple(self._ids), text="".join(self._parts))

    def check(self, piece: Piece) -> None:
        """PeerError for a piece that is not next, or not sealed as it should be."""
        if isinstance(piece, SealedPiece) != self._secret:
            raise PeerError("what was asked in secret is answered so, and nothing else is")
        if isinstance(piece, SealedPiece):
            if piece.number != self.at:
                raise PeerError(f"a piece has number {piece.number}, {self.at} is next")
        elif piece.at != self.at:
            raise PeerError(f"a piece begins at {piece.at}, the text so far ends at {self.at}")

    def note(self, piece: Piece) -> None:
        """It is told: what comes next begins behind it."""
        self._pieces += 1
        if isinstance(piece, SealedPiece):
            self.at += 1
            return
        self._ids += piece.tokens
        self._parts.append(piece.text)
        self.at += len(piece.text)


def beginning_of(asked: TextAsk | SecretTextQuery, salt: bytes) -> str:
    """What a conversation or prompt is known by as it goes on: a digest, under this gateway's salt, of all up to its
    first question, or of the first `BEGINNING_CHARS` characters. Empty of what is secret, no text, or too short."""
    if not isinstance(asked, Generation) or (not asked.turns and len(asked.prompt) < BEGINNING_CHARS):
        return ""
    first = next((place for place, turn in enumerate(asked.turns) if turn.role == "user"), 0)
    texts = [asked.prompt, *(turn.text for turn in asked.turns[: first + 1])]
    beginning = "\n".join(texts)[:BEGINNING_CHARS].encode("utf-8", "surrogatepass")
    return "~" + hashlib.blake2b(beginning, digest_size=16, key=salt).hexdigest()


def _units_of(asked: TextAsk | SecretTextQuery, task: TextTask) -> int:
    if isinstance(asked, TextBatch):
        return len(asked.texts)
    if isinstance(asked, SecretTextQuery) and task is not TextTask.GENERATE:
        return asked.texts
    return asked.tokens_most


def _chars_of(asked: TextAsk | SecretTextQuery) -> int:
    if isinstance(asked, SecretTextQuery):
        return len(asked.data)
    if isinstance(asked, TextBatch):
        return sum(map(len, asked.texts))
    return len(asked.prompt) + sum(len(turn.text) for turn in asked.turns)

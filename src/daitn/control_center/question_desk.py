"""The desk where other centres' questions on the map come in: only those that the domain's configuration names.

Paper II-A, center–topology link. The map tells who has what and how trusted they are, so nobody is answered by default.
A question that takes long is answered beside the turn; an asker has one at a time, a newer one takes its place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from daitn.base import limits
from daitn.base.effects import Computed
from daitn.base.errors import DaitnError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.turn import Turn
from daitn.descriptors.question_check import check_question
from daitn.descriptors.questions import Answer
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.putting import MapAnswered, QuestionPut, takes_long
from daitn.wire.center_topology import FAULT_CHARS, QuestionAnswered, QuestionAsked

ANSWER_BYTES: Final = limits.MESSAGE_BYTES - 4096
"""Largest answer, so that the message around it fits."""

KEY: Final = "question"
"""First word of what this desk wants solved; the second is who asked."""


class QuestionDesk:
    """See the module's docstring. `askers`: nodes whose questions are answered."""

    def __init__(self, book: FactBook, askers: Collection[NodeId], counters: Counters) -> None:
        self._book = book
        self._askers = askers
        self._counters = counters
        self._open: dict[NodeId, int] = {}
        """The number of each asker's question that is being answered."""

    def asked(self, turn: Turn, sender: NodeId, message: QuestionAsked) -> None:
        """Answer a question, now or once it is solved, or say why not."""
        if sender not in self._askers:
            self._counters.count("questions_refused")
            fault = "this domain does not answer your questions; its operator names who may ask in `askers`"
            turn.send(sender, QuestionAnswered(number=message.number, fault=fault))
            return
        put = QuestionPut(book=self._book, question=message.question, now_ns=turn.now_ns)
        try:
            check_question(message.question)
            if takes_long(self._book, message.question):
                self._open[sender] = message.number
                turn.compute(f"{KEY} {sender}", put, self._book.version)
                return
            answer = put.solve().answer
        except DaitnError as error:
            self._say(turn, sender, message.number, str(error))
        else:
            self._tell(turn, sender, message.number, answer)

    def answered(self, turn: Turn, sender: NodeId, event: Computed) -> None:
        """A question was solved beside the turn."""
        number = self._open.pop(sender, None)
        if number is None:
            return
        match event.solution:
            case MapAnswered(answer=answer):
                self._tell(turn, sender, number, answer)
            case _:
                self._say(turn, sender, number, event.fault)

    def _tell(self, turn: Turn, sender: NodeId, number: int, answer: Answer) -> None:
        if len(size := msgspec.msgpack.encode(answer)) > ANSWER_BYTES:
            fault = f"the answer has {len(size)} bytes, a message takes {ANSWER_BYTES}; ask for fewer rows or facts"
            self._say(turn, sender, number, fault)
            return
        turn.send(sender, QuestionAnswered(number=number, answer=answer))

    def _say(self, turn: Turn, sender: NodeId, number: int, fault: str) -> None:
        turn.send(sender, QuestionAnswered(number=number, fault=fault[:FAULT_CHARS]))

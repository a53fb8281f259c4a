"""The desk where other centres' questions on the map come in: only those that the domain's configuration names.

Paper II-A, center–topology link. The map tells who has what and how trusted they are, so nobody is answered by default.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from daitn.base import limits
from daitn.base.errors import DaitnError
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.turn import Turn
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.answering import answer_question
from daitn.wire.center_topology import FAULT_CHARS, QuestionAnswered, QuestionAsked

ANSWER_BYTES: Final = limits.MESSAGE_BYTES - 4096
"""Largest answer, so that the message around it fits."""


def answer_asker(
    turn: Turn,
    sender: NodeId,
    message: QuestionAsked,
    book: FactBook,
    askers: Collection[NodeId],
    counters: Counters,
) -> None:
    """Answer a question, or say why not."""
    if sender not in askers:
        counters.count("questions_refused")
        fault = "this domain does not answer your questions; its operator names who may ask in `askers`"
        turn.send(sender, QuestionAnswered(number=message.number, fault=fault))
        return
    try:
        answer = answer_question(book, message.question, turn.now_ns)
    except DaitnError as error:
        turn.send(sender, QuestionAnswered(number=message.number, fault=str(error)[:FAULT_CHARS]))
        return
    if len(size := msgspec.msgpack.encode(answer)) > ANSWER_BYTES:
        fault = f"the answer has {len(size)} bytes, a message takes {ANSWER_BYTES}; ask for fewer rows or facts"
        turn.send(sender, QuestionAnswered(number=message.number, fault=fault))
        return
    turn.send(sender, QuestionAnswered(number=message.number, answer=answer))

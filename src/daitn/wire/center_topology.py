"""Link center–topology, control plane: questions on the map, for those who are not in its process (paper, II-A).

The control centre of a domain has the map in its own process and calls it. Another one, of a domain beside or above,
asks by message: a question in the closed form of `descriptors.questions`, of which everything is checked again where
it is answered.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base.effects import Message
from daitn.descriptors.questions import Answer, Question

FAULT_CHARS = 1000


class QuestionAsked(Message, frozen=True, kw_only=True, tag="question_asked"):
    """Center → topology: answer this. Repeated by who asks until answered; the same number is the same question.

    Answered `QuestionAnswered` with a fault by who must not answer this sender, or cannot answer this question.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]
    question: Question


class QuestionAnswered(Message, frozen=True, kw_only=True, tag="question_answered"):
    """Topology → center: the answer to the question with this number; none where there is a fault."""

    number: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]
    answer: Answer | None = None
    fault: Annotated[str, msgspec.Meta(max_length=FAULT_CHARS)] = ""
    """What was wrong, and what to do about it."""

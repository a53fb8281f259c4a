"""Questions of other centres by message: who is answered, and with what."""

from __future__ import annotations

from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.base.units import NS_PER_S
from daitn.control_center.question_desk import answer_asker
from daitn.control_center.turn import Turn
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.questions import Compare, Find, Measure
from daitn.topology.fact_book import FactBook
from daitn.wire.center_topology import QuestionAsked
from daitn.wire.codec import decode, encode

NEIGHBOUR = NodeId("n0007")


def asked(question, *, sender=NEIGHBOUR, askers=(NEIGHBOUR,), things=2):
    book, counters = FactBook(), Counters()
    for number in range(things):
        book[Kind.TERMINAL].add(f"t{number:0100d}", 1)
    turn = Turn(1000 * NS_PER_S, lambda record: None)
    answer_asker(turn, sender, QuestionAsked(number=7, question=question), book, askers, counters)
    (sent,) = turn.effects()
    assert (sent.receiver, decode(encode(sent.message))) == (sender, sent.message)
    return sent.message, counters


def test_configured_asker_is_answered():
    told, _ = asked(parse_question("terminal"))

    assert (told.number, told.answer.matched, told.fault) == (7, 2, "")


def test_nobody_else_is_answered_and_it_is_counted():
    told, counters = asked(parse_question("terminal"), askers=())

    assert (told.answer, "does not answer" in told.fault) == (None, True)
    assert counters.of("questions_refused") == 1


def test_wrong_question_is_answered_with_what_is_near():
    wrong = Find(kind=Kind.TERMINAL, where=Compare(measure=Measure(fact="trsut"), by=">", value=0.5))
    told, _ = asked(wrong)

    assert "did you mean trust" in told.fault


def test_answer_that_fits_no_message_says_so():
    told, _ = asked(parse_question("terminal show region top 10000"), things=9000)

    assert (told.answer, "fewer rows" in told.fault) == (None, True)

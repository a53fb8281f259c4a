"""Questions of other centres by message: who is answered, and with what."""

from __future__ import annotations

from daitn.base.effects import Compute, Send, computed
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.base.units import NS_PER_S
from daitn.control_center.question_desk import QuestionDesk
from daitn.control_center.turn import Turn
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.questions import Compare, Find, Measure
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.putting import AT_ONCE_ROWS
from daitn.wire.center_topology import QuestionAsked
from daitn.wire.codec import decode, encode

NEIGHBOUR = NodeId("n0007")


def asked(question, *, sender=NEIGHBOUR, askers=(NEIGHBOUR,), things=2):
    book, counters = FactBook(), Counters()
    for number in range(things):
        book[Kind.TERMINAL].add(f"t{number:0100d}", 1)
    turn = Turn(1000 * NS_PER_S, lambda record: None)
    desk = QuestionDesk(book, askers, counters)
    desk.asked(turn, sender, QuestionAsked(number=7, question=question))
    (sent,) = turn.effects()
    if isinstance(sent, Compute):
        turn = Turn(1000 * NS_PER_S, lambda record: None)
        desk.answered(turn, NodeId(sent.key.partition(" ")[2]), computed(sent))
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


def test_question_that_takes_long_is_answered_beside_the_turn_and_a_newer_one_takes_its_place():
    book = FactBook()
    for number in range(AT_ONCE_ROWS + 1):
        book[Kind.TERMINAL].add(f"t{number}", 1)
    desk = QuestionDesk(book, (NEIGHBOUR,), Counters())

    def said(act) -> list:
        turn = Turn(1000 * NS_PER_S, lambda record: None)
        act(turn)
        return turn.effects()

    (first,) = said(
        lambda turn: desk.asked(turn, NEIGHBOUR, QuestionAsked(number=7, question=parse_question("terminal")))
    )
    (second,) = said(
        lambda turn: desk.asked(turn, NEIGHBOUR, QuestionAsked(number=8, question=parse_question("terminal top 3")))
    )
    assert first.key == second.key
    (sent,) = said(lambda turn: desk.answered(turn, NEIGHBOUR, computed(second)))

    assert isinstance(sent, Send)
    assert (sent.message.number, len(sent.message.answer.rows)) == (8, 3)
    assert said(lambda turn: desk.answered(turn, NEIGHBOUR, computed(first))) == []


def test_wrong_question_is_answered_at_once_however_large_the_map_is():
    wrong = Find(kind=Kind.TERMINAL, where=Compare(measure=Measure(fact="trsut"), by=">", value=0.5))
    told, _ = asked(wrong, things=AT_ONCE_ROWS + 1)

    assert "did you mean trust" in told.fault

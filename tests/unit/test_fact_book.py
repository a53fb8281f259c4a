"""All tables of the map together."""

from __future__ import annotations

from daitn.descriptors.fact_kinds import Kind
from daitn.topology.fact_book import FactBook


def test_thing_that_leaves_takes_along_what_refers_to_it():
    book = FactBook()
    terminals, data, labels = book[Kind.TERMINAL], book[Kind.DATA], book[Kind.DATA_LABEL]
    for number in range(2):
        terminals.add(f"n{number}", number)
        data.add(f"n{number}/set", number)
        labels.add(f"n{number}/set/yes", number)
        stamps = {"source": 0, "generated_ns": 1, "received_ns": 1}
        data.note(number, "data_identity", {"terminal": number}, **stamps)
        labels.note(number, "data_label", {"data": number, "label": "yes"}, **stamps)

    book.remove(Kind.TERMINAL, [0])

    assert [list(filter(None, table.ids())) for table in (terminals, data, labels)] == [
        ["n1"], ["n1/set"], ["n1/set/yes"],
    ]  # fmt: skip


def test_words_are_shared_between_kinds():
    book = FactBook()

    assert book[Kind.MODEL_FIELD].words is book[Kind.DATA_FIELD].words is book.words

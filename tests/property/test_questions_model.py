"""Questions against a plain evaluator that looks at one thing at a time, over random maps and random questions."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.question_writing import question_text
from daitn.descriptors.questions import (
    AllOf,
    AnyOf,
    Between,
    Compare,
    Exists,
    Find,
    Known,
    Measure,
    Not,
    OneOf,
    Order,
    Question,
    Score,
    StartsWith,
    Term,
    Within,
)
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.answering import answer_question
from daitn.topology.questions.explaining import explain

NOW_S = 1_000_000
NOW = NOW_S * NS_PER_S

REGIONS = ("north", "nord", "south")
TRUSTS = st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def maps(draw):
    """Terminals with a few facts, and data sets at them: the plain model and the book."""
    book = FactBook()
    terminals, data = [], []
    for number in range(draw(st.integers(0, 6))):
        told = {
            "id": f"t{number}",
            "region": draw(st.sampled_from([None, *REGIONS])),
            "trust": draw(TRUSTS),
            "deviation": draw(st.sampled_from([0.0, 0.125, 0.5])),
            "reachable": draw(st.sampled_from([None, True, False])),
            "access_kind": draw(st.sampled_from([None, "wifi", "wireline"])),
            "age_s": draw(st.sampled_from([0, 10, 100])),
            "place": draw(st.none() | st.tuples(*[st.sampled_from([-0.03, 0.0, 0.01, 0.25])] * 3)),
        }
        row = book[Kind.TERMINAL].add(told["id"], 1)
        at = NOW - told["age_s"] * NS_PER_S
        moments = {"source": 1, "generated_ns": at, "received_ns": at}
        note = book[Kind.TERMINAL].note
        note(row, "identity", {"region": told["region"]}, **moments)
        note(row, "trust", {"trust": told["trust"]}, deviations={"trust": told["deviation"]}, **moments)
        note(row, "reach", {"reachable": told["reachable"]}, **moments)
        note(row, "access", {"access_kind": told["access_kind"]}, **moments)
        axes = dict(zip(("x", "y", "z"), told["place"] or (None, None, None), strict=True))
        axes["height"] = None if told["place"] is None else 0.001
        note(row, "place", {f"position_{axis}_s": value for axis, value in axes.items()}, **moments)
        terminals.append(told)
    for number in range(draw(st.integers(0, 5)) if terminals else 0):
        told = {
            "id": f"d{number}",
            "terminal": draw(st.sampled_from([None, *range(len(terminals))])),
            "records": draw(st.sampled_from([None, 0.0, 10.0, 1000.0])),
        }
        row = book[Kind.DATA].add(told["id"], 1)
        moments = {"source": 1, "generated_ns": NOW, "received_ns": NOW}
        book[Kind.DATA].note(row, "data_identity", {"terminal": told["terminal"]}, **moments)
        book[Kind.DATA].note(row, "volume", {"records": told["records"]}, **moments)
        data.append(told)
    for gone in draw(st.lists(st.integers(0, max(0, len(terminals) - 1)), max_size=2, unique=True)):
        if gone < len(terminals) and terminals[gone] is not None:
            book.remove(Kind.TERMINAL, [gone])
            terminals[gone] = None
            data = [None if one is None or one["terminal"] == gone else one for one in data]
    return book, terminals, data


def conditions(prefix: str, others: st.SearchStrategy):
    """Conditions on facts of a terminal, reached by `prefix`."""
    trust = Measure(fact=f"{prefix}trust")
    certain = st.sampled_from(["told", "surely", "possibly"])
    number = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    compare = st.builds(
        Compare,
        measure=st.just(trust),
        by=st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        value=number,
        certainty=certain,
    )
    between = st.tuples(number, number, certain).map(
        lambda one: Between(measure=trust, least=min(one[:2]), most=max(one[:2]), certainty=one[2])
    )
    aged = st.builds(
        Compare,
        measure=st.just(Measure(fact=f"{prefix}trust", of="age")),
        by=st.sampled_from(["<=", ">"]),
        value=st.sampled_from([5.0, 50.0]),
    )
    region = st.builds(
        Compare,
        measure=st.just(Measure(fact=f"{prefix}region")),
        by=st.sampled_from(["=", "!="]),
        value=st.sampled_from([*REGIONS, "nowhere"]),
    )
    flag = st.builds(
        Compare,
        measure=st.just(Measure(fact=f"{prefix}reachable")),
        by=st.sampled_from(["=", "!="]),
        value=st.booleans(),
    )
    among = st.builds(
        OneOf,
        fact=st.just(f"{prefix}access_kind"),
        values=st.sampled_from([("wifi",), ("wifi", "wireline"), ("cellular",)]),
    )
    begins = st.builds(StartsWith, fact=st.just(f"{prefix}region"), text=st.sampled_from(["no", "south", "x", ""]))
    known = st.builds(Known, fact=st.sampled_from([f"{prefix}trust", f"{prefix}region", f"{prefix}reachable"]))
    within = st.builds(
        Within,
        most_s=st.sampled_from([0.0, 0.0125, 0.05, 0.4]),
        where=st.none() | st.just(Compare(measure=Measure(fact="trust"), by=">=", value=0.5)),
    )
    return st.recursive(
        st.one_of(compare, between, aged, region, flag, among, begins, known, within, others),
        lambda inner: (
            st.builds(Not, condition=inner)
            | st.builds(AllOf, conditions=st.lists(inner, min_size=2, max_size=3).map(tuple))
            | st.builds(AnyOf, conditions=st.lists(inner, min_size=2, max_size=3).map(tuple))
        ),
        max_leaves=6,
    )


RECORDS = st.builds(
    Compare,
    measure=st.just(Measure(fact="records")),
    by=st.sampled_from([">", "<="]),
    value=st.sampled_from([5.0, 500.0]),
)
TERMINALS = conditions(
    "", st.builds(Exists, kind=st.just(Kind.DATA), by=st.just("terminal"), where=st.none() | RECORDS)
)
DATA = conditions("terminal.", RECORDS)


class Plain:
    """Looks at one thing at a time, with three answers: yes, no, and None for not known."""

    def __init__(self, terminals, data):
        self.terminals, self.data = terminals, data

    def all(self, *parts):
        return False if False in parts else None if None in parts else True

    def holds(self, thing, one):
        match one:
            case Not(condition=inner):
                said = self.holds(thing, inner)
                return None if said is None else not said
            case AllOf(conditions=parts):
                return self.all(*(self.holds(thing, part) for part in parts))
            case AnyOf(conditions=parts):
                said = self.all(*(None if (s := self.holds(thing, part)) is None else not s for part in parts))
                return None if said is None else not said
            case Exists(where=where):
                mine = [d for d in self.data if d is not None and self.terminals[d["terminal"] or 0] is thing]
                mine = [d for d in mine if d["terminal"] is not None]
                return any(where is None or self.holds(d, where) is True for d in mine)
            case Within(most_s=most_s, where=where):
                here = self.home(thing)
                there = [t for t in self.terminals if t is not None and (where is None or self.holds(t, where) is True)]
                return here is not None and any(self.near(here, t, most_s) for t in there)
            case Known(fact=fact):
                return self.read(thing, fact) is not None
            case OneOf(fact=fact, values=values):
                value = self.read(thing, fact)
                return None if value is None else value in values
            case StartsWith(fact=fact, text=text):
                value = self.read(thing, fact)
                return None if value is None else value.startswith(text)
            case Between(measure=measure, least=least, most=most, certainty=certainty):
                low, high = (
                    Compare(measure=measure, by=by, value=value, certainty=certainty)
                    for by, value in ((">=", least), ("<=", most))
                )
                return self.all(self.holds(thing, low), self.holds(thing, high))
            case Compare():
                return self.compare(thing, one)

    def compare(self, thing, one):
        if one.measure.of == "age":
            home = self.home(thing)
            age = math.inf if home is None else home["age_s"]
            return age <= one.value if one.by == "<=" else age > one.value
        value = self.read(thing, one.measure.fact)
        if value is None:
            return None
        reach = 0.0 if one.certainty == "told" else 2 * self.home(thing)["deviation"]
        low, high = value, value
        if reach:
            low, high = value - reach, value + reach
        some = {
            "=": lambda: low <= one.value <= high,
            "!=": lambda: low != one.value or high != one.value,
            "<": lambda: low < one.value,
            "<=": lambda: low <= one.value,
            ">": lambda: high > one.value,
            ">=": lambda: high >= one.value,
        }
        opposite = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
        return not some[opposite[one.by]]() if one.certainty == "surely" else some[one.by]()

    def home(self, thing):
        if "terminal" not in thing:
            return thing
        return None if thing["terminal"] is None else self.terminals[thing["terminal"]]

    def read(self, thing, path):
        if path == "records":
            return thing["records"]
        home = self.home(thing)
        return None if home is None else home[path.removeprefix("terminal.")]

    def near(self, here, there, most_s):
        if here is there:
            return True
        if here["place"] is None or there["place"] is None:
            return False
        x, y, z = (
            float(np.float32(a)) - float(np.float32(b)) for a, b in zip(here["place"], there["place"], strict=True)
        )
        return math.hypot(math.hypot(x, y), z) <= most_s - float(np.float32(0.001)) - float(np.float32(0.001))


@settings(max_examples=150, deadline=None)
@given(maps(), TERMINALS)
def test_terminals_found_are_those_that_a_plain_look_at_each_finds(given_map, where):
    book, terminals, data = given_map
    check(book, Find(kind=Kind.TERMINAL, where=where), terminals, Plain(terminals, data))


@settings(max_examples=150, deadline=None)
@given(maps(), DATA)
def test_data_found_by_facts_of_its_terminal_is_what_a_plain_look_finds(given_map, where):
    book, terminals, data = given_map
    check(book, Find(kind=Kind.DATA, where=where), data, Plain(terminals, data))


def check(book, question, things, plain):
    expected = [t["id"] for t in things if t is not None and plain.holds(t, question.where) is True]

    answer = answer_question(book, question, NOW)

    assert [row.id for row in answer.rows] == expected
    assert (answer.matched, answer.considered) == (len(expected), sum(t is not None for t in things))
    for thing in things:
        if thing is not None:
            said = explain(book, question, thing["id"], NOW)
            assert said.inside == (thing["id"] in expected)
            assert said.clauses[0].depth == 0


@settings(max_examples=150, deadline=None)
@given(maps(), st.integers(1, 4), st.booleans(), st.sampled_from(["sum", "product"]))
def test_best_are_those_of_a_full_sort_of_plain_scores(given_map, limit, descending, combine):
    book, terminals, _ = given_map
    terms = (
        Term(measure=Measure(fact="trust"), weight=2.0),
        Term(measure=Measure(fact="trust", of="age"), scale="log"),
    )
    score = Score(terms=terms, combine=combine, normalised=False)
    question = Find(kind=Kind.TERMINAL, score=score, order=Order(descending=descending), limit=limit)

    def plain(t):
        if t["trust"] is None:
            return None
        age = math.log1p(t["age_s"])
        return 2 * t["trust"] + age if combine == "sum" else t["trust"] ** 2 * age

    scored = [(plain(t), t["id"]) for t in terminals if t is not None]
    known = sorted((s for s in scored if s[0] is not None), key=lambda s: -s[0] if descending else s[0])
    expected = [*known, *(s for s in scored if s[0] is None)][:limit]

    rows = answer_question(book, question, NOW).rows

    assert [row.id for row in rows] == [name for _, name in expected]
    for row, (value, _) in zip(rows, expected, strict=True):
        assert row.score == (None if value is None else np.float64(value).item()) or math.isclose(row.score, value)


@given(st.tuples(st.just(Kind.TERMINAL), TERMINALS) | st.tuples(st.just(Kind.DATA), DATA))
def test_questions_read_back_from_their_text_and_their_bytes(asked):
    kind, where = asked
    question = Find(kind=kind, where=where)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=Question) == question
    assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question
    assert parse_question(question_text(question)) == question

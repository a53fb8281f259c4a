"""Questions as people write them: a small grammar, read by descent.

    data where data_type = text and since(newest_unix_s) <= 90d and terminal.reachable_frac >= 99%
      and surely terminal.trust >= 0.8 and some data_field (field = cardiology and field_records >= 2000)
      and within 20ms of (accelerators >= 1) score 0.7 log(records) + 0.3 terminal.trust show schema top 50

    question  = kind ["where" or] {"score" … | "nearest to" id ["by" …] | "show" fact {"," fact}
                                   | "top" n ["by" order]}
              | "summarise" kind "by" fact [total {"," total}] ["where" or] ["top" n]
              | "path from" id "to" id ["by" "round_trip" | "bandwidth"] ["where" or]
    or        = and {"or" and}      and = not {"and" not}      not = "not" not | "(" or ")" | atom
    atom      = "some" kind ["by" fact] ["(" or ")"] | "within" number "of" ["(" or ")"]
              | ["surely" | "possibly"] measure [sign value | ["not"] "in (" word {"," word} ")"
                  | ["not"] "between" number "and" number | "starts with" word | "is" ["not"] "known"]
    measure   = fact | ("age_of" | "deviation_of" | "since") "(" fact ")"
    score     = ["raw"] [weight] term {("+" | "-") [weight] term} | ["raw"] term "^" weight {"*" term "^" weight}
    term      = measure | "log(" measure ")"
    total     = "count" ["(" measure ")"] | ("sum" | "mean") "(" measure ")" | "quantile(" number "," measure ")"
    order     = "score" | measure, then ["ascending"]

A fact alone is a flag that is set. Numbers take units (`20ms`, `90d`, `2GB`, `99%`); text that is no word goes in
single quotes. `question_writing.question_text` writes what this reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NoReturn, TypeVar, get_args

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.nearest import nearest_known
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_check import check_question, reference_between
from daitn.descriptors.question_lexing import Token, read_tokens
from daitn.descriptors.questions import (
    DEPTH_MOST,
    AllOf,
    AnyOf,
    Between,
    Certainty,
    Compare,
    Comparison,
    Condition,
    Exists,
    Find,
    Known,
    Measure,
    Nearest,
    Not,
    OneOf,
    Order,
    Path,
    Question,
    Score,
    Sought,
    StartsWith,
    Summarise,
    Term,
    Total,
    Within,
)

T = TypeVar("T")

_COMPARISONS: Final[tuple[Comparison, ...]] = get_args(Comparison)
_OF: Final = {"age_of": "age", "deviation_of": "deviation", "since": "since"}
_KINDS: Final = {kind.value: kind for kind in Kind}
_NESTED_MOST: Final = 4 * DEPTH_MOST
"""Brackets inside one another: more than conditions, since some hold only one."""


def parse_question(text: str) -> Question:
    """The question that a text asks, checked. InputError naming the place, or the fact and the nearest known ones."""
    reader = _Reader(read_tokens(text))
    try:
        question: Question = msgspec.convert(msgspec.to_builtins(reader.question()), Question)
    except UNDECODABLE as error:
        raise InputError(f"the question is out of bounds: {str(error)[:200]}") from None
    check_question(question)
    return question


class _Reader:
    """Reads the pieces from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._nested = 0

    # --- questions --------------------------------------------------------------------------------------------------

    def question(self) -> Question:
        if self._takes("summarise"):
            question: Question = self._summarise()
        elif self._takes("path"):
            question = self._path()
        else:
            question = self._find()
        if self._peek().kind != "end":
            self._fail("where, score, nearest, show, top, or the end" if isinstance(question, Find) else "the end")
        return question

    def _find(self) -> Find:
        kind = self._kind()
        where = self._where(kind)
        score: Score | None = None
        nearest: Nearest | None = None
        order: Order | None = None
        show: tuple[str, ...] = ()
        limit = 50
        while True:
            if score is None and self._takes("score"):
                score = self._score()
            elif nearest is None and self._takes("nearest"):
                self._need("to")
                to = self._name("an id")
                by = self._one_of("position", "round_trip") if self._takes("by") else "position"
                nearest = Nearest(to=to, by=by)  # type: ignore[arg-type]
            elif not show and self._takes("show"):
                show = tuple(self._listed(lambda: self._name("a fact")))
            elif self._takes("top"):
                limit = self._whole("how many")
                if self._takes("by"):
                    measure = None if self._takes("score") else self._measure()
                    order = Order(measure=measure, descending=not self._takes("ascending"))
            else:
                break
        return Find(kind=kind, where=where, score=score, nearest=nearest, order=order, limit=limit, show=show)

    def _summarise(self) -> Summarise:
        kind = self._kind()
        self._need("by")
        by = self._name("a fact")
        totals: tuple[Total, ...] = ()
        if self._peek().said in ("count", "sum", "mean", "quantile"):
            totals = tuple(self._listed(self._total))
        where = self._where(kind)
        limit = self._whole("how many") if self._takes("top") else 50
        return Summarise(kind=kind, by=by, totals=totals or (Total(what="count"),), where=where, limit=limit)

    def _total(self) -> Total:
        what = self._one_of("count", "sum", "mean", "quantile")
        if what == "count" and not self._takes("("):
            return Total(what="count")
        if what != "count":
            self._need("(")
        quantile = 0.5
        if what == "quantile":
            quantile = self._number()
            self._need(",")
        measure = self._measure()
        self._need(")")
        return Total(what=what, measure=measure, quantile=quantile)  # type: ignore[arg-type]

    def _path(self) -> Path:
        self._need("from")
        start = self._name("an id")
        self._need("to")
        end = self._name("an id")
        by = self._one_of("round_trip", "bandwidth") if self._takes("by") else "round_trip"
        return Path(start=start, end=end, by=by, where=self._where(Kind.LINK))  # type: ignore[arg-type]

    def _score(self) -> Score:
        normalised = not self._takes("raw")
        first = self._term()
        if first[1] is not None:
            terms = [Term(measure=first[0].measure, scale=first[0].scale, weight=first[1])]
            while self._takes("*"):
                term, power = self._term()
                terms.append(Term(measure=term.measure, scale=term.scale, weight=1.0 if power is None else power))
            return Score(terms=tuple(terms), combine="product", normalised=normalised)
        terms = [first[0]]
        while (sign := self._sign()) is not None:
            term, power = self._term(sign)
            if power is not None:
                self._fail("+, - or the next part: a sum has no exponents")
            terms.append(term)
        return Score(terms=tuple(terms), normalised=normalised)

    def _sign(self) -> float | None:
        if self._takes("+"):
            return 1.0
        return -1.0 if self._takes("-") else None

    def _term(self, sign: float = 1.0) -> tuple[Term, float | None]:
        """A term with its weight, and its exponent where it has one."""
        while (more := self._sign()) is not None:
            sign *= more
        weight = sign * (self._number() if self._peek().kind == "number" else 1.0)
        if logarithm := self._takes("log"):
            self._need("(")
        measure = self._measure()
        if logarithm:
            self._need(")")
        power = self._number() if self._takes("^") else None
        return Term(measure=measure, weight=weight, scale="log" if logarithm else "linear"), power

    # --- conditions -------------------------------------------------------------------------------------------------

    def _where(self, kind: Kind) -> Condition | None:
        return self._or(kind) if self._takes("where") else None

    def _or(self, kind: Kind) -> Condition:
        self._nested += 1
        if self._nested > _NESTED_MOST:
            self._fail("fewer brackets inside one another")
        parts = [self._and(kind)]
        while self._takes("or"):
            parts.append(self._and(kind))
        self._nested -= 1
        return parts[0] if len(parts) == 1 else AnyOf(conditions=tuple(parts))

    def _and(self, kind: Kind) -> Condition:
        parts = [self._not(kind)]
        while self._takes("and"):
            parts.append(self._not(kind))
        return parts[0] if len(parts) == 1 else AllOf(conditions=tuple(parts))

    def _not(self, kind: Kind) -> Condition:
        denied = 0
        while self._takes("not"):
            denied += 1
            if denied > DEPTH_MOST:
                self._fail("a condition")
        condition = self._bracket(kind) if self._peek().said == "(" else self._atom(kind)
        for _ in range(denied):
            condition = Not(condition=condition)
        return condition

    def _bracket(self, kind: Kind) -> Condition:
        self._need("(")
        condition = self._or(kind)
        self._need(")")
        return condition

    def _inner(self, kind: Kind) -> Condition | None:
        return self._bracket(kind) if self._peek().said == "(" and self._peek().kind == "sign" else None

    def _atom(self, kind: Kind) -> Condition:
        if self._takes("some"):
            other = self._kind()
            by = self._name("a fact") if self._takes("by") else reference_between(other, kind)
            return Exists(kind=other, by=by, where=self._inner(other))
        if self._takes("within"):
            most_s = self._number()
            self._need("of")
            return Within(most_s=most_s, where=self._inner(Kind.TERMINAL))
        certainty: Certainty = "surely" if self._takes("surely") else "possibly" if self._takes("possibly") else "told"
        return self._compared(self._measure(), certainty)

    def _compared(self, measure: Measure, certainty: Certainty) -> Condition:
        place = self._peek()
        if place.kind == "sign" and place.said in _COMPARISONS:
            self._next += 1
            return Compare(measure=measure, by=place.said, value=self._value(), certainty=certainty)
        denied = self._takes("not")
        condition: Condition
        if self._takes("between"):
            least = self._number()
            self._need("and")
            condition = Between(measure=measure, least=least, most=self._number(), certainty=certainty)
        elif self._takes("in"):
            self._need("(")
            values = tuple(self._listed(lambda: self._name("a word")))
            self._need(")")
            condition = OneOf(fact=self._plain(measure), values=values)
        elif self._takes("starts"):
            self._need("with")
            condition = StartsWith(fact=self._plain(measure), text=self._name("a word"))
        elif not denied and self._takes("is"):
            denied = self._takes("not")
            self._need("known")
            condition = Known(fact=self._plain(measure))
        elif denied:
            self._fail("between, in, or starts with")
        else:
            condition = Compare(measure=measure, by="=", value=True, certainty=certainty)
        return Not(condition=condition) if denied else condition

    def _plain(self, measure: Measure) -> str:
        if measure.of != "value":
            self._fail("a fact before this, not something about it")
        return measure.fact

    def _measure(self) -> Measure:
        name = self._name("a fact")
        if name in _OF and self._takes("("):
            fact = self._name("a fact")
            self._need(")")
            return Measure(fact=fact, of=_OF[name])  # type: ignore[arg-type]
        return Measure(fact=name)

    def _value(self) -> Sought:
        token = self._peek()
        if token.kind == "word" and token.said in ("yes", "no"):
            self._next += 1
            return token.said == "yes"
        return self._number() if token.kind == "number" or token.said == "-" else self._name("a value")

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _takes(self, said: str) -> bool:
        """Whether the next piece is this word or sign; it is read then."""
        token = self._peek()
        if token.kind in ("word", "sign") and token.said == said:
            self._next += 1
            return True
        return False

    def _need(self, said: str) -> None:
        if not self._takes(said):
            self._fail(said)

    def _one_of(self, *words: str) -> str:
        for word in words:
            if self._takes(word):
                return word
        self._fail(" or ".join(words))

    def _name(self, what: str) -> str:
        token = self._peek()
        if token.kind not in ("word", "text"):
            self._fail(what)
        self._next += 1
        return token.said

    def _kind(self) -> Kind:
        token = self._peek()
        name = self._name("what is asked for")
        if (kind := _KINDS.get(name)) is None:
            raise InputError(
                f"the map has no table {name[:80]!r} (character {token.place + 1})",
                todo=nearest_known(name, [*_KINDS, "summarise", "path"]),
            )
        return kind

    def _number(self) -> float:
        sign = -1.0 if self._takes("-") else 1.0
        token = self._peek()
        if token.kind != "number":
            self._fail("a number")
        self._next += 1
        return sign * token.value

    def _whole(self, what: str) -> int:
        number = self._number()
        if number != int(number):
            self._fail(f"{what}, a whole number, before this")
        return int(number)

    def _listed(self, read: Callable[[], T]) -> Iterator[T]:
        yield read()
        while self._takes(","):
            yield read()

    def _fail(self, expected: str) -> NoReturn:
        token = self._peek()
        raise InputError(
            f"at {token.said[:40]!r} (character {token.place + 1}): expected {expected}",
            todo="docs/map.md has the grammar of questions",
        )

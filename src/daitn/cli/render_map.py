"""Answers of the map for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from daitn.base.units import show_bytes, show_seconds
from daitn.descriptors.question_writing import question_text
from daitn.descriptors.questions import Answer, AnswerRow, Clause, Explanation, Shown
from daitn.descriptors.saved_questions import AnswerChange, SavedAnswer
from daitn.descriptors.sql_answer import SqlAnswer


def answer_table(answer: Answer) -> Table:
    """Rows with their values, deviations, and the age of the oldest fact shown."""
    table = Table()
    scored = any(row.score is not None for row in answer.rows)
    aged = any(age is not None for row in answer.rows for age in row.ages_s)
    for heading in ("id", *(["score"] if scored else []), *(column.name for column in answer.columns)):
        table.add_column(heading, overflow="fold")
    if aged:
        table.add_column("oldest fact")
    for row in answer.rows:
        cells = [escape(row.id) or "(not known)"]
        if scored:
            cells.append("" if row.score is None else f"{row.score:.4g}")
        for place, column in enumerate(answer.columns):
            deviation = row.deviations[place] if row.deviations else None
            cells.append(shown_value(row.values[place], column.unit, deviation))
        if aged:
            cells.append(_oldest(row))
        table.add_row(*cells)
    return table


def answer_line(answer: Answer) -> str:
    """How many there were, and of which map."""
    at = datetime.fromtimestamp(answer.made_at_unix_s, UTC).strftime("%H:%M:%S")
    found = f"{len(answer.rows)} of {answer.matched} found among {answer.considered}"
    return f"{found}; map version {answer.version}, {at} UTC"


def sql_table(answer: SqlAnswer) -> Table:
    """The rows of a SELECT."""
    caption = f"map version {answer.version}" + ("; there are more rows: add a limit" if answer.more else "")
    table = Table(caption=caption)
    for column in answer.columns:
        table.add_column(escape(column.name), overflow="fold")
    for row in answer.rows:
        table.add_row(*(shown_value(value, "", None) for value in row))
    return table


def clauses_table(explanation: Explanation) -> Table:
    """Each condition, whether it holds, and what it read."""
    table = Table(title=f"{escape(explanation.id)} and the question")
    for heading in ("condition", "holds", "value", "heard"):
        table.add_column(heading, overflow="fold")
    for clause in explanation.clauses:
        age = "" if clause.age_s is None else f"{show_seconds(clause.age_s)} ago"
        said = "" if _inner(clause) else shown_value(clause.value, clause.unit, clause.deviation)
        table.add_row("  " * clause.depth + escape(clause.text), "yes" if clause.holds else "no", said, age)
    return table


def verdict(explanation: Explanation) -> str:
    """One sentence: whether it is in the answer, at which place, and how far from the last one inside."""
    if not explanation.matches:
        failed = sum(not clause.holds for clause in explanation.clauses if clause.depth == 0)
        return f"not in the answer: {failed} condition{'s do' if failed != 1 else ' does'} not hold"
    place = f"place {explanation.rank} of {explanation.matched} that match, of which {explanation.limit} are shown"
    said = f"{'in' if explanation.inside else 'not in'} the answer: {place}"
    if explanation.ordered_by:
        said += f"; by {explanation.ordered_by}: {_plain(explanation.value)}"
        if explanation.value is not None and explanation.last_inside is not None:
            apart = explanation.value - explanation.last_inside
            said += f", the last one inside {_plain(explanation.last_inside)} (difference {apart:+.4g})"
    return said


def saved_table(saved: Sequence[SavedAnswer]) -> Table:
    """Saved questions."""
    table = Table()
    for heading in ("name", "owner", "question", "at most every", "last change", "fault"):
        table.add_column(heading, overflow="fold")
    for one in saved:
        at = "not yet" if not one.at_ns else datetime.fromtimestamp(one.at_ns / 1e9, UTC).strftime("%H:%M:%S UTC")
        text = escape(question_text(one.question))
        table.add_row(one.name, escape(one.owner), text, show_seconds(one.every_s), at, escape(one.fault))
    return table


def change_lines(change: AnswerChange) -> Iterator[str]:
    """One line for each row that entered, left, moved or changed."""
    at = datetime.fromtimestamp(change.at_ns / 1e9, UTC).strftime("%H:%M:%S")
    for row in change.entered:
        yield f"{at} entered {escape(row.id)} {_values(row)}"
    for name in change.left:
        yield f"{at} left    {escape(name)}"
    for moved in change.moved:
        yield f"{at} moved   {escape(moved.id)} from place {moved.before} to {moved.now}"
    for row in change.changed:
        yield f"{at} changed {escape(row.id)} {_values(row)}"


def shown_value(value: Shown, unit: str, deviation: float | None) -> str:
    """A value with its unit, and its deviation where it has one."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    if unit == "unix_s":
        return datetime.fromtimestamp(min(max(value, 0.0), 4e9), UTC).strftime("%Y-%m-%d %H:%M")
    said = _united(value, unit)
    return f"{said} ± {_united(deviation, unit)}" if deviation else said


def _united(value: float, unit: str) -> str:
    match unit:
        case "bytes" | "bytes/s":
            return show_bytes(value) + ("/s" if unit == "bytes/s" else "")
        case "s":
            return f"{1000 * value:.3g} ms" if abs(value) < 1 else show_seconds(value)
        case "" | "1" | "frac":
            return _plain(value)
        case _:
            return f"{_plain(value)} {unit}"


def _plain(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"


def _oldest(row: AnswerRow) -> str:
    ages = [age for age in row.ages_s if age is not None]
    said = f"{show_seconds(max(ages))} ago" if ages else "–"
    return said + (", stale" if row.stale else "")


def _values(row: AnswerRow) -> str:
    return " ".join(shown_value(value, "", None) for value in row.values)


def _inner(clause: Clause) -> bool:
    return clause.age_s is None and clause.value is None and not clause.unit

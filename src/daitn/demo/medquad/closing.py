"""Closing: the untrained row first, what training added per field, what the admission had predicted; and the files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daitn.base.units import show_bytes, show_seconds
from daitn.demo.html import document, number, table
from daitn.demo.medquad.recording import FieldRow, MedquadRecording, asked_fields, field_rows
from daitn.demo.medquad.sites import PLACES, POLICY
from daitn.demo.recording import JobRecord
from daitn.demo.report import report
from daitn.demo.sections import job_section, target_cells, timeline
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.work import Measurement
from daitn.oam import wording

if TYPE_CHECKING:
    from rich.console import RenderableType

HEADINGS = ("field", "untrained", "trained", "added", "predicted", "test records")


def fulfilled(recording: MedquadRecording) -> bool:
    """Every goal that was admitted, as asked or as offered, is met; no process, activation or sample is left."""
    met = all(target.met for one in recording.run.jobs for target in one.job.status.targets)
    return met and recording.run.left == recording.activations_left == recording.samples_left == 0


def write_reports(recording: MedquadRecording, out: Path) -> list[RenderableType]:
    """Write the reports below `out`; returns what is to be printed about them."""
    (out / "recording.json").write_bytes(msgspec.json.encode(recording))
    (out / "report.json").write_bytes(bytes(msgspec.json.format(msgspec.json.encode(figures(recording)), indent=2)))
    (out / "report.html").write_text(page(recording), encoding="utf-8")
    return [*(_table(one.job) for one in recording.run.jobs), _words(recording, out)]


def figures(recording: MedquadRecording) -> dict[str, Any]:
    """The document of `report.json`: that of every demonstration, and per job its fields, offer and predictions."""
    document = report(recording.run)
    for one in recording.run.jobs:
        status = one.job.status
        verdicts = [*status.refusals, *([status.verdict] if status.verdict is not None else [])]
        document["jobs"][one.job.key] |= {
            "fields": [
                {
                    "field": row.field,
                    "untrained": msgspec.to_builtins(row.untrained),
                    "trained": msgspec.to_builtins(row.reached),
                    "added": None if row.gained is None else row.gained._asdict(),
                    "predicted": msgspec.to_builtins(row.predicted),
                }
                for row in field_rows(one.job)
            ],
            "verdicts": [
                {
                    "outcome": verdict.outcome,
                    "conditions": [msgspec.to_builtins(each) for each in verdict.conditions],
                    "offered": [msgspec.to_builtins(each) for each in verdict.counter_offer.changes]
                    if verdict.counter_offer is not None
                    else [],
                }
                for verdict in verdicts
            ],
        }
    return document | {
        "base": recording.base,
        "cached": [msgspec.to_builtins(one) for one in recording.cached],
        "activations_left": recording.activations_left,
        "samples_left": recording.samples_left,
    }


def page(recording: MedquadRecording) -> str:
    """The whole page of `report.html`."""
    run = recording.run
    statuses = [one.job.status for one in run.jobs]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began_unix_s))
    facts = (
        (str(sum(status.visits for status in statuses)), "training visits"),
        (show_bytes(sum(status.transfer_bytes for status in statuses)), "moved"),
        (show_bytes(sum(one.size_bytes for one in recording.cached)), "kept at sites for the jobs"),
        (show_seconds(run.seconds), "from nothing to nothing"),
        (f"{run.processes}, {run.left} left", "processes"),
    )
    listed = "".join(f"<li><b>{escape(value)}</b>{escape(what)}</li>" for value, what in facts)
    parts = [
        "<h1>Two departments' models learn at nine health institutes</h1>",
        f'<p class="soft">daitn {escape(run.version)}, {when}. Real processes on one machine. {_who_saw(recording)} '
        "Text: MedQuAD (Ben Abacha and Demner-Fushman 2019), CC BY 4.0.</p>",
        f'<ul class="figures">{listed}</ul>',
    ]
    for place, one in enumerate(run.jobs):
        targets = table(
            ("target", "wanted", "reached", "95 % interval", "met", "sure", "untrained"),
            [target_cells(each) for each in one.job.status.targets],
        )
        head, why = job_section(PLACES, one, run.names, place)
        parts += [*head, *_admission(one.job), "<h3>Goals</h3>", targets, *_fields(one.job), *why]
    parts += ["<h2>Who worked when</h2>", timeline(PLACES, run), "<h2>What was kept at the sites</h2>"]
    parts.append(_cached(recording))
    return document("daitn: nine health institutes", parts)


def _admission(record: JobRecord) -> list[str]:
    """What the admission had said before anything was trained, on what was asked and on what was then taken."""
    status = record.status
    parts = ["<h3>What the admission had said, before any visit</h3>"]
    for verdict in (*status.refusals, *([status.verdict] if status.verdict is not None else [])):
        failed = [[escape(one.what), escape(one.required), escape(one.available)] for one in verdict.failed()]
        chances = [
            [escape(one.what), escape(one.available)]
            for one in verdict.conditions
            if one.code is ReasonCode.ATTAINABILITY and one.met
        ]
        parts.append(f"<p>{verdict.outcome.capitalize()}{escape(wording.probability(verdict))}.</p>")
        if failed:
            parts.append(table(("out of reach", "required", "found"), failed))
        if chances:
            parts.append(table(("within reach", "found"), chances))
        if verdict.counter_offer is not None:
            changes = [
                [escape(one.what), escape(one.asked), escape(one.offered)] for one in verdict.counter_offer.changes
            ]
            taken = "offered instead" + (", and taken" if verdict in status.refusals else "")
            parts.append(table((taken, "asked", "offered"), changes))
    return parts


def _fields(record: JobRecord) -> list[str]:
    """Two tables, the untrained row first: what was asked for, and the other fields, so that forgetting shows."""
    rows, asked = field_rows(record), asked_fields(record)
    return [
        "<h3>What training added to what was asked for</h3>",
        _table_of(rows[:asked], predicted=True),
        "<h3>The other fields: gained, or forgotten</h3>",
        _table_of(rows[asked:], predicted=False),
        f"<p>{escape(forgotten(rows))}</p>",
    ]


def _table_of(rows: Sequence[FieldRow], *, predicted: bool) -> str:
    """Fields side by side: untrained, trained, what was added, what was predicted, on how many records."""
    lines = [
        ["untrained", *(_stacked(_figure(row.untrained)) for row in rows)],
        ["trained", *(_stacked(_figure(row.reached)) for row in rows)],
        ["added, in points", *(_stacked(_gained(row)) for row in rows)],
    ]
    if predicted:
        lines.append(["predicted, with 90 %", *(_stacked(_predicted(row)) for row in rows)])
    lines.append(["test records", *(str(row.reached.records) if row.reached is not None else "" for row in rows)])
    return table(("", *(escape(row.field) for row in rows)), lines, range(1, len(rows) + 1))


def _stacked(figure: str) -> str:
    """A figure, and its interval on a line below."""
    value, _, interval = figure.partition(" ")
    return f'{escape(value)}<br><span class="soft small">{escape(interval.strip("()"))}</span>' if interval else value


def forgotten(rows: Sequence[FieldRow]) -> str:
    """Which fields lost by training, in one sentence."""
    lost = [row for row in rows if row.gained is not None and row.gained.value < 0]
    if not lost:
        return "No field lost by training."
    said = "; ".join(
        f"{row.field} {_gained(row)}, {'more than chance' if row.gained.high < 0 else 'which may be chance'}"
        for row in lost
        if row.gained is not None
    )
    return f"Lost by training, in points: {said}."


def _who_saw(recording: MedquadRecording) -> str:
    """What left an institute."""
    if recording.base:
        return "No question or answer left its institute; the notary measured on vectors of held-out ones."
    return "No question or answer was trained on outside its institute; the notary measured on held-out ones."


def _cached(recording: MedquadRecording) -> str:
    """What each institute computed once and kept, and when it was wiped."""
    rows = [
        [one.site, f"{one.column}, {one.length} tokens", str(one.records), show_bytes(one.size_bytes),
         f"{one.seconds:.1f} s"]
        for one in recording.cached
    ]  # fmt: skip
    samples = f"Of the samples of held-out records that the notary measured on, {recording.samples_left} are left.</p>"
    if not rows:
        return f"<p>No activations: there was no frozen base. {samples}"
    visits = sum(one.job.status.visits for one in recording.run.jobs)
    said = (
        f"<p>Base {recording.base[:16]}. Each institute encoded each of its texts once; {visits} training visits and "
        f"the notary's samples used what it kept. Its policy, cache_activations = {POLICY.cache_activations!r}, had "
        f"that wiped when the last job had ended: {recording.activations_left} files are left. {samples}"
    )
    return said + table(("site", "column", "texts", "size", "took"), rows, (2, 3, 4))


def _cells(row: FieldRow) -> tuple[str, ...]:
    return (
        row.field,
        _figure(row.untrained),
        _figure(row.reached),
        _gained(row),
        _predicted(row),
        str(row.reached.records) if row.reached is not None else "",
    )


def _gained(row: FieldRow) -> str:
    if row.gained is None:
        return ""
    value, low, high = (f"{100 * part:+.1f}".replace("-", "−") for part in row.gained)
    return f"{value} ({low} to {high})"


def _predicted(row: FieldRow) -> str:
    if row.predicted is None:
        return ""
    low, high = wording.number(row.predicted.low), wording.number(row.predicted.high)
    return f"{wording.number(row.predicted.expected)} ({low} – {high})"


def _figure(one: Measurement | None) -> str:
    return "" if one is None else f"{number(one.value)} ({wording.number(one.low)} – {wording.number(one.high)})"


def _table(record: JobRecord) -> RenderableType:
    from rich.table import Table

    status = record.status
    goals = "; ".join(
        f"{one.name} {one.wanted}: {'met' if one.met else 'not met'}{', sure' if one.sure else ''}"
        for one in status.targets
    )
    found = Table(title=f"{record.title}, {status.phase.value}: {goals}".replace("[", r"\["), title_justify="left")
    for heading in HEADINGS:
        found.add_column(heading, no_wrap=True)
    for row in field_rows(record):
        found.add_row(*_cells(row))
    return found


def _words(recording: MedquadRecording, out: Path) -> str:
    run = recording.run
    kept = sum(one.size_bytes for one in recording.cached)
    return "\n".join(
        [
            "in brackets: 95 % intervals; predicted: by the admission, before a visit, with 90 %; added: in points.",
            *(f"{one.job.title}: {forgotten(field_rows(one.job))}" for one in run.jobs),
            f"{show_bytes(kept)} of activations were kept at the sites for the jobs, {recording.activations_left} "
            f"files are left; of the notary's samples of held-out records {recording.samples_left}.",
            f"{run.processes} processes were started, {run.left} are left; {run.seconds:.0f} s in all.",
            f"{out / 'report.html'} has curves, routes and reasons; {out / 'report.json'} the figures;",
            f"{out / 'models'} the trained packages.",
        ]
    )

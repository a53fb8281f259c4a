"""Closing: the untrained row first, what training added per field, what the admission had predicted; and the files."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daitn.base.units import show_bytes, show_seconds
from daitn.demo.html import document, number, table
from daitn.demo.medquad.recording import FieldRow, MedquadRecording, field_rows
from daitn.demo.medquad.sites import PLACES
from daitn.demo.recording import JobRecord
from daitn.demo.report import report
from daitn.demo.sections import job_section, target_cells, timeline
from daitn.descriptors.work import Measurement
from daitn.oam import wording

if TYPE_CHECKING:
    from rich.console import RenderableType

HEADINGS = ("field", "untrained", "trained", "added", "predicted", "test records")


def fulfilled(recording: MedquadRecording) -> bool:
    """Every goal that was admitted, as asked or as offered, is met; no process and no activation is left."""
    met = all(target.met for one in recording.run.jobs for target in one.job.status.targets)
    return met and recording.run.left == 0 and recording.activations_left == 0


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
        verdict = one.job.status.verdict
        offer = verdict.counter_offer if verdict is not None else None
        document["jobs"][one.job.key] |= {
            "fields": [
                {
                    "field": row.field,
                    "untrained": msgspec.to_builtins(row.untrained),
                    "trained": msgspec.to_builtins(row.reached),
                    "added": row.gained,
                    "predicted": msgspec.to_builtins(row.predicted),
                }
                for row in field_rows(one.job)
            ],
            "conditions": [msgspec.to_builtins(each) for each in verdict.conditions] if verdict is not None else [],
            "counter_offer": [msgspec.to_builtins(each) for each in offer.changes] if offer is not None else None,
        }
    return document | {
        "base": recording.base,
        "cached": [msgspec.to_builtins(one) for one in recording.cached],
        "activations_left": recording.activations_left,
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
        f'<p class="soft">daitn {escape(run.version)}, {when}. Real processes on one machine. No question or '
        "answer left its institute; the notary measured on vectors of held-out questions. Text: MedQuAD (Ben Abacha "
        "and Demner-Fushman 2019), CC BY 4.0.</p>",
        f'<ul class="figures">{listed}</ul>',
    ]
    for place, one in enumerate(run.jobs):
        targets = table(
            ("target", "wanted", "reached", "95 % interval", "met", "sure", "untrained"),
            [target_cells(each) for each in one.job.status.targets],
        )
        rows = table(HEADINGS, [[escape(cell) for cell in _cells(row)] for row in field_rows(one.job)], (1, 2, 3, 4, 5))
        parts += [*job_section(PLACES, one, run.names, place), "<h3>Goals</h3>", targets, *_admission(one.job)]
        parts += ["<h3>What training added, field by field</h3>", rows]
    parts += ["<h2>Who worked when</h2>", timeline(PLACES, run), "<h2>What was kept at the sites</h2>"]
    parts.append(_cached(recording))
    return document("daitn: nine health institutes", parts)


def _admission(record: JobRecord) -> list[str]:
    """What the admission had said before anything was trained."""
    verdict = record.status.verdict
    if verdict is None:
        return []
    failed = [[escape(one.what), escape(one.required), escape(one.available)] for one in verdict.failed()]
    offer = verdict.counter_offer
    changes = [[escape(one.what), escape(one.asked), escape(one.offered)] for one in (offer.changes if offer else ())]
    parts = ["<h3>What the admission had said</h3>"]
    if failed:
        parts.append(table(("out of reach", "required", "found"), failed))
    if changes:
        parts.append(table(("offered instead, and taken", "asked", "offered"), changes))
    return parts if failed or changes else [*parts, "<p>Everything asked for was thought within reach.</p>"]


def _cached(recording: MedquadRecording) -> str:
    rows = [
        [one.site, f"{one.column}, {one.length} tokens", str(one.records), show_bytes(one.size_bytes),
         f"{one.seconds:.1f} s"]
        for one in recording.cached
    ]  # fmt: skip
    if not rows:
        return "<p>Nothing: there was no frozen base.</p>"
    said = f"<p>Base {recording.base[:16]}; {recording.activations_left} files left after the jobs.</p>"
    return said + table(("site", "column", "texts", "size", "took"), rows, (2, 3, 4))


def _cells(row: FieldRow) -> tuple[str, ...]:
    said = ""
    if row.predicted is not None:
        low, high = wording.number(row.predicted.low), wording.number(row.predicted.high)
        said = f"{wording.number(row.predicted.expected)} ({low} – {high})"
    return (
        row.field,
        _figure(row.untrained),
        _figure(row.reached),
        "" if row.gained is None else f"{100 * row.gained:+.1f} points",
        said,
        str(row.reached.records) if row.reached is not None else "",
    )


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
            "in brackets: 95 % intervals; predicted: by the admission, before a visit, with 90 %.",
            f"{show_bytes(kept)} of activations were kept at the sites for the jobs, {recording.activations_left} "
            "files are left.",
            f"{run.processes} processes were started, {run.left} are left; {run.seconds:.0f} s in all.",
            f"{out / 'report.html'} has curves, routes and reasons; {out / 'report.json'} the figures;",
            f"{out / 'models'} the trained packages.",
        ]
    )

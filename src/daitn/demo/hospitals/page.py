"""`report.html`: the demonstration as one page, self-contained, in light and dark, made from a recording alone."""

from __future__ import annotations

import time
from html import escape
from typing import Final

from daitn.base.units import show_bytes, show_seconds
from daitn.demo.hospitals.sites import PLACES
from daitn.demo.html import document, number, table
from daitn.demo.recording import Recording, Refusal, Served, local_batches, value_of
from daitn.demo.sections import job_section, target_cells, timeline

OTHERS: Final = ("cycle", "fedavg", "central")


def page(recording: Recording) -> str:
    """The whole page."""
    parts = [
        *_head(recording),
        "<h2>What was reached</h2>",
        _results(recording),
        *(
            part
            for place, one in enumerate(recording.jobs)
            for section in job_section(PLACES, one, recording.names, place)
            for part in section
        ),
        "<h2>What was refused, and what was offered instead</h2>",
        *(part for one in recording.refusals for part in _refusal(one)),
        *(_served(recording.served) if recording.served is not None else ()),
        "<h2>Who worked when</h2>",
        timeline(PLACES, recording),
        "<h2>How to read this</h2>",
        *_notes(recording),
    ]
    return document("daitn: the hospitals", parts)


def _head(recording: Recording) -> list[str]:
    statuses = [one.job.status for one in recording.jobs]
    targets = [target for status in statuses for target in status.targets]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(recording.began_unix_s))
    figures = (
        (f"{sum(target.met for target in targets)} of {len(targets)}", "targets met"),
        (str(sum(status.visits for status in statuses)), "training visits"),
        (show_bytes(sum(status.transfer_bytes for status in statuses)), "moved"),
        (str(sum(one.admitted_after_s is not None for one in recording.refusals)), "refusals, admitted as offered"),
        (show_seconds(recording.seconds), "from nothing to nothing"),
        (f"{recording.processes}, {recording.left} left", "processes"),
    )
    listed = "".join(f"<li><b>{escape(value)}</b>{escape(what)}</li>" for value, what in figures)
    return [
        "<h1>Hospitals train two models that none of them could train alone</h1>",
        f'<p class="soft">daitn {escape(recording.version)}, {when}. Real processes on one machine; records stayed at '
        "their sites, except where a policy let them stream inside its trust zone.</p>",
        f'<ul class="figures">{listed}</ul>',
    ]


def _results(recording: Recording) -> str:
    rows: list[list[str]] = []
    for one in recording.jobs:
        others = {each.name: each for each in one.baselines}
        for target in one.job.status.targets:
            values = [value_of(others[name].measurements, target.name) if name in others else None for name in OTHERS]
            rows.append([escape(one.job.title), *target_cells(target), *map(number, values)])
        spent = [str(others[name].batches) if name in others else "" for name in OTHERS]
        batches = str(local_batches(one.job.status))
        rows.append(["", '<span class="soft">local batches</span>', "", batches, "", "", "", "0", *spent])
    headings = ("job", "target", "wanted", "reached", "95 % interval", "met", "sure", "untrained", "naive cycle",
                "federated averaging", "central, outside")  # fmt: skip
    return table(headings, rows, (2, 3, 4, 7, 8, 9, 10))


def _refusal(one: Refusal) -> list[str]:
    verdict = one.status.verdict
    offer = verdict.counter_offer if verdict is not None else None
    failed = [
        [escape(each.code.value), escape(each.what), escape(each.required), escape(each.available)]
        for each in (verdict.failed() if verdict is not None else ())
    ]
    changes = [
        [escape(each.what), escape(each.asked), escape(each.offered), escape(each.because.value)]
        for each in (offer.changes if offer is not None else ())
    ]
    if one.admitted_after_s is not None:
        end = f"<span class=yes>Admitted</span> {one.admitted_after_s:.1f} s after the offer was taken; then cancelled."
    else:
        end = "<span class=no>Not admitted.</span>"
    return [
        f"<h3>{escape(one.title)}</h3>",
        table(("refused because of", "what", "required", "found"), failed),
        table(("offered instead", "asked", "offered", "because of"), changes) if changes else "",
        f"<p>{end}</p>",
    ]


def _served(one: Served) -> list[str]:
    rows = [
        ["goal", escape(one.goal)],
        ["placed on", f"{escape(', '.join(one.hosts))}, {one.placed_s:.1f} s after it was given"],
        ["killed while queries were under way", escape(one.killed)],
        ["served in the end by", f"{escape(', '.join(one.hosts_after))}, {one.replaced_s:.1f} s after the kill"],
        ["queries answered as daitn predict does", f"{one.right} of {one.asked}"],
        ["median before the kill", f"{one.calm_median_ms:.1f} ms"],
        ["slowest after the kill", f"{one.slowest_after_ms:.0f} ms"],
    ]
    return [
        "<h2>What the trained model answers</h2>",
        "<p>The breast cancer model, as it came back from training, was given to the network: admitted because a "
        "verification unit had measured it, placed on hosts, asked over HTTP by a client that knows nothing of daitn "
        "(Open Inference Protocol), about samples that no site had.</p>",
        table(("", ""), rows),
    ]


def _notes(recording: Recording) -> list[str]:
    notes = [
        "<b>Met</b>: the estimate on the verification unit's records reaches the target. <b>Sure</b>: the lower end of "
        "its 95 % interval does, too; on a few hundred records that takes more than the target itself.",
        "The <b>naive cycle</b> and <b>federated averaging</b> were jobs in the same network, allowed the same number "
        "of local batches; they end sooner where they reach the goal, and deliver their best model. <b>Central</b> "
        "training was done by the demonstration itself from the files, outside the network: nobody in it may do that.",
        "Data: breast cancer (UCI, Wisconsin, diagnostic) and handwritten digits (UCI) as they come with scikit-learn, "
        "dealt out to invented sites. Units, patients and sites are made up; the values are not.",
    ]
    if recording.predicted:
        notes.append(f"<b>daitn predict</b> with the trained package: {escape(recording.predicted)}.")
    return [f"<p>{note}</p>" for note in notes]

"""`report.html`: the demonstration as one page, self-contained, in light and dark, made from a recording alone."""

from __future__ import annotations

import time
from html import escape
from typing import Final

from daitn.base.units import show_bytes, show_seconds
from daitn.demo.drawing import SERIES, Work, draw_curves, draw_map, draw_timeline
from daitn.demo.hospitals.sites import PLACES
from daitn.demo.html import document, number, table, yes_no
from daitn.demo.recording import Compared, Recording, Refusal, curve, hops, local_batches, value_of
from daitn.descriptors.job import TargetState
from daitn.oam import wording

OTHERS: Final = ("cycle", "fedavg", "central")


def page(recording: Recording) -> str:
    """The whole page."""
    parts = [
        *_head(recording),
        "<h2>What was reached</h2>",
        _results(recording),
        *(part for place, one in enumerate(recording.jobs) for part in _job(one, recording.names, place)),
        "<h2>What was refused, and what was offered instead</h2>",
        *(part for one in recording.refusals for part in _refusal(one)),
        "<h2>Who worked when</h2>",
        _timeline(recording),
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
            rows.append([escape(one.job.title), *_target(target), *map(number, values)])
        spent = [str(others[name].batches) if name in others else "" for name in OTHERS]
        batches = str(local_batches(one.job.status))
        rows.append(["", '<span class="soft">local batches</span>', "", batches, "", "", "", "0", *spent])
    headings = ("job", "target", "wanted", "reached", "95 % interval", "met", "sure", "untrained", "naive cycle",
                "federated averaging", "central, outside")  # fmt: skip
    return table(headings, rows, (2, 3, 4, 7, 8, 9, 10))


def _target(one: TargetState) -> list[str]:
    interval = "" if one.low is None or one.high is None else f"{wording.number(one.low)} – {wording.number(one.high)}"
    wanted = one.wanted.replace(">=", "≥").replace("<=", "≤")
    flags = [yes_no(one.met), yes_no(one.sure)]
    return [escape(one.name), escape(wanted), number(one.reached), interval, *flags, number(one.untrained)]


def _job(compared: Compared, names: dict[str, str], place: int) -> list[str]:
    record, status = compared.job, compared.job.status
    route = hops(record, names)
    choices = [
        [escape(one.what), escape(one.chosen), escape(one.why), escape("; ".join(one.rejected))]
        for one in (status.plan.choices if status.plan is not None else ())
    ]
    curves = draw_curves(curve(record), status.targets, f"{record.title}: what was measured over the visits")
    drawn = draw_map(PLACES, route, f"{record.title}: the route of the model", SERIES[place % 2], f"head-{record.key}")
    hop_rows = [
        [str(hop.number), escape(hop.site), escape(hop.dataset), escape(hop.why), "" if hop.kept else "rolled back"]
        for hop in route
    ]
    return [
        f"<h2>{escape(record.title.capitalize())}, for {escape(status.owner)}</h2>",
        f"<p>{escape(status.phase.value.capitalize())}: {escape(status.reason)}. {status.visits} training visits, "
        f"{status.verifications} verifications, {status.rolled_back} rolled back, {status.lost} lost, "
        f"{show_bytes(status.transfer_bytes)} moved.</p>",
        f"<div class=pair><figure>{curves}<figcaption>At the verification unit. Dashed: what is wanted. Hollow: "
        f"rolled back.</figcaption></figure><figure>{drawn}<figcaption>Numbers: order of visits. Point at an arrow to "
        "see why. Dotted: records that streamed.</figcaption></figure></div>",
        "<h3>What the network chose, and why</h3>",
        table(("what", "chosen", "why", "not chosen"), choices),
        "<h3>Why each hop</h3>",
        table(("", "trained at", "data", "why", ""), hop_rows, (0,)),
    ]


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


def _timeline(recording: Recording) -> str:
    starts = [one.job.status.submitted_unix_s for one in recording.jobs]
    begin = min(starts, default=recording.began_unix_s)
    works: list[Work] = []
    for place, one in enumerate(recording.jobs):
        ordered = {entry.visit: entry for entry in one.job.log if entry.kind == "ordered"}
        for entry in one.job.log:
            order = ordered.get(entry.visit)
            if order is not None and entry.kind in ("trained", "measured", "shared"):
                site = recording.names.get(entry.node or "", "")
                works.append(Work(site, place, order.unix_s - begin, entry.unix_s - begin, entry.text))
    jobs = [one.job.title for one in recording.jobs]
    drawn = draw_timeline(PLACES, works, jobs, "who worked when, for which job")
    return (
        f"<figure>{drawn}<figcaption>From the order of a visit to its result, the start of its sandbox included. Point "
        "at a bar to see what was done.</figcaption></figure>"
    )


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

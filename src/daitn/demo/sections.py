"""Sections of a demonstration's page: a job with its curves and route, who worked when, a target's cells."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from daitn.base.units import show_bytes
from daitn.demo.drawing import SERIES, Work, draw_curves, draw_map, draw_timeline
from daitn.demo.html import number, table, yes_no
from daitn.demo.places import Place
from daitn.demo.recording import Compared, Recording, curve, hops
from daitn.descriptors.job import TargetState
from daitn.oam import wording


def target_cells(one: TargetState) -> list[str]:
    interval = "" if one.low is None or one.high is None else f"{wording.number(one.low)} – {wording.number(one.high)}"
    wanted = one.wanted.replace(">=", "≥").replace("<=", "≤")
    flags = [yes_no(one.met), yes_no(one.sure)]
    return [escape(one.name), escape(wanted), number(one.reached), interval, *flags, number(one.untrained)]


def job_section(
    places: Sequence[Place], compared: Compared, names: dict[str, str], place: int
) -> tuple[list[str], list[str]]:
    """What came of a job, with its curves and route; and why: what the network chose, and each hop."""
    record, status = compared.job, compared.job.status
    route = hops(record, names)
    choices = [
        [escape(one.what), escape(one.chosen), escape(one.why), escape("; ".join(one.rejected))]
        for one in (status.plan.choices if status.plan is not None else ())
    ]
    curves = draw_curves(curve(record), status.targets, f"{record.title}: what was measured over the visits")
    drawn = draw_map(places, route, f"{record.title}: the route of the model", SERIES[place % 2], f"head-{record.key}")
    hop_rows = [
        [str(hop.number), escape(hop.site), escape(hop.dataset), escape(hop.why), "" if hop.kept else "rolled back"]
        for hop in route
    ]
    head = [
        f"<h2>{escape(record.title.capitalize())}, for {escape(status.owner)}</h2>",
        f"<p>{escape(status.phase.value.capitalize())}: {escape(status.reason)}. "
        f"{_many(status.visits, 'training visit')}, {_many(status.verifications, 'verification')}, "
        f"{status.rolled_back} rolled back, {status.lost} lost, {show_bytes(status.transfer_bytes)} moved.</p>",
        f"<div class=pair><figure>{curves}<figcaption>At the verification unit. Dashed: what is wanted. Hollow: "
        f"rolled back.</figcaption></figure><figure>{drawn}<figcaption>Numbers: order of visits. Point at an arrow to "
        "see why. Dotted: records that streamed.</figcaption></figure></div>",
    ]
    why = [
        "<h3>What the network chose, and why</h3>",
        table(("what", "chosen", "why", "not chosen"), choices),
        "<h3>Why each hop</h3>",
        table(("", "trained at", "data", "why", ""), hop_rows, (0,)),
    ]
    return head, why


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def timeline(places: Sequence[Place], recording: Recording) -> str:
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
    drawn = draw_timeline(places, works, jobs, "who worked when, for which job")
    return (
        f"<figure>{drawn}<figcaption>From the order of a visit to its result, the start of its sandbox included. Point "
        "at a bar to see what was done.</figcaption></figure>"
    )

"""Render: jobs, verdicts, targets, the map and predictions for people, with rich; shared with the demonstration.

Each function makes one thing that a console prints. Colour only repeats what a word says, so that a log file, a screen
reader and a colour-blind reader lose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from daitn.base.units import show_bytes, show_seconds
from daitn.descriptors.job import FINAL_PHASES, JobStatus, LogEntry, Phase, TargetState, Whereabouts
from daitn.descriptors.outcome import CounterOffer, Verdict
from daitn.oam import wording

if TYPE_CHECKING:
    from daitn.node.http.bodies import NodeOnMap, TokenNamed
    from daitn.sdk.predict import Prediction, Summary
    from daitn.sdk.proofs import ProofCheck
    from daitn.sdk.submission import Submission

PREDICTIONS_SHOWN: Final = 20

_PHASE_STYLE: Final = {
    Phase.DELIVERED: "bold green",
    Phase.RUNNING: "cyan",
    Phase.REFUSED: "bold red",
    Phase.FAILED: "bold red",
    Phase.EXHAUSTED: "yellow",
    Phase.CANCELLED: "yellow",
    Phase.PAUSED: "yellow",
}
_ENTRY_STYLE: Final = {
    "kept": "green",
    "admitted": "green",
    "rolled-back": "bold yellow",
    "refused": "bold red",
    "lost": "yellow",
    "test-set": "bold yellow",
    "model-gone": "bold yellow",
    "holder-dropped": "yellow",
    "site-barred": "yellow",
    "phase": "bold",
}


def targets_table(targets: Sequence[TargetState], title: str = "") -> Table:
    """Each target: wanted, reached, interval, met (the estimate reaches it), sure (its bound does), untrained."""
    table = Table(title=title or None, title_justify="left")
    table.add_column("target", no_wrap=True)
    for heading in ("wanted", "reached", "interval", "met", "sure", "untrained"):
        table.add_column(heading, justify="right" if heading in ("wanted", "reached", "untrained") else "left")
    for one in targets:
        known = one.low is not None and one.high is not None
        table.add_row(
            escape(one.name),
            one.wanted,
            _number(one.reached),
            f"{_number(one.low)} – {_number(one.high)}" if known else "",
            _yes_no(one.met),
            _yes_no(one.sure),
            _number(one.untrained),
        )
    return table


def verdict(found: Verdict | None, reason: str = "") -> RenderableType:
    """What the network says of a request: every condition, failed ones first, what it would cost, what it offers."""
    if found is None:
        return Text(f"not assessed{': ' + reason if reason else ' yet'}")
    chances = "" if found.outcome == "refused" else wording.probability(found)
    table = Table()
    for heading in ("", "condition", "about", "required", "found"):
        table.add_column(heading)
    for one in sorted(found.conditions, key=lambda condition: condition.met):
        mark = Text("holds", "green") if one.met else Text("FAILS", "bold red")
        table.add_row(mark, one.code.value, escape(one.what), escape(one.required), escape(one.available))
    pieces: list[RenderableType] = [Text(f"{found.outcome}{chances}", "bold"), table]
    if found.expected is not None and found.outcome != "refused":
        cost = found.expected
        pieces.append(
            Text(
                f"expected: {cost.visits} visits, {show_seconds(cost.seconds)} (at least "
                f"{show_seconds(cost.seconds_low)}), {show_bytes(cost.transfer_bytes)} moved"
            )
        )
    pieces += [Text(f"not used: {one.dataset}: {one.why}", "dim") for one in found.excluded]
    if found.outcome == "refused":
        pieces.append(counter_offer(found.counter_offer))
    if found.advice is not None:
        tried = [Text(f"other model: {wording.tried_variant(one)}", "dim") for one in found.advice.tried]
        pieces += [*tried, Text(f"Advice: {wording.advice(found.advice)}.", "bold")]
    return Group(*pieces)


def counter_offer(offer: CounterOffer | None) -> RenderableType:
    """The nearest request that would be admitted, by its differences."""
    if offer is None:
        return Text("There is no nearby request that would be admitted now.", "yellow")
    table = Table()
    for heading in ("what", "asked", "offered", "because of"):
        table.add_column(heading)
    for change in offer.changes:
        table.add_row(escape(change.what), escape(change.asked), escape(change.offered), change.because.value)
    return Group(Text("Counter-offer, which would be admitted now:", "bold"), table)


def submission(done: Submission) -> RenderableType:
    """A submitted job with its verdict, and the job that took its counter-offer or asked the catalogue."""
    pieces = [_headline(done.status), verdict(done.status.verdict, done.status.reason)]
    for said, one in (("The counter-offer was taken:", done.taken), ("The catalogue was asked:", done.advised)):
        if one is not None:
            pieces += [Text(), Text(said), _headline(one), verdict(one.verdict, one.reason)]
    if done.unasked:
        pieces += [Text(f"The catalogue was not asked: {done.unasked}", "dim")]
    return Group(*pieces)


def job_view(status: JobStatus, recent: Sequence[LogEntry]) -> RenderableType:
    """One job: phase, targets, where its model is and why there, and the latest decisions."""
    moved = f"{show_bytes(status.transfer_bytes)} moved" if status.transfer_bytes else "nothing moved yet"
    moved += f", {status.price:.4g} charged" if status.price else ""
    moved += f", {status.energy_joules:.4g} J drawn" if status.energy_joules else ""
    counts = (
        f"{status.visits} visits, {status.verifications} verifications, {status.rolled_back} rolled back, "
        f"{status.lost} lost, {moved}"
    )
    pieces: list[RenderableType] = [_headline(status), Text(counts)]
    for refusal in status.refusals:
        pieces += [verdict(refusal), Text("This counter-offer was taken, as its owner had said.", "bold")]
    if status.phase is Phase.REFUSED:
        pieces.append(verdict(status.verdict, status.reason))
    else:
        pieces.append(targets_table(status.targets))
    if status.now:
        pieces.append(visits_table(status.now))
    pieces += [log_line(entry) for entry in recent]
    return Group(*pieces)


def visits_table(visits: Sequence[Whereabouts]) -> Table:
    """Where each model is: what is done there, how far it is, and why there."""
    table = Table(title="under way", title_justify="left")
    for heading in ("visit", "what", "at", "data", "stage", "done", "loss", "why"):
        table.add_column(heading, overflow="fold")
    for one in visits:
        done = f"{one.done}/{one.of}" if one.of else ""
        table.add_row(
            one.visit.rpartition("/")[2],
            one.kind,
            escape(one.node_name),
            escape(one.dataset),
            one.phase,
            done,
            "" if one.loss is None else f"{one.loss:.4g}",
            escape(one.why),
        )
    return table


def jobs_table(jobs: Sequence[JobStatus]) -> Table:
    """Several jobs, one per line."""
    table = Table()
    for heading in ("job", "phase", "age", "visits", "targets", "reason"):
        table.add_column(heading, overflow="fold")
    for one in jobs:
        reached = ", ".join(
            f"{target.name} {_number(target.reached) or '?'} ({target.wanted})" for target in one.targets
        )
        table.add_row(
            one.job,
            Text(one.phase.value, _PHASE_STYLE.get(one.phase, "")),
            show_seconds(max(0.0, time.time() - one.submitted_unix_s)),
            str(one.visits),
            escape(reached),
            escape(one.reason),
        )
    return table


def log_line(entry: LogEntry) -> Text:
    """One log entry on one line."""
    clock = time.strftime("%H:%M:%S", time.localtime(entry.unix_s))
    line = Text(f"{entry.number:>4}  {clock}  {entry.kind:<12} ", style="dim")
    line.append(entry.text, _ENTRY_STYLE.get(entry.kind, "not dim"))
    return line


def proofs_table(checks: Sequence[ProofCheck]) -> Table:
    """Whether each visit's signature holds."""
    table = Table(title="proofs", title_justify="left")
    for heading in ("entry", "visit", "node", "holds", "why"):
        table.add_column(heading)
    for one in checks:
        holds = "unknown" if one.holds is None else _yes_no(one.holds)
        table.add_row(str(one.entry), one.visit, one.node, holds, escape(one.why))
    return table


def map_table(nodes: Sequence[NodeOnMap]) -> Table:
    """The nodes of a domain, with their data sets and what they can compute with."""
    table = Table()
    for heading in ("node", "name", "operator", "roles", "here", "heard", "trust", "data", "compute", "now"):
        table.add_column(heading, overflow="fold")
    for one in nodes:
        described = one.descriptor
        data = "; ".join(f"{each.dataset} ≈ {each.records:.0f} records" for each in described.data)
        compute = described.compute
        table.add_row(
            described.node,
            escape(described.name),
            escape(described.operator),
            ", ".join(described.roles),
            _yes_no(one.reachable),
            f"{show_seconds(one.age_s)} ago",
            f"{one.trust:.2f}",
            escape(data),
            "" if compute is None else f"{compute.slots} × {compute.cores} cores, {show_bytes(compute.memory_bytes)}",
            fast_facts(one),
        )
    return table


def fast_facts(one: NodeOnMap) -> str:
    """What changes fast about a node, with its age: `1 of 2 slots free, 35 % busy, 2.1 s ago`."""
    held = {fact.name: fact for fact in one.facts}
    said: list[str] = []
    if "free_slots" in held and "busy_slots" in held:
        free, busy = float(held["free_slots"].value), float(held["busy_slots"].value)
        said.append(f"{free:.0f} of {free + busy:.0f} slots free")
    if "load_frac" in held:
        said.append(f"{float(held['load_frac'].value):.0%} busy")
    if "round_trip_s" in held:
        said.append(f"{1000 * float(held['round_trip_s'].value):.1f} ms away")
    if "bytes_per_s" in held:
        said.append(f"{show_bytes(float(held['bytes_per_s'].value))}/s")
    if (load := held.get("load_frac")) is not None:
        said.append(f"{show_seconds(load.age_s)} ago{', not confirmed since the centre began' if load.stale else ''}")
    return ", ".join(said)


def trust_table(nodes: Sequence[NodeOnMap]) -> Table:
    """Why each node is trusted as far as it is: the latest changes of its score."""
    table = Table(title="trust", title_justify="left")
    for heading in ("when", "name", "what was seen", "score", "why"):
        table.add_column(heading, overflow="fold")
    for one in nodes:
        for change in one.trust_changes:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.at_unix_s))
            score = f"{change.before:.2f} → {change.after:.2f}"
            table.add_row(when, escape(one.descriptor.name), change.kind.value, score, escape(change.why))
    return table


def tokens_table(tokens: Sequence[TokenNamed]) -> Table:
    """Owners' tokens, without their secrets."""
    table = Table()
    for heading in ("id", "owner", "scopes", "made", "valid until", "revoked"):
        table.add_column(heading)
    for one in tokens:
        revoked = "" if one.revoked_unix_s is None else _day(one.revoked_unix_s)
        made, until = _day(one.created_unix_s), _day(one.expires_unix_s)
        table.add_row(one.id, escape(one.owner), ", ".join(one.scopes), made, until, revoked)
    return table


def keys_table(keys: Sequence[TokenNamed]) -> Table:
    """Keys that may ask models, with what each may ask; "-": no bound of its own."""
    table = Table()
    for heading in (
        "id",
        "owner",
        "models",
        "priority",
        "weight",
        "queries/min",
        "tokens/min",
        "tokens/day",
        "revoked",
    ):
        table.add_column(heading)
    for one in keys:
        terms = one.terms
        quotas = (terms.queries_per_minute, terms.tokens_per_minute, terms.tokens_per_day)
        shown = ("-" if quota is None else str(quota) for quota in quotas)
        revoked = "" if one.revoked_unix_s is None else _day(one.revoked_unix_s)
        models = ", ".join(terms.models) or "all"
        table.add_row(
            one.id, escape(one.owner), escape(models), terms.priority.value, f"{terms.weight:g}", *shown, revoked
        )
    return table


def predictions_table(predictions: Sequence[Prediction], found: Summary) -> RenderableType:
    """The first predictions, and all of them counted."""
    table = Table()
    for heading in ("row", "label", "probability", "value", "in the file", "fault"):
        table.add_column(heading)
    for one in predictions[:PREDICTIONS_SHOWN]:
        vector = f"[{len(one.vector)} numbers]" if one.vector else ""
        table.add_row(
            str(one.row),
            escape(one.label),
            "" if one.probability is None else f"{one.probability:.4f}",
            vector if one.value is None else f"{one.value:.6g}",
            escape(one.truth),
            escape(one.fault),
        )
    pieces: list[RenderableType] = [table]
    if found.rows > PREDICTIONS_SHOWN:
        pieces.append(Text(f"… and {found.rows - PREDICTIONS_SHOWN} more rows (--out writes all)", "dim"))
    counts = ", ".join(f"{label} {count}" for label, count in sorted(found.labels.items()))
    pieces.append(Text(f"{found.rows} rows, {found.faults} without an answer{': ' + counts if counts else ''}"))
    if found.with_truth:
        share = found.right / found.with_truth
        pieces.append(Text(f"{found.right} of {found.with_truth} agree with the label in the file ({share:.1%})"))
    return Group(*pieces)


def _headline(status: JobStatus) -> Text:
    line = Text(f"{status.job}  ", "bold")
    line.append(status.phase.value, _PHASE_STYLE.get(status.phase, "bold"))
    if status.reason and status.phase is not Phase.REFUSED:
        line.append(f": {status.reason}", "not bold")
    end = status.ended_unix_s if status.phase in FINAL_PHASES and status.ended_unix_s else time.time()
    line.append(f"  ({wording.duration(max(0.0, end - status.submitted_unix_s))})", "dim")
    return line


def _number(value: float | None) -> str:
    return "" if value is None else wording.number(value)


def _yes_no(value: bool) -> Text:
    return Text("yes", "green") if value else Text("no", "red")


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))

"""Metrics: every counter there is, declared once with its unit, its label and what a rise means.

Everyone counts and only `oam` collects. A part counts into a `Counters` of its own, by the names declared here: a name
or a label that is not declared is our bug, so the number of series a process can have is known beforehand (`SERIES`),
whatever peers and users send. Labels are closed sets of words; ids, names of owners and texts are never labels, they
belong into the log. Counters begin at zero with their process; facts that must outlive it are in journals.

What it does not do: gauges and histograms, which nothing needs yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec

from daitn.base.errors import BugError

BLAMES: Final = ("input", "peer", "unavailable", "no-room", "not-held", "policy", "bug", "unfit", "partner")
"""Who must act: the kinds of `base.errors`, and `partner`: another member of a visit's group."""

UNFIT: Final = ("manifest", "foreign", "shape", "oversized", "weights", "signer", "not-finite")
"""What can be wrong with a model that a site hands on (`descriptors.origin.UnfitFault`)."""


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One counter. `rise`: what it means that it grows, and what to look at; `label` names what `values` tell apart."""

    name: str
    rise: str
    unit: str = "1"
    label: str = ""
    values: tuple[str, ...] = ("",)


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """One series of a metric: how often, since its process began."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    value: Annotated[str, msgspec.Meta(max_length=32)] = ""
    """The label's value; empty where the metric has no label."""
    count: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


def _plain(**rises: str) -> tuple[Metric, ...]:
    return tuple(Metric(name=name, rise=rise) for name, rise in rises.items())


_MESSAGES: Final = _plain(
    messages_undecodable="a member sends what is no message: another version, or a broken or hostile node; see the log",
    messages_for_another_role="a member sends messages that this node has no role for: wrong configuration, or hostile",
    messages_not_from_center="a member other than the control centre gives orders: nothing was done; look at that node",
    messages_not_sent="receivers are not there or their links are cut; cores repeat what matters",
    messages_not_taken="receivers refuse our messages: versions differ, or we have a fault",
)

_TERMINAL: Final = (
    *_plain(
        orders_after_close="orders came for visits that are over here: messages are late or doubled",
        leases_lapsed="the centre was silent for a lease and its visits were dropped: look at the link",
        prepares_refused="the centre prepared a visit that policy or roles forbid: it changed, or the centre errs",
        data_sets_changed="data files changed after they were added and their visits fail: `daitn data add` again",
        data_sets_not_described="data sets on the shelf cannot be described (budget spent, damage) and are not offered",
        data_sets_refused="data sets cannot be put on this node's shelf, or read again: command or log say why",
        reports_tuned="the centre tells this node anew what to report; work, no fault, unless it goes on every minute",
        readings_refused="what measures on this node reads what is no fact, out of order, or of too many things",
        alarms_dropped="alarms are raised faster than the centre takes them: see the node's log",
        queries_answered="queries were answered by this gateway; work, no fault",
        later_taken="queries that nobody waits for were taken by this gateway; work, no fault",
        later_tried_again="queries that nobody waits for are tried again: hosts are lacking, busy or lost",
        newer_versions_passed="a new version of a model did not answer, and the old one was asked: see its provider",
        feedback_taken="clients judged answers; work, no fault",
        queries_retried="queries were asked of another host, because one did not answer or was busy: look at hosts",
        queries_waited="queries waited for their turn at this gateway: hosts are busy, more of them are wanted",
        queries_hedged="queries were late and were sent to a second host too: look at hosts that are slow or hang",
        answers_missing="hosts gave this gateway no answer, or none that can be read: look at hosts and links",
        answers_compared="queries were asked of a second host, and both answered alike; work, no fault",
        answers_unlike="two hosts answered the same query unlike each other: the centre says who is odd",
        deadlines_passed="deadlines passed while hosts worked: predictions are off, or hosts are slower",
        hosts_ejected="hosts lost queries in a row, or are far slower than they were, and are left out for a while",
        models_not_hosted="models are ordered that this host's policy or memory forbids: they changed, or we err",
        replicas_failed="models could not be loaded, or their engines died again and again: see `daitn models`",
        certificates_not_renewed="the certificate could not be renewed: at its end the node is cut off",
        updates_left_out="sites' updates cannot be averaged (not finite, other tensors): see the job's log",
        updates_clipped="updates are longer than a job lets them be, and are made as short before they are masked",
        privacy_refused="visits would cost a data set more privacy than its job may, or its policy allows in a period",
        grants_refused="somebody asked for an artifact without a grant that covers it: look at who, in the log",
    ),
    Metric(
        name="visits_refused",
        rise="orders are refused before anything is fetched, because of a rule of policy, a missing role or no room",
        label="by",
        values=("policy", "role", "busy"),
    ),
    Metric(
        name="routes_refused",
        rise="orders are no segment of a route that the centre signed for this node: look at the router; `old` is none "
        "to worry about, messages overtake one another",
        label="why",
        values=("unsigned", "not-in-it", "old"),
    ),
    Metric(
        name="models_unfit",
        rise="models arrive that cannot be used, made elsewhere: see the job's log for who made them",
        label="fault",
        values=UNFIT,
    ),
    Metric(
        name="queries_refused",
        rise="queries get no answer at this host: `busy` more hosts are wanted, `lost` look at its engines",
        label="why",
        values=("not-a-gateway", "input", "busy", "late", "not-served", "lost"),
    ),
    *_plain(
        answers_stopped="clients leave before their answers are whole: answers are slower than they like, or too long",
        answers_resumed="answers were taken up by another host after theirs was lost: look at the hosts",
    ),
    Metric(
        name="pipelines_asked",
        rise="combined models were asked; `refused`: a step had no answer, see `queries_not_answered`",
        label="how",
        values=("answered", "refused"),
    ),
    Metric(
        name="queries_not_answered",
        rise="queries leave this gateway without an answer: `late`, `busy`: more hosts are wanted; `lost`: look there",
        label="why",
        values=("unknown-model", "input", "quality", "region", "zone", "price", "no-host", "late", "busy", "lost"),
    ),
    Metric(
        name="later_refused",
        rise="queries that nobody would wait for are not taken: `destination` clients name addresses that may not be "
        "posted to, `full` they do not fetch what is kept, `again` they use one Idempotency-Key for two queries",
        label="why",
        values=("destination", "full", "again"),
    ),
    Metric(
        name="answers_handed",
        rise="other gateways hand answers over; `refused`: no room is left here, `broken`: they did not come whole, "
        "`not-a-gateway`: a node that this one was not told of tries to",
        label="how",
        values=("taken", "refused", "broken", "not-a-gateway"),
    ),
    Metric(
        name="later_posted",
        rise="answers are posted to webhooks, or handed to other gateways; `again`: receivers do not take them, "
        "`given-up`: they never did",
        label="how",
        values=("done", "again", "given-up"),
    ),
    Metric(
        name="host_keys_not_proven",
        rise="a host tells a key for secret queries that its certificate does not prove: a clock, or somebody between",
    ),
    Metric(
        name="door_refused",
        rise="requests are refused at the gateway's door, before any host hears of them",
        label="why",
        values=("key", "rate", "model", "quota", "input", "too-large", "path", "unload", "feedback", "combined"),
    ),
    Metric(name="visits_failed", rise="visits taken here end without a result", label="blame", values=BLAMES),
    Metric(
        name="runs_failed",
        rise="sandboxed runs end without a result; the log and the job's log say why",
        label="reason",
        values=(
            *("input", "not-finite", "memory", "cpu-time", "wall-time", "cancelled", "killed", "crashed", "garbage"),
            *("unavailable", "bug", "partner"),
        ),
    ),
)

_CENTER: Final = (
    *_plain(
        descriptions_forged="a node claims what its enrolment does not bear out; `daitn map` goes on without the claim",
        questions_refused="a node that is not among the askers asks the map: configure it in the domain, or look at it",
        descriptions_after_leaving="nodes that left go on describing themselves: they were not stopped",
        progress_fenced="sites work on visits that were given up: links are slow or sites were stopped for long",
        results_fenced="results came of visits that were given up; they were not accepted and the work is lost",
        views_told="what jobs are planned on moves while they run: their routes were planned on again",
        submissions_repeated="owners repeat submissions; each is one job all the same",
        models_refused="models cannot be served as their providers want; each was told all that failed",
        jobs_refused="jobs cannot be done under their conditions; each owner was told all that failed",
        hosts_odd="hosts answered otherwise than others and serve a model no more: see alarms and their trust",
        models_rolled_back="models got worse by a visit and were put back: look at that site's data",
        doubts_refuted="sites refused models that the verification unit could use: broken or hostile, see their trust",
        units_compared="a second verification unit measured what a first one had measured; work, no fault",
        units_disagreed="two verification units differ on the same model and records: one is wrong, see the alarms",
        data_sets_set_aside="jobs gained nothing and try without some of their data sets: one may spoil models",
        data_sets_barred="data sets are not asked again by a job, for policy or repeated harm",
    ),
    *_plain(
        offers_unlike="two hosts offer different models under one name: the one with fewer hosts is not asked",
        nodes_silent="nodes were silent for so long that they count as failed: stopped, cut off, or too busy to speak",
        facts_taken="records of facts were taken into the map; work, no fault",
        map_snapshots_damaged="snapshots of the map were cut off or changed: the one before was used; look at the disk",
        map_snapshots_newer="snapshots of the map are of a newer version and were not used: which version is started?",
        map_journals_damaged="journals of the map were cut off (a crash) or changed (the disk): the rest was asked for",
        map_entries_lost="the map's journal could not be written: the disk is full",
        map_snapshots_not_written="a snapshot of the map could not be written: the disk is full or fails",
        facts_messages_lost="reports of facts did not arrive: links or this centre are congested; all is asked again",
    ),
    Metric(
        name="facts_refused",
        rise="reports of facts are refused: which node and why is in its alarm (`daitn alarms`)",
        label="why",
        values=(
            *("unknown", "forged", "flood", "not-a-number", "negative", "out-of-range", "replayed", "undecodable"),
            "newer-version",
        ),
    ),
    Metric(
        name="facts_marked",
        rise="reports of facts are taken with a change: clocks that are wrong, claims above what was measured",
        label="why",
        values=("clock-skew", "claim-bounded"),
    ),
    Metric(
        name="replicas_lost",
        rise="models are taken from hosts that were lost or could not serve them, and placed elsewhere",
        label="why",
        values=("host", "failed"),
    ),
    Metric(
        name="results_refused",
        rise="a site's result is not an answer to its order: a broken or hostile node",
        label="why",
        values=("other-work", "other-kind", "signature", "stale", "foreign", "unchanged"),
    ),
    Metric(
        name="makers_refuted",
        rise="sites handed on models that a verification unit cannot use: broken or hostile, see `daitn map --trust`",
        label="fault",
        values=UNFIT,
    ),
    Metric(
        name="visits_lost",
        rise="visits are not waited for any more; jobs go on elsewhere",
        label="blame",
        values=(*BLAMES, "over", "slow"),
    ),
)

_OWNERS: Final = (
    Metric(
        name="tokens_refused",
        rise="callers show no token that is good: mistyped, out of date, or somebody tries",
        label="why",
        values=("none", "malformed", "other-domain", "unknown", "expired", "revoked"),
    ),
    Metric(
        name="requests_refused",
        rise="requests of owners are answered with an error; 429: one asks too often, 5xx: look at the centre's log",
        label="status",
        values=("400", "401", "403", "404", "405", "409", "413", "429", "500", "503", "other"),
    ),
    Metric(
        name="packages_refused",
        rise="packages do not pass their checks: damaged, unsigned, made by another version, or made to harm",
        label="why",
        values=("chunk", "manifest", "signature", "incomplete", "contract", "graph", "not-finite", "variant"),
    ),
    Metric(
        name="enrolments",
        rise="nodes ask to join or to renew; all but enrolled and renewed were refused, for that reason",
        label="outcome",
        values=(
            *("enrolled", "renewed", "malformed", "failed"),
            *("unknown", "used", "expired", "role", "name", "full", "left", "burned", "key"),
        ),
    ),
)

_FABRIC: Final = _plain(
    fabric_calls_timed_out="peers do not answer in time",
    fabric_calls_unserved="peers that were called are not there, or do not serve that plane",
    fabric_calls_busy="peers have full inboxes and are asked again",
    fabric_inbox_refused="this node's inbox was full and senders were told so",
    fabric_inbox_malformed="calls came that are not of the fabric's form: a member of another version, or hostile",
    fabric_handlers_failed="a peer's call failed here; the log says why",
    fabric_telemetry_dropped="telemetry comes faster than it is read",
    fabric_chunks_served="chunks were given to others; work, no fault",
    fabric_chunks_refused="chunks were asked for without a grant, or are not here",
    fabric_reports_dropped="reports of facts came faster than they were taken; the next sync mends what was lost",
    fabric_reports_cut="a node reports more than its share, and the rest is cut before it is read: see the alarms",
    fabric_chunks_direct="chunks came over direct links; work, no fault",
    fabric_chunks_routed="chunks came through the router; work, no fault",
    fabric_chunks_wrong="a holder sent bytes of another digest: its disk is damaged, or it is hostile",
    fabric_direct_failed="direct links cannot be made and the router carries instead",
    fabric_direct_refused="somebody without a good certificate of this domain tried the direct port",
    fabric_streams_refused="streams are refused: too many, or nobody accepts them",
    fabric_link_losses="the link to the router broke: network, router, or a certificate that ran out",
)

_ROUTER: Final = (
    Metric(
        name="links_refused",
        rise="links to the router fail in TLS: the certificate is wrong, ran out or is missing; `other`: it was no TLS",
        label="why",
        values=("wrong", "expired", "none", "other"),
    ),
)

_STORE: Final = _plain(
    store_evicted="artifacts were dropped to make room",
    store_evicted_partial="half-received artifacts were dropped to make room",
    store_dropped_at_opening="artifacts were not whole when the store was opened: a crash or power cut",
    store_orphans_removed="files without an entry were removed when the store was opened: a crash",
    store_verified_at_opening="artifacts were read again after a power cut",
    store_corrupt="an artifact's bytes changed on the disk: look at the disk",
)

_TOOLS: Final = _plain(
    tools_probes_lost="probes of other nodes are not answered: links lose messages, or nodes are busy",
    tools_probes_not_answered="this node is probed more often than it answers: a member floods it, look at which",
    tools_answers_unasked="probes are answered that were never sent, were given up, or came twice: slow links, or lies",
    tools_reports_dropped="reports of links and places are old, doubled, or of a node that left: no fault if it stops",
    tools_gathered_refused="a node that does not manage the services sends gathered facts: look at that node",
    tools_orders_refused="a node that does not manage the services gave orders: late by a moment, or hostile",
)

METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric for metric in (*_MESSAGES, *_TERMINAL, *_CENTER, *_OWNERS, *_FABRIC, *_ROUTER, *_STORE, *_TOOLS)
}
"""All there are, by name."""

SERIES: Final = sum(len(metric.values) for metric in METRICS.values())
"""Most series one process can have."""


def is_declared(name: str, value: str) -> bool:
    """Whether a series of that name and label exists."""
    metric = METRICS.get(name)
    return metric is not None and value in metric.values


class Counters:
    """Counts of one part of a process. Thread-safe; counting takes half a microsecond."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def count(self, name: str, value: str = "", by: int = 1) -> None:
        """Count `by` more; BugError for a series that is not declared."""
        if not is_declared(name, value):
            raise BugError(f"counter {name}[{value}] is not declared", todo="declare it in base.metrics")
        with self._lock:
            self._counts[name, value] = self._counts.get((name, value), 0) + by

    def of(self, name: str, value: str | None = None) -> int:
        """How often; without a label's value, of all of them together."""
        with self._lock:
            return sum(count for key, count in self._counts.items() if key[0] == name and value in (None, key[1]))

    def snapshot(self) -> tuple[Count, ...]:
        """All that is not zero."""
        with self._lock:
            counts = dict(self._counts)
        return tuple(Count(name=name, value=value, count=count) for (name, value), count in counts.items())

    def shown(self) -> dict[str, int]:
        """All that is not zero, as `name` or `name[value]`."""
        return shown(self.snapshot())


def shown(counts: Iterable[Count]) -> dict[str, int]:
    """Counts by the name people read: `name`, or `name[value]`."""
    return {f"{one.name}[{one.value}]" if one.value else one.name: one.count for one in counts}

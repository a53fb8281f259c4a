"""`report.json`: the figures of the demonstration for programs, made from a recording alone."""

from __future__ import annotations

from typing import Any

import msgspec

from daitn.demo.recording import Baseline, Compared, Recording, Refusal, hops, local_batches
from daitn.oam import wording


def report(recording: Recording) -> dict[str, Any]:
    """The document. Promised are `targets`, `baselines`, `hops`, `bytes`, `seconds`, `refused`; the rest explains."""
    statuses = [one.job.status for one in recording.jobs]
    return {
        "targets": [target for one in recording.jobs for target in _targets(one)],
        "baselines": {one.job.key: {each.name: _baseline(each) for each in one.baselines} for one in recording.jobs},
        "hops": sum(status.visits for status in statuses),
        "bytes": sum(status.transfer_bytes for status in statuses),
        "seconds": round(recording.seconds, 3),
        "refused": [_refused(one) for one in recording.refusals],
        "jobs": {one.job.key: _job(one, recording.names) for one in recording.jobs},
        "processes": {"started": recording.processes, "left": recording.left},
        "predicted": recording.predicted,
        "served": None if recording.served is None else msgspec.to_builtins(recording.served),
        "version": recording.version,
    }


def encode_report(recording: Recording) -> bytes:
    """The document as indented JSON."""
    return bytes(msgspec.json.format(msgspec.json.encode(report(recording)), indent=2)) + b"\n"


def _targets(compared: Compared) -> list[dict[str, Any]]:
    found = []
    for target in compared.job.status.targets:
        others = {one.name: _values(one).get(target.name) for one in compared.baselines}
        found.append({"job": compared.job.key, **msgspec.to_builtins(target), "others": others})
    return found


def _values(baseline: Baseline) -> dict[str, float]:
    return {one.name: one.value for one in baseline.measurements}


def _baseline(one: Baseline) -> dict[str, Any]:
    return {
        "what": one.what,
        "inside_network": one.inside,
        "visits": one.visits,
        "batches": one.batches,
        "seconds": round(one.seconds, 3),
        "stopped": one.stopped,
        "measured": _values(one),
    }


def _refused(one: Refusal) -> dict[str, Any]:
    verdict = one.status.verdict
    offer = verdict.counter_offer if verdict is not None else None
    return {
        "asked": one.title,
        "reason": "; ".join(wording.condition(each) for each in verdict.failed()) if verdict else one.status.reason,
        "codes": sorted({each.code.value for each in verdict.failed()}) if verdict is not None else [],
        "counter_offer": None if offer is None else [msgspec.to_builtins(change) for change in offer.changes],
        "admitted_after": one.admitted_after_s is not None,
        "admitted_after_s": one.admitted_after_s,
    }


def _job(compared: Compared, names: dict[str, str]) -> dict[str, Any]:
    status = compared.job.status
    return {
        "title": compared.job.title,
        "owner": status.owner,
        "phase": status.phase.value,
        "reason": status.reason,
        "method": status.plan.method if status.plan is not None else "",
        "choices": [msgspec.to_builtins(choice) for choice in status.plan.choices] if status.plan is not None else [],
        "seconds": round((status.ended_unix_s or status.submitted_unix_s) - status.submitted_unix_s, 3),
        "batches": local_batches(status),
        "rolled_back": status.rolled_back,
        "lost": status.lost,
        "verifications": status.verifications,
        "route": [msgspec.to_builtins(hop) for hop in hops(compared.job, names)],
    }

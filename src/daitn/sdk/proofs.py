"""Proofs: whether the visits in a job's log were signed by the sites that are said to have made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from daitn.artifacts.signatures import verify_report
from daitn.base.errors import DaitnError
from daitn.base.ids import NodeId, VisitId
from daitn.descriptors.job import LogEntry
from daitn.oam.proofs import proof_report, read_proof, report_bytes


class ProofCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One visit's proof. `holds` is None where the site's key is not known any more."""

    entry: int
    visit: VisitId
    node: NodeId
    holds: bool | None
    why: str


def check_proofs(entries: Sequence[LogEntry], keys: Mapping[NodeId, str]) -> tuple[ProofCheck, ...]:
    """Check every proof in `entries` with the sites' public keys (hex), and that its report tells of that visit."""
    checks: list[ProofCheck] = []
    for entry in entries:
        try:
            proof = read_proof(entry)
        except DaitnError as error:
            checks.append(_check(entry, entry.visit, entry.node, False, error.what))
            continue
        if proof is None:
            continue
        key = keys.get(proof.node, "")
        if not key:
            checks.append(_check(entry, proof.visit, proof.node, None, "the site is not on the map any more"))
            continue
        try:
            proof_report(proof)
            verify_report(report_bytes(proof), proof.signature, key)
        except DaitnError as error:
            checks.append(_check(entry, proof.visit, proof.node, False, error.what))
        else:
            checks.append(_check(entry, proof.visit, proof.node, True, "signed by the site's key"))
    return tuple(checks)


def _check(entry: LogEntry, visit: VisitId | None, node: NodeId | None, holds: bool | None, why: str) -> ProofCheck:
    return ProofCheck(entry=entry.number, visit=visit or VisitId(""), node=node or NodeId(""), holds=holds, why=why)

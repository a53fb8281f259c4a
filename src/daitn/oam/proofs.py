"""Proofs: what a site signed for an accepted visit, as it stands in a job's log beside the words.

Whoever holds the site's public key checks the signature without trusting the centre; `report_bytes` gives the bytes
under it. What a proof does not show is that the site computed honestly: that is what verification is for.
"""

from __future__ import annotations

import base64

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, NodeId, VisitId
from daitn.descriptors.job import LogEntry
from daitn.wire.center_tools import VisitReport


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a site signed for one visit. `package` names graph and contract, whose digests it is made of."""

    visit: VisitId
    fence: int
    node: NodeId
    node_name: str
    package: ArtifactId
    dataset: str
    data_version: str
    models_in: tuple[ArtifactId, ...]
    model_out: ArtifactId | None
    test_set: str
    report: str
    """Base64 of the report's canonical MessagePack: the bytes under the signature."""
    signature: str


def read_proof(entry: LogEntry) -> Proof | None:
    """The proof an entry carries, if it does; InputError where it does not decode."""
    if not entry.proof:
        return None
    try:
        return msgspec.json.decode(entry.proof, type=Proof)
    except UNDECODABLE as error:
        raise InputError(f"the proof of log entry {entry.number} does not decode: {error}") from None


def proof_report(proof: Proof) -> VisitReport:
    """The report under the signature, decoded; InputError where it is not one, or not of the visit the proof names."""
    try:
        report = msgspec.msgpack.decode(report_bytes(proof), type=VisitReport)
    except UNDECODABLE as error:
        raise InputError(f"the report of visit {proof.visit} does not decode: {error}") from None
    if (report.visit, report.fence) != (proof.visit, proof.fence):
        raise InputError(f"the proof of visit {proof.visit} holds the report of visit {report.visit}")
    return report


def report_bytes(proof: Proof) -> bytes:
    """The bytes a site signed; InputError where they are not base64."""
    try:
        return base64.b64decode(proof.report, validate=True)
    except ValueError:
        raise InputError(f"the report of visit {proof.visit} is not base64") from None

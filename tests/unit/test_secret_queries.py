"""Secret queries: only the chosen host can read them, only its client the answer, and hosts' keys are proven."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import carried
from tests.unit.test_query_engine import make_model, make_route

from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, DomainId, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import QueryGoal
from daitn.node import pki
from daitn.node.enrolment import AUTHORITY_FILE, CERT_FILE, KEY_FILE
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.asking import Asking
from daitn.node.serving.host_keys import HostKeys, authority_of, verified_keys
from daitn.node.serving.quick_door import Reply
from daitn.node.serving.secret_door import SecretDoor
from daitn.serving.sealing import HostSecret, seal_query
from daitn.serving.tensors import tensor_of
from daitn.wire.queries import KeyTold, QueryAnswer, QueryCall, QueryRefused
from daitn.wire.secret_queries import KeyStatement, KeysTold, SealedPart, SecretOutcome, SecretQuery, decode_keys

MODEL, ARTIFACT = "sides", ArtifactId("a" * 64)
INPUTS = (tensor_of("x", np.array([[0.123456789, 9.87654321]], np.float64)),)
ONE, TWO = NodeId("one"), NodeId("two")


def part_of(query: SecretQuery, host: NodeId) -> SealedPart:
    return SealedPart(capsule=query.capsules[host], data=query.data)


def test_each_host_that_it_is_meant_for_reads_a_query_and_its_client_reads_the_answer() -> None:
    hosts = {ONE: HostSecret(ONE), TWO: HostSecret(TWO)}
    query, secret = seal_query(INPUTS, 1, {name: host.public for name, host in hosts.items()}, MODEL, ARTIFACT)

    sent = msgspec.msgpack.encode(query)
    assert INPUTS[0].data not in sent
    for name, host in hosts.items():
        opened = host.open(part_of(query, name), MODEL, ARTIFACT)
        assert opened.inputs == INPUTS
        answers = [opened.seal(SecretOutcome(outputs=INPUTS)) for _ in range(2)]
        assert INPUTS[0].data not in answers[0]
        assert answers[0] != answers[1], "nonces are not used twice"
        assert secret.open(answers[0]).outputs == INPUTS


def test_query_for_another_host_model_or_package_or_one_that_was_changed_is_not_opened() -> None:
    one, two = HostSecret(ONE), HostSecret(TWO)
    query, secret = seal_query(INPUTS, 1, {ONE: one.public, TWO: two.public}, MODEL, ARTIFACT)
    part, other = part_of(query, ONE), seal_query(INPUTS, 1, {ONE: one.public}, MODEL, ARTIFACT)[0]
    changed = part.data[:-1] + bytes([part.data[-1] ^ 1])

    for host, asked, model, artifact in (
        (two, part, MODEL, ARTIFACT),
        (HostSecret(ONE), part, MODEL, ARTIFACT),
        (one, part, "other", ARTIFACT),
        (one, part, MODEL, ArtifactId("b" * 64)),
        (one, SealedPart(capsule=part.capsule, data=changed), MODEL, ARTIFACT),
        (one, SealedPart(capsule=other.capsules[ONE], data=part.data), MODEL, ARTIFACT),
        (one, SealedPart(capsule=bytes(80), data=b""), MODEL, ARTIFACT),
    ):
        with pytest.raises(InputError, match="not encrypted for this host"):
            host.open(asked, model, artifact)
    stranger = one.open(part_of(other, ONE), MODEL, ARTIFACT).seal(SecretOutcome())
    for answer in (stranger, b"", bytes(40)):
        with pytest.raises(PeerError, match="was not made by a host"):
            secret.open(answer)


def host_keys(folder: Path, authority: pki.Authority, slot: str) -> HostKeys:
    request, key = pki.make_request(slot)
    folder.mkdir()
    (folder / KEY_FILE).write_bytes(key)
    (folder / CERT_FILE).write_bytes(authority.issue_node(request, NodeId(slot)))
    (folder / AUTHORITY_FILE).write_bytes(authority.certificate_pem)
    return HostKeys(HostSecret(NodeId(slot)), NodeId(slot), folder)


def test_keys_that_the_domain_s_certificates_do_not_prove_are_used_for_nothing(tmp_path: Path) -> None:
    authority = pki.create_authority(tmp_path / "ours", DomainId("ours"))
    strange = pki.create_authority(tmp_path / "strange", DomainId("ours"))
    keys = host_keys(tmp_path / "n0001", authority, "n0001")
    other = host_keys(tmp_path / "n0002", authority, "n0002").statement()
    foreign = host_keys(tmp_path / "n0003", strange, "n0003").statement()
    said = keys.statement()

    def told(*statements: KeyStatement, by: pki.Authority = authority) -> KeysTold:
        return KeysTold(artifact=ARTIFACT, authority=by.certificate_pem.decode(), statements=statements)

    assert authority_of(tmp_path / "n0001") == told().authority
    assert verified_keys(told(said, other), authority.fingerprint) == {"n0001": keys.secret.public, "n0002": other.key}
    replace = msgspec.structs.replace
    for false in (
        foreign,
        replace(said, key=other.key),
        replace(said, host=NodeId("n0002")),
        replace(said, signature=other.signature),
        replace(said, certificate=other.certificate),
        replace(foreign, certificate=said.certificate, host=said.host),
    ):
        with pytest.raises(PeerError, match="is not proven"):
            verified_keys(told(other, false), authority.fingerprint)
    with pytest.raises(PeerError, match="is not proven"):
        verified_keys(told(said), authority.fingerprint, time.time() + 2 * 24 * 3600)
    with pytest.raises(PolicyError, match="another domain"):
        verified_keys(told(foreign, by=strange), authority.fingerprint)


def test_gateway_names_no_host_whose_key_is_not_proven(tmp_path: Path) -> None:
    authority = pki.create_authority(tmp_path / "ours", DomainId("ours"))
    said = {name: host_keys(tmp_path / name, authority, name).statement() for name in ("n0001", "n0002", "n0003")}
    said["n0002"] = msgspec.structs.replace(said["n0002"], key=said["n0001"].key)
    said["n0003"] = said["n0001"]
    engine, counters = QueryRouteEngine(), Counters()
    engine.follow([make_model(*(make_route(name) for name in (*said, "silent")))], time.monotonic_ns())

    class Links:
        async def key(self, host: Holder, _: float) -> KeyTold:
            if host.node not in said:
                raise UnavailableError("nobody there")
            return KeyTold(statement=said[host.node])

    async def call(host: NodeId, asked: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        raise AssertionError("nothing is asked")

    asking, links = Asking(engine, carried(call), counters), cast(AnswerLinks, Links())
    door = SecretDoor(engine, asking, links, authority.certificate_pem.decode(), counters)
    found = asyncio.run(door.keys(MODEL, {}))
    unknown = asyncio.run(door.keys("side", {}))

    assert isinstance(found, Reply)
    assert [one.host for one in decode_keys(found.body).statements] == ["n0001"]
    assert counters.of("host_keys_not_proven") == 2
    assert isinstance(unknown, Refused)


def test_statement_is_signed_anew_when_the_certificate_was_renewed(tmp_path: Path) -> None:
    authority = pki.create_authority(tmp_path / "ours", DomainId("ours"))
    keys = host_keys(tmp_path / "n0001", authority, "n0001")
    before = keys.statement()
    assert keys.statement() is before

    request, _ = pki.make_request("n0001", (tmp_path / "n0001" / KEY_FILE).read_bytes())
    (tmp_path / "n0001" / CERT_FILE).write_bytes(authority.issue_node(request, NodeId("n0001")))
    after = keys.statement()

    assert (after.key, after.certificate != before.certificate) == (before.key, True)
    told = KeysTold(artifact=ARTIFACT, authority=authority.certificate_pem.decode(), statements=(after,))
    assert verified_keys(told, authority.fingerprint) == {"n0001": keys.secret.public}


def put(query: SecretQuery, *nodes: str, fails: str = "") -> tuple[Asked, list[tuple[NodeId, QueryCall]]]:
    engine, sent = QueryRouteEngine(), list[tuple[NodeId, QueryCall]]()
    engine.follow([make_model(*(make_route(node) for node in nodes))], time.monotonic_ns())

    async def call(host: NodeId, asked: QueryCall, timeout_s: float) -> QueryAnswer | QueryRefused:
        sent.append((host, asked))
        if host == fails:
            return QueryRefused(reason="not-served", what="another key")
        return QueryAnswer(outputs=(), sealed=b"sealed")

    asking = Asking(engine, carried(call), Counters())
    return asyncio.run(asking.ask(MODEL, (), 1, QueryGoal(), secret=query)), sent


def test_secret_query_goes_to_hosts_that_it_was_encrypted_for_and_to_no_other() -> None:
    keys = {ONE: HostSecret(ONE).public, TWO: HostSecret(TWO).public}
    query, _ = seal_query(INPUTS, 1, keys, MODEL, ARTIFACT)

    found, sent = put(query, "near", "one", "nearer", "two", fails="one")

    assert isinstance(found.outcome, QueryAnswer)
    assert found.outcome.sealed == b"sealed"
    assert {host for host, _ in sent} <= {"one", "two"}
    assert sent[-1][0] == "two"
    for host, call in sent:
        assert (call.inputs, call.sealed) == ((), part_of(query, host))
    refused, sent = put(query, "near", "nearer")
    assert isinstance(refused.outcome, Refused)
    assert (refused.outcome.reason, sent) == (QueryRefusal.LOST, [])
    assert "fetch keys again" in refused.outcome.what

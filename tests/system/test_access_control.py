"""What the router and the direct streams refuse: real mutual TLS sessions that try what they must not.

The attackers here speak to the router with raw sessions, because the fabric itself would not even try.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zenoh
from msgspec.structs import replace

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, ArtifactId, ChunkId, DomainId, GrantId, NodeId
from daitn.node import pki
from daitn.node.fabric import keys, telemetry, tls
from daitn.node.fabric.access import AccessPlan, make_access_control
from daitn.node.fabric.contract import ChunkPlace, ChunkWant, Fabric, FabricConfig, Holder, Plane, Stream
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.router import telling_name
from daitn.node.fabric.session import session_settings
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.wire.oam import decode_counted

T = TypeVar("T")
ALICE, BOB, EVE = NodeId("n0001"), NodeId("n0002"), NodeId("n0003")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackDomain]:
    with LoopbackDomain(tmp_path_factory.mktemp("domain")) as domain:
        yield domain


def run(test: Callable[[], Coroutine[None, None, T]]) -> T:
    async def guarded() -> T:
        async with asyncio.timeout(40):
            return await test()

    return asyncio.run(guarded())


def raw_session(config: FabricConfig, **changes: Any) -> zenoh.Session:
    settings = session_settings(replace(config, open_timeout_s=1.0))
    settings["transport"]["link"]["tls"] |= changes
    return zenoh.open(zenoh.Config.from_json5(json.dumps(settings)))


def ask(session: zenoh.Session, key: str, timeout_s: float = 1.0) -> list[bytes]:
    replies = session.get(key, zenoh.handlers.FifoChannel(16), target=zenoh.QueryTarget.ALL, timeout=timeout_s)
    return [reply.ok.payload.to_bytes() for reply in replies if reply.ok is not None]


class Recorder:
    """A handler that remembers who it was asked by."""

    def __init__(self) -> None:
        self.senders: list[NodeId] = []

    async def __call__(self, sender: NodeId, payload: bytes) -> bytes:
        self.senders.append(sender)
        return b"bob:" + payload


def attacked(
    domain: LoopbackDomain, attack: Callable[[zenoh.Session, Fabric, Fabric, Recorder], Coroutine[None, None, None]]
) -> None:
    """Alice and Bob at work on all planes, Eve with a raw session of her own slot."""

    async def test() -> None:
        recorder = Recorder()
        async with open_fabric(domain.node(ALICE)) as alice, open_fabric(domain.node(BOB)) as bob:
            for plane in Plane:
                await bob.serve(recorder, plane=plane)
            with await asyncio.to_thread(raw_session, domain.node(EVE)) as eve:
                await attack(eve, alice, bob, recorder)

    run(test)


# --- who gets in -----------------------------------------------------------------------------------------------------


def test_certificate_of_another_authority_is_not_let_in(domain: LoopbackDomain, tmp_path: Path) -> None:
    stranger = pki.create_authority(tmp_path / "other", domain.domain)
    csr, key = pki.make_request(ALICE)
    pki.write_private(tmp_path / "s.key", key)
    pki.write_public(tmp_path / "s.crt", stranger.issue_node(csr, ALICE))
    config = replace(domain.node(ALICE), certificate=tmp_path / "s.crt", key=tmp_path / "s.key", open_timeout_s=1.0)

    async def test() -> None:
        async with open_fabric(config):
            pass

    with pytest.raises(UnavailableError, match="authority"):
        run(test)


def test_certificate_that_ran_out_is_not_let_in(domain: LoopbackDomain) -> None:
    config = domain.node(ALICE, hours=1e-9)

    async def test() -> None:
        async with open_fabric(config):
            pass

    with pytest.raises(UnavailableError, match="run out"):
        run(test)
    with pytest.raises(zenoh.ZError):
        raw_session(config)


def test_nobody_without_certificate_is_let_in(domain: LoopbackDomain) -> None:
    with pytest.raises(zenoh.ZError):
        raw_session(domain.node(ALICE), enable_mtls=False, connect_certificate=None, connect_private_key=None)


def test_router_counts_the_links_that_it_refuses_by_reason(domain: LoopbackDomain, tmp_path: Path) -> None:
    """Wrong, run out, none shown, and who speaks no TLS; told to whoever collects counters."""
    stranger = pki.create_authority(tmp_path / "other", domain.domain)
    csr, key = pki.make_request(ALICE)
    pki.write_private(tmp_path / "s.key", key)
    pki.write_public(tmp_path / "s.crt", stranger.issue_node(csr, ALICE))
    expired = domain.node(BOB, hours=1e-9)
    tried = [(tmp_path / "s.crt", tmp_path / "s.key"), (expired.certificate, expired.key), None]

    def knock(shown: tuple[Path, Path] | None) -> None:
        context = ssl.create_default_context(cafile=str(domain.authority_file))
        if shown is not None:
            context.load_cert_chain(*shown)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", domain.router.port), 5) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as link,
        ):
            link.recv(1)

    async def test() -> None:
        async with open_fabric(domain.node(CENTER)) as center:
            values = center.subscribe_latest()
            for shown in tried:
                await asyncio.to_thread(knock, shown)
            with socket.create_connection(("127.0.0.1", domain.router.port)) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            async for sender, topic, payload in values:
                counted = {one.value for one in decode_counted(payload).counts if one.name == "links_refused"}
                assert (sender, topic) == (telling_name("127.0.0.1", domain.router.port), "counters")
                if counted == {"wrong", "expired", "none", "other"}:
                    break
            await values.aclose()  # type: ignore[attr-defined]

    run(test)


def test_router_of_another_authority_is_not_trusted(domain: LoopbackDomain, tmp_path: Path) -> None:
    stranger = pki.create_authority(tmp_path / "other", domain.domain)
    (tmp_path / "ca.crt").write_bytes(stranger.certificate_pem)

    with pytest.raises(zenoh.ZError):
        raw_session(replace(domain.node(ALICE), authority=tmp_path / "ca.crt"))


def test_node_certificate_does_not_make_a_router(domain: LoopbackDomain) -> None:
    """A member's certificate carries no address, so it cannot stand in for the router it connects to."""
    node = domain.node(ALICE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(node.certificate, node.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pretend() -> None:
            try:
                while True:
                    raw, _ = listener.accept()
                    context.wrap_socket(raw, server_side=True).close()
            except OSError:
                return

        thread = threading.Thread(target=pretend)
        thread.start()
        try:
            client = ssl.create_default_context(cafile=str(node.authority))
            with (
                socket.create_connection(listener.getsockname()) as raw,
                pytest.raises(ssl.SSLCertVerificationError),
            ):
                client.wrap_socket(raw, server_hostname="127.0.0.1")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_link_ends_with_its_certificate_and_returns_with_a_fresh_one(domain: LoopbackDomain) -> None:
    config = domain.node(ALICE, hours=5 / 3600)
    csr, _ = pki.make_request(ALICE, config.key.read_bytes())
    fresh = domain.authority.issue_node(csr, ALICE, lifetime_hours=1)

    async def test() -> None:
        async with open_fabric(config) as alice:
            pki.write_public(config.certificate, fresh)
            seen: list[bool] = []
            async for up in alice.links():
                seen.append(up)
                if seen == [True, False, True]:
                    break

    run(test)


# --- under whose name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", keys.LANES)
@pytest.mark.parametrize("pretended", [CENTER, ALICE, NodeId("*"), NodeId("**")])
def test_message_under_another_name_is_not_delivered(domain: LoopbackDomain, lane: str, pretended: NodeId) -> None:
    async def attack(eve: zenoh.Session, _alice: Fabric, _bob: Fabric, recorder: Recorder) -> None:
        key = keys.message(domain.domain, lane, BOB, pretended)
        assert await asyncio.to_thread(ask, eve, key) == []
        assert recorder.senders == []

    attacked(domain, attack)


@pytest.mark.parametrize("key", ["**", "daitn/**", "daitn/loopback/cp/**", "daitn/loopback/cp/to/n0002/**"])
def test_question_to_everyone_is_not_delivered(domain: LoopbackDomain, key: str) -> None:
    async def attack(eve: zenoh.Session, _alice: Fabric, _bob: Fabric, recorder: Recorder) -> None:
        assert await asyncio.to_thread(ask, eve, key) == []
        assert recorder.senders == []

    attacked(domain, attack)


def test_own_message_is_delivered_under_the_own_name(domain: LoopbackDomain) -> None:
    async def attack(eve: zenoh.Session, _alice: Fabric, _bob: Fabric, recorder: Recorder) -> None:
        key = keys.message(domain.domain, Plane.CP, BOB, EVE)
        assert await asyncio.to_thread(ask, eve, key) == [b"bob:"]
        assert recorder.senders == [EVE]

    attacked(domain, attack)


def test_impostor_with_another_slots_certificate_reaches_nobody(domain: LoopbackDomain) -> None:
    async def test() -> None:
        recorder = Recorder()
        async with (
            open_fabric(domain.node(CENTER)) as center,
            open_fabric(domain.node(ALICE)) as alice,
            open_fabric(domain.node(BOB, proves=EVE)) as impostor,
        ):
            await impostor.serve(recorder)
            with pytest.raises(UnavailableError):
                await alice.call(BOB, b"", timeout_s=1)
            with pytest.raises(UnavailableError):
                await impostor.call(ALICE, b"", timeout_s=1)
            changes = center.presence()
            present = set()
            async for node, _ in changes:
                present.add(node)
                if {CENTER, ALICE} <= present:
                    break
            assert BOB not in present
            await changes.aclose()  # type: ignore[attr-defined]
        assert recorder.senders == []

    run(test)


def test_slot_that_the_router_does_not_know_may_nothing(domain: LoopbackDomain) -> None:
    async def test() -> None:
        beyond = NodeId("n0099")
        recorder = Recorder()
        async with open_fabric(domain.node(ALICE)) as alice, open_fabric(domain.node(beyond)) as stranger:
            await alice.serve(recorder)
            await stranger.serve(recorder)
            with pytest.raises(UnavailableError):
                await stranger.call(ALICE, b"", timeout_s=1)
            with pytest.raises(UnavailableError):
                await alice.call(beyond, b"", timeout_s=1)
        assert recorder.senders == []

    run(test)


# --- who may listen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "listening", ["daitn/loopback/{plane}/to/n0002/from/*", "daitn/loopback/{plane}/to/*/from/*", "daitn/**", "**"]
)
@pytest.mark.parametrize("plane", list(Plane))
def test_inbox_of_another_is_not_heard(domain: LoopbackDomain, plane: Plane, listening: str) -> None:
    async def attack(eve: zenoh.Session, alice: Fabric, _bob: Fabric, recorder: Recorder) -> None:
        expression = listening.format(plane=plane)
        queries = eve.declare_queryable(expression, zenoh.handlers.FifoChannel(64), complete=True)
        samples = eve.declare_subscriber(expression, zenoh.handlers.FifoChannel(64))
        await asyncio.to_thread(ask, eve, keys.message(domain.domain, Plane.CP, EVE, EVE))  # the router has read both
        assert await alice.call(BOB, b"secret", plane=plane, timeout_s=5) == b"bob:secret"
        assert recorder.senders == [ALICE]
        heard = [str(query.key_expr) for query in iter(queries.try_recv, None)]
        assert [key for key in heard if "/from/n0003" not in key] == []
        assert samples.try_recv() is None

    attacked(domain, attack)


def test_telemetry_is_forged_by_nobody_and_read_by_overseers_only(
    domain: LoopbackDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "REPEAT_S", 0.1)

    async def attack(eve: zenoh.Session, alice: Fabric, _bob: Fabric, _recorder: Recorder) -> None:
        overheard = [
            eve.declare_subscriber(expression, zenoh.handlers.RingChannel(64))
            for expression in (keys.telemetry(domain.domain, "*", "*"), keys.telemetry(domain.domain, ALICE, "*"), "**")
        ]
        async with open_fabric(domain.node(CENTER)) as center:
            values = center.subscribe_latest()
            await alice.publish_latest("load", b"true")
            eve.put(keys.telemetry(domain.domain, ALICE, "load"), b"forged")
            eve.put(keys.telemetry(domain.domain, EVE, "load"), b"own")
            seen = set()
            async for value in values:
                seen.add(value)
                if len(seen) >= 2:
                    break
                eve.put(keys.telemetry(domain.domain, ALICE, "load"), b"forged")
                eve.put(keys.telemetry(domain.domain, EVE, "load"), b"own")
            assert seen == {(ALICE, "load", b"true"), (EVE, "load", b"own")}
            await values.aclose()  # type: ignore[attr-defined]
        # The session hands its own puts to its own subscribers; what came from elsewhere would be Alice's.
        heard = [sample.payload.to_bytes() for listener in overheard for sample in iter(listener.try_recv, None)]
        assert b"true" not in heard

    attacked(domain, attack)


def test_reports_are_forged_by_nobody_and_read_by_overseers_only(domain: LoopbackDomain) -> None:
    async def attack(eve: zenoh.Session, alice: Fabric, _bob: Fabric, _recorder: Recorder) -> None:
        overheard = [
            eve.declare_subscriber(expression, zenoh.handlers.RingChannel(64))
            for expression in (keys.report(domain.domain, "*"), keys.report(domain.domain, ALICE))
        ]
        async with open_fabric(domain.node(CENTER)) as center:
            seen: set[tuple[NodeId, bytes]] = set()
            reports = center.subscribe_reports()

            async def hear() -> None:
                async for one in reports:
                    seen.update(zip(one.senders, one.payloads, strict=True))
                    if len(seen) >= 2:
                        return

            hearing = asyncio.ensure_future(hear())
            while not hearing.done():
                await alice.report([b"true"])
                eve.put(keys.report(domain.domain, ALICE), b"forged")
                eve.put(keys.report(domain.domain, EVE), b"own")
                await asyncio.wait([hearing], timeout=0.1)
            assert seen == {(ALICE, b"true"), (EVE, b"own")}
            await reports.aclose()  # type: ignore[attr-defined]
        heard = [sample.payload.to_bytes() for listener in overheard for sample in iter(listener.try_recv, None)]
        assert b"true" not in heard

    attacked(domain, attack)


def test_node_that_is_no_overseer_is_told_so(domain: LoopbackDomain) -> None:
    async def test() -> None:
        async with open_fabric(domain.node(ALICE)) as alice:
            with pytest.raises(InputError, match="overseer"):
                await anext(alice.subscribe_latest())
            with pytest.raises(InputError, match="overseer"):
                await anext(alice.subscribe_reports())

    run(test)


def test_presence_is_forged_by_nobody_and_watched_by_overseers_only(domain: LoopbackDomain) -> None:
    async def attack(eve: zenoh.Session, _alice: Fabric, _bob: Fabric, _recorder: Recorder) -> None:
        tokens = [eve.liveliness().declare_token(keys.presence(domain.domain, node)) for node in ("n0007", EVE)]
        async with open_fabric(domain.node(CENTER)) as center:
            seen = set()
            changes = center.presence()
            async for change in changes:
                seen.add(change)
                if (EVE, True) in seen and len(seen) >= 4:
                    break
            assert seen == {(node, True) for node in (CENTER, ALICE, BOB, EVE)}
            await changes.aclose()  # type: ignore[attr-defined]
            listing = await asyncio.to_thread(
                lambda: list(eve.liveliness().get(keys.presence(domain.domain, "*"), timeout=1.0))
            )
            known = {str(reply.ok.key_expr) for reply in listing if reply.ok is not None}
            assert keys.presence(domain.domain, ALICE) not in known
        for token in tokens:
            token.undeclare()

    attacked(domain, attack)


# --- direct streams --------------------------------------------------------------------------------------------------


class Shelf:
    def __init__(self, pack: Path) -> None:
        self.pack = pack
        self.requesters: list[NodeId] = []

    def authorise(self, requester: NodeId, grant: GrantId, artifact: ArtifactId) -> None:
        self.requesters.append(requester)
        if requester != ALICE:
            raise PolicyError("this grant is not yours")

    def locate(self, chunk: ChunkId, artifact: ArtifactId) -> ChunkPlace | None:
        return ChunkPlace(self.pack, 0, 5)


HELLO = ChunkId("ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f")
"""BLAKE3 of `hello`."""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "pack").write_bytes(b"hello")
    return Shelf(tmp_path / "pack")


@pytest.mark.parametrize("bulk_host", [None, "127.0.0.1"])
def test_grant_is_checked_against_the_proven_requester(
    domain: LoopbackDomain, shelf: Shelf, bulk_host: str | None
) -> None:
    async def test() -> None:
        async with open_fabric(domain.node(BOB, bulk_host=bulk_host)) as bob:
            await bob.serve_chunks(shelf)
            holder = Holder(BOB, bob.direct_addresses)
            wants = [ChunkWant(HELLO, 5, 0)]
            for node in (ALICE, EVE):
                async with open_fabric(domain.node(node)) as reader:
                    sink = bytearray(5)
                    fetch = reader.fetch_chunks(
                        holder, ArtifactId("a"), GrantId("g"), wants, memoryview(sink), on_chunk=lambda _: None
                    )
                    if node == ALICE:
                        await fetch
                        assert sink == b"hello"
                    else:
                        with pytest.raises(PolicyError, match="not yours"):
                            await fetch
                        assert sink == bytes(5)
            assert shelf.requesters == [ALICE, EVE]

    run(test)


def test_bytes_of_a_member_that_are_no_text_end_no_thread_of_anybody(domain: LoopbackDomain, shelf: Shelf) -> None:
    broken = [b"\x93\xa2\xff\xfe\xa0\xa0", b"\x94\xa2\xff\xfe\x01\x02\xc4\x00", b"\x95" + b"\xa0" * 3 + b"\x91" * 9999]

    async def attack(eve: zenoh.Session, alice: Fabric, bob: Fabric, _recorder: Recorder) -> None:
        await bob.serve_chunks(shelf)
        await bob.accept_streams(_echo)

        def send() -> None:
            for lane in (keys.CHUNK_LANE, keys.STREAM_LANE):
                key = keys.message(domain.domain, lane, BOB, EVE)
                for payload in broken * 3:  # more than there are threads that serve
                    replies = eve.get(key, zenoh.handlers.FifoChannel(16), payload=payload, timeout=5.0)
                    assert [reply.err is not None for reply in replies] == [True]

        await asyncio.to_thread(send)
        assert bob.counters.inbox_malformed == 2 * 3 * len(broken)
        sink, wants = bytearray(5), [ChunkWant(HELLO, 5, 0)]
        await alice.fetch_chunks(
            Holder(BOB), ArtifactId("a"), GrantId("g"), wants, memoryview(sink), on_chunk=lambda _: None
        )
        assert sink == b"hello"
        stream = await alice.open_stream(Holder(BOB), "echo", timeout_s=5)
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"

    attacked(domain, attack)


async def _echo(_peer: NodeId, _tag: str, stream: Stream) -> None:
    message = await stream.receive()
    assert message is not None
    await stream.send(message)
    await stream.finish()


@pytest.mark.parametrize("credential", ["none", "stranger", "ran out"])
def test_direct_server_refuses_who_proves_nothing(
    domain: LoopbackDomain, shelf: Shelf, tmp_path: Path, credential: str
) -> None:
    context = ssl.create_default_context(cafile=str(domain.authority_file))
    if credential == "ran out":
        late = domain.node(EVE, hours=1e-9)
        context.load_cert_chain(late.certificate, late.key)
    if credential == "stranger":
        other = pki.create_authority(tmp_path / "other", DomainId("loopback"))
        csr, key = pki.make_request(EVE)
        pki.write_private(tmp_path / "s.key", key)
        pki.write_public(tmp_path / "s.crt", other.issue_node(csr, EVE))
        context.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")

    def knock(address: str) -> bytes:
        host, _, port = address.rpartition(":")
        name = pki.slot_host(domain.domain, BOB)
        with (
            socket.create_connection((host, int(port)), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=name) as link,
        ):
            link.sendall(tls.HEADER.pack(1, 0))
            return link.recv(100)

    async def test() -> None:
        async with open_fabric(domain.node(BOB, bulk_host="127.0.0.1")) as bob:
            await bob.serve_chunks(shelf)
            with pytest.raises(OSError):
                await asyncio.to_thread(knock, bob.direct_addresses[0])
            assert shelf.requesters == []

    run(test)


def test_warm_direct_link_ends_with_the_certificate(
    domain: LoopbackDomain, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with (
            open_fabric(domain.node(BOB, bulk_host="127.0.0.1")) as bob,
            open_fabric(domain.node(ALICE)) as alice,
        ):
            await bob.serve_chunks(shelf)
            holder, wants = Holder(BOB, bob.direct_addresses), [ChunkWant(HELLO, 5, 0)]
            for expired in (False, True):
                monkeypatch.setattr(tls.Link, "expired", property(lambda _link, expired=expired: expired))
                sink = bytearray(5)
                await alice.fetch_chunks(
                    holder, ArtifactId("a"), GrantId("g"), wants, memoryview(sink), on_chunk=lambda _: None
                )
                assert sink == b"hello"
            assert (alice.counters.chunks_direct, alice.counters.chunks_routed) == (1, 1)
            assert bob.counters.direct_refused == 1

    run(test)


# --- the plan --------------------------------------------------------------------------------------------------------


def test_plan_denies_by_default_and_names_each_slot_once() -> None:
    control = make_access_control(AccessPlan(domain=DomainId("d"), slots=20))

    assert (control.enabled, control.default_permission) == (True, "deny")
    names = [name for subject in control.subjects for name in subject.cert_common_names]
    assert len(names) == len(set(names)) == 22  # the centre, twenty slots, linked routers
    ids = [rule.id for rule in control.rules]
    assert len(ids) == len(set(ids))
    assert {rule.permission for rule in control.rules} == {"allow"}
    for policy in control.policies:
        assert set(policy.rules) <= set(ids)


def test_plan_out_of_range_is_refused() -> None:
    with pytest.raises(InputError):
        make_access_control(AccessPlan(domain=DomainId("d"), slots=5001))

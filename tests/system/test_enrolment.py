"""Joining a domain: real endpoint, real TLS; tokens work once, keys stay home, nobody gets in between."""

from __future__ import annotations

import asyncio
import ssl
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest
from aiohttp import web

from daitn.base.errors import DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import DomainId, NodeId, OperatorId
from daitn.node import enrolment, enrolment_server, pki
from daitn.node.enrolment import NetworkSettings, enrol, parse_token, renew
from daitn.node.enrolment_server import EnrolmentConfig, EnrolmentServer
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.neighbours import Neighbours
from daitn.node.slot_book import EnrolmentRefusedError, RefusalReason, SlotState, SqliteSlotBook

T = TypeVar("T")
CLINIC = OperatorId("clinic")


def run(test: Callable[[], Awaitable[T]]) -> T:
    async def guarded() -> T:
        async with asyncio.timeout(30):
            return await test()

    return asyncio.run(guarded())


@asynccontextmanager
async def endpoint(
    directory: Path, *, slots: int = 8, hours: float = 1.0, routers: tuple[str, ...] = ("127.0.0.1:7447",)
) -> AsyncIterator[EnrolmentServer]:
    authority = directory / "authority"
    loaded = pki.load_authority(authority) if authority.exists() else pki.create_authority(authority, DomainId("d"))
    book = SqliteSlotBook(directory / "slots.db", slots=slots)
    config = EnrolmentConfig(network=NetworkSettings(routers=routers), certificate_hours=hours)
    try:
        async with enrolment_server.serve_enrolment(config, loaded, book, directory / "enrolment") as server:
            yield server
    finally:
        book.close()


async def refused(joining: Awaitable[object]) -> RefusalReason:
    with pytest.raises(EnrolmentRefusedError) as caught:
        await joining
    assert caught.value.todo
    return caught.value.reason


def test_token_makes_a_member_with_its_own_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data", "compute"))
            member = await enrol(token, "ward-7", ("data",), tmp_path / "ward")
            assert (member.slot, member.operator, member.roles) == ("n0001", CLINIC, ("data",))
            assert member.network.routers == ("127.0.0.1:7447",)
            home = tmp_path / "ward"
            assert stat.S_IMODE((home / "node.key").stat().st_mode) == 0o600
            assert pki.common_name_of((home / "node.crt").read_bytes()) == "n0001"
            assert pki.fingerprint_of((home / "authority.crt").read_bytes()) == server.authority.fingerprint
            assert enrolment.load_membership(home) == member
            member.fabric_config(home).check()
            assert server.counters.shown() == {"enrolments[enrolled]": 1}

    run(test)


def test_token_without_asked_roles_grants_all_it_allows(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data", "compute"))
            assert (await enrol(token, "ward", (), tmp_path / "ward")).roles == ("data", "compute")

    run(test)


def test_used_token_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",))
            await enrol(token, "one", (), tmp_path / "one")
            assert await refused(enrol(token, "two", (), tmp_path / "two")) is RefusalReason.USED
            assert server.counters.of("enrolments", "used") == 1
            assert not (tmp_path / "two" / "membership.json").exists()

    run(test)


def test_expired_token_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",), hours=-0.001)
            assert await refused(enrol(token, "one", (), tmp_path / "one")) is RefusalReason.EXPIRED

    run(test)


def test_token_of_nobody_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            real = parse_token(server.make_token(CLINIC, ("data",)))
            forged = msgspec.structs.replace(real, secret=bytes(len(real.secret))).encode()
            assert await refused(enrol(forged, "one", (), tmp_path / "one")) is RefusalReason.UNKNOWN

    run(test)


def test_role_beyond_the_token_is_refused_and_the_token_stays_good(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",))
            assert await refused(enrol(token, "one", ("verifier",), tmp_path / "one")) is RefusalReason.ROLE
            assert (await enrol(token, "one", ("data",), tmp_path / "one")).slot == "n0001"

    run(test)


def test_name_of_another_member_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            first, second = (server.make_token(CLINIC, ("data",)) for _ in range(2))
            await enrol(first, "ward", (), tmp_path / "one")
            assert await refused(enrol(second, "ward", (), tmp_path / "two")) is RefusalReason.NAME

    run(test)


def test_domain_without_free_slots_refuses(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path, slots=1) as server:
            await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "one")
            another = server.make_token(CLINIC, ("data",))
            assert await refused(enrol(another, "two", (), tmp_path / "two")) is RefusalReason.FULL

    run(test)


def test_many_at_once_with_one_token_give_one_member(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",))
            results = await asyncio.gather(
                *(enrol(token, f"node-{n}", (), tmp_path / str(n)) for n in range(8)), return_exceptions=True
            )
            faults = [result for result in results if isinstance(result, BaseException)]
            assert len(faults) == 7
            assert {fault.reason for fault in faults if isinstance(fault, EnrolmentRefusedError)} == {
                RefusalReason.USED
            }
            assert [slot.node for slot in server.book.slots()] == ["n0001"]

    run(test)


def test_lost_answer_may_be_asked_again_with_the_same_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",))
            first = await enrol(token, "one", (), tmp_path / "one")
            (tmp_path / "one" / "membership.json").unlink()  # as if the answer had never come
            assert await enrol(token, "one", (), tmp_path / "one") == first
            assert len(server.book.slots()) == 1

    run(test)


def test_slot_book_survives_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            used, open_ = (server.make_token(CLINIC, ("data",)) for _ in range(2))
            await enrol(used, "one", (), tmp_path / "one")
        async with endpoint(tmp_path) as server:
            moved = [
                msgspec.structs.replace(parse_token(token), addresses=server.addresses).encode()
                for token in (used, open_)
            ]
            assert await refused(enrol(moved[0], "two", (), tmp_path / "two")) is RefusalReason.USED
            assert (await enrol(moved[1], "two", (), tmp_path / "two")).slot == "n0002"

    run(test)


@pytest.mark.parametrize("end", ["leave", "burn"])
def test_ended_slot_is_not_renewed_nor_handed_out_again(tmp_path: Path, end: str) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "one")
            getattr(server.book, end)(NodeId("n0001"))
            expected = RefusalReason.LEFT if end == "leave" else RefusalReason.BURNED
            assert await refused(renew(tmp_path / "one")) is expected
            again = await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "again")
            assert again.slot == "n0002"
            server.book.burn(NodeId("n0001"))
            server.book.leave(NodeId("n0001"))
            assert server.book.slots()[0].state is SlotState.BURNED

    run(test)


def test_renewal_gives_a_fresh_certificate_to_the_same_slot(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path, hours=1) as server:
            await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "one")
            before = (tmp_path / "one" / "node.crt").read_bytes()
            server.config = msgspec.structs.replace(server.config, certificate_hours=2)
            await renew(tmp_path / "one")
            after = (tmp_path / "one" / "node.crt").read_bytes()
            assert pki.common_name_of(after) == "n0001"
            assert pki.expiry_of(after) > pki.expiry_of(before) + 3000

    run(test)


def test_renewal_without_or_with_another_certificate_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            for name in ("one", "two"):
                await enrol(server.make_token(CLINIC, ("data",)), name, (), tmp_path / name)
            csr, _ = pki.make_request("one", (tmp_path / "one" / "node.key").read_bytes())
            body = msgspec.json.encode(enrolment.RenewRequest(csr=csr.decode()))
            url = f"https://{server.addresses[0]}/renew"
            bare = ssl.create_default_context(cafile=str(tmp_path / "one" / "authority.crt"))
            other = ssl.create_default_context(cafile=str(tmp_path / "one" / "authority.crt"))
            other.load_cert_chain(tmp_path / "two" / "node.crt", tmp_path / "two" / "node.key")
            async with aiohttp.ClientSession() as client:
                for context in (bare, other):
                    async with client.post(url, data=body, ssl=context) as answer:
                        assert answer.status == 403
                        refusal = msgspec.json.decode(await answer.read(), type=enrolment.RefusalAnswer)
                        assert refusal.reason == "key"

    run(test)


def test_certificate_that_ran_out_is_not_renewed(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path, hours=1e-9) as server:
            await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "one")
            with pytest.raises(PolicyError, match="run out"):
                await renew(tmp_path / "one")

    run(test)


def test_certificate_is_kept_fresh_until_burned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki, "renewal_of", lambda _certificate: time.time() + 0.02)

    async def test() -> None:
        async with endpoint(tmp_path) as server:
            await enrol(server.make_token(CLINIC, ("data",)), "one", (), tmp_path / "one")
            faults: list[DaitnError] = []
            keeping = asyncio.ensure_future(enrolment.keep_renewed(tmp_path / "one", faults.append))
            while server.counters.of("enrolments", "renewed") < 1:
                await asyncio.sleep(0.01)
            server.book.burn(NodeId("n0001"))
            await keeping
            assert [type(fault) for fault in faults] == [EnrolmentRefusedError]

    run(test)


def test_memberships_with_neighbours_are_renewed_and_the_fault_of_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            neighbours = Neighbours(tmp_path / "neighbours")
            for name in ("burned", "due", "unreadable", "young"):
                await neighbours.join(name, server.make_token(CLINIC, ()))
            server.book.burn(NodeId("n0001"))
            (tmp_path / "neighbours" / "unreadable" / enrolment.CERT_FILE).unlink()
            young = (tmp_path / "neighbours" / "young" / enrolment.CERT_FILE).read_bytes()
            due = (tmp_path / "neighbours" / "due" / enrolment.CERT_FILE).read_bytes()
            later_s = {young: time.time() + 3600}
            monkeypatch.setattr(pki, "renewal_of", lambda certificate: later_s.get(certificate, 0.0))
            monkeypatch.setattr("daitn.node.neighbours.LOOK_S", 0.01)
            faults: list[DaitnError] = []

            keeping = asyncio.ensure_future(neighbours.keep_renewed(faults.append))
            while server.counters.of("enrolments", "renewed") < 2 or len(faults) < 4:
                await asyncio.sleep(0.01)
            keeping.cancel()

            assert {type(fault) for fault in faults} == {EnrolmentRefusedError, UnavailableError}
            assert any("unreadable" in fault.what for fault in faults)
            assert (tmp_path / "neighbours" / "due" / enrolment.CERT_FILE).read_bytes() != due
            assert (tmp_path / "neighbours" / "young" / enrolment.CERT_FILE).read_bytes() == young

    run(test)


@pytest.mark.parametrize("text", ["", "hello", "daitn1.", "daitn1.!!!!", "daitn1.AAAA", "daitn1." + "A" * 5000])
def test_damaged_token_is_the_users_fault(tmp_path: Path, text: str) -> None:
    async def test() -> None:
        with pytest.raises(InputError, match="join token"):
            await enrol(text, "one", (), tmp_path / "one")

    run(test)


def test_endpoint_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server:
            token = server.make_token(CLINIC, ("data",))
        with pytest.raises(UnavailableError, match="does not answer"):
            await enrol(token, "one", (), tmp_path / "one")

    run(test)


@pytest.mark.parametrize("appended", [False, True])
def test_somebody_in_between_is_noticed(tmp_path: Path, appended: bool) -> None:
    """The impostor shows its own authority, or the true one with its own behind it."""

    async def test() -> None:
        seen: list[bytes] = []
        impostor = pki.create_authority(tmp_path / "impostor", DomainId("d"))
        async with endpoint(tmp_path) as server:
            shown = impostor.certificate_pem
            if appended:
                shown = server.authority.certificate_pem + shown

            async def authority(_request: web.Request) -> web.Response:
                return web.Response(body=shown)

            async def take(request: web.Request) -> web.Response:
                seen.append(await request.read())
                return web.Response(status=500)

            certificate, key = impostor.issue_server("enrolment")
            pki.write_private(tmp_path / "i.key", key)
            pki.write_public(tmp_path / "i.crt", certificate)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "i.crt", tmp_path / "i.key")
            application = web.Application()
            application.add_routes([web.get("/authority", authority), web.post("/enrol", take)])
            runner = web.AppRunner(application)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
                token = parse_token(server.make_token(CLINIC, ("data",)))
                there = f"127.0.0.1:{runner.addresses[0][1]}"
                redirected = msgspec.structs.replace(token, addresses=(there,)).encode()
                with pytest.raises(PolicyError):
                    await enrol(redirected, "one", (), tmp_path / "one")
            finally:
                await runner.cleanup()
        assert seen == []  # the token was never shown to it

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"token": 1}',
        b'{"token": "daitn1.x", "csr": "x", "name": "one"}',
        b'{"token": "\\ud800", "csr": "", "name": "one"}',
        b"x" * 100_000,
    ],
)
def test_hostile_body_gets_a_plain_refusal(tmp_path: Path, body: bytes) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server, aiohttp.ClientSession() as client:
            async with client.post(f"https://{server.addresses[0]}/enrol", data=body, ssl=False) as answer:
                assert answer.status in (400, 413)
                assert "Traceback" not in await answer.text()
            token = server.make_token(CLINIC, ("data",))
            assert (await enrol(token, "one", (), tmp_path / "one")).slot == "n0001"

    run(test)


@pytest.mark.parametrize(
    "csr", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_hostile_signing_request_leaves_the_token_good(tmp_path: Path, csr: str) -> None:
    async def test() -> None:
        async with endpoint(tmp_path) as server, aiohttp.ClientSession() as client:
            token = server.make_token(CLINIC, ("data",))
            body = msgspec.json.encode(enrolment.EnrolRequest(token=token, csr=csr, name="one"))
            async with client.post(f"https://{server.addresses[0]}/enrol", data=body, ssl=False) as answer:
                assert answer.status == 400
            assert (await enrol(token, "one", (), tmp_path / "one")).slot == "n0001"

    run(test)


def test_authority_signs_only_usable_requests(tmp_path: Path) -> None:
    authority = pki.create_authority(tmp_path / "a", DomainId("d"))
    csr, _ = pki.make_request("x")

    with pytest.raises(PeerError):
        authority.issue_node(csr.replace(b"A", b"B"), NodeId("n0001"))
    with pytest.raises(PeerError, match="larger"):
        authority.issue_node(b"x" * 10_000, NodeId("n0001"))
    with pytest.raises(InputError, match="lifetime"):
        authority.issue_node(csr, NodeId("n0001"), lifetime_hours=10_000)
    with pytest.raises(InputError, match="already"):
        pki.create_authority(tmp_path / "a", DomainId("d"))
    assert pki.load_authority(tmp_path / "a").fingerprint == authority.fingerprint


def test_enrolled_node_joins_the_fabric(tmp_path: Path) -> None:
    with LoopbackDomain(tmp_path / "domain") as domain:

        async def test() -> None:
            book = SqliteSlotBook(tmp_path / "slots.db", slots=8)
            config = EnrolmentConfig(network=NetworkSettings(routers=(f"127.0.0.1:{domain.router.port}",)))
            folder = tmp_path / "enrolment"
            async with enrolment_server.serve_enrolment(config, domain.authority, book, folder) as server:
                for name in ("one", "two"):
                    await enrol(server.make_token(CLINIC, ("data",)), name, (), tmp_path / name)
            configs = [enrolment.load_membership(tmp_path / n).fabric_config(tmp_path / n) for n in ("one", "two")]
            async with open_fabric(configs[0]) as one, open_fabric(configs[1]) as two:

                async def echo(sender: NodeId, payload: bytes) -> bytes:
                    return sender.encode() + payload

                await two.serve(echo)
                start = time.monotonic()
                assert await one.call(two.node, b"!", timeout_s=5) == b"n0001!"
                assert time.monotonic() - start < 5
            book.close()

        run(test)

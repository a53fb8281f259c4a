"""Clocks that are off: certificates allow for a day, beyond it the error names both moments, and no loop is hot."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from daitn.base.errors import PolicyError, UnavailableError
from daitn.base.ids import DomainId, NodeId
from daitn.node import enrolment, pki
from daitn.node.enrolment import CERT_FILE, keep_renewed
from daitn.node.fabric import zenoh_fabric
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.zenoh_fabric import open_fabric

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.create_authority(tmp_path / "authority", DomainId("clinic"))


def issue(authority: pki.Authority, hours: float = 24.0) -> bytes:
    return authority.issue_node(pki.make_request("one")[0], NodeId("one"), lifetime_hours=hours)


def test_certificate_is_good_by_a_clock_that_is_late_by_less_than_a_day(authority: pki.Authority) -> None:
    certificate, now = issue(authority), time.time()

    assert pki.is_issued_by(certificate, authority.certificate_pem, now - 23 * HOUR_S)
    assert pki.clock_fault(certificate, now - 23 * HOUR_S) == ""
    assert pki.clock_fault(certificate, now + 23 * HOUR_S) == ""
    assert "the certificate begins at" in pki.clock_fault(certificate, now - 25 * HOUR_S)
    assert "the certificate ended at" in pki.clock_fault(certificate, now + 25 * HOUR_S)


@pytest.mark.parametrize("hours", [1.0, 24.0, 720.0])
def test_certificate_is_renewed_at_half_of_its_life_however_far_in_the_past_it_begins(
    authority: pki.Authority, hours: float
) -> None:
    half_s = hours * HOUR_S / 2

    assert pki.renewal_of(issue(authority, hours)) == pytest.approx(time.time() + half_s, abs=10.0)


def test_certificate_of_an_earlier_version_is_renewed_before_it_ends(
    authority: pki.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = issue(authority, hours=1.0)
    ends = pki.expiry_of(certificate)
    monkeypatch.setattr(pki, "validity_of", lambda _: (ends - 3900.0, ends))

    assert pki.renewal_of(certificate) < ends - 600.0


def test_clock_that_is_ahead_by_more_than_half_a_lifetime_does_not_renew_without_end(
    authority: pki.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority's clock is right, this machine's is ahead by 20 h."""
    (tmp_path / CERT_FILE).write_bytes(issue(authority))
    pauses: list[float] = []

    async def renewed(directory: Path) -> None:
        (directory / CERT_FILE).write_bytes(issue(authority))

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(enrolment, "renew", renewed)
    monkeypatch.setattr(enrolment, "time", SimpleNamespace(time=lambda: time.time() + 20 * HOUR_S))
    monkeypatch.setattr(enrolment, "asyncio", SimpleNamespace(sleep=pause))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_renewed(tmp_path, lambda _: None))

    assert pauses == [0.0, pytest.approx(12 * HOUR_S, abs=30.0)]


@pytest.mark.parametrize(
    ("off_s", "words"),
    [(-2 * DAY_S, "this machine's clock shows .* the certificate begins at"), (2 * DAY_S, "run out: this machine's")],
)
def test_node_whose_clock_is_off_by_days_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_s: float, words: str
) -> None:
    config = msgspec.structs.replace(
        LoopbackDomain(tmp_path).node("one", hours=24.0), routers=("127.0.0.1:9",), open_timeout_s=0.2
    )
    monkeypatch.setattr(zenoh_fabric, "time", SimpleNamespace(time=lambda: time.time() + off_s))

    async def join() -> None:
        async with open_fabric(config):
            pass

    with pytest.raises(UnavailableError, match=words) as raised:
        asyncio.run(join())
    assert "clock" in raised.value.todo


def test_renewal_by_a_clock_that_is_off_by_days_is_refused_with_both_moments(
    authority: pki.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CERT_FILE).write_bytes(issue(authority))
    monkeypatch.setattr(enrolment, "load_membership", lambda _: SimpleNamespace(slot="one"))
    monkeypatch.setattr(enrolment, "time", SimpleNamespace(time=lambda: time.time() + 2 * DAY_S))

    with pytest.raises(PolicyError, match=r"has run out: this machine's clock shows .* the certificate ended at"):
        asyncio.run(enrolment.renew(tmp_path))

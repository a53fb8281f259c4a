"""A result that is being fetched waits for a domain that is away for a moment, and not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from daitn.base.errors import UnavailableError
from daitn.base.ids import JobId
from daitn.sdk import jobs
from daitn.sdk.jobs import RESULT_S, Job


class Away:
    """A transport whose domain does not answer so many times; `now_s` moves by ten seconds with each call."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.now_s = 0.0

    def call_bytes(self, method: str, path: str) -> bytes:
        self.now_s += 10.0
        if self.times:
            self.times -= 1
            raise UnavailableError("the domain does not answer")
        return b"chunk"


def fetch(away: Away, monkeypatch: pytest.MonkeyPatch) -> bytes:
    clock: Any = SimpleNamespace(monotonic=lambda: away.now_s, sleep=lambda _: None)
    monkeypatch.setattr(jobs, "time", clock)
    return Job(None, away, JobId("sides-1"))._chunk("ab")


def test_chunk_is_asked_for_again_while_the_centre_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(Away(3), monkeypatch) == b"chunk"


def test_domain_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(1000)

    with pytest.raises(UnavailableError, match="does not answer"):
        fetch(away, monkeypatch)

    assert RESULT_S < away.now_s <= RESULT_S + 20.0

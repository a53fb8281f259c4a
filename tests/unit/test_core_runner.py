"""A core whose journal cannot be written: nobody is told what a restart will not know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from daitn.base.effects import Append, Effect, Event, Record, Started
from daitn.base.errors import UnavailableError
from daitn.base.ids import JobId, OwnerId
from daitn.node.center_service import CenterService
from daitn.node.clock import NodeClock
from daitn.node.core_runner import CoreRunner
from daitn.node.fabric.contract import Fabric
from daitn.node.journal import Journal


class Seen(Record, frozen=True, kw_only=True, tag="seen-in-test"):
    """The only fact of `Noting`."""


class Noting:
    """Keeps a fact of every event, and knows it at once."""

    def __init__(self) -> None:
        self.known = 0
        self.jobs: dict[str, object] = {}

    def apply(self, record: Record) -> None:
        self.known += 1

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        self.known += 1
        return [Append(records=(Seen(),))]


class Full:
    """A journal on a disk that is full."""

    def append(self, stream: str, records: Sequence[Record], *, time_ns: int | None = None) -> int:
        raise UnavailableError("the journal cannot be written: no space left on device")


def test_what_the_journal_does_not_have_is_told_to_nobody() -> None:
    async def run() -> None:
        core = Noting()
        performed: list[Effect] = []
        runner = CoreRunner(core, cast(Journal, Full()), "center", cast(Fabric, None), NodeClock(), performed.append)
        service = CenterService(core, runner, None, None, None, None, None, None, None)  # type: ignore[arg-type]
        runner.check_going()
        assert service.jobs(OwnerId("ada")) == ()

        runner.post(Started())

        assert core.known == 1
        assert not performed
        with pytest.raises(UnavailableError, match="not kept"):
            service.jobs(OwnerId("ada"))
        with pytest.raises(UnavailableError, match="not kept"):
            service.status(OwnerId("ada"), JobId("a"))
        runner.post(Started())
        assert core.known == 1
        assert isinstance(runner.failed.exception(), UnavailableError)

    asyncio.run(run())

"""Process service: the processes a node runs for visits: which job, since when, at work or warm, what each uses.

The sandbox starts and ends them (`node.child_pool`); this core keeps the account, which the domain sees. A process
whose end was not told is missed when it is looked for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.effects import Effect, Event
from daitn.base.errors import BugError
from daitn.base.units import NS_PER_S
from daitn.descriptors.machine import WorkProcess
from daitn.tools.service import ChildEnded, ChildMeasured, ChildStarted, ServiceView
from daitn.wire.terminal_tools import PROCESSES


class Running(ServiceView, frozen=True, kw_only=True, tag="processes"):
    """What runs for visits, and how many were started and ended since the node began."""

    processes: tuple[WorkProcess, ...]
    started: int
    ended: int


class ProcessService:
    """See the module's docstring."""

    name: Final = "processes"

    def __init__(self) -> None:
        self._running: dict[int, WorkProcess] = {}
        self._started = self._ended = 0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ChildStarted(pid=pid, job=job, use=use):
                if len(self._running) < PROCESSES and pid not in self._running:
                    made = WorkProcess(pid=pid, job=job, use=use, started_unix_s=max(0.0, now_ns / NS_PER_S))
                    self._running[pid] = made
                    self._started += 1
            case ChildMeasured(pid=pid, busy=busy, memory_bytes=memory_bytes, cpu_s=cpu_s):
                if (known := self._running.get(pid)) is not None:
                    self._running[pid] = msgspec.structs.replace(
                        known, busy=busy, memory_bytes=memory_bytes, cpu_s=cpu_s
                    )
            case ChildEnded(pid=pid):
                self._ended += self._running.pop(pid, None) is not None
            case _:
                pass
        return []

    def running(self) -> tuple[WorkProcess, ...]:
        """What runs now, the oldest first."""
        return tuple(self._running.values())

    def view(self) -> Running:
        """What runs, and how many were started and ended."""
        return Running(processes=self.running(), started=self._started, ended=self._ended)

    def check_invariants(self) -> None:
        """BugError where the account does not add up."""
        if self._started - self._ended != len(self._running):
            raise BugError(f"{self._started} processes started, {self._ended} ended, {len(self._running)} run")

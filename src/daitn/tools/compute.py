"""Compute service: the machine of a node, said to the domain when it changed enough to matter.

Processors, memory, accelerators, energy source and battery, measured speed of computing and of memory, slots.
`node.measures` looks; this core decides what is worth saying, and says it with what runs for visits. How busy the
machine is shows in its view; the domain has that from the facts that the node reports to the map.
"""

from __future__ import annotations

from typing import Final

from daitn.base.effects import Effect, Event, Send, SetTimer, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER
from daitn.base.units import seconds_to_ns
from daitn.descriptors.machine import Hardware, MachineState, WorkProcess
from daitn.tools.service import MachineMeasured, ManagerChanged, ServiceView
from daitn.wire.terminal_tools import PROCESSES, MachineReported

SIZE_FRAC: Final = 0.1
"""A change by this part of memory or speed is news,"""

CHARGE_FRAC: Final = 0.05
"""or by this part of the battery's charge."""

REPORT_S: Final = 30.0
"""What stays is said again after this long; a lost report so heals."""

LEAST_S: Final = 1.0
"""Between two reports at least."""

TIMER: Final = "compute report"


class Machine(ServiceView, frozen=True, kw_only=True, tag="compute"):
    """The machine as last looked at; None: not yet."""

    machine: MachineState | None


class ComputeService:
    """See the module's docstring. `processes`: what runs for visits, from `ProcessService`."""

    name: Final = "compute"

    def __init__(self) -> None:
        self._manager = CENTER
        self._machine: MachineState | None = None
        self._processes: tuple[WorkProcess, ...] = ()
        self._said: tuple[Hardware, tuple[int, ...]] | None = None
        self._said_ns = -seconds_to_ns(LEAST_S)
        self._sequence = 0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case ManagerChanged(manager=manager):
                self._manager, self._said = manager, None
                return self._report_if_news(now_ns)
            case MachineMeasured(machine=machine):
                self._machine = machine
                return self._report_if_news(now_ns)
            case TimerFired(name="compute report"):
                self._said = None
                return self._report_if_news(now_ns)
            case _:
                return []

    def look(self, processes: tuple[WorkProcess, ...], now_ns: int) -> list[Effect]:
        """What runs for visits now."""
        self._processes = processes
        return self._report_if_news(now_ns)

    def view(self) -> Machine:
        """The machine as last looked at."""
        return Machine(machine=self._machine)

    def check_invariants(self) -> None:
        """BugError where more slots are free than there are."""
        if self._machine is not None and self._machine.slots_free > self._machine.slots:
            raise BugError(f"{self._machine.slots_free} of {self._machine.slots} slots are free")

    def _report_if_news(self, now_ns: int) -> list[Effect]:
        if self._machine is None:
            return []
        machine = self._machine.hardware()
        pids = tuple(one.pid for one in self._processes)
        if self._said is not None and not _differs(self._said[0], machine) and self._said[1] == pids:
            return []
        if self._said is not None and now_ns - self._said_ns < seconds_to_ns(LEAST_S):
            return [SetTimer(name=TIMER, at_ns=self._said_ns + seconds_to_ns(LEAST_S))]
        self._sequence = max(self._sequence + 1, now_ns // 1000)
        self._said, self._said_ns = (machine, pids), now_ns
        report = MachineReported(sequence=self._sequence, machine=machine, processes=self._processes[:PROCESSES])
        again = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(REPORT_S))
        return [Send(receiver=self._manager, message=report), again]


def _differs(said: Hardware, now: Hardware) -> bool:
    """Whether what was said of a machine is not good enough any more."""
    pairs = (
        (said.memory_bytes, now.memory_bytes),
        (said.memory_bytes_per_s, now.memory_bytes_per_s),
        (said.flops, now.flops),
    )
    if any(abs(before - after) > SIZE_FRAC * max(before, 1.0) for before, after in pairs):
        return True
    charges = [one.battery.charge_frac if one.battery is not None else -1.0 for one in (said, now)]
    fixed = [(one.processor, one.cores, one.accelerators, one.slots, one.energy) for one in (said, now)]
    return abs(charges[0] - charges[1]) > CHARGE_FRAC or fixed[0] != fixed[1]

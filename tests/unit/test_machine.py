"""A machine is measured, not claimed: from files as the kernel writes them, unknown where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from daitn.base.effects import Send
from daitn.base.ids import JobId
from daitn.descriptors.machine import EnergySource, MachineState
from daitn.node import measures
from daitn.node.fabric.pacing import Pacer
from daitn.tools.compute import ComputeService
from daitn.tools.processes import ProcessService
from daitn.tools.service import ChildEnded, ChildMeasured, ChildStarted, MachineMeasured


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


BATTERY = {
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/energy_full": "50000000\n",
    "sys/class/power_supply/BAT0/energy_now": "20000000\n",
    "sys/class/power_supply/BAT0/power_now": "10000000\n",
}
MAINS = {"sys/class/power_supply/AC/type": "Mains\n", "sys/class/power_supply/AC/online": "1\n"}
MOUSE = {f"sys/class/power_supply/mouse/{name}": text for name, text in (
    ("type", "Battery"), ("scope", "Device"), ("energy_full", "100"), ("energy_now", "1"),
)}  # fmt: skip


def test_laptop_on_battery_says_how_long_it_lasts(tmp_path):
    source, battery = measures.energy(put(tmp_path, BATTERY | MOUSE))

    assert source is EnergySource.BATTERY
    assert battery.charge_frac == pytest.approx(0.4)
    assert battery.left_s == pytest.approx(2 * 3600)


def test_laptop_on_mains_and_server_without_supplies(tmp_path):
    source, battery = measures.energy(put(tmp_path / "laptop", BATTERY | MAINS))
    assert source is EnergySource.MAINS
    assert battery is not None

    assert measures.energy(tmp_path / "server") == (EnergySource.UNKNOWN, None)


def test_memory_is_what_the_control_group_gives(tmp_path):
    limited = put(tmp_path, {"sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/memory.current": "1000000000"})
    put(limited, {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   64000000 kB\n"})

    assert measures.memory_bytes(limited) == 2**30
    assert measures.memory_free_bytes(limited) == 2**30 - 1_000_000_000
    assert measures.memory_bytes(put(tmp_path / "free", {"sys/fs/cgroup/memory.max": "max\n"})) > 2**30


def test_accelerators_are_those_the_drivers_list(tmp_path):
    card = "Model: \t\t NVIDIA H200\nIRQ: 5\n"
    found = put(tmp_path, {f"proc/driver/nvidia/gpus/0000:0{bus}:00.0/information": card for bus in (1, 2)})

    assert measures.accelerators(found) == ("NVIDIA H200", "NVIDIA H200")
    assert measures.accelerators(tmp_path / "none") == ()


def test_this_machine_can_be_looked_at(tmp_path):
    machine = measures.look(
        tmp_path, flops=1e9, memory_bytes_per_s=measures.measure_memory_rate(), slots=2, slots_free=1
    )

    assert machine.cores >= 1
    assert machine.memory_bytes > 2**20
    assert machine.memory_bytes_per_s > 1e6
    assert machine.slots_free == 1


S = 1_000_000_000
START_NS = 1_700_000_000 * S


def reports(effects) -> list:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_machine_is_said_again_when_it_changed_enough_and_never_for_how_busy_it_is():
    service = ComputeService()
    calm = MachineState(memory_bytes=16e9, load_frac=0.1, memory_free_bytes=8e9, slots=2, slots_free=2)

    (first,) = reports(service.handle(MachineMeasured(machine=calm), START_NS))
    busy = MachineState(memory_bytes=15.9e9, load_frac=3.0, memory_free_bytes=1e9, slots=2, slots_free=0)
    assert not reports(service.handle(MachineMeasured(machine=busy), START_NS + 2 * S))
    smaller = MachineState(memory_bytes=8e9, slots=2)
    (said,) = reports(service.handle(MachineMeasured(machine=smaller), START_NS + 4 * S))
    assert (first.machine, said.machine) == (calm.hardware(), smaller.hardware())
    assert service.view().machine == smaller


def test_processes_are_counted_from_their_start_to_their_end():
    service = ProcessService()
    service.handle(ChildStarted(pid=7, job=JobId("j"), use="train"), START_NS)
    service.handle(ChildMeasured(pid=7, busy=True, memory_bytes=1e8, cpu_s=2.0), START_NS + S)
    (one,) = service.running()
    assert (one.pid, one.busy, one.memory_bytes, one.started_unix_s) == (7, True, 1e8, START_NS / S)

    service.handle(ChildEnded(pid=7), START_NS + 2 * S)
    service.handle(ChildEnded(pid=7), START_NS + 2 * S)
    view = service.view()
    assert (view.processes, view.started, view.ended) == ((), 1, 1)


def test_pacer_lets_the_first_piece_through_and_holds_the_rest_to_the_rate():
    now = [0.0]
    pacer = Pacer(clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    pacer.wait(10**9)
    assert now[0] == 0, "without a limit nobody waits"

    pacer.bytes_per_s = 1000.0
    for _ in range(5):
        pacer.wait(500)
    assert now[0] == pytest.approx(2.0)
    now[0] += 60
    pacer.wait(500)
    assert now[0] == pytest.approx(62.0), "what was not used is not saved up, nor owed"


def test_pacer_that_was_given_up_waits_no_more():
    now = [0.0]
    pacer = Pacer(clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    pacer.bytes_per_s = 1.0
    pacer.wait(1000)
    pacer.wait(1, lambda: now[0] >= 3.0)

    assert now[0] < 3.2


def test_memory_of_accelerators_is_what_their_driver_lists(tmp_path):
    assert measures.accelerator_memory_bytes(tmp_path) is None
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, (gpu, size) in enumerate(((0, 10**9), (17, 64 * 10**9), (18, 64 * 10**9))):
        (nodes / f"{number}/mem_banks/0").mkdir(parents=True)
        (nodes / f"{number}/gpu_id").write_text(f"{gpu}\n")
        (nodes / f"{number}/mem_banks/0/properties").write_text(f"heap_type 1\nsize_in_bytes {size}\nflags 0\n")

    assert measures.accelerator_memory_bytes(tmp_path) == 128e9

"""A domain of real processes in which faults can be brought about at named points of a running job, and looked at.

Points are found by what the processes say and move, never by waiting a while: a node's log tells that training has
begun, the link's proxy that so many bytes of a model have passed, the job's log that a visit was accepted. Every link
goes through a proxy (`proxy`), every node's clock through `clock`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

import daitn
from benchmarks.faults.proxy import LinkProxy
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.errors import DaitnError, UnavailableError
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.job import FINAL_PHASES, JobStatus, LogEntry
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.enrolment import MEMBERSHIP_FILE, load_membership
from daitn.node.journal import Journal
from daitn.node.processes import DataFiles, LocalDomain
from daitn.node.supervisor import descendants
from daitn.oam.outbox import OUTBOX_RECORDS
from daitn.scenario.spec import NodeSpec
from daitn.sdk.jobs import Job
from daitn.terminal.visit_records import KEEPER_RECORDS, VisitClosed
from daitn.wire.oam_records import VisitOver

PATIENCE_S: Final = 2.0
"""The domain's patience, which is the lease."""

POINT_S: Final = 40.0
"""How long a point of a run may take to come; a machine under load needs ten for the first."""

ACCEPTED: Final = ("trained", "averaged", "measured")
"""Log entries that are steps of a job."""

WIDTH: Final = {"small": 16, "big": 285_000}
"""Hidden units: 0.3 kB, and 8 MB of weights."""

RATE: Final = {"small": 1e-4, "big": 1e-7}
"""Learning rates at which the loss falls slowly for as long as a job is watched: a job whose models are worse ten times
in a row is over. A logit of the big model moves by the rate times its hidden units. The 4.6 MB of its last layer change
in every step; the steps of the first are lost in rounding."""

DISK_BYTES: Final = 300_000_000
"""North's disk: room for 30 big models."""

CONTRACT: Final = {
    "name": "sides",
    "columns": [
        {"type": "number", "name": "x0"},
        {"type": "number", "name": "x1"},
        {"type": "category", "name": "side", "values": ["left", "right", "north", "south"]},
    ],
    "inputs": [{"type": "numbers", "name": "x", "columns": ["x0", "x1"]}],
    "task": {"type": "classification", "label": "side"},
}
POLICY: Final = """
owners = ["ada"]
purposes = ["research"]
sample_frac = 0.25
verification_operators = ["trust"]
epsilon_per_period = 100.0
"""
SITES: Final = ("north", "south")
SPECS: Final = (
    NodeSpec(name="north", operator="north", roles=(Role.DATA, Role.COMPUTE)),
    NodeSpec(name="south", operator="south", roles=(Role.DATA, Role.COMPUTE)),
    NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)),
    NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)),
)


T = TypeVar("T")


class Fault(NamedTuple):
    """When a fault was brought about, and what it was to hit."""

    unix_s: float
    visit: str = ""


class Recovery(NamedTuple):
    """From a fault to the next accepted step."""

    seconds: float
    entry: LogEntry


class World:
    """See the module's docstring; made by `open_world`."""

    def __init__(self, domain: LocalDomain, links: dict[str, LinkProxy], clocks: Path, no_disk: str) -> None:
        self.domain = domain
        self.links = links
        self._clocks = clocks
        self.token = domain.owner_token("ada")
        self._jobs = 0
        self.no_disk = no_disk
        """Why no disk can be filled here; empty where north's can."""
        self.faults: list[str] = []
        """What an owner who watched saw go wrong."""

    # --- jobs -------------------------------------------------------------------------------------------------------

    def submit(self, size: str, **knobs: Any) -> Job:
        """A job that cannot reach its goal, so that it lasts; the owner watches it from now on."""
        self._jobs += 1
        batches = {"small": 1500, "big": 12}[size]
        asked: dict[str, Any] = {
            "contract": decode_contract(json.dumps(CONTRACT).encode()),
            "targets": ["loss <= 0.0000001"],
            "chance_floor": 0.0,
            "deadline": 3600,
            "purpose": "research",
            "name": f"{size}-{self._jobs}",
            "method": "cyclic",
            "budget": Budget(visits=5000),
            "hyperparameters": Hyperparameters(batch_size=8, batches_per_visit=batches, learning_rate=RATE[size]),
            "key": load_or_create_key(self.domain.folder / "ada.key"),
        }
        job: Job = daitn.connect(self.token).train(make_model(WIDTH[size]), **(asked | knobs))
        job.assessed()
        threading.Thread(target=self._watch, args=(job,), daemon=True, name="owner").start()
        return job

    def _watch(self, job: Job) -> None:
        """Whatever the owner sees must never go back."""
        last: tuple[int, ...] = ()
        with contextlib.suppress(DaitnError):  # the domain has ended
            for status in job.watch():
                seen = (status.visits, status.rounds, status.verifications, status.lost, status.log_length)
                if last and any(now < before for now, before in zip(seen, last, strict=True)):
                    self.faults.append(f"the owner of {job.id} saw {last} and then {seen}")
                last = seen

    def log(self, job: Job) -> tuple[LogEntry, ...]:
        """The job's log; empty while the centre does not answer."""
        try:
            return job.log()
        except UnavailableError:
            return ()

    def status(self, job: Job) -> JobStatus | None:
        """The job, unless the centre does not answer."""
        try:
            return job.status()
        except UnavailableError:
            return None

    # --- points -----------------------------------------------------------------------------------------------------

    def at_training(self, node: str) -> str:
        """Wait until a visit's first step is made at a node; the visit."""
        tail = LogTail(self.domain.folder / "logs" / f"{node}.log")
        line = tail.wait("first step at")
        return line.split("visit ", 1)[1].split()[0]

    def at_accepted(self, job: Job, node: str) -> str:
        """Wait until a visit at a node has been accepted; the visit."""
        known = len(self.log(job))
        slot = self.slot(node)

        def accepted() -> str:
            return next((e.visit or "" for e in self.log(job)[known:] if e.kind == "trained" and e.node == slot), "")

        return wait_for(accepted, f"an accepted visit at {node}")

    def at_bytes(self, node: str, way: str, count: int) -> None:
        """Wait until so much more has passed a node's link one way."""
        passed = self.links[node].passed
        before = passed[way]  # type: ignore[index]
        wait_for(lambda: passed[way] - before >= count, f"{count} bytes {way} at {node}")  # type: ignore[index]

    def slot(self, node: str) -> str:
        """A node's slot."""
        return str(load_membership(self.domain.node_folder(node) / "tls").slot)

    # --- faults -----------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> Fault:
        """SIGKILL."""
        now = time.time()
        self.domain.kill(name, signal.SIGKILL)
        return Fault(now)

    def stop(self, name: str) -> Fault:
        """SIGSTOP."""
        now = time.time()
        self.domain.kill(name, signal.SIGSTOP)
        return Fault(now)

    def go_on(self, name: str) -> None:
        """SIGCONT."""
        self.domain.kill(name, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """What a supervisor does at once; `ready` waits for it."""
        self.domain.restart(name, wait=False)

    def ready(self, *names: str) -> None:
        """Wait until restarted processes have said that they are ready."""
        self.domain.processes.wait_ready(names)

    def children(self, node: str) -> list[int]:
        """Process ids of a node's sandboxed Python processes."""
        found = []
        for pid in descendants([self.domain.processes.pid(node)]):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                inside = b"python" in command[0] and b"tether.py" not in b" ".join(command)
                if inside and b"sandbox.child" in b" ".join(command):
                    found.append(pid)
        return found

    def set_clock(self, name: str, seconds: float) -> Fault:
        """Move the wall clock of one process."""
        now = time.time()
        path = self._clocks / name
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").replace(path)
        return Fault(now)

    def fill_disk(self) -> Callable[[], None]:
        """Fill north's disk; call what is returned to make room again."""
        filler = self.domain.node_folder("north") / "filler"
        with filler.open("wb", buffering=0) as file:
            size = 1 << 20
            while size >= 512:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        return filler.unlink

    # --- afterwards -------------------------------------------------------------------------------------------------

    def recovered(self, job: Job, fault: Fault, kinds: Sequence[str] = ACCEPTED, timeout_s: float = 60.0) -> Recovery:
        """Wait for the first step of these kinds accepted after a fault."""
        known = 0

        def accepted() -> LogEntry | None:
            return next((e for e in self.log(job)[known:] if e.kind in kinds and e.unix_s > fault.unix_s), None)

        entry = wait_for(accepted, "a step accepted after the fault", timeout_s)
        assert entry is not None
        return Recovery(entry.unix_s - fault.unix_s, entry)

    def fenced(self, job: Job, node: str, visit: str) -> str:
        """How a node closed a visit it lost, once it has; AssertionError where the job has accepted it."""

        def closed() -> str:
            return next((record.why for record in self._closed(node) if record.visit == visit), "")

        why = wait_for(closed, f"visit {visit} closed at {node}")
        assert visit not in {entry.visit for entry in job.log() if entry.kind in ACCEPTED}, f"{visit} was accepted"
        assert why != "acknowledged", f"{visit} was acknowledged"
        return why

    def check(self, job: Job) -> None:
        """What must hold after any fault: a log without gaps, no step accepted twice, progress that never went back."""
        entries = job.log()
        assert [entry.number for entry in entries] == list(range(len(entries))), "the log has gaps"
        accepted = [entry.visit for entry in entries if entry.kind in (*ACCEPTED, "shared")]
        assert len(accepted) == len(set(accepted)), "a visit was accepted twice"
        trained = sum(entry.kind == "trained" for entry in entries)
        assert job.status().visits >= trained, "an accepted visit was lost"
        assert not self.faults, self.faults[0]

    def end(self, job: Job) -> None:
        """Cancel, and see that the end arrives."""
        job.cancel()
        assert job.wait(20).phase in FINAL_PHASES
        self.check(job)
        for node in (spec.name for spec in SPECS):
            wait_for(lambda node=node: self._all_told(node), f"the ends of all visits at {node}")  # type: ignore[misc]

    def _all_told(self, node: str) -> bool:
        """Whether the centre was told, once each and in order, how every visit at a node ended there."""
        slot = self.slot(node)
        try:
            records = daitn.connect(self.domain.operator_token()).records()
        except UnavailableError:
            return False
        told = [one.entry.visit for one in records if one.node == slot and isinstance(one.entry, VisitOver)]
        closed = [record.visit for record in self._closed(node)]
        assert len(told) == len(set(told)), f"an end of a visit at {node} was kept twice"
        return told == closed

    def _closed(self, node: str) -> list[VisitClosed]:
        """The ends of visits in a node's journal."""
        with contextlib.suppress(DaitnError, sqlite3.Error):
            journal = Journal(self.domain.node_folder(node) / "journal.sqlite", (*KEEPER_RECORDS, *OUTBOX_RECORDS))
            try:
                return [record for record in journal.read("terminal") if isinstance(record, VisitClosed)]
            finally:
                journal.close()
        return []


class LogTail:
    """What is written to a log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = path.stat().st_size if path.exists() else 0

    def wait(self, text: str, timeout_s: float = POINT_S) -> str:
        """The first complete line with `text`."""

        def found() -> str:
            with self._path.open("rb") as file:
                file.seek(self._seen)
                lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
            return next((line for line in lines if text in line), "")

        return wait_for(found, f"{text!r} in {self._path.name}", timeout_s, look_s=0.005)


def wait_for(found: Callable[[], T], what: str, timeout_s: float = POINT_S, look_s: float = 0.02) -> T:
    """Look until there is something; AssertionError naming it after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < give_up, f"{what} did not come within {timeout_s:g} s"
        time.sleep(look_s)
    return answer


def write_site(folder: Path, seed: int, records: int = 400) -> DataFiles:
    """Records whose side is the sign of x0 + x1, blurred so that the loss has something left to fall.

    Each site has a label of its own, so that the network does not shun it for what is done to it here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(records, 2))
    sides = np.where(points.sum(1) + 0.5 * rng.normal(size=records) > 0, "right", "left").astype("<U5")
    sides[points[:, 0] > 1.0] = SITES[seed]
    rows = "".join(f"{a:.5f},{b:.5f},{side}\n" for (a, b), side in zip(points, sides, strict=True))
    (folder / "data.csv").write_text("x0,x1,side\n" + rows)
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    (folder / "policy.toml").write_text(POLICY)
    return DataFiles("sides", folder / "data.csv", folder / "contract.json", folder / "policy.toml")


def make_model(width: int) -> Any:
    """The owner's own module."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 4))


@contextmanager
def open_world(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[World]:
    """Router, centre, two sites, a verification unit and an aggregator, every link through a proxy; all gone at the
    end."""
    clocks = folder / "clocks"
    clocks.mkdir(parents=True)
    shim = folder / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(Path(__file__).with_name("clock.py").read_text())
    path = os.pathsep.join(filter(None, (str(shim), os.environ.get("PYTHONPATH", ""))))
    environment = {"PYTHONPATH": path, "FAULTS_CLOCKS": str(clocks)}
    links: dict[str, LinkProxy] = {}
    with (
        small_disk(folder / "domain" / "nodes" / "north") as no_disk,
        LocalDomain(folder / "domain", "faults", patience_s=patience_s, environment=environment) as domain,
    ):
        domain.start()
        data = {name: [write_site(folder / name, seed)] for seed, name in enumerate(SITES)}
        domain.join_all(SPECS, data)
        try:
            for spec in SPECS:
                domain.processes.end(spec.name)
                file = domain.node_folder(spec.name) / "tls" / MEMBERSHIP_FILE
                said = json.loads(file.read_bytes())
                links[spec.name] = LinkProxy(said["network"]["routers"][0])
                said["network"]["routers"] = [links[spec.name].address]
                file.write_text(json.dumps(said))
            for spec in SPECS:
                domain.restart(spec.name, wait=False)
            domain.processes.wait_ready([spec.name for spec in SPECS])
            yield World(domain, links, clocks, no_disk)
            for spec in SPECS:  # nothing is left stopped
                with contextlib.suppress(OSError):
                    domain.kill(spec.name, signal.SIGCONT)
        finally:
            for link in links.values():
                link.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """A small file system of its own at `folder`; gives why there is none, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    why = ""
    try:
        done = subprocess.run(command, capture_output=True, check=False)
        why = done.stderr.decode("utf-8", "replace").strip()[:200] if done.returncode else ""
    except OSError as error:
        why = str(error)
    try:
        yield f"no small disk can be mounted: {why}" if why else ""
    finally:
        if not why:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)

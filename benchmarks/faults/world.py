"""A domain of real processes in which faults can be brought about at named points of a running job, and looked at.

Points are found by what the processes say and move, never by waiting a while: a node's log tells that training has
begun, the link's proxy that so many bytes of a model have passed, the job's log that a visit was accepted. Where the
machine allows it every node has a network namespace of its own (`namespaces`); its link goes through a proxy (`proxy`).
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

import daitn
from benchmarks.faults.clocks import Clocks
from benchmarks.faults.namespaces import Link, open_namespaces
from benchmarks.faults.sites import BATCHES, CONTRACT, RATE, SITES, SPECS, WIDTH, make_model, write_site
from benchmarks.faults.told import Told
from benchmarks.faults.waiting import LogTail, wait_for
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.errors import DaitnError, UnavailableError
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.job import FINAL_PHASES, LogEntry, Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.enrolment import MEMBERSHIP_FILE, load_membership
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.processes import CENTER, LocalDomain
from daitn.node.supervisor import descendants
from daitn.sdk.jobs import Job
from daitn.sdk.transport import Transport, quoted

PATIENCE_S: Final = 2.0
"""The domain's patience, which is the lease."""

OWNER: Final = "owner"
"""The name of the link between owners' programs and the centre's door."""

DISK_BYTES: Final = 300_000_000
"""North's disk: room for 30 big models."""


class Fault(NamedTuple):
    """When a fault was brought about, what it was to hit, and by what means."""

    unix_s: float
    visit: str = ""
    by: str = "signal"
    at: str = ""
    """The node whose own next step counts, where only that one does."""
    elsewhere: str = ""
    """The node whose steps do not count, where another's does that takes over from it."""
    name: str = ""
    """The process that it hit, where a play finds out which."""
    known: int | None = None
    """How many entries the log had before, where the centre's own clock is what is wrong: what counts is when a later
    one is seen."""


class World:
    """See the module's docstring; made by `open_world`."""

    def __init__(self, domain: LocalDomain, links: dict[str, Link], clocks: Clocks, no_disk: str) -> None:
        self.domain = domain
        self.links = links
        self._clocks = clocks
        self.token = domain.owner_token("ada")
        given = parse_owner_token(self.token)
        self._network = Transport(given)
        self.token_by_link = str(msgspec.structs.replace(given, address=links[OWNER].address))
        """The owner's token whose address is that of the link `OWNER`."""
        self.jobs: list[Job] = []
        """All jobs that were watched, the newest last."""
        self.no_disk = no_disk
        """Why no disk can be filled here; empty where that of north and of the centre can."""
        self._hit_at: dict[str, int] = {}
        """How long the log of each process was when it was last killed or stopped."""
        self._told: dict[str, Told] = {}
        """What was told of each job."""

    # --- jobs -------------------------------------------------------------------------------------------------------

    def submit(self, size: str, **knobs: Any) -> Job:
        """A job that cannot reach its goal, so that it lasts; the owner watches it from now on."""
        batches = BATCHES[size]
        asked: dict[str, Any] = {
            "contract": decode_contract(json.dumps(CONTRACT).encode()),
            "targets": ["loss <= 0.0000001"],
            "chance_floor": 0.0,
            "until_deadline": True,
            "deadline": 3600,
            "purpose": "research",
            "name": f"{size}-{len(self.jobs) + 1}",
            "method": "cyclic",
            "budget": Budget(visits=5000),
            "hyperparameters": Hyperparameters(batch_size=8, batches_per_visit=batches, learning_rate=RATE[size]),
            "key": load_or_create_key(self.domain.folder / "ada.key"),
        }
        # Each job has a model of its own: what an earlier one made would be held already, and moved nowhere.
        model = make_model(WIDTH[size], job=len(self.jobs))
        job: Job = daitn.connect(self.token).train(model, **(asked | knobs))
        self._follow(job)
        job.assessed()
        return job

    def adopt(self, job_id: str) -> Job:
        """A job that an owner's program submitted; watched from now on as well."""
        job: Job = daitn.connect(self.token).job(job_id)
        self._follow(job)
        return job

    def _follow(self, job: Job) -> None:
        self.jobs.append(job)
        self._told[job.id] = Told(job.id)
        threading.Thread(target=self._watch, args=(job,), daemon=True, name="owner").start()

    def _watch(self, job: Job) -> None:
        """An owner who looks on at what the centre serves, unfiltered, and comes back when it is lost."""
        told, network = self._told[job.id], Transport(parse_owner_token(self.token))
        while True:
            try:
                for name, data in network.events(f"/v1/jobs/{quoted(job.id)}/events"):
                    if name == "status":
                        raw = json.loads(data)
                        told.status("stream", raw)
                        told.read(job.log)
                        if Phase(raw["phase"]) in FINAL_PHASES:
                            return
            except UnavailableError:
                time.sleep(0.1)
            except DaitnError:  # the domain has ended
                return

    def told(self, job: Job) -> Told:
        """What was told of a job until now."""
        return self._told[job.id]

    def log(self, job: Job) -> tuple[LogEntry, ...]:
        """The job's log as it was told until now; only what is new is asked for. Empty while the centre does not
        answer."""
        try:
            return self._told[job.id].read(job.log)
        except UnavailableError:
            return ()

    def status(self, job: Job) -> dict[str, Any] | None:
        """The job as the centre serves it, unless it does not answer."""
        try:
            raw: dict[str, Any] = self._network.call("GET", f"/v1/jobs/{quoted(job.id)}", dict[str, Any])
        except UnavailableError:
            return None
        self._told[job.id].status("answers", raw)
        return raw

    def set_batches(self, job: Job, batches: int) -> None:
        """How many batches the visits have that are ordered from now on."""
        job.change(hyperparameters={"batches_per_visit": batches})

    # --- points -----------------------------------------------------------------------------------------------------

    def at_training(self, node: str) -> str:
        """Wait until a visit's first step is made at a node; the visit."""
        tail = LogTail(self._log_file(node))
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

    def at_part(self, node: str, way: str, count: int, rate_bytes_per_s: float, *, stays_slow: bool) -> None:
        """Make a node's link slow and wait until so much more has passed it one way; it stays slow or is fast again."""
        link = self.links[node]
        link.rate_bytes_per_s = rate_bytes_per_s
        try:
            self.at_bytes(node, way, count)
        finally:
            if not stays_slow:
                link.rate_bytes_per_s = 0.0

    def tails(self, *names: str) -> dict[str, LogTail]:
        """What these processes log from now on; all nodes and the centre where none is named."""
        return {name: LogTail(self._log_file(name)) for name in names or (CENTER, *(spec.name for spec in SPECS))}

    def slot(self, node: str) -> str:
        """A node's slot."""
        return str(load_membership(self.domain.node_folder(node) / "tls").slot)

    def doer(self, job: Job, kind: str) -> str:
        """The process that made a job's last step of a kind, once there is one."""

        def last() -> str:
            slots = [entry.node for entry in self.log(job) if entry.kind == kind]
            return str(slots[-1]) if slots else ""

        slot = wait_for(last, f"a step that is {kind}")
        return next(spec.name for spec in SPECS if self.slot(spec.name) == slot)

    def other_ready(self, job: Job, unit: str) -> None:
        """Wait until another unit than this one stands by, ready to measure since it was last stopped or killed."""
        others = [spec.name for spec in SPECS if Role.VERIFICATION in spec.roles and spec.name != unit]
        words = f"ready to measure for job {job.id}".encode()

        def ready(name: str) -> bool:
            return words in self._log_file(name).read_bytes()[self._hit_at.get(name, 0) :]

        wait_for(lambda: any(ready(name) for name in others), f"a unit that stands by for {unit}")

    def open_visit(self, job: Job, node: str) -> str:
        """The visit that a node was last ordered to make, if it is not over."""
        slot = self.slot(node)
        mine = [entry for entry in self.log(job) if entry.node == slot and entry.visit is not None]
        return str(mine[-1].visit) if mine and mine[-1].kind == "ordered" else ""

    # --- faults -----------------------------------------------------------------------------------------------------

    def _log_file(self, name: str) -> Path:
        return self.domain.folder / "logs" / f"{name}.log"

    def kill(self, name: str) -> Fault:
        """SIGKILL."""
        self._hit_at[name] = self._log_file(name).stat().st_size
        now = time.time()
        self.domain.kill(name, signal.SIGKILL)
        return Fault(now)

    def stop(self, name: str) -> Fault:
        """SIGSTOP."""
        self._hit_at[name] = self._log_file(name).stat().st_size
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

    @contextmanager
    def movable_clock(self, name: str) -> Iterator[None]:
        """A process starts again so that its clock can be moved (`set_clock`), and afterwards so that it cannot."""
        prefix = self.domain.prefixes.get(name, ())
        self.domain.prefixes[name] = (*prefix, *self._clocks.prefix(name))
        self._start_anew(name)
        try:
            yield
        finally:
            self.domain.prefixes[name] = prefix
            self._start_anew(name)

    def _start_anew(self, name: str) -> None:
        self.domain.processes.end(name)
        if name == CENTER:
            self.domain.start_center()
        else:
            self.domain.join(next(spec for spec in SPECS if spec.name == name), [])

    def set_clock(self, name: str, seconds: float) -> Fault:
        """Move the wall clock of a process."""
        now = time.time()
        self._clocks.set(name, seconds)
        return Fault(now, by=self._clocks.by)

    def lose_store(self, node: str) -> None:
        """The files of all that a node holds are gone."""
        for path in (self.domain.node_folder(node) / "store" / "packs").glob("*"):
            path.unlink(missing_ok=True)

    def fill_disk(self, name: str) -> Callable[[], None]:
        """Fill the disk of north or of the centre; call what is returned to make room again."""
        filler = (self.domain.home / "center" if name == CENTER else self.domain.node_folder(name)) / "filler"
        with filler.open("wb", buffering=0) as file:
            size = 1 << 20
            while size >= 512:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        return filler.unlink


def _prepare(file: Path, links: dict[str, Link]) -> str:
    """The domain's settings before its first start; returns the router's address.

    A node that falls a dozen times within minutes would be asked after others for up to an hour; here all faults are
    played at one node. The centre reaches the router through a link of its own, and owners' programs the centre's door.
    """
    config = json.loads(file.read_text())
    router = f"{config['host']}:{config['router_port']}"
    links[CENTER] = link = Link(CENTER, router, None, config["host"])
    links[OWNER] = Link(OWNER, f"{config['host']}:{config['api_port']}", None, config["host"])
    port = int(link.address.rpartition(":")[2])
    damping = {"suppress": 1000.0, "half_life_s": 60.0}
    file.write_text(json.dumps(config | {"damping": damping, "router_port": port}))
    return router


@contextmanager
def open_world(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[World]:
    """Router, centre, two each of sites, verification units and aggregators, every link through a proxy and, where the
    machine allows it, in a namespace of its own; all gone at the end."""
    names = [spec.name for spec in SPECS]
    links: dict[str, Link] = {}
    with (
        open_namespaces(names) as namespaces,
        small_disk(folder / "domain" / "nodes" / "north") as no_disk,
        small_disk(folder / "domain" / "domain" / "center") as none_of_the_centre,
        LocalDomain(folder / "domain", "faults", patience_s=patience_s) as domain,
    ):
        knobs = ["--domain", "faults", "--patience", f"{patience_s:g}"]
        if not isinstance(namespaces, str):
            domain.prefixes |= {name: namespaces.prefix(name) for name in names}
            knobs += ["--host", namespaces.host]
        domain.run("init", str(domain.home), *knobs)
        router = _prepare(domain.home / "domain.json", links)
        domain.start()
        data = {name: [write_site(folder / name, seed)] for seed, name in enumerate(SITES)}
        domain.join_all(SPECS, data)
        try:
            for name in names:
                domain.processes.end(name)
                file = domain.node_folder(name) / "tls" / MEMBERSHIP_FILE
                said = json.loads(file.read_bytes())
                links[name] = Link(name, router, None if isinstance(namespaces, str) else namespaces)
                said["network"]["routers"] = [links[name].address]
                file.write_text(json.dumps(said))
            for name in names:
                domain.restart(name, wait=False)
            domain.processes.wait_ready(names)
            yield World(domain, links, Clocks(folder / "clocks"), no_disk or none_of_the_centre)
            for name in names:  # nothing is left stopped
                with contextlib.suppress(OSError):
                    domain.kill(name, signal.SIGCONT)
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

"""A peer's processes: its own commands in its own environment, every file below one folder, and all gone at the end.

Home and temporary folder are ours, so nothing is left in the user's; whoever outlives the request to end is killed,
grandchildren in sessions of their own included (`daitn.node.supervisor`).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers.environments import REASON_CHARACTERS, PeerAbsentError
from benchmarks.peers.records import Record, read_record
from daitn.node.supervisor import Processes

LOOPBACK: Final = "127.0.0.1"
APPS: Final = Path(__file__).parent / "apps"
COMMAND_S: Final = 60.0
"""How long a peer's command may take that ends by itself: they take a second or two."""

READY_S: Final = 60.0
"""How long a peer's processes may take to listen: they take four seconds on two cores."""

POLL_S: Final = 0.05
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
"""What peers colour their logs with."""


class PeerProcesses:
    """What a peer's measure needs of processes; made by `running`."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self._processes = processes

    def start(self, name: str, *command: str) -> None:
        """A process that stays."""
        self._processes.start(name, command)

    def pid(self, name: str) -> int:
        """The process of that name."""
        return self._processes.pid(name)

    def run(self, *command: str, limit_s: float = COMMAND_S) -> None:
        """A command that ends by itself, and well."""
        name = " ".join(Path(part).name for part in command[:2])
        try:
            done = subprocess.run(
                command,
                env=self._processes.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PeerAbsentError(f"{name!r} did not end within {limit_s:g} s") from None
        if done.returncode:
            raise PeerAbsentError(
                f"{name!r} failed: {COLOUR.sub('', done.stderr or done.stdout).strip()[-REASON_CHARACTERS:]}"
            )

    def wait_for_port(self, port: int) -> None:
        """Until somebody listens."""
        give_up = time.monotonic() + READY_S
        while True:
            self.check_alive()
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > give_up:
                    raise PeerAbsentError(f"nobody listens after {READY_S:g} s{self._tails()}") from None
            time.sleep(POLL_S)

    def wait_for_event(self, record: Path, event: str, limit_s: float) -> Record:
        """The record, once it holds an event."""
        give_up = time.monotonic() + limit_s
        while True:
            if record.exists():
                found = read_record(record.read_text())
                if event in found.marks_ns:
                    return found
            self.check_alive()
            if time.monotonic() > give_up:
                raise PeerAbsentError(f"no {event!r} within {limit_s:g} s{self._tails()}")
            time.sleep(POLL_S)

    def check_alive(self) -> None:
        """PeerAbsentError with the last words of one that has ended."""
        for name in self._processes.names():
            if not self._processes.alive(name):
                raise PeerAbsentError(f"{name} has ended: {self._tail(name)}")

    def _tails(self) -> str:
        return "".join(f"; {name}: {self._tail(name)}" for name in self._processes.names())

    def _tail(self, name: str) -> str:
        return COLOUR.sub("", self._processes.tail(name, 2)).strip()[-REASON_CHARACTERS:]


@contextmanager
def running(folder: Path, commands: Path, environment: Mapping[str, str]) -> Iterator[PeerProcesses]:
    """Processes that find the peer's commands first and write below `folder` only; all ended on leaving."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    ours = {
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "NO_PROXY": f"{LOOPBACK},localhost",
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    processes = Processes(folder / "logs", {**ours, **environment})
    try:
        yield PeerProcesses(folder, processes)
    finally:
        processes.stop()  # kills who does not end when asked; a peer that must be killed is no fault of ours


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def copy_apps(target: Path, names: Sequence[str]) -> None:
    """Our applications as the package `hop`, where the peer wants them."""
    target.mkdir(parents=True)
    for name in ("__init__", "contents", *names):
        shutil.copyfile(APPS / f"{name}.py", target / f"{name}.py")

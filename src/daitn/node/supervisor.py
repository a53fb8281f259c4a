"""Processes: named long-running commands on this machine, started, watched, killed and, at the end, all gone.

Each runs in a session of its own, so that a signal reaches it and not the caller, with its output in files. Nothing
outlives the caller: the kernel ends a process whose starter dies (prctl(2), PR_SET_PDEATHSIG), and since that means the
starting *thread*, all are started by one thread that lives as long as this object. `stop` asks (SIGTERM), insists
(SIGKILL), and then looks for survivors: descendants seen before, members of the sessions, and whoever inherited the
mark in the environment. Off Linux the last part knows only the processes themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from daitn.base.errors import BugError, InputError, UnavailableError

READY_S: Final = 30.0
"""How long a command may take to say that it is ready: ten start at once on two cores, each loads 50 MB of Python."""

TERM_S: Final = 5.0
"""How long a process may take to end after SIGTERM, before SIGKILL."""

GONE_S: Final = 5.0
"""How long grandchildren may take to end after that: a killed node's sandbox ends when its pipe does."""

POLL_S: Final = 0.01
TAIL_LINES: Final = 20
TAIL_BYTES: Final = 64 * 1024
LINE_BYTES: Final = 1024 * 1024
"""Most output that is looked through for the line that says ready."""

_MARK: Final = "DAITN_LOCAL_MARK"

_TRAMPOLINE: Final = (
    "import ctypes, os, signal, sys\n"
    "parent = int(sys.argv[1])\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)\n"
    "if os.getppid() != parent:\n"
    "    sys.exit('its starter has ended')\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)
"""Runs in the child before the command: 12 ms, and no code between fork and exec of a process with threads."""


class Survivor(NamedTuple):
    """A process that should be gone."""

    pid: int
    command: str


class _Started(NamedTuple):
    """One running command and where its output of this start begins."""

    process: subprocess.Popen[bytes]
    output_start: int


class Processes:
    """See the module's docstring. A context manager; leaving it stops everything. Not for several threads at once."""

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """`logs`: folder for `NAME.out` and `NAME.log`; `environment`: in addition to the caller's."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._mark = secrets.token_hex(8)
        self._environment = {**os.environ, **(environment or {}), _MARK: self._mark}
        self._commands: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, _Started] = {}
        self._sessions: set[int] = set()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        survivors = self.stop()
        if survivors and error is None:
            raise BugError(
                "processes are left over: " + "; ".join(f"{one.pid} {one.command[:120]}" for one in survivors)
            )

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see; for commands that run beside them."""
        return dict(self._environment)

    # --- starting ---------------------------------------------------------------------------------------------------

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a command under a name, without waiting. InputError where the name runs already."""
        if self.alive(name):
            raise InputError(f"process {name!r} runs already")
        self._commands[name] = tuple(command)
        self._running[name] = self._starter.submit(self._spawn, name, tuple(command)).result()

    def wait_ready(self, names: Iterable[str], timeout_s: float = READY_S) -> dict[str, dict[str, Any]]:
        """What each said when it was ready; UnavailableError with the end of the log where one does not say it."""
        waiting, ready = list(names), dict[str, dict[str, Any]]()
        give_up = time.monotonic() + timeout_s
        while waiting:
            for name in list(waiting):
                said = self._ready_line(name)
                if said is not None:
                    ready[name] = said
                    waiting.remove(name)
                elif not self.alive(name):
                    raise UnavailableError(
                        f"process {name!r} ended before it was ready ({self._exit(name)}){self._end(name)}"
                    )
            if waiting and time.monotonic() > give_up:
                raise UnavailableError(
                    f"not ready within {timeout_s:g} s: {', '.join(waiting)}" + "".join(map(self._end, waiting))
                )
            if waiting:
                time.sleep(POLL_S)
        return ready

    def restart(self, name: str, *, wait: bool = True) -> dict[str, Any]:
        """Start a command that has ended (or end it, and start it) with the same arguments."""
        if name not in self._commands:
            raise InputError(f"there is no process {name!r}", todo=f"there are {', '.join(sorted(self._commands))}")
        self.end(name)
        self.start(name, self._commands[name])
        return self.wait_ready([name])[name] if wait else {}

    # --- watching ---------------------------------------------------------------------------------------------------

    def alive(self, name: str) -> bool:
        """Whether it runs."""
        started = self._running.get(name)
        return started is not None and started.process.poll() is None

    def pid(self, name: str) -> int:
        """Its process id; InputError where it never ran."""
        if name not in self._running:
            raise InputError(f"there is no process {name!r}", todo=f"there are {', '.join(sorted(self._running))}")
        return self._running[name].process.pid

    def names(self) -> tuple[str, ...]:
        """All that were started, in order."""
        return tuple(self._running)

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """The last lines of what it wrote: log, then output where the log is empty."""
        for suffix in (".log", ".out"):
            with contextlib.suppress(FileNotFoundError), (self._logs / f"{name}{suffix}").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace").strip()
                if text:
                    return "\n".join(text.splitlines()[-lines:])
        return ""

    # --- ending -----------------------------------------------------------------------------------------------------

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process, not to its children: a test of what becomes of them. Waits after SIGKILL."""
        started = self._running[name]
        started.process.send_signal(number)
        if number == signal.SIGKILL:
            started.process.wait(GONE_S)

    def end(self, name: str, term_s: float = TERM_S) -> None:
        """SIGTERM, and SIGKILL where that is not enough. Ending what has ended is no error."""
        started = self._running.get(name)
        if started is not None:
            _end_all([started.process], term_s)

    def stop(self) -> tuple[Survivor, ...]:
        """End everything; last started first. Returns what is still there, which should be nothing (and is killed)."""
        before = descendants(started.process.pid for started in self._running.values())
        _end_all([started.process for started in reversed(self._running.values())], TERM_S)
        give_up = time.monotonic() + GONE_S
        while (left := self._left(before)) and time.monotonic() < give_up:
            time.sleep(POLL_S)
        for one in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        self._starter.shutdown()
        return tuple(left)

    def _left(self, before: Mapping[int, str]) -> list[Survivor]:
        """Processes of ours that are there: seen before, in one of the sessions, or with the mark."""
        found: list[Survivor] = []
        for pid in _all_pids():
            birth = _stat(pid)
            if birth is None or birth.state == "Z" or pid == os.getpid():
                continue
            if before.get(pid) == birth.born or birth.session in self._sessions or self._marked(pid):
                found.append(Survivor(pid, _command(pid)))
        if not found and not _all_pids():
            found = [
                Survivor(one.process.pid, name) for name, one in self._running.items() if one.process.poll() is None
            ]
        return found

    def _marked(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return f"{_MARK}={self._mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False

    # --- inside -----------------------------------------------------------------------------------------------------

    def _spawn(self, name: str, command: tuple[str, ...]) -> _Started:
        output, log = self._logs / f"{name}.out", self._logs / f"{name}.log"
        start = output.stat().st_size if output.exists() else 0
        with output.open("ab") as out, log.open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,
            )
        self._sessions.add(process.pid)
        return _Started(process, start)

    def _ready_line(self, name: str) -> dict[str, Any] | None:
        started = self._running[name]
        with (self._logs / f"{name}.out").open("rb") as file:
            file.seek(started.output_start)
            for line in file.read(LINE_BYTES).splitlines():
                if line.startswith(b"{"):
                    with contextlib.suppress(ValueError):
                        said = json.loads(line)
                        if isinstance(said, dict) and said.get("ready"):
                            return said
        return None

    def _exit(self, name: str) -> str:
        code = self._running[name].process.poll()
        return f"signal {-code}" if code is not None and code < 0 else f"status {code}"

    def _end(self, name: str) -> str:
        """The end of a log, for an error."""
        return f"\n--- the end of {self._logs / name}.log:\n{self.tail(name) or 'nothing was written'}"


def _end_all(processes: Sequence[subprocess.Popen[bytes]], term_s: float) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
        process.send_signal(signal.SIGCONT)
    give_up = time.monotonic() + term_s
    for process in running:
        try:
            process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Stat(NamedTuple):
    """What /proc says of a process. `born`: its start in clock ticks, which tells a reused id apart."""

    state: str
    parent: int
    session: int
    born: str


def _all_pids() -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def _stat(pid: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(state=fields[0], parent=int(fields[1]), session=int(fields[3]), born=fields[19])


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""


def descendants(roots: Iterable[int]) -> dict[int, str]:
    """Process id → start time of these processes and everything below them, as far as /proc shows it."""
    stats = {pid: stat for pid in _all_pids() if (stat := _stat(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found: dict[int, str] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in stats and pid not in found:
            found[pid] = stats[pid].born
            waiting += children.get(pid, [])
    return found

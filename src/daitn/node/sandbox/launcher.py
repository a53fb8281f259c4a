"""Starting children: bubblewrap where there is one, a plain process under rlimits otherwise; what holds is measured.

Inside, a child has no network, no capability, its own process, user and mount namespaces, a small `/tmp` in memory, the
Python installation and system libraries read-only, the data set read-only at `/data`, and nothing else of the host. The
child lowers its own limits (memory, CPU, files, no core dumps) before it imports anything large or reads a byte of a
package: a limit set from outside would leave a gap, and setting it between fork and exec would mean forking a threaded
process. Memory is bounded by RLIMIT_DATA, which counts private writable memory; RLIMIT_AS would also count the
gigabyte of address space that torch's libraries map and never touch. What several processes or shared memory could
take beyond it, the node's watchdog sees (`visits`).

Between node and child stands a `tether`, which ends the child when the node dies, at whatever moment.

Nothing is claimed that was not tried: `enforced` starts probes that attempt what is forbidden.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec

import daitn
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import UnavailableError
from daitn.base.units import GIB, MIB

DATA_PATH: Final = "/data"
"""Where the data set appears inside."""
BASE_PATH: Final = "/base"
"""Where a frozen base appears inside."""
VECTORS_PATH: Final = "/vectors"
REPLAY_PATH: Final = "/replay"
"""Where the activations of a frozen base appear inside."""
PROBE_MEMORY_BYTES: Final = 96 * MIB
PROBE_S: Final = 10.0
"""A probe that has not answered by then counts as not enforcing anything."""
STDERR_BYTES: Final = 8192
"""Last words of a child that are kept."""
ALLOCATOR: Final = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_ARENA_MAX": "2",
}
"""glibc gives back large blocks at once by default, so that each step pays for its gradients' page faults again."""

NOTHING_BESIDE: Final[Mapping[str, Path]] = {}

_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from daitn.node.sandbox.{module} import main; "
    "raise SystemExit(main(sys.argv[2:]))"
)


_TETHER: Final = str(Path(__file__).with_name("tether.py"))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one child may use."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=1 * MIB)] = 8 * GIB
    """Private memory; importing torch takes 0.25 GB of it."""
    cpu_s: Annotated[int, msgspec.Meta(ge=1)] = 24 * 3600
    """Processor seconds over the life of a child, all visits together."""
    wall_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """Longest a run may take, unless the run says less."""
    file_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * GIB
    """Largest file a child may write: its result."""
    files: Annotated[int, msgspec.Meta(ge=32)] = 1024
    temporary_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * MIB
    """Size of `/tmp`, which is memory."""


class Started:
    """A child that was started: the node's end of the pair of sockets, where it finds its data, and its processes."""

    def __init__(
        self, process: Process, channel: socket.socket, line: socket.socket, data_path: str, leader: int
    ) -> None:
        """`process`: its tether, which ends with it; `line`: what holds the tether; `leader`: process id of the first
        process inside; with bubblewrap, killing it ends the whole namespace."""
        self.process = process
        self.channel = channel
        self._line = line
        self.data_path = data_path
        self.leader = leader
        try:
            self._leader_fd = os.pidfd_open(leader)
        except ProcessLookupError:
            self._leader_fd = -1

    def kill(self) -> None:
        """SIGKILL for all of it. Killing bubblewrap itself is not enough: until its child has asked to die with it,
        the child lives on. Killing that child ends the namespace, and bubblewrap then reaps it and ends too."""
        if self._leader_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._leader_fd, signal.SIGKILL)

    async def end(self) -> tuple[int, str]:
        """Kill what still runs, wait until it is gone, release everything; exit status and the child's last words."""
        self.kill()
        return await self.wait()

    async def wait(self) -> tuple[int, str]:
        """Wait for the end and release everything; exit status and the child's last words."""
        last = b""
        assert self.process.stderr is not None
        while part := await self.process.stderr.read(65536):
            last = (last + part)[-STDERR_BYTES:]
        status = await self.process.wait()
        self.channel.close()
        self._line.close()
        if self._leader_fd >= 0:
            os.close(self._leader_fd)
            self._leader_fd = -1
        return status, last.decode("utf-8", "replace").strip()


class Sandbox:
    """Starts children under `limits`. `bubblewrap`: path of `bwrap`, empty for none (default: found by name).

    Where bubblewrap is installed but cannot make namespaces (some containers forbid it), children are plain processes;
    `enforced` then says so.
    """

    def __init__(self, limits: Limits | None = None, bubblewrap: str | None = None) -> None:
        self.limits = Limits() if limits is None else limits
        self._bubblewrap = (shutil.which("bwrap") or "") if bubblewrap is None else bubblewrap
        self._checked = not self._bubblewrap
        self._enforced: tuple[str, ...] | None = None

    async def start(
        self,
        data: Path | None = None,
        *,
        beside: Mapping[str, Path] | None = None,
        threads: int = 1,
        device: str = "cpu",
        module: str = "child",
    ) -> Started:
        """Start a child with `data` and the folders `beside` it (place inside → folder) read-only.

        UnavailableError where no process can be started.
        """
        if not self._checked:
            await self._check()
        return await self._start(data, threads, device, module, beside or {})

    async def _check(self) -> None:
        """Whether bubblewrap can do what it is asked for here; if not, go on without."""
        self._checked = True
        try:
            started = await self._start(None, 1, "cpu", "probe")
        except UnavailableError:
            self._bubblewrap = ""
        else:
            await started.end()

    async def _start(
        self, data: Path | None, threads: int, device: str, module: str, beside: Mapping[str, Path] = NOTHING_BESIDE
    ) -> Started:
        ours, theirs = socket.socketpair()
        line, tether = socket.socketpair()
        try:
            arguments = [str(theirs.fileno()), msgspec.json.encode(self.limits).decode()]
            kind = "bubblewrap" if self._bubblewrap else "plain"
            command = self._command(module, arguments, data, threads, device, beside)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", _TETHER, str(tether.fileno()), kind),
                *command,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                env=child_environment(threads),
                pass_fds=(theirs.fileno(), tether.fileno()),
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            tether.close()
            leader = await _read_leader(line)
            if leader is None:
                _, words = await process.communicate()
                said = (words or b"").decode("utf-8", "replace").strip()
                raise UnavailableError(f"no child could be started by {kind}: {said[:300]}")
        except BaseException as error:
            # Its line broken, the tether ends whatever it has started.
            ours.close()
            line.close()
            if isinstance(error, OSError):
                raise UnavailableError(f"no child process could be started: {error}") from None
            raise
        finally:
            theirs.close()
            tether.close()
        ours.setblocking(False)
        return Started(process, ours, line, self.data_path(data), leader)

    def data_path(self, data: Path | None) -> str:
        """Where a child finds `data`."""
        return "" if data is None else self.place(DATA_PATH, data)

    def place(self, inside: str, folder: Path) -> str:
        """Where a child finds a folder that is bound at `inside`: there, or without bubblewrap where it is."""
        return inside if self._bubblewrap else str(folder.resolve())

    def _command(
        self,
        module: str,
        arguments: Sequence[str],
        data: Path | None,
        threads: int,
        device: str,
        beside: Mapping[str, Path],
    ) -> list[str]:
        source = str(Path(daitn.__file__).resolve().parent.parent)
        command = [sys.executable, "-I", "-B", "-c", _BOOT.format(module=module), source, *arguments]
        if not self._bubblewrap:
            return command
        wrapping = [self._bubblewrap, "--unshare-all", "--unshare-user", "--disable-userns"]
        wrapping += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
        wrapping += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        for name, value in child_environment(threads).items():
            wrapping += ["--setenv", name, value]
        # First, so that an installation below /tmp is bound into it and not hidden by it.
        wrapping += ["--size", str(max(1, self.limits.temporary_bytes)), "--tmpfs", "/tmp"]
        for path in runtime_paths():
            if path.is_symlink():
                wrapping += ["--symlink", os.readlink(path), str(path)]
            else:
                wrapping += ["--ro-bind", str(path), str(path)]
        wrapping += ["--proc", "/proc", "--dev", "/dev"]
        if device != "cpu":
            for node in sorted(Path("/dev").glob("nvidia*")):
                wrapping += ["--dev-bind", str(node), str(node)]
        if data is not None:
            wrapping += ["--ro-bind", str(data.resolve()), DATA_PATH]
        for inside, folder in beside.items():
            wrapping += ["--ro-bind", str(folder.resolve()), inside]
        return [*wrapping, "--remount-ro", "/", "--chdir", "/tmp", "--", *command]

    async def enforced(self) -> tuple[str, ...]:
        """What was seen to hold for children on this machine; measured once, in about two seconds.

        Any of `no-network`, `read-only`, `no-host-files`, `namespaces`, `memory`, `cpu`, `wall-time`, `no-core-dumps`.
        """
        if self._enforced is None:
            if not self._checked:
                await self._check()
            probes = (self._probe_rights(), self._probe_cpu(), self._probe_wall_time())
            self._enforced = tuple(name for names in await asyncio.gather(*probes) for name in names)
        return self._enforced

    async def _probe_rights(self) -> tuple[str, ...]:
        """A child tries to reach a listening port, to write, to read a secret, and to take too much memory."""
        with _bait() as (port, secret), tempfile.TemporaryDirectory(prefix="daitn-probe-") as folder:
            spaces = {
                name: os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid", "mnt", "ipc", "uts", "user")
            }
            sandbox = Sandbox(msgspec.structs.replace(self.limits, memory_bytes=PROBE_MEMORY_BYTES), self._bubblewrap)
            question = {"port": port, "secret": str(secret), "spaces": spaces, "memory": PROBE_MEMORY_BYTES}
            question["data"] = sandbox.data_path(Path(folder))
            answer = await sandbox._ask(question, Path(folder))
        try:
            return tuple(msgspec.json.decode(answer, type=list[str]))
        except UNDECODABLE:
            return ()

    async def _ask(self, question: dict[str, object], data: Path) -> bytes:
        """Start a probe, send a line, and return what it answers until it ends."""
        started = await self.start(data, module="probe")
        loop = asyncio.get_running_loop()
        answer = b""
        try:
            async with asyncio.timeout(PROBE_S):
                await loop.sock_sendall(started.channel, msgspec.json.encode(question) + b"\n")
                while part := await loop.sock_recv(started.channel, 65536):
                    answer += part
        except (TimeoutError, OSError):
            answer = b""
        finally:
            await started.end()
        return answer

    async def _probe_cpu(self) -> tuple[str, ...]:
        """A child with one second of processor time computes without end."""
        sandbox = Sandbox(msgspec.structs.replace(self.limits, cpu_s=1), self._bubblewrap)
        started = await sandbox.start(module="probe")
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.get_running_loop().sock_sendall(started.channel, b'{"burn": true}\n')
                status = await started.process.wait()
            return ("cpu",) if exit_signal(status) in (signal.SIGXCPU, signal.SIGKILL) else ()
        except (TimeoutError, OSError):
            return ()
        finally:
            await started.end()

    async def _probe_wall_time(self) -> tuple[str, ...]:
        """A child that waits for ever is ended, and everything in it."""
        started = await self.start(module="probe")
        try:
            async with asyncio.timeout(PROBE_S):
                await started.end()
        except TimeoutError:
            return ()
        return () if _is_alive(started.leader) else ("wall-time",)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def _read_leader(line: socket.socket) -> int | None:
    """Process id inside, as the tether tells it; None where it ended without telling."""
    line.setblocking(False)
    text = b""
    while part := await asyncio.get_running_loop().sock_recv(line, 4096):
        text += part
        with suppress(*UNDECODABLE):
            return msgspec.json.decode(text, type=_Info).child_pid
    return None


class _Info(msgspec.Struct, frozen=True, rename="kebab"):
    child_pid: int


def exit_signal(status: int) -> int:
    """The signal a child died of, 0 if none; bubblewrap reports signal n as status 128 + n."""
    if status < 0:
        return -status
    return status - 128 if 128 < status < 128 + 65 else 0


def child_environment(threads: int) -> dict[str, str]:
    """All that a child's environment holds."""
    count = str(threads)
    environment = {"HOME": "/tmp", "LANG": "C.UTF-8", "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **ALLOCATOR}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def runtime_paths() -> tuple[Path, ...]:
    """What a child needs of the host, each path once: interpreter, libraries, this package, and the processor's facts.

    Never a whole `/` or `/usr`: where Python lives there, only its library folders are taken.
    """
    wanted = [Path(path) for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")]
    wanted.append(Path("/sys/devices/system/cpu"))
    for prefix in {sys.prefix, sys.base_prefix}:
        if Path(prefix).resolve() in (Path("/"), Path("/usr"), Path("/usr/local")):
            wanted.append(Path(prefix).resolve() / "lib")
            wanted += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        else:
            wanted.append(Path(prefix))
    wanted += [*chain_of_links(Path(sys.executable)), Path(daitn.__file__).resolve().parent]
    kept: list[Path] = []
    for path in sorted(set(wanted), key=lambda path: len(path.parts)):
        if (path.exists() or path.is_symlink()) and not any(parent in kept for parent in path.parents):
            kept.append(path)
    return tuple(kept)


def chain_of_links(path: Path) -> tuple[Path, ...]:
    """A path, every link that it leads over, and the file at the end: all of them have to be there to follow it. An
    environment's `python` may lead over the system's `python3` to its `python3.11`."""
    found = [path]
    while found[-1].is_symlink():
        beyond = Path(os.path.normpath(found[-1].parent / os.readlink(found[-1])))
        if beyond in found:
            break
        found.append(beyond)
    return tuple(dict.fromkeys((*found, path.resolve())))


@contextmanager
def _bait() -> Iterator[tuple[int, Path]]:
    """A listening port and a readable file: what a child must not reach."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory(prefix="daitn-bait-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        yield server.getsockname()[1], secret

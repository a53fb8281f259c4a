"""A whole domain on the loopback: authority, router process and node identities in one directory.

For demonstrations, benchmarks and tests, which need real certificates and a real router without any installation. A
production domain has the same parts, made by the commands of the operator and by enrolment.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.errors import UnavailableError
from daitn.base.ids import CENTER, DomainId, NodeId
from daitn.node import pki
from daitn.node.fabric.access import ROUTER_NAME
from daitn.node.fabric.contract import FabricConfig
from daitn.node.fabric.router import RouterConfig, encode_config

READY_S: Final = 30.0
"""Longest start of a router: 5,000 slots take 5 s on two busy cores."""

STOP_S: Final = 5.0


class RouterProcess:
    """A router in a process of its own; the context ends it."""

    def __init__(self, config: RouterConfig, directory: Path) -> None:
        self.config = config
        self._file = directory / "router.json"
        self._process: subprocess.Popen[str] | None = None
        self.port = config.port

    def __enter__(self) -> RouterProcess:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start and wait until it serves; on the same port as before if it ran already."""
        self._file.write_bytes(encode_config(msgspec.structs.replace(self.config, port=self.port)))
        command = [sys.executable, "-m", "daitn.node.fabric.router", "--config", str(self._file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_forward_lines, args=(self._process, lines), daemon=True).start()
        said: list[str] = []
        try:
            while not (line := lines.get(timeout=READY_S)).startswith("ready "):
                said.append(line)
                if not line:
                    raise UnavailableError(f"the router ended at once: {''.join(said).strip()}")
        except (queue.Empty, UnavailableError) as fault:
            self.stop()
            if isinstance(fault, UnavailableError):
                raise
            raise UnavailableError(f"the router did not serve within {READY_S:g} s: {''.join(said)}") from fault
        self.port = int(line.split()[1])

    def kill(self) -> None:
        """End it without warning, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process = None

    def stop(self) -> None:
        """Ask it to end, and make sure that it did."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None


class LoopbackDomain:
    """An authority with one router and as many nodes as asked for."""

    def __init__(self, directory: Path, *, domain: str = "loopback", slots: int = 8, lease_s: float = 3.0) -> None:
        self.directory = directory
        self.domain = DomainId(domain)
        self.lease_s = lease_s
        self.authority = pki.create_authority(directory / "authority", self.domain)
        certificate, key = self.authority.issue_server(ROUTER_NAME)
        self.router = RouterProcess(
            RouterConfig(
                domain=self.domain,
                certificate=self._keep("router.crt", certificate, private=False),
                key=self._keep("router.key", key, private=True),
                authority=self.authority_file,
                slots=slots,
                lease_s=lease_s,
            ),
            directory,
        )

    def __enter__(self) -> LoopbackDomain:
        self.router.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.router.stop()

    @property
    def authority_file(self) -> Path:
        """The authority's certificate."""
        return self.directory / "authority" / pki.AUTHORITY_CERT_FILE

    def node(
        self, name: str = CENTER, *, bulk_host: str | None = None, hours: float = 1.0, proves: str | None = None
    ) -> FabricConfig:
        """A fresh identity for slot `name` and the configuration to open the fabric with.

        With `proves` the certificate names that slot instead: an impostor, for tests of refusal.
        """
        slot = NodeId(name)
        request, key = pki.make_request(name)
        certificate = self.authority.issue_node(request, NodeId(proves or name), lifetime_hours=hours)
        file = f"{name}-{proves}" if proves else name
        return FabricConfig(
            domain=self.domain,
            node=slot,
            certificate=self._keep(f"{file}.crt", certificate, private=False),
            key=self._keep(f"{file}.key", key, private=True),
            authority=self.authority_file,
            routers=(f"127.0.0.1:{self.router.port}",),
            lease_s=self.lease_s,
            open_timeout_s=5.0,
            bulk_host=bulk_host,
        )

    def _keep(self, name: str, content: bytes, *, private: bool) -> Path:
        path = self.directory / name
        (pki.write_private if private else pki.write_public)(path, content)
        return path


def _forward_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None  # opened as a pipe
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")

"""A local domain: a whole domain as real processes on this machine, by the same commands that a real site uses.

Router, control centre and nodes each run `daitn …` in a process of their own (`node.supervisor`), enrol over loopback,
and speak mTLS. Used by `daitn up`, by the demonstration and by the system tests; nothing in it is a shortcut, so what
works here works between machines.

    with LocalDomain(folder, "demo") as domain:
        domain.start()
        domain.join(spec)
        token = domain.owner_token("mira")
"""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.access import Access
from daitn.descriptors.tariff import Tariff
from daitn.node.supervisor import READY_S, Processes, Survivor
from daitn.scenario.spec import NodeSpec

ROUTER: Final = "router"
CENTER: Final = "center"

COMMAND_S: Final = 60.0
"""How long a command that ends by itself may take; `data add` of a small set takes two seconds."""

AT_ONCE: Final = 2
"""Short commands run at a time: each is mostly the start of Python, so more only wait for the processor."""

DAITN: Final = (sys.executable, "-m", "daitn.cli.main")


class DataFiles(NamedTuple):
    """What a node puts on its shelf: arguments of `daitn data add`."""

    name: str
    data: Path
    contract: Path
    policy: Path
    column_map: Path | None = None


class LocalDomain:
    """See the module's docstring. Leaving it ends every process and checks that none is left."""

    def __init__(
        self,
        folder: Path,
        domain: str,
        *,
        patience_s: float | None = None,
        command: Sequence[str] = DAITN,
        environment: Mapping[str, str] | None = None,
        prefixes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`folder`: where all its files go, one folder below for each process. `patience_s`: the domain's knob, its own
        default if None; `command`: how `daitn` is called; `prefixes`: what is put before the command of a process, by
        its name, such as what runs it elsewhere; it has to keep the process id."""
        self.folder = folder
        self.domain = domain
        self._patience_s = patience_s
        self._command = tuple(command)
        self.prefixes = dict(prefixes or {})
        # One thread for each process's own numerics: ten processes that each take all cores only get in the way.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.processes = Processes(folder / "logs", {**threads, **(environment or {})})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.__exit__(kind, error, trace)

    @property
    def home(self) -> Path:
        """The domain's own folder, as `daitn init` makes it."""
        return self.folder / "domain"

    def node_folder(self, name: str) -> Path:
        """The folder of a node."""
        return self.folder / "nodes" / name

    # --- router and centre ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the domain where it is not there yet, and start router and centre."""
        if not (self.home / "domain.json").exists():
            knobs = [] if self._patience_s is None else ["--patience", f"{self._patience_s:g}"]
            self.run("init", str(self.home), "--domain", self.domain, *knobs)
        self.start_router(wait=False)
        self.start_center(wait=False)
        self.processes.wait_ready([ROUTER, CENTER])

    def start_router(self, *, wait: bool = True) -> None:
        """The domain's router."""
        self._start(ROUTER, "router", str(self.home), wait=wait)

    def start_center(self, *, wait: bool = True) -> None:
        """The domain's control centre. It waits for its router by itself."""
        self._start(CENTER, "center", str(self.home), wait=wait)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def join(self, spec: NodeSpec, data: Sequence[DataFiles] | None = None) -> dict[str, Any]:
        """Put the node's data on its shelf, enrol it with a one-time token, start it; returns what it said when ready.

        `data`: instead of the data the spec names (whose paths must then be absolute).
        """
        return self.join_all([spec], None if data is None else {spec.name: data})[spec.name]

    def join_all(
        self, specs: Sequence[NodeSpec], data: Mapping[str, Sequence[DataFiles]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Several nodes: data and tokens two at a time, then all are started, then waited for."""
        shelves = {
            spec.name: (data or {}).get(spec.name, ()) if data is not None else self._data_of(spec) for spec in specs
        }
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="join") as pool:
            added = [pool.submit(self.add_data, name, one) for name, sets in shelves.items() for one in sets]
            tokens = {
                spec.name: pool.submit(self.join_token, spec.operator, [role.value for role in spec.roles])
                for spec in specs
                if not (self.node_folder(spec.name) / "node.json").exists()
            }
            for adding in added:
                adding.result()
        for spec in specs:
            token = tokens[spec.name].result() if spec.name in tokens else None
            self._start(spec.name, *self._join_arguments(spec, token), wait=False)
        return self.processes.wait_ready([spec.name for spec in specs])

    def add_data(self, node: str, files: DataFiles) -> dict[str, Any]:
        """Put a data set on a node's shelf, whether it runs or not; returns the report."""
        mapped = ["--map", str(files.column_map)] if files.column_map is not None else []
        return self.run(
            *("data", "add", files.name, str(files.data)),
            *("--contract", str(files.contract), "--policy", str(files.policy), *mapped),
            *("--folder", str(self.node_folder(node))),
        )

    def add_base(self, node: str, source: Path) -> dict[str, Any]:
        """Put a frozen base at a node, whether it runs or not; returns what it is."""
        return self.run("base", "add", str(source), "--folder", str(self.node_folder(node)))

    def _data_of(self, spec: NodeSpec) -> tuple[DataFiles, ...]:
        """A spec's data as files; its policies are written beside the node's folder."""
        from daitn.scenario.files import policy_toml

        files: list[DataFiles] = []
        for one in spec.data:
            policy = self.folder / "policies" / f"{spec.name}.{one.name}.toml"
            policy.parent.mkdir(parents=True, exist_ok=True)
            policy.write_text(policy_toml(one.policy), encoding="utf-8")
            column_map = Path(one.column_map) if one.column_map else None
            files.append(DataFiles(one.name, Path(one.path), Path(one.contract), policy, column_map))
        return tuple(files)

    def _join_arguments(self, spec: NodeSpec, token: str | None) -> list[str]:
        arguments = ["join", str(self.node_folder(spec.name)), "--name", spec.name, "--slots", str(spec.slots)]
        arguments += [part for role in spec.roles for part in ("--role", role.value)]
        arguments += ["--region", spec.region] if spec.region else []
        arguments += ["--direct", spec.direct] if spec.direct else []
        arguments += ["--storage", str(spec.storage_bytes)] if spec.storage_bytes is not None else []
        arguments += ["--engine", spec.engine] if spec.engine else []
        arguments += ["--offers", spec.offers] if spec.offers else []
        arguments += access_arguments(spec.access) + tariff_arguments(spec.tariff)
        return arguments + (["--token", token] if token else [])

    # --- tokens -----------------------------------------------------------------------------------------------------

    def operator_token(self) -> str:
        """The operator's token that `daitn init` left."""
        return (self.home / "operator.token").read_text(encoding="ascii").strip()

    def join_token(self, operator: str, roles: Sequence[str]) -> str:
        """A one-time token for one node of an organisation."""
        given = [part for role in roles for part in ("--role", role)]
        return str(self.run("token", "join", operator, *given, token=self.operator_token())["token"])

    def owner_token(self, owner: str) -> str:
        """A token for a model owner."""
        return str(self.run("token", "owner", owner, token=self.operator_token())["token"])

    # --- processes --------------------------------------------------------------------------------------------------

    def run(self, *arguments: str, token: str = "", timeout_s: float = COMMAND_S) -> dict[str, Any]:
        """A `daitn` command that ends by itself; its JSON answer. InputError or UnavailableError with what it said."""
        environment = self.processes.environment | ({"DAITN_TOKEN": token} if token else {})
        try:
            done = subprocess.run(
                [*self._command, *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"`daitn {' '.join(arguments[:3])}` did not end within {timeout_s:g} s") from None
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        try:
            said: Any = json.loads(lines[-1]) if lines else {}
        except ValueError:
            said = {}
        if done.returncode != 0 or not isinstance(said, dict):
            fault = said.get("error", {}) if isinstance(said, dict) else {}
            errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
            what = fault.get("what") or "\n".join(errors[-5:]) or f"status {done.returncode}"
            raise InputError(f"`daitn {' '.join(arguments[:3])}`: {what}", todo=str(fault.get("todo", "")))
        return said

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process of router, centre or a node."""
        self.processes.kill(name, number)

    def restart(self, name: str, *, wait: bool = True) -> dict[str, Any]:
        """Start router, centre or a node again with the same arguments; it goes on from its folder."""
        return self.processes.restart(name, wait=wait)

    def tail(self, name: str) -> str:
        """The last lines of a log."""
        return self.processes.tail(name)

    def stop(self) -> tuple[Survivor, ...]:
        """End every process, nodes first; returns what is left, which should be nothing."""
        return self.processes.stop()

    def _start(self, name: str, *arguments: str, wait: bool) -> None:
        self.processes.start(name, [*self.prefixes.get(name, ()), *self._command, *arguments, "--json"])
        if wait:
            self.processes.wait_ready([name], READY_S)


def access_arguments(access: Access) -> list[str]:
    """Options of `daitn join` that say how a node reaches the network; none where it is as usual."""
    if access == Access():
        return []
    arguments = ["--access", access.kind.value, "--metered" if access.metered else "--unmetered"]
    arguments += ["--rate", f"{access.bytes_per_s:.0f}"] if access.bytes_per_s else []
    for one in access.windows:
        start = datetime.datetime.fromtimestamp(one.start_unix_s, datetime.UTC).isoformat()
        again = f" every {one.every_s:.6f} s" if one.every_s is not None else ""
        arguments += ["--window", f"{start} for {one.seconds:.6f} s{again}"]
    return arguments


def tariff_arguments(tariff: Tariff) -> list[str]:
    """Options of `daitn join` that say what a node charges and draws."""
    stated = {
        "--price-per-hour": tariff.price_per_hour,
        "--price-per-gb": tariff.price_per_gigabyte,
        "--watts": tariff.watts,
    }
    return [part for name, value in stated.items() if value is not None for part in (name, f"{value!r}")]

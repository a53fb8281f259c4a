"""Links that are the kernel's: each node in a network namespace of its own, a virtual cable to a bridge of ours.

A cut both ways takes the cable's end down. A cut of one way leaves it up and gives the side that is not to be heard a
neighbour's address that nobody has, so that what it sends is lost without a word, as in a network whose routes work one
way only. Needs root; where a machine has none, or no namespaces, `why_not` says so and the proxy cuts instead.

Names carry the process that made them. What a run left that was killed is removed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.faults.proxy import LinkProxy, Way

PREFIX: Final = "dfl"
"""Begins the names of our bridges, cables and namespaces; with a process id and a number they fit the 15 characters
that an interface may have."""

NOBODY: Final = "02:00:00:00:00:ff"
"""An address of the link layer that no interface has."""

COMMAND_S: Final = 10.0


class Namespaces:
    """See the module's docstring; made by `open_namespaces`."""

    def __init__(self, names: Sequence[str], owner: str, subnet: str) -> None:
        self._owner = owner
        self._numbers = {name: number for number, name in enumerate(names, start=2)}
        self._subnet = subnet
        self.host = f"{subnet}.1"
        """The address of this machine for all nodes."""

    def prefix(self, name: str) -> tuple[str, ...]:
        """Put before a command, it runs in the node's namespace, with the same process id."""
        return ("nsenter", f"--net=/run/netns/{self._namespace(name)}")

    def cut(self, name: str, *ways: Way) -> None:
        """From now on nothing passes these ways."""
        if set(ways) == {"up", "down"}:
            _ip("link", "set", self._cable(name), "down")
        elif "up" in ways:
            self._misdirect(name, up=True, address=NOBODY)
        else:
            self._misdirect(name, up=False, address=NOBODY)

    def mend(self, name: str) -> None:
        """Everything passes again."""
        _ip("link", "set", self._cable(name), "up")
        self._misdirect(name, up=True, address=self._address(1))
        self._misdirect(name, up=False, address=self._address(self._numbers[name]))

    def make(self) -> None:
        """The bridge, and for each node namespace and cable."""
        bridge = self._owner
        _ip("link", "add", bridge, "address", self._address(1), "type", "bridge")
        _ip("address", "add", f"{self.host}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for name, number in self._numbers.items():
            inside, cable, address = self._namespace(name), self._cable(name), f"{self._subnet}.{number}/24"
            _ip("netns", "add", inside)
            ends = ("type", "veth", "peer", "name", "eth0", "address", self._address(number), "netns", inside)
            _ip("link", "add", cable, *ends)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", inside, "address", "add", address, "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
            _ip("-n", inside, "link", "set", "lo", "up")
            self.mend(name)

    def remove(self) -> None:
        """All of it, whatever of it there is."""
        for name in self._numbers:
            _try("netns", "delete", self._namespace(name))
        for name in self._numbers:
            _try("link", "delete", self._cable(name))
        _try("link", "delete", self._owner)

    def _misdirect(self, name: str, *, up: bool, address: str) -> None:
        """Where one end of a cable believes the other to be."""
        where = ("-n", self._namespace(name)) if up else ()
        whom = self.host if up else f"{self._subnet}.{self._numbers[name]}"
        device = "eth0" if up else self._owner
        _ip(*where, "neighbour", "replace", whom, "lladdr", address, "dev", device, "nud", "permanent")

    def _namespace(self, name: str) -> str:
        return f"{self._owner}-{name}"

    def _cable(self, name: str) -> str:
        return f"{self._owner}n{self._numbers[name]}"

    def _address(self, number: int) -> str:
        return f"02:00:00:{int(self._subnet.split('.')[2]):02x}:00:{number:02x}"


class Link(LinkProxy):
    """A node's link: slow by its proxy, cut in the kernel where there are namespaces, else by the proxy too."""

    def __init__(self, name: str, target: str, namespaces: Namespaces | None, host: str = "127.0.0.1") -> None:
        """`host`: where it listens, for a process that has no namespace of its own."""
        self._name = name
        self._namespaces = namespaces
        super().__init__(target, namespaces.host if namespaces is not None else host)

    @property
    def cut_by(self) -> str:
        """By what it is cut."""
        return "proxy" if self._namespaces is None else "namespace"

    def cut(self, *ways: Way) -> None:
        """From now on nothing passes these ways."""
        if self._namespaces is None:
            super().cut(*ways)
        else:
            self._namespaces.cut(self._name, *ways)

    def mend(self) -> None:
        """Everything passes again, at full speed and without delay."""
        super().mend()
        if self._namespaces is not None:
            self._namespaces.mend(self._name)


@contextmanager
def open_namespaces(names: Sequence[str]) -> Iterator[Namespaces | str]:
    """Namespaces for these nodes, gone at the end whatever happens; or why there are none."""
    if why := why_not():
        yield why
        return
    remove_leftovers()
    made = Namespaces(names, f"{PREFIX}{os.getpid()}", _free_subnet())
    try:
        made.make()
        yield made
    finally:
        made.remove()


def why_not() -> str:
    """Why this machine gives us no namespaces; empty where it does."""
    if os.geteuid() != 0:
        return "not root"
    probe = f"{PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("link", "add", f"{PREFIX}{os.getpid()}p", "type", "bridge")
        return ""
    except (OSError, subprocess.SubprocessError) as error:
        return f"no network namespaces: {error}"[:200]
    finally:
        with contextlib.suppress(OSError):
            _try("link", "delete", f"{PREFIX}{os.getpid()}p")
            _try("netns", "delete", probe)


def remove_leftovers() -> list[str]:
    """Remove what runs left behind whose process is gone; returns their names."""
    gone: list[str] = []
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        if _is_left(name):
            _try("netns", "delete", name)
            gone.append(name)
    for link in _links():
        if _is_left(link["ifname"]):
            _try("link", "delete", link["ifname"])
            gone.append(link["ifname"])
    return gone


def _is_left(name: str) -> bool:
    """Whether a thing is of ours and its run is over."""
    number = name.removeprefix(PREFIX).partition("-")[0].partition("n")[0].rstrip("p")
    return name.startswith(PREFIX) and number.isdigit() and not os.path.isdir(f"/proc/{number}")


def _free_subnet() -> str:
    """The first three numbers of a network that no interface here is in."""
    taken = {address["local"].rpartition(".")[0] for link in _links() for address in link.get("addr_info", ())}
    start = os.getpid()
    return next(net for step in range(256) if (net := f"10.213.{(start + step) % 256}") not in taken)


def _links() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_ip("-json", "address", "show") or "[]")
    return found


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise subprocess.SubprocessError(f"`ip {' '.join(arguments)}`: {said}")
    return done.stdout.decode("utf-8", "replace")


def _try(*arguments: str) -> None:
    with contextlib.suppress(subprocess.SubprocessError):
        _ip(*arguments)

"""The book of links is true: what `daitn links` shows is what the kernel has, through a join, transfers, a cut and a
leave; and the same with the services' manager in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.system.small_domain import contract, make_model, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.ids import CENTER
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import DAITN, LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.tools.measurement import JOINING_BYTES, SHARE

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(300)

SITES = ("north", "south")


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[LocalDomain]:
    with LocalDomain(tmp_path / "domain", "linked", patience_s=2.0) as running:
        running.start()
        specs = [
            NodeSpec(name=name, operator=name, roles=(Role.DATA, Role.COMPUTE), direct="127.0.0.1") for name in SITES
        ]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        data = {name: [write_site(tmp_path / name, seed)] for seed, name in enumerate(SITES)}
        running.join_all(specs, data)
        yield running


def asked(domain: LocalDomain, *arguments: str) -> Any:
    """The JSON that a `daitn` command of the operator prints."""
    environment = domain.processes.environment | {"DAITN_TOKEN": domain.operator_token()}
    command = [*DAITN, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    return json.loads(done.stdout)


def names_of(domain: LocalDomain) -> dict[str, str]:
    return {CENTER: "center"} | {one["descriptor"]["node"]: one["descriptor"]["name"] for one in asked(domain, "map")}


def sockets_of(pid: int) -> set[tuple[int, int]]:
    """(local port, remote port) of the established TCP connections of a process, as the kernel lists them."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and fields[9] in inodes:
            found.add(tuple(int(fields[place].rpartition(":")[2], 16) for place in (1, 2)))
    return found


def listening(pid: int) -> set[int]:
    """Ports on which a process accepts connections."""
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(one[1].rpartition(":")[2], 16) for one in lines if one[3] == "0A" and f"socket:[{one[9]}]" in inodes}


def until_true(compare: Callable[[], str], what: str) -> None:
    """Wait until what is shown and what is are the same; the last difference is told."""
    deadline = time.monotonic() + 20.0
    while difference := compare():
        assert time.monotonic() < deadline, f"{what}: {difference}"
        time.sleep(0.1)


def compared(domain: LocalDomain, network: Any, running: tuple[str, ...]) -> str:
    """How the book of links differs from the kernel's sockets of these processes; empty where it does not."""
    names = names_of(domain)
    direct = {one.descriptor.name: one.descriptor.direct for one in network.nodes()}
    ports = {name: int(one[0].rpartition(":")[2]) for name, one in direct.items() if one}
    settings = json.loads((domain.home / "domain.json").read_text())
    router_port = settings["router_port"]
    (ports["center"],) = listening(domain.processes.pid("center")) - {settings["api_port"], settings["enrol_port"]}
    ports_all = set(ports.values())
    book = network.links()
    for name in running:
        sockets = sockets_of(domain.processes.pid(name))
        mine = [one.state for one in book if names.get(one.node) == name]
        sessions = sum(one.peer == "router" for one in mine)
        made = sum(one.direct and one.opened_here for one in mine)
        accepted = sum(one.direct and not one.opened_here for one in mine)
        own = ports.get(name, -1)
        kernel = (
            sum(remote == router_port for _, remote in sockets),
            sum(remote in ports_all for local, remote in sockets if local != own),
            sum(local == own for local, _ in sockets),
        )
        if (sessions, made, accepted) != kernel:
            return f"{name}: the book has {sessions} sessions, {made} made, {accepted} accepted; the kernel {kernel}"
    strangers = {names.get(one.node, one.node) for one in book} - set(running)
    return f"links of {strangers} are shown" if strangers else ""


def train(domain: LocalDomain, name: str) -> Any:
    network = daitn.connect(domain.owner_token("ada"))
    return network.train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        method="cyclic",
        deadline=120,
        purpose="research",
        name=name,
        key=load_or_create_key(domain.folder / "ada.key"),
        budget=Budget(visits=4),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=20, learning_rate=1e-3),
    )


def test_book_is_what_the_kernel_has_through_join_transfer_cut_and_leave(domain: LocalDomain) -> None:
    everyone = ("center", *SITES, "unit")
    with daitn.connect(domain.operator_token()) as network:
        until_true(lambda: compared(domain, network, everyone), "after the joins")
        assert not [one for one in network.links() if one.state.direct]
        assert {one["node"] for one in asked(domain, "links", "--node", "center")} == {CENTER}

        train(domain, "moving").wait()
        until_true(lambda: compared(domain, network, everyone), "after transfers")
        direct = [one for one in network.links() if one.state.direct]
        assert {one.state.peer for one in direct} >= {node for node, name in names_of(domain).items() if name in SITES}
        assert sum(one.state.received_bytes for one in direct) > 10_000
        assert not [one for one in direct if one.node == one.state.peer], "no node has a link to itself"
        assert any(one.state.round_trip_s for one in direct)
        tools = network.tools()
        assert tools.managed_by == CENTER
        for one in tools.nodes:
            assert one.to_center_s is not None, one.name
            assert one.probe_bytes <= JOINING_BYTES + SHARE * one.carried_bytes
        (north,) = [one for one in tools.nodes if one.name == "north"]
        assert north.machine is not None
        assert north.machine.flops > 1e6
        assert north.machine.memory_bytes_per_s > 1e6

        domain.kill("south", signal.SIGSTOP)
        south = next(node for node, name in names_of(domain).items() if name == "south")
        wait_until(
            lambda: not any(one.certain for one in network.links() if south in (one.node, one.state.peer)),
            "links of a site that is cut are uncertain",
        )
        assert all(one.certain for one in network.links() if one.node == CENTER and not one.state.direct)
        domain.kill("south", signal.SIGCONT)
        wait_until(lambda: all(one.certain for one in network.links()), "links are certain again")
        until_true(lambda: compared(domain, network, everyone), "after the cut")

        domain.run("leave", str(domain.node_folder("south")))
        until_true(lambda: compared(domain, network, ("center", "north", "unit")), "after the leave")
        assert not [one for one in network.links() if south in (one.node, one.state.peer)]


def test_services_in_a_process_of_their_own_do_the_same_and_come_back_when_it_dies(domain: LocalDomain) -> None:
    token = domain.join_token("operator", ["tools"])
    folder = domain.node_folder("tools")
    domain.processes.start("tools", [*DAITN, "tools", "serve", str(folder), "--token", token, "--json"])
    domain.processes.wait_ready(["tools"])
    everyone = ("center", *SITES, "unit", "tools")
    with daitn.connect(domain.operator_token()) as network:
        manager = next(node for node, name in names_of(domain).items() if name == "tools")
        wait_until(lambda: network.tools().managed_by == manager, "the process manages the services")
        until_true(lambda: compared(domain, network, everyone), "after it took over")

        train(domain, "moving").wait()
        until_true(lambda: compared(domain, network, everyone), "after transfers")
        assert [one for one in network.links() if one.state.direct]
        domain.join(NodeSpec(name="west", operator="west", roles=(Role.COMPUTE,)))
        wait_until(
            lambda: [one for one in network.tools().nodes if one.name == "west" and len(one.round_trips) >= 3],
            "a node that joined later has measured its neighbours",
        )

        domain.kill("tools", signal.SIGKILL)
        wait_until(lambda: network.tools().managed_by == CENTER, "the control centre manages them again")
        domain.run("leave", str(domain.node_folder("west")))
        left = ("center", *SITES, "unit")
        names = names_of(domain)

        def others() -> str:
            book = [one for one in network.links() if names.get(one.node) != "tools"]
            west = [one for one in book if names.get(one.node) == "west"]
            return "links of a node that left are shown" if west else ""

        until_true(others, "after a leave that only the control centre managed")
        assert {names.get(one.node) for one in network.links()} >= set(left)

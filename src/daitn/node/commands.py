"""What the node commands of the command line do: each starts one node and runs it until it is told to stop.

Every long-running command calls `ready` once, when the thing it started answers; scripts and the supervisor of local
domains wait for that line instead of guessing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from daitn.base.errors import InputError, UnavailableError
from daitn.base.names import check_name
from daitn.descriptors.terminals import Role
from daitn.node.node_config import NodeConfig, NodeFolder

_log = logging.getLogger(__name__)

Ready = Callable[[dict[str, Any]], None]

CHANGEABLE: Final = ("store_bytes", "access", "tariff", "hosting", "gateway")
"""Of an enrolled node, what a later `daitn join` may change."""

LEAVE_S: Final = 10.0
"""How long `daitn leave` waits for the domain to let a node go."""


def init_domain(folder: Path, domain: str, **knobs: Any) -> dict[str, Any]:
    """Make a domain's folder and the operator's token in it; see `domain_folder.init_domain` for the knobs."""
    from daitn.node.domain_folder import DomainFolder
    from daitn.node.domain_folder import init_domain as make
    from daitn.node.http.tokens import Scope, TokenBook
    from daitn.node.pki import write_private

    config = make(folder, domain, **knobs)
    here = DomainFolder(folder)
    book = TokenBook(
        here.center / "tokens.sqlite",
        address=f"{config.host}:{config.api_port}",
        domain=config.domain,
        authority_pem=here.load_authority().certificate_pem,
    )
    try:
        token = book.create("operator", (Scope.OPERATE, Scope.TRAIN))
    finally:
        book.close()
    write_private(folder / "operator.token", token.encode() + b"\n")
    return {
        "domain": config.domain,
        "folder": str(folder),
        "router": config.router,
        "enrolment": f"{config.host}:{config.enrol_port}",
        "owners": f"https://{config.host}:{config.api_port}",
        "operator_token_file": str(folder / "operator.token"),
    }


def join_neighbour(folder: Path, name: str, token: str) -> dict[str, Any]:
    """Make the domain's centre a member of a neighbour's domain, so that it can ask its map."""
    from daitn.node.domain_folder import DomainFolder
    from daitn.node.neighbours import Neighbours

    here = DomainFolder(folder)
    here.load()
    membership = asyncio.run(Neighbours(here.neighbours).join(name, token))
    return {"neighbour": name, "domain": membership.domain, "node": membership.slot}


def run_router(folder: Path, ready: Ready) -> None:
    """Run the domain's router until SIGTERM or SIGINT."""
    from daitn.node.domain_folder import DomainFolder
    from daitn.node.fabric.router import load_config, run_router

    here = DomainFolder(folder)
    config = here.load()
    run_router(
        load_config(here.router_config()),
        on_ready=lambda _port: ready({"ready": True, "domain": config.domain, "router": config.router}),
    )


def run_center(folder: Path, ready: Ready) -> None:
    """Run the domain's control centre until SIGTERM or SIGINT."""
    from daitn.node.center_node import CenterNode

    async def run(stop: asyncio.Event) -> None:
        node = CenterNode(folder)

        async def announce() -> None:
            await node.ready.wait()
            owners = f"https://{node.config.host}:{node.config.api_port}"
            ready({"ready": True, "domain": node.config.domain, "owners": owners})

        await _with_announcement(node.run(stop), announce())

    run_until_signal(run)


def run_join(
    folder: Path,
    token: str | None,
    name: str,
    roles: Sequence[str],
    ready: Ready,
    **knobs: Any,
) -> None:
    """Enrol the folder's node if it is not enrolled yet, then run it until SIGTERM or SIGINT; `knobs`: `NodeConfig`.

    Of an enrolled node, `knobs` change the quota of its store, its tariff, how it reaches the network, and what it
    gives to models that it serves; nothing else.
    """
    from daitn.node.terminal_node import TerminalNode

    here = NodeFolder(folder)
    if not here.config_file.exists():
        if token is None:
            raise InputError(
                f"{folder} is not enrolled yet", todo="ask the domain's operator for a join token: --token"
            )
        check_name("node", name)
        here.make()
        _enrol(here, token, name, roles, knobs)
    elif changed := {knob: knobs[knob] for knob in CHANGEABLE if knob in knobs}:
        here.save(msgspec.structs.replace(here.load(), **changed))

    async def run(stop: asyncio.Event) -> None:
        node = TerminalNode(folder)
        leave = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leave.set)

        async def announce() -> None:
            await node.described.wait()
            here = node.membership
            said = {"ready": True, "domain": here.domain, "node": here.slot, "name": here.name}
            said |= {"roles": list(here.roles)}
            if doors := node.doors():
                said |= {"queries": doors[0]}
            ready(said)

        await _with_announcement(node.run(stop, leave), announce())
        if node.left:
            NodeFolder(folder).forget_membership()
            _log.info("%s has left its domain; its data stay in %s", node.membership.name, folder)

    with NodeFolder(folder).running():
        run_until_signal(run)


def leave(folder: Path) -> dict[str, Any]:
    """Take a node out of its domain for good: the running one if it runs, else by starting it for that."""
    from daitn.node.terminal_node import TerminalNode

    here = NodeFolder(folder)
    here.load()
    pid = here.running_pid()
    if pid is not None:
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + LEAVE_S
        while here.running_pid() == pid:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"the domain did not let the node go within {LEAVE_S:.0f} s",
                    todo="it goes on asking; look again later",
                )
            time.sleep(0.05)
        return {"left": True, "folder": str(folder)}

    async def run(stop: asyncio.Event) -> None:
        leaving = asyncio.Event()
        leaving.set()
        node = TerminalNode(folder)
        asyncio.get_running_loop().call_later(LEAVE_S, stop.set)
        await node.run(stop, leaving)
        if not node.left:
            raise UnavailableError(f"the domain did not let the node go within {LEAVE_S:.0f} s", todo="try again later")
        here.forget_membership()

    with here.running():
        run_until_signal(run)
    return {"left": True, "folder": str(folder)}


def _enrol(here: NodeFolder, token: str, name: str, roles: Sequence[str], knobs: dict[str, Any]) -> None:
    from daitn.node.enrolment import enrol

    unknown = sorted(set(roles) - {role.value for role in Role})
    if unknown or not roles:
        known = ", ".join(role.value for role in Role)
        raise InputError(f"no such role: {', '.join(unknown) or 'none was given'}", todo=f"roles are {known}")
    wanted = tuple(dict.fromkeys(roles))
    asyncio.run(enrol(token, name, wanted, here.tls))
    here.save(NodeConfig(name=name, roles=tuple(Role(role) for role in wanted), **knobs))


async def _with_announcement(work: Any, announce: Any) -> None:
    """Run `work` to its end; `announce` beside it, as long as it takes."""
    announcing = asyncio.ensure_future(announce)
    try:
        await work
    finally:
        announcing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await announcing


def run_until_signal(run: Callable[[asyncio.Event], Any]) -> None:
    """Run an async main with an event that SIGTERM and SIGINT set."""
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("DAITN_LOG", "INFO"),
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    asyncio.run(main())

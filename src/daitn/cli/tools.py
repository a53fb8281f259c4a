"""`daitn links` and `daitn tools`: the tools layer of a domain, seen and run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.base.ids import CENTER
from daitn.base.units import show_bytes, show_seconds
from daitn.cli.output import Json, Token, answer, errors

if TYPE_CHECKING:
    from daitn.descriptors.links import LinkShown
    from daitn.node.http.bodies import NodeTools, ToolsShown

app = typer.Typer(help="The services of the tools layer.", no_args_is_help=True)


def show_links(
    token: Token = None,
    node: Annotated[str, typer.Option(help="Only links of this node, by id or name.")] = "",
    json: Json = False,
) -> None:
    """Every link between the domain's nodes: what for, direct or through the router, its class, what it carried."""
    with errors(json), _connect(token) as network:
        names = {CENTER: "center"} | {one.descriptor.node: one.descriptor.name for one in network.nodes()}
        found = tuple(
            one
            for one in network.links()
            if not node or node in (one.node, one.state.peer, names.get(one.node), names.get(one.state.peer))
        )
        answer(json, found, lambda where: where.print(_links_table(found, names)))


@app.command("show")
def show_tools(token: Token = None, json: Json = False) -> None:
    """What the services know of each node: where it is, how it reaches the network, its machine, what runs on it."""
    with errors(json), _connect(token) as network:
        found = network.tools()
        answer(json, found, lambda where: where.print(*_tools_tables(found), sep="\n"))


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(envvar="DAITN_NODE", show_envvar=True, help="The node's folder.")] = Path(
        "daitn-tools"
    ),
    token: Annotated[
        str | None,
        typer.Option(envvar="DAITN_JOIN_TOKEN", show_envvar=True, help="One-time join token for the role `tools`."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the node in the domain.")] = "tools",
    json: Json = False,
) -> None:
    """Manage the services in a process of their own, instead of in the control centre, until told to stop."""
    with errors(json):
        from daitn.node.commands import run_join

        def ready(said: dict[str, Any]) -> None:
            answer(json, said, lambda where: where.print(", ".join(f"{name} {value}" for name, value in said.items())))

        run_join(folder, token, name, ["tools"], ready)


def _links_table(links: tuple[LinkShown, ...], names: dict[Any, str]) -> Any:
    from rich.table import Table

    if not links:
        return "no node has told of its links"
    table = Table()
    for heading in ("node", "peer", "for", "way", "class", "sent", "received", "round trip", "told"):
        table.add_column(heading, justify="right" if heading in ("sent", "received", "round trip", "told") else "left")
    for one in links:
        state, given = one.state, one.link_class
        classed = [given.priority.value, *(["metered"] if given.metered else [])]
        classed += [f"{show_bytes(given.bytes_per_s)}/s"] if given.bytes_per_s else []
        way = "direct" if state.direct else "router"
        table.add_row(
            names.get(one.node, one.node),
            names.get(state.peer, state.peer),
            state.kind.value,
            f"{way}{', made here' if state.direct and state.opened_here else ''}",
            ", ".join(classed),
            show_bytes(state.sent_bytes),
            show_bytes(state.received_bytes),
            "" if state.round_trip_s is None else f"{1000 * state.round_trip_s:.2f} ms",
            f"{show_seconds(one.age_s)} ago" + ("" if one.certain else ", uncertain"),
        )
    return table


def _tools_tables(found: ToolsShown) -> list[Any]:
    from rich.table import Table

    table = Table(title=f"services managed by {found.managed_by}", title_justify="left")
    for heading in ("node", "to centre", "placed to", "access", "next hour", "machine", "load", "free slots", "probes"):
        table.add_column(heading)
    for one in found.nodes:
        machine = one.machine
        table.add_row(
            one.name or one.node,
            "" if one.to_center_s is None else f"{1000 * one.to_center_s:.2f} ms",
            "" if one.place is None else f"±{100 * one.place.error_frac:.0f} %",
            one.access.kind.value + (", metered" if one.access.metered else ""),
            f"{100 * one.availability:.1f} %",
            "" if machine is None else f"{machine.cores} × {machine.processor or machine.architecture}",
            "" if one.load_frac is None else f"{100 * one.load_frac:.0f} %",
            "" if machine is None or one.slots_free is None else f"{one.slots_free} of {machine.slots}",
            _share(one),
        )
    running = [(one.name or one.node, process) for one in found.nodes for process in one.processes]
    if not running:
        return [table]
    children = Table(title="processes for visits", title_justify="left")
    for heading in ("node", "process", "job", "for", "state", "memory", "processor time"):
        children.add_column(heading)
    for name, process in running:
        children.add_row(
            name,
            str(process.pid),
            process.job,
            process.use,
            "at work" if process.busy else "warm",
            show_bytes(process.memory_bytes),
            show_seconds(process.cpu_s),
        )
    return [table, children]


def _share(one: NodeTools) -> str:
    if not one.carried_bytes:
        return show_bytes(one.probe_bytes)
    return f"{show_bytes(one.probe_bytes)} of {show_bytes(one.carried_bytes)}"


def _connect(token: str | None) -> Any:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)

"""The node-side commands: make a domain, run its router and centre, join, leave, and whole networks on this machine.

Each long-running command prints one line (JSON with `--json`) once it answers, and then runs until it is told to stop.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.cli.output import Json, answer, errors

DOMAIN: Path = Path("daitn-domain")
NODE: Path = Path("daitn-node")

DomainFolder = Annotated[Path, typer.Argument(envvar="DAITN_DOMAIN", show_envvar=True, help="The domain's folder.")]
NodeFolder = Annotated[Path, typer.Option("--folder", envvar="DAITN_NODE", show_envvar=True, help="The node's folder.")]

demo = typer.Typer(help="Demonstrations: a whole network on this machine.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file under `app`."""
    for command in (init, router, center, join, leave, up):
        app.command()(command)
    app.add_typer(demo, name="demo")


def init(
    domain: Annotated[str, typer.Argument(help="Name of the domain.")],
    folder: Annotated[Path, typer.Option(help="Folder to make.")] = DOMAIN,
    host: Annotated[str, typer.Option(help="Address under which sites and owners reach this machine.")] = "127.0.0.1",
    json: Json = False,
) -> None:
    """Make a domain: its authority, addresses, and an operator's token."""
    with errors(json):
        from daitn.node.commands import init_domain

        made = init_domain(folder, domain, host=host)
        answer(json, made, lambda where: where.print("\n".join(f"{name}: {made[name]}" for name in made)))


def router(folder: DomainFolder = DOMAIN, json: Json = False) -> None:
    """Run the domain's router until it is told to stop."""
    with errors(json):
        from daitn.node.commands import run_router

        run_router(folder, lambda said: _ready(json, said))


def center(folder: DomainFolder = DOMAIN, json: Json = False) -> None:
    """Run the domain's control centre until it is told to stop."""
    with errors(json):
        from daitn.node.commands import run_center

        run_center(folder, lambda said: _ready(json, said))


def join(
    token: Annotated[
        str | None, typer.Option(help="One-time join token; not needed once the node is enrolled.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the node in the domain.")] = "node",
    roles: Annotated[
        str, typer.Option(help="Comma-separated: data, compute, verification, aggregator.")
    ] = "data,compute",
    folder: NodeFolder = NODE,
    json: Json = False,
) -> None:
    """Join a domain, outbound only, and work until told to stop."""
    with errors(json):
        from daitn.node.commands import run_join

        wanted = [role.strip() for role in roles.split(",") if role.strip()]
        run_join(folder, token, name, wanted, lambda said: _ready(json, said))


def leave(folder: NodeFolder = NODE, json: Json = False) -> None:
    """Leave the domain: the node's slot is given up."""
    with errors(json):
        _call("daitn.node.commands", "leave", folder)
        answer(json, {"left": str(folder)}, lambda where: where.print(f"{folder} has left its domain"))


def up(
    file: Annotated[Path, typer.Argument(help="A scenario (TOML).")],
    json: Json = False,
) -> None:
    """Start a whole scenario on this machine."""
    with errors(json):
        _call("daitn.scenario.up", "run_up", file)


@demo.command()
def hospitals(
    out: Annotated[Path, typer.Option(help="Folder for reports and models.")] = Path("demo-out"),
    json: Json = False,
) -> None:
    """Hospitals train two models together; three requests are refused, and admitted after a counter-offer."""
    with errors(json):
        _call("daitn.demo.hospitals", "run_demo", out, json)


def _ready(json: bool, said: dict[str, Any]) -> None:
    answer(json, said, lambda where: where.print(", ".join(f"{name} {value}" for name, value in said.items())))


def _call(module: str, function: str, *arguments: Any) -> Any:
    """Call a function of a module that is heavy to import, or may not be installed with a node."""
    from daitn.base.errors import UnavailableError

    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UnavailableError(f"this installation cannot do that: {error}", todo="install daitn[demo]") from None
    return found(*arguments)

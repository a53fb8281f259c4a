"""The node-side commands: make a domain, run its router and centre, join, leave, and whole networks on this machine.

Each long-running command prints one line (JSON with `--json`) once it answers, and then runs until it is told to stop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.base.errors import UnavailableError
from daitn.cli.output import Json, answer, errors
from daitn.cli.render_store import show_store

DOMAIN: Path = Path("daitn-domain")
NODE: Path = Path("daitn-node")
ROLES_HELP = "data, compute, verification, aggregator, host, gateway, tools: comma-separated or repeated."

DomainFolder = Annotated[Path, typer.Argument(envvar="DAITN_DOMAIN", show_envvar=True, help="The domain's folder.")]
NodeFolder = Annotated[Path, typer.Argument(envvar="DAITN_NODE", show_envvar=True, help="The node's folder.")]

demo = typer.Typer(help="Demonstrations: a whole network on this machine.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file under `app`."""
    for command in (init, neighbour, router, center, join, leave, store, up):
        app.command()(command)
    app.add_typer(demo, name="demo")


def init(
    folder: DomainFolder = DOMAIN,
    domain: Annotated[str, typer.Option(help="Name of the domain.")] = "demo",
    host: Annotated[str, typer.Option(help="Address under which sites and owners reach this machine.")] = "127.0.0.1",
    router_port: Annotated[int, typer.Option(help="Port of the router; 0: any free one, then kept.")] = 0,
    enrol_port: Annotated[int, typer.Option(help="Port of the enrolment; 0: any free one, then kept.")] = 0,
    api_port: Annotated[int, typer.Option(help="Port for owners; 0: any free one, then kept.")] = 0,
    slots: Annotated[int, typer.Option(help="How many nodes may ever join.")] = 256,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a silent site before going on without it.")
    ] = 4.0,
    database: Annotated[str, typer.Option(help="URL of a PostgreSQL journal; empty: SQLite in the folder.")] = "",
    json: Json = False,
) -> None:
    """Make a domain: its authority, addresses, and an operator's token."""
    with errors(json):
        from daitn.node.commands import init_domain

        made = init_domain(
            folder,
            domain,
            host=host,
            router_port=router_port,
            enrol_port=enrol_port,
            api_port=api_port,
            slots=slots,
            patience_s=patience,
            database=database,
        )
        answer(json, made, lambda where: where.print("\n".join(f"{name}: {made[name]}" for name in made)))


def neighbour(
    name: Annotated[str, typer.Argument(help="What this domain calls it: `daitn map ask … --of NAME`.")],
    folder: DomainFolder = DOMAIN,
    token: Annotated[str, typer.Option("--token", help="Join token that its operator made: `daitn token join`.")] = "",
    json: Json = False,
) -> None:
    """Let this domain's centre ask another domain's map, as far as that one's `askers` name it."""
    with errors(json):
        from daitn.node.commands import join_neighbour

        made = join_neighbour(folder, name, token)
        said = f"{name}: its operator names {made['node']} among the askers of {made['domain']}, in its domain.json"
        answer(json, made, lambda where: where.print(said))


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
    folder: NodeFolder = NODE,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="DAITN_JOIN_TOKEN",
            show_envvar=True,
            help="One-time join token; not needed once enrolled. As an argument, others on this machine can see it.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the node in the domain.")] = "node",
    roles: Annotated[
        list[str] | None,
        typer.Option("--roles", "--role", help=ROLES_HELP),
    ] = None,
    region: Annotated[str, typer.Option(help="Where it stands, for people and placement.")] = "",
    slots: Annotated[int, typer.Option(help="Visits that may work at the same time.")] = 1,
    threads: Annotated[int, typer.Option(help="Processor threads of one visit.")] = 1,
    direct: Annotated[
        str | None, typer.Option(help="Address others reach this node under, for direct transfers; default: none.")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Most that models and records may take here, such as 10GB; empty: as before, or 32 GiB.")
    ] = "",
    access: Annotated[str, typer.Option(help="wireline, wifi, cellular or satellite.")] = "",
    metered: Annotated[
        bool | None, typer.Option("--metered/--unmetered", help="Each byte costs; default: by the kind of access.")
    ] = None,
    rate: Annotated[str, typer.Option(help="Most bytes a second that data may take, such as 5MB; empty: all.")] = "",
    window: Annotated[
        list[str] | None,
        typer.Option(help="When the access is there: '2026-12-01T08:00Z for 10 min every 95 min'; may be repeated."),
    ] = None,
    host_memory: Annotated[
        str, typer.Option(help="Memory for all models that are served here, such as 2GB; with the role host.")
    ] = "",
    accept_owner: Annotated[
        list[str] | None, typer.Option(help="Serve models of this owner only; may be repeated. With the role host.")
    ] = None,
    accept_signer: Annotated[
        list[str] | None, typer.Option(help="Serve packages that this key signed only; may be repeated. As above.")
    ] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(help="Serve models under this licence only (Apache-2.0); may be repeated. As above."),
    ] = None,
    largest_model: Annotated[str, typer.Option(help="Serve no larger models, such as 500MB. As above.")] = "",
    price_per_hour: Annotated[
        float | None, typer.Option(help="Charged for an hour of a visit, in the domain's unit of account.")
    ] = None,
    price_per_gb: Annotated[float | None, typer.Option(help="Charged for each GB that a visit fetches.")] = None,
    watts: Annotated[float | None, typer.Option(help="What one visit draws while it works.")] = None,
    engine: Annotated[
        str, typer.Option(help="What runs models here: torch-graph (default) or onnx-graph. With the role host.")
    ] = "",
    offers: Annotated[
        Path | None,
        typer.Option(help="TOML file of models that this host brings by itself (docs/serving.md); with the role host."),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(help="HOST:PORT for queries, with the role gateway; default: loopback, any port."),
    ] = "",
    pipelines: Annotated[
        Path | None,
        typer.Option(help="TOML file of combined models (docs/serving.md), with the role gateway."),
    ] = None,
    answers_to: Annotated[
        list[str] | None,
        typer.Option(help="Network of the site that answers may be posted to (10.1.0.0/16), with the role gateway."),
    ] = None,
    json: Json = False,
) -> None:
    """Join a domain and work until told to stop; outbound connections only, unless --direct is given."""
    with errors(json):
        from daitn.base.units import parse_bytes
        from daitn.node.commands import run_join

        given = roles or ["data,compute"]
        wanted = [role.strip() for text in given for role in text.split(",") if role.strip()]
        knobs: dict[str, Any] = {"region": region, "slots": slots, "threads": threads, "direct_host": direct}
        if storage:
            knobs["store_bytes"] = parse_bytes(storage)
        if access or metered is not None or rate or window:
            from daitn.cli.access import parse_access

            knobs["access"] = parse_access(access or "wireline", metered, rate, window or ())
        policy = (accept_owner, accept_signer, accept_licence, largest_model)
        if host_memory or any(policy) or engine or offers:
            from daitn.cli.access import host_policy, parse_engine
            from daitn.node.node_config import HostConfig

            hosting: dict[str, Any] = {"memory_bytes": parse_bytes(host_memory)} if host_memory else {}
            if engine:
                hosting["engine"] = parse_engine(engine)
            if offers:
                from daitn.node.site_files import load_offers

                hosting["offers"] = load_offers(offers)
            if any(policy):
                hosting["policy"] = host_policy(*policy)
            knobs["hosting"] = HostConfig(**hosting)
        if (price_per_hour, price_per_gb, watts) != (None, None, None):
            from daitn.cli.access import tariff_of

            knobs["tariff"] = tariff_of(price_per_hour, price_per_gb, watts)
        if listen:
            from daitn.cli.access import parse_listen

            knobs["gateway"] = parse_listen(listen)
        if pipelines:
            from msgspec.structs import replace

            from daitn.node.node_config import GatewayConfig
            from daitn.node.site_files import load_pipelines

            trees, switches = load_pipelines(pipelines)
            gateway = knobs.get("gateway", GatewayConfig())
            knobs["gateway"] = replace(gateway, pipelines=trees, switches=switches)
        if answers_to:
            from msgspec.structs import replace

            from daitn.descriptors.destinations import parse_networks
            from daitn.node.node_config import GatewayConfig

            parse_networks(answers_to)
            knobs["gateway"] = replace(knobs.get("gateway", GatewayConfig()), answers_to=tuple(answers_to))
        run_join(folder, token, name, wanted, lambda said: _ready(json, said), **knobs)


def leave(folder: NodeFolder = NODE, json: Json = False) -> None:
    """Leave the domain for good: the node's slot is given up, its data stays here."""
    with errors(json):
        from daitn.node.commands import leave as leave_domain

        answer(json, leave_domain(folder), lambda where: where.print(f"{folder} has left its domain"))


def store(folder: NodeFolder = NODE, json: Json = False) -> None:
    """What this node keeps: models and records, for which jobs, and what goes first when room is needed."""
    with errors(json):
        from daitn.node.node_config import NodeFolder as Folder
        from daitn.node.store.listing import list_store

        here = Folder(folder)
        listing = list_store(here.store, here.load().store_bytes)
        answer(json, listing, lambda where: show_store(where, listing))


def up(
    file: Annotated[Path, typer.Argument(help="A scenario (TOML or JSON).")],
    json: Json = False,
) -> None:
    """Start a whole scenario on this machine, until told to stop."""
    with errors(json):
        from daitn.node.up import run_up

        run_up(file)


@demo.command()
def hospitals(
    out: Annotated[Path, typer.Option(help="Folder for reports and models.")] = Path("demo-out"),
    keep: Annotated[bool, typer.Option(help="Keep the network's own folders too.")] = False,
    quick: Annotated[bool, typer.Option(help="Without the baselines.")] = False,
    json: Json = False,
) -> None:
    """Hospitals train two models together; three requests are refused, and admitted after a counter-offer."""
    with errors(json):
        try:
            from daitn.demo.hospitals import run
        except ImportError as error:
            raise UnavailableError(f"the demonstration cannot start: {error}", todo="install daitn[demo]") from None

        raise typer.Exit(run(out, keep=keep, quick=quick))


@demo.command()
def medquad(
    data: Annotated[Path, typer.Option(help="The folder of MedQuAD: one gzipped JSON Lines file per institute.")],
    base: Annotated[
        Path | None, typer.Option(help="An encoder as transformers saves it; default: a small one from nothing.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for reports and models.")] = Path("demo-out"),
    records: Annotated[int, typer.Option(help="Pairs of each institute at most; 0: all.", min=0)] = 0,
    deadline: Annotated[
        str, typer.Option(help="How long a department gives its job; the trial before it takes a twentieth of that.")
    ] = "1 h",
    rounds: Annotated[int, typer.Option(help="Visits of each institute by each model at most.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 1,
    keep: Annotated[bool, typer.Option(help="Keep the network's own folders too.")] = False,
    json: Json = False,
) -> None:
    """Nine health institutes train two departments' models on their own text, which stays where it is."""
    with errors(json):
        try:
            from daitn.demo.medquad import run
            from daitn.sdk.requests import parse_duration
        except ImportError as error:
            raise UnavailableError(f"the demonstration cannot start: {error}", todo="install daitn[demo]") from None

        seconds = parse_duration(deadline)
        setting = {"base": base, "records": records, "deadline_s": seconds, "rounds": rounds, "seed": seed}
        raise typer.Exit(run(data, out, keep=keep, **setting))


def _ready(json: bool, said: dict[str, Any]) -> None:
    answer(json, said, lambda where: where.print(", ".join(f"{name} {value}" for name, value in said.items())))

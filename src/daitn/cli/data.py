"""`daitn data`: the data sets of this site, what of them leaves it, and who may use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.cli.output import Json, answer, errors

app = typer.Typer(help="Data sets of this site: add, preview what leaves, remove.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--folder", envvar="DAITN_NODE", show_envvar=True, help="The node's folder.")]
DataName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the data set at this site.")]
NODE: Path = Path("daitn-node")


@app.command()
def add(
    name: DataName,
    path: Annotated[Path, typer.Argument(help="CSV, Parquet, JSONL, Arrow, NPZ, IDX, or a folder of images.")],
    contract: Annotated[Path, typer.Option(help="The data contract (JSON).")],
    policy: Annotated[Path, typer.Option(help="Who may use it for what (TOML).")],
    column_map: Annotated[Path | None, typer.Option("--map", help="Column map (TOML), where names differ.")] = None,
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """Map a data set to a contract and put it on the shelf, with a report of what does not fit."""
    with errors(json):
        from daitn.describe.column_map import ColumnMap
        from daitn.node.node_config import NodeFolder
        from daitn.node.refusals import refusals_counted
        from daitn.node.site_files import load_column_map, load_contract, load_policy

        with refusals_counted(NodeFolder(folder).data):
            rules = load_policy(policy)
            wanted = load_contract(contract)
            mapped = load_column_map(column_map) if column_map is not None else ColumnMap()
            report = _shelf(folder).add(name, path, wanted, rules, mapped)
        answer(json, report, lambda where: where.print("\n".join(report.lines()), markup=False))


@app.command()
def environment(
    name: DataName,
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Its registered name, as CartPole-v1.")],
    policy: Annotated[Path, typer.Option(help="Who may train in it for what (TOML).")],
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """Offer a Gymnasium environment of this site: policies are trained where it is, and it is listed as a data set."""
    with errors(json):
        from daitn.node.environment_files import add_environment
        from daitn.node.node_config import NodeFolder
        from daitn.node.refusals import refusals_counted
        from daitn.node.site_files import load_policy

        here = NodeFolder(folder)
        with refusals_counted(here.data):
            rules = load_policy(policy)
            report = add_environment(_shelf(folder), here.folder / "environments", name, environment, rules)
        answer(json, report, lambda where: where.print("\n".join(report.lines()), markup=False))


@app.command("list")
def list_data(folder: Folder = NODE, json: Json = False) -> None:
    """The data sets on the shelf."""
    with errors(json):
        shelf = _shelf(folder)
        entries = shelf.list()
        faults = {entry.name: shelf.source_fault(entry.name) for entry in entries}
        document = [
            {
                "name": entry.name,
                "path": entry.path,
                "contract": entry.contract.name,
                "version": entry.version,
                "records": entry.report.records,
                "source": faults[entry.name] or "as added",
                "policy": entry.policy,
            }
            for entry in entries
        ]

        def show(where: Any) -> None:
            from rich.table import Table

            table = Table()
            for heading in ("name", "contract", "records", "owners", "purposes", "path"):
                table.add_column(heading, overflow="fold")
            for entry in entries:
                owners, purposes = ", ".join(entry.policy.owners), ", ".join(entry.policy.purposes)
                records = str(entry.report.records)
                table.add_row(entry.name, entry.contract.name, records, owners, purposes, entry.path)
            where.print(table)
            for fault in filter(None, faults.values()):
                where.print(fault, markup=False)

        answer(json, document, show)


@app.command()
def describe(name: DataName, folder: Folder = NODE, json: Json = False) -> None:
    """Exactly what will leave this site about a data set, before it leaves: byte for byte what the node publishes."""
    with errors(json):
        import msgspec

        shown = _shelf(folder).preview(name, _node_name(folder))
        document = {"leaves": msgspec.Raw(shown.data), "text": shown.text}
        answer(json, document, lambda where: where.print(shown.text, markup=False))


@app.command()
def sensing(folder: Folder = NODE, json: Json = False) -> None:
    """How fast records arrive and how far they have drifted, exactly; this stays at the site."""
    with errors(json):
        from daitn.node.data_watch import read_sensed
        from daitn.node.node_config import NodeFolder

        found = read_sensed(NodeFolder(folder).data)

        def show(where: Any) -> None:
            from rich.table import Table

            table = Table()
            for heading in ("data set", "records", "appended", "a day", "drift"):
                table.add_column(heading, justify="left" if heading == "data set" else "right")
            for one in found.data:
                rate = "" if one.arrival_per_day is None else f"{one.arrival_per_day:.1f}"
                drift = "" if one.drift is None else f"{one.drift:.3f}"
                table.add_row(one.dataset, str(one.rows), str(one.appended), rate, drift)
            where.print(table)

        answer(json, found, show)


@app.command()
def remove(name: DataName, folder: Folder = NODE, json: Json = False) -> None:
    """Take a data set off the shelf; its source stays, its spent privacy budget stays spent."""
    with errors(json):
        _shelf(folder).remove(name)
        answer(json, {"removed": name}, lambda where: where.print(f"{name} is off the shelf"))


@app.command()
def croissant(
    name: DataName,
    out: Annotated[Path | None, typer.Option(help="Write the document there.")] = None,
    license_url: Annotated[str, typer.Option("--license", help="Licence of the data, as a URL.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Have mlcroissant check it.")] = False,
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """What is published of a data set as a Croissant 1.1 document (JSON-LD)."""
    with errors(json):
        from daitn.descriptors.contract import Classification, Regression
        from daitn.node.croissant_files import check_document, export_document

        shelf = _shelf(folder)
        task = shelf.entry(name).contract.task
        label = task.label if isinstance(task, Classification | Regression) else ""
        document, data = export_document(shelf.descriptor(name, _node_name(folder)), label, license_url)
        said = check_document(document) if check else []
        if out is not None:
            out.write_bytes(data)

        def show(where: Any) -> None:
            if out is None:
                where.print(data.decode(), markup=False, highlight=False, soft_wrap=True)
            else:
                where.print(f"{name} is described in {out}", markup=False)
            for line in said:
                where.print(line, markup=False)

        answer(json, {"document": document, "remarks": said}, show)


@app.command("from-croissant")
def from_croissant(
    document: Annotated[Path, typer.Argument(help="A Croissant document (JSON-LD).")],
    out: Annotated[Path, typer.Option(help="Folder for contract.json, map.toml and policy.toml.")] = Path(),
    record_set: Annotated[str, typer.Option(help="Which record set, where there are several.")] = "",
    label: Annotated[str, typer.Option(help="The field to predict, where none is marked.")] = "",
    group: Annotated[str, typer.Option(help="The field that groups records, such as a patient's pseudonym.")] = "",
    owner: Annotated[list[str] | None, typer.Option(help="A model owner whom the conditions allow.")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="DUO code that is taken care of elsewhere.")] = None,
    json: Json = False,
) -> None:
    """Make contract, column map and policy from a Croissant document: what `daitn data add` takes."""
    with errors(json):
        from daitn.node.croissant_files import import_document

        written = import_document(
            document, out, record_set=record_set, label=label, group=group, owners=owner or (), accepted=accept or ()
        )
        paths = [str(path) for path in written]
        answer(json, {"written": paths}, lambda where: where.print("\n".join(paths), markup=False))


@app.command()
def embed(
    name: DataName,
    contract: Annotated[Path, typer.Option(help="The contract that names base and columns (JSON).")],
    threads: Annotated[int, typer.Option(help="Threads to compute with.")] = 1,
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """Compute now what a contract asks of a frozen base; without this the first visit does, and its owner waits."""
    with errors(json):
        import asyncio

        from daitn.node.sandbox.launcher import Sandbox
        from daitn.node.site_files import load_contract

        cache, wanted = _activations(folder), load_contract(contract)
        asyncio.run(cache.make(name, wanted, Sandbox(), threads=threads))
        _show_cached(json, cache.cached())


@app.command()
def cached(
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove all of it.")] = False,
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """What is kept here of the activations of frozen bases; they never leave this site."""
    with errors(json):
        cache = _activations(folder)
        _show_cached(json, cache.wipe() if wipe else cache.cached(), "wiped" if wipe else "cached")


def _show_cached(json: bool, found: Any, heading: str = "cached") -> None:
    def show(where: Any) -> None:
        from rich.table import Table

        from daitn.base.units import show_bytes

        table = Table(title=heading, title_justify="left")
        for column in ("data set", "column", "base", "texts", "numbers", "size", "took", "stays"):
            table.add_column(column)
        for one in found:
            sizes = (str(one.records), f"{one.width} × float16", show_bytes(one.size_bytes), f"{one.seconds:.1f} s")
            table.add_row(one.dataset, f"{one.column}, {one.length} tokens", one.base[:16], *sizes, one.stays)
        where.print(table)

    answer(json, {heading: found}, show)


def _activations(folder: Path) -> Any:
    from daitn.node.activations import ActivationCache
    from daitn.node.bases import BaseShelf
    from daitn.node.node_config import NodeConfig, NodeFolder

    here = NodeFolder(folder)
    most = here.load().activation_bytes if here.config_file.exists() else NodeConfig(name="", roles=()).activation_bytes
    return ActivationCache(here.activations, _shelf(folder), BaseShelf(here.bases), most)


def _shelf(folder: Path) -> Any:
    from daitn.node.datasets import DataShelf
    from daitn.node.node_config import NodeFolder

    here = NodeFolder(folder)
    here.make()
    return DataShelf(here.data, here.site_secret(), activations=here.activations)


def _node_name(folder: Path) -> str:
    from daitn.node.node_config import NodeFolder

    here = NodeFolder(folder)
    return here.load().name if here.config_file.exists() else "this-node"

"""`daitn base`: the frozen encoders of this site, which models from outside may build on and which never travel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.cli.data import NODE, Folder
from daitn.cli.output import Json, answer, errors

app = typer.Typer(help="Frozen bases at this site: add, list, remove.", no_args_is_help=True)


@app.command()
def add(
    source: Annotated[Path, typer.Argument(help="A folder with config.json, model.safetensors, tokenizer.json.")],
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """Copy a base to this site; prints the digest by which contracts name it. A running node notices."""
    with errors(json):
        _show(json, (_shelf(folder).add(source),))


@app.command("list")
def list_bases(folder: Folder = NODE, json: Json = False) -> None:
    """The bases of this site."""
    with errors(json):
        _show(json, _shelf(folder).bases())


@app.command()
def remove(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Its digest, or the beginning of it.")],
    folder: Folder = NODE,
    json: Json = False,
) -> None:
    """Remove a base; what was computed with it stays until it is wiped (`daitn data cached --wipe`)."""
    with errors(json):
        _shelf(folder).remove(digest)
        answer(json, {"removed": digest}, lambda where: where.print(f"{digest} is removed"))


def _show(json: bool, found: Any) -> None:
    from daitn.base.units import show_bytes

    lines = [f"{one.digest}  {one.width} numbers, {show_bytes(one.size_bytes)}" for one in found]
    answer(json, {"bases": found}, lambda where: where.print("\n".join(lines) or "no base is here", markup=False))


def _shelf(folder: Path) -> Any:
    from daitn.node.bases import BaseShelf
    from daitn.node.node_config import NodeFolder

    here = NodeFolder(folder)
    here.make()
    return BaseShelf(here.bases)

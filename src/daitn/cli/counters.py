"""`daitn counters`: what was refused, dropped, lost or timed out, and what it means when that grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.cli.output import Json, Token, answer, errors

if TYPE_CHECKING:
    from daitn.node.http.bodies import ProcessCounters


def show_counters(
    folder: Annotated[
        Path | None, typer.Option(help="Folder of a node on this machine: its own counters, without a token.")
    ] = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """What was refused, dropped or lost: of the whole domain (operator's token), or of one node here (--folder)."""
    with errors(json):
        found = _of_folder(folder) if folder is not None else _of_domain(token)
        answer(json, found, lambda where: where.print(_table(found)))


def _of_folder(folder: Path) -> tuple[ProcessCounters, ...]:
    from daitn.base.ids import NodeId
    from daitn.node.http.bodies import ProcessCounters
    from daitn.node.node_config import NodeFolder
    from daitn.oam.collection import read_counters

    name = NodeFolder(folder).load().name
    return (ProcessCounters(node=NodeId(""), name=name, counted=read_counters(folder)),)


def _of_domain(token: str | None) -> tuple[ProcessCounters, ...]:
    from daitn.sdk.network import connect

    with connect(token, patience_s=5.0) as network:
        return network.counters()


def _table(found: tuple[ProcessCounters, ...]) -> Any:
    from rich.table import Table

    from daitn.base.metrics import METRICS

    if not any(one.counted.counts for one in found):
        return "nothing was counted"
    table = Table()
    for heading in ("node", "counter", "count", "what a rise means"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "count" else "left")
    for one in found:
        for count in one.counted.counts:
            metric = METRICS.get(count.name)
            named = f"{count.name} {count.value}".strip()
            table.add_row(one.name or one.node, named, str(count.count), metric.rise if metric is not None else "")
    return table

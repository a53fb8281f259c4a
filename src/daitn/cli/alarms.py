"""`daitn alarms`: what the domain's operator must see to: of the nodes, and of the centre about what they report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.cli.output import Json, Token, answer, errors

if TYPE_CHECKING:
    from daitn.control_center.node_records import ShownRecord


def show_alarms(
    last: Annotated[int, typer.Option(help="How many of the newest are shown.", min=1)] = 50,
    token: Token = None,
    json: Json = False,
) -> None:
    """Alarms of the domain, the newest last: certificates, data sets, and reports of facts that cannot be."""
    with errors(json):
        from daitn.sdk.network import connect

        with connect(token, patience_s=5.0) as network:
            found = alarms_of(network.records())[-last:]
        answer(json, found, lambda where: where.print(alarm_table(found)))


def alarms_of(records: Sequence[ShownRecord]) -> tuple[ShownRecord, ...]:
    """The alarms among what nodes reported."""
    from daitn.wire.oam_records import Alarm

    return tuple(one for one in records if isinstance(one.entry, Alarm))


def alarm_table(found: Sequence[ShownRecord]) -> Any:
    """One line for each."""
    from rich.markup import escape
    from rich.table import Table

    from daitn.base.units import NS_PER_S
    from daitn.wire.oam_records import Alarm

    if not found:
        return "no alarms"
    table = Table()
    for heading in ("when", "raised by", "about", "what"):
        table.add_column(heading, overflow="fold")
    for one in found:
        if isinstance(one.entry, Alarm):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at_ns / NS_PER_S))
            table.add_row(when, one.node, escape(one.entry.name), escape(one.entry.text))
    return table

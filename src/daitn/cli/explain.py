"""`daitn explain`: which hosts a query was sent to, and what every host looked like at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.cli.output import Json, answer, errors

if TYPE_CHECKING:
    from daitn.descriptors.query_way import Way


def explain(
    query: Annotated[str, typer.Argument(help="The query's name: the header x-daitn-query of its answer.")],
    at: Annotated[str, typer.Option(help="The gateway that answered: http://HOST:PORT, as `daitn join` printed it.")],
    key: Annotated[
        str, typer.Option(envvar="DAITN_KEY", show_envvar=True, help="The key that asked, or a file that holds it.")
    ],
    json: Json = False,
) -> None:
    """Why a query went where it went: every host with its values, or what held it back."""
    with errors(json):
        from daitn.sdk.query_ways import fetch_way

        way = fetch_way(at, key, query)
        answer(json, way, lambda where: _show(where, way))


def _show(where: Any, way: Way) -> None:
    from rich.table import Table

    where.print(f"query {way.query}: {way.outcome} after {way.took_ms:.1f} ms")
    for number, step in enumerate(way.steps, 1):
        where.print(f"{number}. {step.host} ({step.why}), predicted {step.predicted_ms:.1f} ms: {step.came}")
        table = Table(
            "host", "cost", "path", "queue", "service", "deviation", "report's age", "price", "right", "held back by"
        )
        for one in step.hosts:
            times = (one.cost_ms, one.path_ms, one.queue_ms, one.service_ms, one.deviation_ms)
            told = [f"{value:.2f} ms" for value in times]
            price = "" if one.price is None else f"{one.price:.3g}"
            table.add_row(one.host, *told, f"{one.report_age_s:.1f} s", price, f"{one.correct:g}", one.held_back_by)
        where.print(table)

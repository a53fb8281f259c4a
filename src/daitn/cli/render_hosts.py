"""Query views for people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from daitn.base.units import show_seconds
from daitn.descriptors.query_view import QueryView


def show_query_view(where: Any, view: QueryView) -> None:
    """Hosts that may serve, those that may not, and what is asked."""
    table = Table()
    for heading in (
        "host",
        "model",
        "region",
        "answers in",
        "path",
        "queue",
        "service",
        "accuracy",
        "price",
        "trust",
        "heard",
    ):
        table.add_column(heading, overflow="fold")
    for one in view.hosts:
        table.add_row(
            escape(one.thing.partition("/")[0]),
            escape(one.model),
            escape(one.region),
            f"{_seconds(one.completion_s)} ± {_seconds(one.deviation_s)}",
            *(_seconds(part) for part in (one.path_s, one.queue_s, one.service_s)),
            _number(one.accuracy),
            _number(one.price),
            _number(one.trust),
            "" if one.age_s is None else f"{show_seconds(one.age_s)} ago",
        )
    where.print(table)
    for left in view.excluded:
        where.print(f"not {escape(left.thing)}: {escape(left.why)}", soft_wrap=True)
    if view.excluded_in_all > len(view.excluded):
        where.print(f"and {view.excluded_in_all - len(view.excluded)} more are left out")
    for asked in view.demands:
        region = f" from {escape(asked.region)}" if asked.region else ""
        rate = "at a rate not told yet" if asked.asked_per_s is None else f"{asked.asked_per_s:.3g} a second"
        where.print(f"asked: {escape(asked.kind)}{region}, {rate}{f', {asked.pattern}' if asked.pattern else ''}")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"

"""Training views for people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from daitn.base.units import show_bytes, show_seconds
from daitn.descriptors.view import TrainingView


def show_step(where: Any, why: str, view: TrainingView) -> None:
    """A view that was told, with the reason where it is not the first."""
    if why:
        where.print(escape(why), soft_wrap=True)
    show_view(where, view)


def show_view(where: Any, view: TrainingView | None) -> None:
    """Where the model may go, and where it may not."""
    if view is None:
        where.print("no stop has been chosen yet: `daitn train show` says how far the job is")
        return
    table = Table()
    for heading in ("data", "at", "records", "a batch", "waits", "fetches", "round trip", "trust", "there", "heard"):
        table.add_column(heading, overflow="fold")
    for one in view.candidates:
        table.add_row(
            escape(one.dataset),
            escape(one.compute_node),
            f"{one.records:.0f}",
            "" if one.batch_s is None else f"{one.batch_s * 1000:.3g} ms",
            f"{one.wait_s:.1f} s" if one.wait_s else "",
            f"{show_bytes(round(one.bytes_per_s))}/s",
            f"{one.latency_s * 1000:.3g} ms",
            f"{one.trust:.3f}",
            f"{one.availability:.0%}",
            f"{show_seconds(one.age_s)} ago",
        )
    where.print(table)
    for left in view.excluded:
        where.print(f"not {escape(left.dataset)}: {escape(left.why)}", soft_wrap=True)

"""Render: a model card for people, with rich."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from daitn.base.units import show_bytes, show_seconds
from daitn.cli.render import targets_table
from daitn.descriptors.card import ModelCard
from daitn.oam import wording


def card(found: ModelCard) -> RenderableType:
    """Goal and figures, data, lineage, cost, and what its owner changed."""
    took_s = max(0.0, found.ended_unix_s - found.submitted_unix_s)
    cost = f"{show_seconds(took_s)}, {show_bytes(found.transfer_bytes)} moved"
    cost += f", {found.price:.4g} charged" if found.price else ""
    cost += f", {found.energy_joules:.4g} J drawn" if found.energy_joules else ""
    held_out = sum(sample.records for sample in found.test_set)
    privacy = "none: no noise was added" if found.epsilon is None else f"ε {found.epsilon:.4g} at δ = {found.delta:g}"
    pieces: list[RenderableType] = [
        Text(f"{found.name}: model {wording.short(found.model)} of job {found.job}, {found.phase.value}", "bold"),
        Text(f"for {found.purpose}, owned by {found.owner}: {found.reason}"),
        targets_table(found.targets),
        Text(f"measured on {held_out} held-out records of {len(found.test_set)} data sets"),
        Text(f"method {found.method}; {found.visits} visits, {found.rolled_back} models rolled back; {cost}"),
        Text(f"differential privacy of the training: {privacy}"),
        _data(found),
        _lineage(found),
    ]
    for change in found.changes:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.unix_s))
        pieces.append(Text(f"changed by its owner at {when}: {'; '.join(change.changes) or 'nothing'}"))
    pieces.append(Text(f"`daitn train rerun {found.job}` runs it again as it was", "dim"))
    return Group(*pieces)


def _data(found: ModelCard) -> Table:
    table = Table(title="learnt from", title_justify="left")
    private = found.epsilon is not None
    for heading in ("data set", "at", "ε" if private else "records", "visits", "batches", "versions"):
        table.add_column(heading, overflow="fold")
    for one in found.data:
        versions = ", ".join(version[:12] for version in one.versions)
        where = escape(one.node_name)
        size = f"{one.epsilon or 0.0:.4g}" if private else str(one.records)
        table.add_row(escape(one.dataset), where, size, str(one.visits), str(one.batches), versions)
    return table


def _lineage(found: ModelCard) -> Table:
    table = Table(title=f"lineage, from {wording.short(found.package)}", title_justify="left")
    for heading in ("visit", "at", "data", "from", "made", "signed"):
        table.add_column(heading, overflow="fold")
    for step in found.lineage:
        came = ", ".join(map(wording.short, step.models_in))
        made, signed = wording.short(step.model_out), "yes" if step.signature else "no"
        visit = step.visit.rpartition("/")[2]
        table.add_row(visit, escape(step.node_name), escape(step.dataset or "average"), came, made, signed)
    return table

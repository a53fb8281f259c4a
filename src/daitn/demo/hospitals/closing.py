"""Closing: the table at the end, the files, and whether the demonstration kept its word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daitn.base.units import show_bytes
from daitn.demo.hospitals.page import page
from daitn.demo.recording import Recording, local_batches, value_of
from daitn.demo.report import encode_report
from daitn.oam import wording

if TYPE_CHECKING:
    from rich.console import RenderableType

OTHERS = ("cycle", "fedavg", "central")
"""Baselines in the order of their columns."""


def fulfilled(recording: Recording) -> bool:
    """Every target met, every impossible request refused and its offer admitted, every query answered right though a
    host was killed, every process gone."""
    met = all(target.met for one in recording.jobs for target in one.job.status.targets)
    offered = all(one.admitted_after_s is not None for one in recording.refusals)
    served = recording.served is None or recording.served.right == recording.served.asked
    return met and offered and served and recording.left == 0


def write_reports(recording: Recording, out: Path) -> list[RenderableType]:
    """Write the reports below `out`; returns what is to be printed about them."""
    (out / "recording.json").write_bytes(msgspec.json.encode(recording))
    (out / "report.json").write_bytes(encode_report(recording))
    (out / "report.html").write_text(page(recording), encoding="utf-8")
    return [_table(recording), _words(recording, out)]


def _table(recording: Recording) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="what was reached, and what else could have been", title_justify="left")
    for heading in ("job", "target", "wanted", "reached", "interval", "met", "sure", "untrained", *OTHERS):
        table.add_column(heading, no_wrap=True)
    for one in recording.jobs:
        others = {each.name: each for each in one.baselines}
        for target in one.job.status.targets:
            low, high = target.low, target.high
            table.add_row(
                one.job.title,
                escape(target.name),
                target.wanted,
                _number(target.reached),
                "" if low is None or high is None else f"{wording.number(low)} – {wording.number(high)}",
                "yes" if target.met else "no",
                "yes" if target.sure else "no",
                _number(target.untrained),
                *(
                    _number(value_of(others[name].measurements, target.name)) if name in others else ""
                    for name in OTHERS
                ),
            )
        batches = [str(others[name].batches) if name in others else "" for name in OTHERS]
        made = one.job.status
        spent = f"{made.visits} visits, {show_bytes(made.transfer_bytes)}"
        table.add_row("", "local batches", "", str(local_batches(made)), spent, "", "", "0", *batches)
        table.add_section()
    return table


def _words(recording: Recording, out: Path) -> str:
    lines = [
        "met: the estimate reaches the target; sure: the lower end of its interval does. cycle and fedavg were jobs in",
        "the network and end sooner where they reach the goal; central was trained by this demonstration from the",
        "files, outside the network.",
    ]
    if recording.predicted:
        lines.append(recording.predicted + ".")
    if (served := recording.served) is not None:
        lines.append(
            f"served at {' and '.join(served.hosts)}: {served.right} of {served.asked} queries answered as daitn "
            f"predict does, though {served.killed} was killed; at {' and '.join(served.hosts_after)} in the end."
        )
    lines += [
        f"{recording.processes} processes were started, {recording.left} are left; {recording.seconds:.0f} s in all.",
        f"{out / 'report.html'} has the curves, the routes and the reasons; {out / 'report.json'} the figures;",
        f"{out / 'models'} the trained packages (daitn predict PACKAGE FILE).",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else wording.number(value)

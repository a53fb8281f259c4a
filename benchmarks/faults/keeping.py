"""Figures of the matrix over many runs: kept as they come, so that a run that is cut goes on where it was, and told as
one table. A run counts for the source it was measured on; runs of other sources are dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.faults.matrix import Cell, Row
from benchmarks.report import make_document

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "faults.json"
TABLE: Final = ROOT / "docs" / "faults.md"


def source_hash() -> str:
    """What the product's source is, committed or not: one digest over its files."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:40]


class Kept:
    """All runs of all cells that were measured on this source."""

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path
        self._source = source_hash()
        found = json.loads(path.read_text()) if path.exists() else {}
        cells = found.get("cells", {}) if found.get("source") == self._source else {}
        self._cells: dict[str, dict[str, Any]] = cells

    def runs(self, case: Cell) -> list[dict[str, Any]]:
        """The runs of a cell so far."""
        found: list[dict[str, Any]] = self._cells.get(case.name, {}).get("runs", [])
        return found

    def wanting(self, cases: Sequence[Cell], repeats: int) -> list[Cell]:
        """The cells that have fewer runs, each as often as it wants, the first runs of all before the second."""
        return [case for number in range(repeats) for case in cases if len(self.runs(case)) <= number]

    def add(self, row: Row) -> None:
        """One more run."""
        cell = self._cells.setdefault(row.name, {"point": row.point, "kind": row.kind})
        cell |= {"by": row.by or cell.get("by", "")}
        seconds = None if math.isnan(row.seconds) else round(row.seconds, 3)
        run = {
            "seconds": seconds,
            "bound_s": row.bound_s,
            "ok": row.ok,
            "outcome": row.outcome,
            "load": round(os.getloadavg()[0], 1),
        }
        cell.setdefault("runs", []).append(run)

    def save(self, cases: Sequence[Cell]) -> None:
        """Write figures and runs, in the matrix's order."""
        cells = {case.name: self._cells[case.name] for case in cases if case.name in self._cells}
        figures: dict[str, float] = {}
        for name, cell in cells.items():
            if seconds := _seconds(cell):
                figures[key_of(name, "median_s")] = statistics.median(seconds)
                figures[key_of(name, "worst_s")] = max(seconds)
        figures |= {
            "cells": float(len(cells)),
            "runs": float(sum(len(cell["runs"]) for cell in cells.values())),
            "runs_least": float(min((len(cell["runs"]) for cell in cells.values()), default=0)),
            "missed": float(sum(not run["ok"] for cell in cells.values() for run in cell["runs"])),
        }
        document = make_document("faults", figures, {}, []) | {"source": self._source, "cells": cells}
        self._path.write_text(json.dumps(document, indent=1) + "\n")

    def write_table(self, cases: Sequence[Cell]) -> None:
        """Put the table, and how much was played, into the docs."""
        cells = [self._cells[case.name] for case in cases if case.name in self._cells]
        text = put(TABLE.read_text(), "table", table(cells))
        TABLE.write_text(put(text, "counts", counts(cells, len(cases))))


def put(text: str, name: str, content: str) -> str:
    """The text with what stands between the marks of this name replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def counts(cells: Sequence[dict[str, Any]], wanted: int) -> str:
    """How much was played, on how busy a machine, and what missed its bound: one paragraph for docs."""
    runs = [run for cell in cells for run in cell["runs"]]
    times = sorted({len(cell["runs"]) for cell in cells})
    loads = [run["load"] for run in runs]
    missed = ["{point}, {kind}".format_map(cell) for cell in cells if not all(run["ok"] for run in cell["runs"])]
    often = f"{times[0]} times" if len(times) == 1 else f"{times[0]} to {times[-1]} times"
    quoted = ", ".join(f'"{name}"' for name in missed)
    named = f" (in {quoted})" if missed else ""
    beyond = sum(not run["ok"] for run in runs)
    lines = [
        f"{len(runs)} plays of one state of the source: {len(cells)} of {wanted} cells, each {often}, on a machine of",
        f"{os.cpu_count()} cores at a load of {min(loads):g} to {max(loads):g}, that of the plays themselves included.",
        f"Beyond their bounds: {beyond or 'none'}{named}.",
    ]
    return "\n".join(lines)


def table(cells: Sequence[dict[str, Any]]) -> str:
    """The matrix for docs."""
    lines = [
        "| point | kind | by | n | median s | worst s | bound s | outcome |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for cell in cells:
        seconds = _seconds(cell)
        middle, worst = (f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}") if seconds else ("–", "–")
        what = f"| {cell['point']} | {cell['kind']} | {cell['by']} | {len(cell['runs'])} "
        bounds = sorted({run["bound_s"] for run in cell["runs"]})
        bound = f"{bounds[0]:g}" if len(bounds) == 1 else f"{bounds[0]:g} to {bounds[-1]:g}"
        lines.append(f"{what}| {middle} | {worst} | {bound} | {_outcome(cell)} |")
    return "\n".join(lines)


def key_of(name: str, unit: str) -> str:
    """A cell's name as a figure: `site_training_kill_median_s`."""
    words = "".join(one if one.isalnum() else " " for one in name.replace("'", "")).split()
    return "_".join([*words, unit])


def _seconds(cell: dict[str, Any]) -> list[float]:
    return [run["seconds"] for run in cell["runs"] if run["seconds"] is not None]


def _outcome(cell: dict[str, Any]) -> str:
    """What became of the runs; how many, where they differ."""
    said = Counter(run["outcome"] if run["ok"] else f"**missed**: {run['outcome']}" for run in cell["runs"])
    if len(said) == 1:
        return str(next(iter(said)))
    return "; or ".join(f"{text} ({times} of {len(cell['runs'])})" for text, times in said.most_common())

"""Question: what does each fault cost, at each point of a running job, and is anything lost, doubled or unfenced?

Workload: a domain of real processes on loopback (router, control centre, two sites, a verification unit, an aggregator;
mTLS, access control, sandboxed children, journals with fsync) that trains without end, each node's link behind a proxy
of ours. For every point × kind of the matrix the job is brought to the point, the fault brought about, healed later.

Measure: seconds from the fault to the next step that the centre accepts, by its own journal. Bounds: 5 s after a kill,
a lease (2 s) and 5 s after a cut or a stop. After each fault the log has no gap, no visit is accepted twice, what the
owner sees has not gone back, and a site that comes back late has been fenced; at the end each job's end arrives, and
the end of every visit at its site has come to the centre by the record plane.

`--quick` plays a handful; `--only TEXT|TEXT` those whose name has a text; `--write` keeps figures and table in the
repository.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.matrix import CASES, Case, Row, run_cases
from benchmarks.faults.world import open_world
from benchmarks.report import print_report

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
TABLE = ROOT / "docs" / "faults.md"
QUICK = ("site, training, kill", "router, kill", "link of the site, cut both ways")
QUICK_S = 40.0
"""No further case is begun after that."""
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def chosen_cases(only: str, *, quick: bool) -> tuple[Case, ...]:
    """The cases to play."""
    if quick:
        return tuple(case for case in CASES if case.name in QUICK)
    return tuple(case for case in CASES if any(text in case.name for text in only.split("|")))


def table(rows: Sequence[Row]) -> str:
    """The matrix for docs."""
    lines = ["| point | kind | seconds | bound | outcome |", "|---|---|---:|---:|---|"]
    for row in rows:
        seconds = "–" if math.isnan(row.seconds) else f"{row.seconds:.2f}"
        verdict = row.outcome if row.ok else f"**missed**: {row.outcome}"
        lines.append(f"| {row.point} | {row.kind} | {seconds} | {row.bound_s:g} | {verdict} |")
    return "\n".join(lines)


def key_of(row: Row) -> str:
    """A cell's name as a figure: `site_training_kill_s`."""
    words = "".join(one if one.isalnum() else " " for one in f"{row.point} {row.kind}".replace("'", "")).split()
    return "_".join(words) + "_s"


def keep(rows: Sequence[Row]) -> None:
    """Put rows into the committed results and the table; rows of other cells stay as they were measured."""
    kept: dict[str, list[object]] = {}
    if RESULTS.exists():
        kept = {f"{row[0]}, {row[1]}": row for row in json.loads(RESULTS.read_text())["rows"]}
    for row in rows:
        kept[f"{row.point}, {row.kind}"] = [*row]
    ordered = [Row(*kept[case.name]) for case in CASES if case.name in kept]  # type: ignore[arg-type]
    source = subprocess.run(["git", "rev-parse", "HEAD:src"], cwd=ROOT, capture_output=True, check=False)
    document = {
        "name": "faults",
        "figures": {key_of(row): row.seconds for row in ordered if not math.isnan(row.seconds)},
        "rows": [list(row) for row in ordered],
        "machine": {"cores": 2},
        "source": source.stdout.decode().strip(),
    }
    RESULTS.write_text(json.dumps(document, indent=2).replace("NaN", "null") + "\n")
    if TABLE.exists():
        before, _, rest = TABLE.read_text().partition(BEGIN)
        TABLE.write_text(f"{before}{BEGIN}\n\n{table(ordered)}\n\n{END}{rest.partition(END)[2]}")


def main() -> int:
    """0 if every fault was healed within its bound and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--only", default="", help="cases whose name has this text, or one of several between |")
    parser.add_argument("--write", action="store_true", help=f"keep the rows in {RESULTS.name} and {TABLE.name}")
    chosen = parser.parse_args()
    began = time.monotonic()
    rows: list[Row] = []

    def told(row: Row) -> None:
        rows.append(row)
        if not chosen.json:
            state = "ok" if row.ok else "MISSED"
            print(
                f"{row.point:28s} {row.kind:24s} {row.seconds:6.2f} s of {row.bound_s:g}  {state}: {row.outcome}",
                flush=True,
            )

    with tempfile.TemporaryDirectory(prefix="daitn-faults-") as name, open_world(Path(name)) as world:
        cases = chosen_cases(chosen.only, quick=chosen.quick)
        run_cases(world, cases, told, until=began + QUICK_S if chosen.quick else math.inf)
    if chosen.write:
        keep(rows)
    figures = {key_of(row): row.seconds for row in rows if not math.isnan(row.seconds)}
    figures |= {"cases": float(len(rows)), "missed": float(sum(not row.ok for row in rows))}
    print_report("faults", figures, {}, [], only_json=chosen.json)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

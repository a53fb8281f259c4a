"""Question: what does each fault cost, at each point of a running job, and is anything lost, doubled or unfenced?

Workload: a domain of real processes (router, control centre, two each of sites, verification units and aggregators;
mTLS, access control, sandboxed children, journals with fsync) that trains without end, each node's link behind a proxy
of ours and, where this machine allows it, in a network namespace of its own. For every point × kind of the matrix the
job is brought to the point, the fault brought about, healed later.

Measure: seconds from the fault to the next step that the centre accepts, by its own journal; the step that the fault
concerns, where that is one site's or another one's that takes over. Bounds: 5 s after a kill, a lease (2 s) and 5 s
after a cut or a stop. After each fault the log that was told before it is the beginning of the log after it, no served
status has gone back, each step was accepted once and with the fence of its order, and who comes back late has been
fenced; at the end each job's end arrives, and the end of every visit at its site has come to the centre by the record
plane.

`--quick` plays a handful; `--only TEXT|TEXT` those whose name has a text; `--repeats N` each N times; `--write` keeps
every run in the repository's results and makes the table of them, and plays only what has fewer than N runs on this
source, so that the whole may be run in pieces (`--for-s`). Logs and a timeline of what missed its bound are kept.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.faults.cells import CASES
from benchmarks.faults.evidence import keep_evidence
from benchmarks.faults.keeping import RESULTS, TABLE, Kept, key_of
from benchmarks.faults.matrix import Cell, Row, run_cases
from benchmarks.faults.world import World, open_world
from benchmarks.report import print_report

EVIDENCE: Final = Path(tempfile.gettempdir()) / "daitn-faults-missed"
QUICK: Final = ("site, training, kill", "router, kill", "link of the site, cut both ways")
QUICK_S: Final = 40.0
"""No further case is begun after that."""


def chosen_cases(only: str, *, quick: bool) -> tuple[Cell, ...]:
    """The cases to play."""
    if quick:
        return tuple(case for case in CASES if case.name in QUICK)
    return tuple(case for case in CASES if any(text in case.name for text in only.split("|")))


def main() -> int:
    """0 if every fault was healed within its bound and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    parser.add_argument("--only", default="", help="cases whose name has this text, or one of several between |")
    parser.add_argument("--repeats", type=int, default=1, help="how often each case is played (default 1)")
    parser.add_argument("--for-s", type=float, default=math.inf, help="begin no further case after so many seconds")
    parser.add_argument("--write", action="store_true", help=f"keep the runs in {RESULTS.name} and {TABLE.name}")
    parser.add_argument("--evidence", type=Path, default=EVIDENCE, help=f"where to keep it (default {EVIDENCE})")
    chosen = parser.parse_args()
    began = time.monotonic()
    kept = Kept()
    rows: list[Row] = []
    cases = chosen_cases(chosen.only, quick=chosen.quick)
    cases = tuple(kept.wanting(cases, chosen.repeats)) if chosen.write else cases * chosen.repeats

    def told(row: Row) -> None:
        rows.append(row)
        if chosen.write:
            kept.add(row)
            kept.save(CASES)
        if not row.ok:
            logs = world.domain.folder / "logs"
            said = keep_evidence(chosen.evidence, row.name, logs, world.log(world.jobs[-1]), row.fault_unix_s)
            print(f"{row.name}: kept in {said}", file=sys.stderr, flush=True)
        if not chosen.json:
            state = "ok" if row.ok else "MISSED"
            left = f"{row.seconds:6.2f} s of {row.bound_s:g}  {state}: {row.outcome}"
            print(f"{row.point:28s} {row.kind:24s} {left}", flush=True)

    if cases:
        world: World
        with tempfile.TemporaryDirectory(prefix="daitn-faults-") as name, open_world(Path(name)) as world:
            run_cases(world, cases, told, until=began + (QUICK_S if chosen.quick else chosen.for_s))
    if chosen.write:
        kept.write_table(CASES)
        print(f"{len(kept.wanting(CASES, chosen.repeats))} plays are still to come", file=sys.stderr)
    print_report("faults", figures_of(rows), {}, [], only_json=chosen.json)
    return 0 if all(row.ok for row in rows) else 1


def figures_of(rows: list[Row]) -> dict[str, float]:
    """Median and worst of each case, and how many were played and missed."""
    figures: dict[str, float] = {}
    for name in dict.fromkeys(row.name for row in rows):
        seconds = [row.seconds for row in rows if row.name == name and not math.isnan(row.seconds)]
        if seconds:
            figures |= {key_of(name, "median_s"): statistics.median(seconds), key_of(name, "worst_s"): max(seconds)}
    return figures | {"cases": float(len(rows)), "missed": float(sum(not row.ok for row in rows))}


if __name__ == "__main__":
    sys.exit(main())

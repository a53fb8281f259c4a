"""Question: does the map (G-KRRM) hold a million terminals on two cores?

Workload: 100 sites that report for 10,000 terminals each, 31 facts a terminal in seven groups, each with source,
sequence, moments and a deviation a number. Parts, one file each: `updates` (batches into the columns, memory),
`messages` (one terminal a message over the real fabric), `restart` (snapshot and journal), `questions` (typed and in
SQL, beside networkx, DuckDB alone and SQLite), `views`. `--quick`: a fifth of the
terminals, fewer paces. Loads of the machine before and after are part of the output: others' work is in the figures.
"""

from __future__ import annotations

import os
import statistics
import sys

from benchmarks.map import messages, questions, restart, updates, views
from benchmarks.map.asking import peers_versions
from benchmarks.map.world import TERMINALS, make_map
from benchmarks.report import Bounds, arguments, print_report, summary

BOUNDS: Bounds = {
    "query_ms": ("<=", 20.0),
    "sql_ms": ("<=", 100.0),
    "batch_updates_per_s": (">=", 1e6),
    "message_updates_per_s": (">=", 150_000.0),
    "view_ms": ("<=", 100.0),
    "delta_ms": ("<=", 10.0),
    "bytes_per_terminal": ("<=", 800.0),
    "restart_s": ("<=", 10.0),
}
"""Of a million terminals on two cores."""
QUICK_TERMINALS = 200_000
SEED = 0


def main() -> int:
    """Run all parts."""
    asked = arguments(__doc__)
    terminals = QUICK_TERMINALS if asked.quick else TERMINALS
    load_before = os.getloadavg()[0]
    before = updates.resident_bytes()
    intake = make_map(terminals, SEED)
    resident = updates.resident_bytes() - before
    table_rows = intake.book.nbytes / terminals
    speeds, unstretched = updates.batch_updates(intake, 2 if asked.quick else 3, SEED + 1)
    asked_figures, peers = questions.ask(intake.book, 5 if asked.quick else 25)
    seconds, used, files = restart.restart(intake, 0.1, 1 if asked.quick else 2)
    paces = (160_000.0,) if asked.quick else messages.PACES
    runs = messages.message_updates(intake, paces, 2.0 if asked.quick else messages.SECONDS, 10_000)
    kept = [run for run in runs if run["lost_frac"] <= messages.LOSS_MOST] or runs[:1]
    best = max(kept, key=lambda run: run["applied_per_s"])
    figures = {
        "terminals": float(terminals),
        "batch_updates_per_s": statistics.median(speeds),
        **{f"batch_updates_per_s_{key}": value for key, value in summary(speeds).items() if key in ("min", "max")},
        "batch_updates_per_cpu_s": statistics.median(unstretched),
        "message_updates_per_s": best["applied_per_s"],
        **{f"message_{key}": value for key, value in best.items() if key != "applied_per_s"},
        "message_runs": float(len(runs)),
        "message_runs_that_kept_up": float(sum(run["lost_frac"] <= messages.LOSS_MOST for run in runs)),
        "message_updates_per_s_median": statistics.median(run["applied_per_s"] for run in runs),
        "message_all_repaired": float(all(run["syncs_until_repaired"] > 0 for run in runs)),
        "bytes_per_terminal": resident / terminals,
        "column_bytes_per_terminal": table_rows,
        "restart_s": statistics.median(seconds),
        "restart_s_max": max(seconds),
        "restart_cpu_s": statistics.median(used),
        **files,
        **asked_figures,
        **views.make_views(5 if asked.quick else 25),
        "machine_load_before": load_before,
        "machine_load_after": os.getloadavg()[0],
    }
    said = [
        f"{run['offered_per_s']:.0f}/s offered: {run['applied_per_s']:.0f}/s applied, {run['lost_frac']:.2%} lost"
        for run in runs
    ]
    versions = peers_versions()
    print_report("map", figures, peers, [SEED], only_json=asked.json, said=said, versions=versions, bounds=BOUNDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The parts `questions` and `views` alone, on a million terminals: `python -m benchmarks.map.asking --json`."""

from __future__ import annotations

import os
import sqlite3
import sys
from importlib import metadata

from benchmarks.map import questions, views
from benchmarks.map.world import TERMINALS, make_map
from benchmarks.report import arguments, print_report

QUICK_TERMINALS = 200_000
SEED = 0


def peers_versions() -> dict[str, str]:
    """What the peers run."""
    return {name: metadata.version(name) for name in ("duckdb", "pyarrow", "networkx")} | {
        "sqlite": sqlite3.sqlite_version
    }


def main() -> int:
    """Run both parts."""
    asked = arguments(__doc__)
    terminals = QUICK_TERMINALS if asked.quick else TERMINALS
    repeats = 5 if asked.quick else 25
    before = os.getloadavg()[0]
    figures, peers = questions.ask(make_map(terminals, SEED).book, repeats)
    figures |= views.make_views(repeats)
    figures |= {"terminals": float(terminals), "machine_load_before": before, "machine_load_after": os.getloadavg()[0]}
    print_report("map_asking", figures, peers, [SEED], only_json=asked.json, versions=peers_versions())
    return 0


if __name__ == "__main__":
    sys.exit(main())

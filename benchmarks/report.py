"""What every benchmark prints last: one JSON object with figures, peers, machine, versions and seeds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

QUICK_S = 50.0
"""How long a benchmark may take with `--quick`, on two cores."""

PACKAGES = ("eclipse-zenoh", "torch", "msgspec", "blake3", "numpy")


def arguments(description: str | None) -> argparse.Namespace:
    """`--quick` and `--json`, which every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"end within {QUICK_S:.0f} s on two cores")
    parser.add_argument("--json", action="store_true", help="only the JSON object, on the last line")
    return parser.parse_args()


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, least and most of some seconds."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        "min": ordered[0],
        "max": ordered[-1],
    }


def print_report(
    name: str,
    figures: Mapping[str, float],
    peers: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
    *,
    only_json: bool,
    said: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
) -> None:
    """A table for people unless told otherwise, then the JSON object on one line.

    `said`: sentences that belong above the table; with `only_json` they go to the error output. `versions`: of what
    the peers run, in addition to our own.
    """
    for line in said:
        print(line, file=sys.stderr if only_json else sys.stdout)
    if not only_json:
        for key, value in figures.items():
            print(f"{key:36s} {value:12.4f}")
        for peer, row in peers.items():
            for key, value in row.items():
                print(f"{peer + ': ' + key:36s} {value:12.4f}")
    print(json.dumps(make_document(name, figures, peers, seeds, versions)))


def make_document(
    name: str,
    figures: Mapping[str, float],
    peers: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is printed on the last line, and kept under `results/`."""
    return {
        "name": name,
        "figures": dict(figures),
        "peers": {peer: dict(row) for peer, row in peers.items()},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | _versions() | dict(versions or {}),
        "seeds": list(seeds),
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

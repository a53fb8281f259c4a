"""What every benchmark prints last: one JSON object with figures, peers, machine, versions and seeds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

PACKAGES = ("eclipse-zenoh", "torch", "msgspec", "blake3", "numpy")


def arguments(description: str | None) -> argparse.Namespace:
    """`--quick` and `--json`, which every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within 50 s on two cores")
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
) -> None:
    """A table for people unless told otherwise, then the JSON object on one line."""
    if not only_json:
        for line in said:
            print(line)
        for key, value in figures.items():
            print(f"{key:36s} {value:12.4f}")
        for peer, row in peers.items():
            for key, value in row.items():
                print(f"{peer + ': ' + key:36s} {value:12.4f}")
    document: dict[str, Any] = {
        "name": name,
        "figures": dict(figures),
        "peers": {peer: dict(row) for peer, row in peers.items()},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | _versions(),
        "seeds": list(seeds),
    }
    print(json.dumps(document))


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

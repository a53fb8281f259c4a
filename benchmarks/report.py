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
from pathlib import Path
from typing import Any, Final, Literal

from blake3 import blake3

QUICK_S = 50.0
"""How long a benchmark may take with `--quick`, on two cores."""

Bounds = Mapping[str, tuple[Literal["<=", ">="], float]]
"""Figure → what it has to be."""

PACKAGE: Final = Path(__file__).resolve().parents[1] / "src" / "daitn"
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
    bounds: Bounds | None = None,
) -> None:
    """A table for people unless told otherwise, then the JSON object on one line.

    `said`: sentences that belong above the table; with `only_json` they go to the error output. `versions`: of what
    the peers run, in addition to our own. `bounds`: what the figures have to be; a missed one is said, and noted in the
    object, and does not stop the program: one run on a busy machine proves nothing either way.
    """
    for line in said:
        print(line, file=sys.stderr if only_json else sys.stdout)
    if not only_json:
        for key, value in figures.items():
            print(f"{key:36s} {value:12.4f}")
        for peer, row in peers.items():
            for key, value in row.items():
                print(f"{peer + ': ' + key:36s} {value:12.4f}")
    document = make_document(name, figures, peers, seeds, versions, bounds)
    for line in document.get("missed", ()):
        print(f"missed: {line}", file=sys.stderr if only_json else sys.stdout)
    print(json.dumps(document))


def make_document(
    name: str,
    figures: Mapping[str, float],
    peers: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
    versions: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
) -> dict[str, Any]:
    """What is printed on the last line, and kept under `results/`."""
    judged = {} if bounds is None else {"missed": missed(figures, bounds)}
    return {
        "name": name,
        "figures": dict(figures),
        "peers": {peer: dict(row) for peer, row in peers.items()},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | _versions() | dict(versions or {}),
        "seeds": list(seeds),
        "source": package_hash(),
        "load": round(os.getloadavg()[0], 1),
    } | judged


def missed(figures: Mapping[str, float], bounds: Bounds) -> list[str]:
    """Bounds that the figures do not keep, one sentence each; a figure that is not there keeps none."""
    found: list[str] = []
    for key, (sense, bound) in bounds.items():
        value = figures.get(key, float("nan"))
        if not (value >= bound if sense == ">=" else value <= bound):
            found.append(f"{key} is {value:g}, wanted {sense} {bound:g}")
    return found


def package_hash() -> str:
    """BLAKE3 of the package's source files and their names: which code a figure belongs to."""
    found = blake3()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(str(path.relative_to(PACKAGE)).encode() + b"\x00" + path.read_bytes() + b"\x00")
    return str(found.hexdigest())[:16]


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

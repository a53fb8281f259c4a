"""Question: how long until a domain answers, a site has joined, and the package is imported?

Workload: `daitn router` and `daitn center` started together until both answer (owners' endpoint included); one site's
`daitn join` from the start of its process until the domain's map holds it, with enrolment, mTLS and access control; and
`import daitn` in a fresh interpreter. Every measure is of whole processes on loopback, the start of Python included.

Floor, in the same run: an interpreter that imports nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Bounds, arguments, print_report, summary
from daitn.node.processes import LocalDomain

BOUNDS: Bounds = {"router_and_center_ready_s": ("<=", 3.0), "join_s": ("<=", 1.5), "import_s": ("<=", 0.3)}
REPEATS = 9
REPEATS_QUICK = 3


def time_python(code: str, repeats: int) -> list[float]:
    """Seconds of interpreters that run `code`."""
    seconds: list[float] = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def time_join(folder: Path, token: str) -> float:
    """Seconds from the start of `daitn join` to its word that the map holds the node."""
    command = [
        sys.executable,
        "-m",
        "daitn.cli.main",
        "join",
        str(folder),
        "--token",
        token,
        "--name",
        "site",
        "--json",
    ]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.terminate()
        process.wait(10)
    if not json.loads(line or b"{}").get("ready"):
        raise SystemExit(f"the site did not join: {line!r}")
    return seconds


def main() -> None:
    """Run and print."""
    chosen = arguments(__doc__)
    repeats = REPEATS_QUICK if chosen.quick else REPEATS
    started: list[float] = []
    joined: list[float] = []
    for number in range(repeats):
        with (
            tempfile.TemporaryDirectory(prefix="daitn-startup-") as name,
            LocalDomain(Path(name), f"startup{number}") as domain,
        ):
            domain.run("init", str(domain.home), "--domain", domain.domain)
            began = time.perf_counter()
            domain.start()
            started.append(time.perf_counter() - began)
            joined.append(time_join(Path(name) / "site", domain.join_token("site", ["data", "compute"])))
    figures: dict[str, float] = {}
    measured = {
        "router_and_center_ready_s": started,
        "join_s": joined,
        "import_s": time_python("import daitn", 2 * repeats),
    }
    for key, values in measured.items():
        found = summary(values)
        figures[key] = found["median"]
        figures |= {f"{key.removesuffix('_s')}_{part}_s": found[part] for part in ("p95", "min", "max")}
    floor = {"import_s": summary(time_python("pass", 2 * repeats))["median"]}
    print_report("startup", figures, {"bare interpreter": floor}, [], only_json=chosen.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

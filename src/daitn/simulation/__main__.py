"""`python -m daitn.simulation --seeds 200`: run seeds, print what failed and the command that replays it exactly."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from daitn.simulation.mishaps import CELLS, missing
from daitn.simulation.run import run_seed

PROGRESS_S = 2.0


def main() -> int:
    """0 if every seed kept every invariant."""
    parser = argparse.ArgumentParser(prog="python -m daitn.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay this one seed, with its trace")
    parser.add_argument("--calm", action="store_true", help="no faults")
    parser.add_argument("--cover", action="store_true", help="fail where some point × kind of the matrix was never hit")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        report = run_seed(chosen.seed, faulty=not chosen.calm)
        print("\n".join(report.trace[-60:]))
        print(report.fault or f"seed {report.seed} holds: {', '.join(report.phases)}")
        return 1 if report.fault else 0
    phases: Counter[str] = Counter()
    hit: Counter[tuple[str, str]] = Counter()
    failed: list[int] = []
    events = crashes = messages = 0
    began = shown = time.monotonic()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        report = run_seed(seed, faulty=not chosen.calm)
        hit.update({(point, kind): times for point, kind, times in report.hit})
        phases.update(phase.value for phase in report.phases)
        events, crashes, messages = events + report.events, crashes + report.crashes, messages + report.messages
        if report.fault:
            failed.append(seed)
            calm = " --calm" if chosen.calm else ""
            print(
                f"seed {seed}: {report.fault}\n    replay: python -m daitn.simulation --seed {seed}{calm}", flush=True
            )
        if time.monotonic() - shown > PROGRESS_S:
            shown = time.monotonic()
            print(f"{seed - chosen.first + 1}/{chosen.seeds} seeds, {len(failed)} failed", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    ends = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
    amount = f"{events} events, {messages} messages, {crashes} crashes"
    print(f"{chosen.seeds} seeds in {seconds:.1f} s: {amount}; jobs: {ends}")
    for point, kind in CELLS:
        print(f"    {point:28s} {kind:24s} {hit[(point, kind)]:7d}")
    never = missing(hit) if chosen.cover else []
    if never:
        print("never hit: " + "; ".join(f"{point}, {kind}" for point, kind in never))
    print("every invariant held" if not failed else f"{len(failed)} seeds failed: {failed[:20]}")
    return 1 if failed or never else 0


if __name__ == "__main__":
    sys.exit(main())

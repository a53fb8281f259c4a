"""Question: are models placed as well as can be, and is that proven, and how soon?

Workload: every OR-Library instance that is here: thirteen capacitated warehouse location problems (16 to 50 hosts, 50
demands) and twenty p-medians (100 to 400 of both). Each plan is counted again here from its hosts and shares before it
counts. `solved`: plans that cost the proven optimum; `max_gap_frac`: the largest distance between a plan and the bound
that came with it; seconds by the clock and of the processor, compiled code loaded before.

Peer, in the same run: the best hosts that a descent from the prices leads to, without shaking and without HiGHS.
"""

from __future__ import annotations

import random
import time

import numpy as np

from benchmarks.orlib import Instance, read_instances
from benchmarks.report import Bounds, arguments, print_report
from daitn.decision.placement.placing import place
from daitn.decision.placement.problem import PlacementPlan, Unplaceable

QUICK = 12
BOUNDS: Bounds = {
    "cap_seconds_most": ("<=", 10.0),
    "pmed_seconds_most": ("<=", 30.0),
    "max_gap_frac": ("<=", 0.001),
    "missing_frac_most": ("<=", 0.0),
}


def check(instance: Instance, plan: PlacementPlan | Unplaceable) -> PlacementPlan:
    """Count a plan again; SystemExit for one that breaks the problem or says another cost than it has."""
    if isinstance(plan, Unplaceable):
        raise SystemExit(f"{instance.name}: {plan.reasons}")
    problem = instance.problem
    flow = plan.share_HD * problem.demand_D
    cost = problem.open_cost_H[plan.open_H].sum() + (flow * problem.unit_cost_HD).sum()
    count = int(plan.open_H.sum())
    fits = flow.sum(axis=1) <= np.where(plan.open_H, problem.capacity_H * (1 + 1e-9) + 1e-9, 0.0)
    if not np.allclose(plan.share_HD.sum(axis=0), 1) or plan.share_HD.min() < -1e-9 or not fits.all():
        raise SystemExit(f"{instance.name}: the plan does not serve all demands within its capacities")
    if (plan.share_HD[~plan.open_H] > 0).any() or not problem.least <= count <= (problem.most or count):
        raise SystemExit(f"{instance.name}: {count} hosts, and demands that go to others")
    if abs(cost - plan.cost) > 1e-6 * cost or plan.bound > instance.optimum * (1 + 1e-9):
        raise SystemExit(f"{instance.name}: said to cost {plan.cost} over {plan.bound}, it costs {cost}")
    return plan


def main() -> None:
    """Solve all, count again, print."""
    asked = arguments(__doc__)
    instances = read_instances()
    if asked.quick:
        slow = {"pmed6", "pmed16", "pmed17"}
        instances = random.Random(1).sample([one for one in instances if one.name not in slow], QUICK)
    place(instances[0].problem, rounds=1)
    place(instances[-1].problem, rounds=1, exact_size=0)
    said: list[str] = []
    missing: list[float] = []
    gaps: list[float] = []
    plain: list[float] = []
    clock: dict[str, list[float]] = {"cap": [], "pmed": []}
    processor: dict[str, list[float]] = {"cap": [], "pmed": []}
    for instance in instances:
        kind = "cap" if instance.name.startswith("cap") else "pmed"
        began, worked = time.perf_counter(), time.process_time()
        plan = place(instance.problem)
        clock[kind].append(time.perf_counter() - began)
        processor[kind].append(time.process_time() - worked)
        plan = check(instance, plan)
        missing.append((plan.cost - instance.optimum) / instance.optimum)
        gaps.append(plan.gap_frac)
        plain.append(check(instance, place(instance.problem, rounds=0, exact_size=0)).gap_frac)
        said.append(
            f"{instance.name}: {plan.cost:.3f}, optimum {instance.optimum:.3f}, bound {plan.bound:.3f}, "
            f"{clock[kind][-1]:.1f} s, {processor[kind][-1]:.1f} s of the processor"
        )
    figures = {
        "solved": float(sum(abs(one) < 1e-9 for one in missing)),
        "of": float(len(instances)),
        "max_gap_frac": max(gaps),
        "missing_frac_most": max(0.0, round(max(missing), 9)),
    }
    for kind, seconds in clock.items():
        if seconds:
            figures[f"{kind}_seconds_most"] = max(seconds)
            figures[f"{kind}_processor_seconds_most"] = max(processor[kind])
    peers = {
        "prices and descent": {"solved_and_proven": float(sum(one < 1e-9 for one in plain)), "max_gap_frac": max(plain)}
    }
    print_report("placement", figures, peers, [0], only_json=asked.json, said=said, bounds=BOUNDS)


if __name__ == "__main__":
    main()

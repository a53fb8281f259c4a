"""Question: what do callers see when a host is killed while their queries are under way?

Workload: a model at two of three hosts, a gateway, a router and a control centre, each a process of its own; eight
connections ask without end. One of the two hosts is killed (SIGKILL); the third takes its place.

Measure: queries that got no answer, or a wrong one (`lost`); the seconds from the kill until the 99th percentile over
half a second is back within twice what it was before (`recovery_s`); the slowest query (`slowest_s`); the seconds
until as many replicas answer as before (`replaced_s`).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.report import Bounds, arguments, print_report
from benchmarks.serving_world import Asked, Serving, ask_for, client, serving

BOUNDS: Bounds = {"lost": ("<=", 0.0), "recovery_s": ("<=", 2.0)}
CONNECTIONS = 8
CALM_S, AFTER_S = 4.0, 12.0
WINDOW_S = 0.5


async def _play(world: Serving) -> tuple[list[Asked], float, float]:
    """All queries, when the host was killed, and how long its replacement took."""
    loop = asyncio.get_running_loop()
    async with client(world.key) as session:
        await ask_for(session, world.url, 1.0, CONNECTIONS)
        asking = asyncio.create_task(ask_for(session, world.url, CALM_S + AFTER_S, CONNECTIONS))
        await asyncio.sleep(CALM_S)
        victim = world.network.models.status("thirty").replicas[0].name
        killed_s = time.monotonic()
        world.domain.kill(victim)
        replaced_s = await loop.run_in_executor(None, _until_replaced, world, victim, killed_s)
        return await asking, killed_s, replaced_s


def _until_replaced(world: Serving, victim: str, killed_s: float) -> float:
    while True:
        replicas = world.network.models.status("thirty").replicas
        others = [one for one in replicas if one.name != victim]
        if sum(one.reachable and one.phase == "serving" for one in others) >= 2:
            return time.monotonic() - killed_s
        if time.monotonic() - killed_s > 60:
            raise TimeoutError("the lost replica was not placed anew within 60 s")
        time.sleep(0.05)


def _p99(found: list[Asked]) -> float:
    seconds = sorted(one.seconds for one in found)
    return seconds[int(0.99 * (len(seconds) - 1))] if seconds else 0.0


def _recovery_s(found: list[Asked], killed_s: float, calm_p99_s: float) -> float:
    """End of the last window after the kill whose 99th percentile was above twice the calm one."""
    last, windows = 0.0, int(AFTER_S / WINDOW_S)
    for number in range(windows):
        start = killed_s + number * WINDOW_S
        window = [one for one in found if start <= one.began_s < start + WINDOW_S]
        if _p99(window) > 2 * calm_p99_s:
            last = (number + 1) * WINDOW_S
    return last


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="daitn-failover-") as folder, serving(Path(folder), 3, 2) as world:
        found, killed_s, replaced_s = asyncio.run(_play(world))
    calm = [one for one in found if one.began_s + one.seconds < killed_s]
    calm_p99_s = _p99(calm)
    figures = {
        "asked": float(len(found)),
        "lost": float(sum(not one.right for one in found)),
        "recovery_s": _recovery_s(found, killed_s, calm_p99_s),
        "slowest_s": max(one.seconds for one in found),
        "calm_ms_p99": 1000 * calm_p99_s,
        "replaced_s": replaced_s,
    }
    print_report("failover", figures, {}, [0], only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

"""Question: what does a query cost through a gateway and the fabric, besides the model?

Workload: a model of 2,000 weights at one host, a gateway, a router, a control centre, each a process of its own on
loopback; one row of 30 numbers a query, JSON in and out; key, quota, admission, routing and counters on; mTLS between
gateway, router and host. The client asks from one connection, then from 32.

Measure: queries a second, median and 99th percentile at each; at one connection also the median less what the model
itself takes for one row, as its host measured it while warming up (`added_ms_p50`).

Baseline, in the same run: a bare aiohttp server in a process of its own that reads the same body and answers as many
bytes (`bare`). Load generator and servers share the machine's cores, so the ratios say more than the rates.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from benchmarks.report import Bounds, arguments, print_report
from benchmarks.serving_world import Asked, ask_for, client, serving

BOUNDS: Bounds = {"fabric_requests_per_s": (">=", 2500.0), "fabric_added_ms_p50": ("<=", 1.5)}
CONNECTIONS = 32
SECONDS, SECONDS_QUICK = 15.0, 5.0
ANSWER = (
    b'{"model_name":"thirty","model_version":"1","outputs":'
    b'[{"name":"output","datatype":"FP32","shape":[1,2],"data":[0.123456,0.234567]}]}'
)


def serve_bare(pipe: Connection) -> None:
    """A server that does nothing but answer."""

    async def infer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/infer", infer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}/infer")
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    asyncio.run(run())


async def _measure(url: str, key: str, seconds: float) -> tuple[list[Asked], list[Asked]]:
    async with client(key) as session:
        await ask_for(session, url, 1.0, CONNECTIONS)
        return await ask_for(session, url, seconds, 1), await ask_for(session, url, seconds, CONNECTIONS)


def _figures(name: str, one: list[Asked], many: list[Asked], seconds: float) -> dict[str, float]:
    wrong = sum(not each.right for each in (*one, *many))
    if wrong:
        raise AssertionError(f"{wrong} of {len(one) + len(many)} queries of {name} were not answered right")
    alone = sorted(each.seconds for each in one)
    busy = sorted(each.seconds for each in many)
    return {
        f"{name}_requests_per_s": len(many) / seconds,
        f"{name}_ms_p50": 1000 * statistics.median(alone),
        f"{name}_ms_p99": 1000 * alone[int(0.99 * (len(alone) - 1))],
        f"{name}_ms_p99_32": 1000 * busy[int(0.99 * (len(busy) - 1))],
    }


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__)
    seconds = SECONDS_QUICK if asked.quick else SECONDS
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    bare = spawn.Process(target=serve_bare, args=(theirs,))
    bare.start()
    try:
        figures = _figures("bare", *asyncio.run(_measure(ours.recv(), "none", seconds)), seconds)
    finally:
        ours.send("over")
        bare.join(10)
    with tempfile.TemporaryDirectory(prefix="daitn-gateway-") as folder, serving(Path(folder), 1, 1) as world:
        row_s = world.network.models.status("thirty").replicas[0].measured.row_s
        figures |= _figures("fabric", *asyncio.run(_measure(world.url, world.key, seconds)), seconds)
    figures["fabric_added_ms_p50"] = figures["fabric_ms_p50"] - 1000 * row_s
    figures["model_row_ms"] = 1000 * row_s
    figures["fabric_over_bare"] = figures["fabric_requests_per_s"] / figures["bare_requests_per_s"]
    bare_figures = {key.removeprefix("bare_"): value for key, value in figures.items() if key.startswith("bare_")}
    own = {key: value for key, value in figures.items() if not key.startswith("bare_")}
    print_report("gateway", own, {"bare aiohttp": bare_figures}, [0], only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

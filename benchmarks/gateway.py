"""Question: what does a query cost through a gateway, to a host reached directly and through the fabric's router?

Workload: a model of 2,000 weights at one host, a gateway, a router, a control centre, each a process of its own on
loopback; one row of 30 numbers a query, JSON in and out; key, quota, admission, routing, explanations and counters on;
mTLS between gateway, router and host. Once the host listens for gateways (`direct`), once it is reached through the
router (`fabric`). A client that costs little (`lean_client`) asks from one connection, then from 32.

Measure: queries a second, median and 99th percentile at each; at one connection also the median less what the model
itself takes for one row, as its host measured it while warming up (`added_ms_p50`). `requests_per_core_s`: queries by
the processor seconds that the gateway's process took for them, at 32 connections, which is what one core of its own
would answer; a busy machine changes it little.

Then 100 streamed answers at once, by pieces for each processor second of the gateway, beside a bare aiohttp proxy
(`gateway_streams`): `streams_ratio`.

Baseline, in the same run: a bare aiohttp server in a process of its own that reads the same body and answers as many
bytes (`bare`), with the same measure. Load generator and servers share the machine's cores, so the ratios and the
processor seconds say more than the rates.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from benchmarks import gateway_streams
from benchmarks.gateway_streams import processor_s
from benchmarks.lean_client import ask_leanly
from benchmarks.report import Bounds, arguments, print_report
from benchmarks.serving_world import Asked, serving

BOUNDS: Bounds = {
    "direct_requests_per_core_s": (">=", 5000.0),
    "direct_added_ms_p50": ("<=", 0.5),
    "fabric_requests_per_core_s": (">=", 2500.0),
    "fabric_added_ms_p50": ("<=", 1.5),
    "streams_ratio": (">=", 0.7),
}
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


class Measured(NamedTuple):
    """What a client saw, and what the server took."""

    one: list[Asked]
    many: list[Asked]
    processor_s: float


async def _measure(url: str, key: str, seconds: float, pid: int) -> Measured:
    await ask_leanly(url, key, 1.0, CONNECTIONS)
    one = await ask_leanly(url, key, seconds, 1)
    before_s = processor_s(pid)
    many = await ask_leanly(url, key, seconds, CONNECTIONS)
    return Measured(one, many, processor_s(pid) - before_s)


def _figures(name: str, measured: Measured, seconds: float) -> dict[str, float]:
    one, many, processor_s = measured
    wrong = sum(not each.right for each in (*one, *many))
    if wrong:
        raise AssertionError(f"{wrong} of {len(one) + len(many)} queries of {name} were not answered right")
    alone = sorted(each.seconds for each in one)
    busy = sorted(each.seconds for each in many)
    return {
        f"{name}_requests_per_s": len(many) / seconds,
        f"{name}_requests_per_core_s": len(many) / max(processor_s, 0.01),
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
        assert bare.pid is not None
        found = asyncio.run(_measure(ours.recv(), "none", seconds, bare.pid))
        figures = _figures("bare", found, seconds)
    finally:
        ours.send("over")
        bare.join(10)
    for name, direct in (("direct", "127.0.0.1"), ("fabric", "")):
        with (
            tempfile.TemporaryDirectory(prefix="daitn-gateway-") as folder,
            serving(Path(folder), 1, 1, direct=direct) as world,
        ):
            row_s = world.network.models.status("thirty").replicas[0].measured.row_s
            found = asyncio.run(_measure(world.url, world.key, seconds, world.domain.processes.pid("gate")))
        figures |= _figures(name, found, seconds)
        figures[f"{name}_added_ms_p50"] = figures[f"{name}_ms_p50"] - 1000 * row_s
        figures[f"{name}_model_row_ms"] = 1000 * row_s
    figures["direct_over_bare"] = figures["direct_requests_per_core_s"] / figures["bare_requests_per_core_s"]
    figures["fabric_over_bare"] = figures["fabric_requests_per_core_s"] / figures["bare_requests_per_core_s"]
    figures |= gateway_streams.figures(seconds / 3)
    bare_figures = {key.removeprefix("bare_"): value for key, value in figures.items() if key.startswith("bare_")}
    own = {key: value for key, value in figures.items() if not key.startswith("bare_")}
    print_report("gateway", own, {"bare aiohttp": bare_figures}, [0], only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

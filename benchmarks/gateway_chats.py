"""Question: what does a small chat request cost a gateway, beside LiteLLM's proxy and a bare one?

Workload: one chat of a few words, answered whole, at 32 connections. Ours: a gateway, a host reached directly with the
simulated language model, a router and a centre as processes of their own; key, admission, routing and counters on,
mutual TLS to the host. LiteLLM 1.108 (one worker, master key) and a bare aiohttp proxy are before a mock server that
says as much at once. The same client asks all three, one after the other.

Measure: requests by the processor seconds of the process in the middle, which a busy machine changes little, and their
ratio to LiteLLM's. The baselines authenticate one key or none, choose among one host, and speak plain HTTP to it.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web

import daitn
from benchmarks.gateway_streams import processor_s, serve, serve_proxy
from benchmarks.lean_client import ask_leanly
from benchmarks.peers import litellm
from benchmarks.peers.environments import PeerAbsentError, is_ready
from benchmarks.report import Bounds, arguments, print_report
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

BOUNDS: Bounds = {"over_litellm": (">=", 40.0)}
CONNECTIONS = 32
SECONDS, SECONDS_QUICK = 10.0, 4.0
PATH = "/v1/chat/completions"
ASKED = json.dumps(
    {"model": "talker", "max_tokens": 4, "messages": [{"role": "user", "content": "hello, who are you?"}]}
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "talker",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "four words are enough"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    }
).encode()
OFFER = """
[[offer]]
engine = "simulated"
model = "talker"
first_s = 0.0
token_s = 0.0
prompt_token_s = 0.0
jitter_frac = 0.0
load_frac = 0.0
concurrency = 64
"""


def is_chat(body: bytes) -> bool:
    """Whether an answer holds a message."""
    return bool(json.loads(body)["choices"][0]["message"]["content"])


def serve_answer(pipe: Connection) -> None:
    """A back end that says the same at once."""

    async def talk(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    serve(pipe, talk)


def _figures(name: str, url: str, key: str, seconds: float, pid: Callable[[], int]) -> dict[str, float]:
    async def measure() -> tuple[int, float]:
        await ask_leanly(url + PATH, key, 2.0, CONNECTIONS, ASKED, is_chat)
        before_s = processor_s(pid())
        many = await ask_leanly(url + PATH, key, seconds, CONNECTIONS, ASKED, is_chat)
        took_s = processor_s(pid()) - before_s
        if wrong := sum(not one.right for one in many):
            raise AssertionError(f"{wrong} of {len(many)} chats of {name} were not answered right")
        return len(many), took_s

    count, took_s = asyncio.run(measure())
    return {f"{name}_per_core_s": count / max(took_s, 0.01), f"{name}_per_s": count / seconds}


def of_gateway(seconds: float) -> dict[str, float]:
    """Ours."""
    with tempfile.TemporaryDirectory(prefix="daitn-chats-") as folder:
        offers = Path(folder) / "offers.toml"
        offers.write_text(OFFER, encoding="utf-8")
        with LocalDomain(Path(folder) / "domain", "chats", patience_s=2.0) as domain:
            domain.start()
            host = NodeSpec(name="h0", operator="h0", roles=(Role.HOST,), direct="127.0.0.1", offers=str(offers))
            said = domain.join_all([host, NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,))])
            with daitn.connect(domain.operator_token()) as operator:
                key = operator.make_owner_token("app", ("ask",))
            url = said["gate"]["queries"]
            asyncio.run(_until_answered(url, key))
            return _figures("chats", url, key, seconds, lambda: domain.processes.pid("gate"))


async def _until_answered(url: str, key: str) -> None:
    async with asyncio.timeout(60):
        while not all(one.right for one in await ask_leanly(url + PATH, key, 0.0, 1, ASKED, is_chat)):
            await asyncio.sleep(0.1)


def of_others(seconds: float, *, quick: bool) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The bare proxy and LiteLLM before the same mock server; and what there is to say of them."""
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, float]] = {}
    said: list[str] = []
    with ExitStack() as stack:

        def start(target: Any, *given: Any) -> tuple[str, int]:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=target, args=(theirs, *given))
            process.start()
            theirs.close()  # ours alone would keep it open after a server that died
            stack.callback(process.join, 10)
            stack.callback(ours.send, "over")
            assert process.pid is not None
            return ours.recv(), process.pid

        mock, _ = start(serve_answer)
        bare, pid = start(serve_proxy, mock)
        found["bare proxy"] = _figures("chats", bare, "none", seconds, lambda: pid)
        if quick and not is_ready(litellm.NAME, litellm.REQUIREMENT):
            return found, ["LiteLLM is not installed, and is left out with --quick"]
        try:
            with tempfile.TemporaryDirectory() as folder, litellm.proxying(Path(folder), "talker", mock) as proxy:
                found["LiteLLM"] = _figures("chats", proxy.url, litellm.KEY, seconds, lambda: proxy.pid)
        except PeerAbsentError as absent:
            said.append(f"LiteLLM has no row: {absent}")
    return found, said


def main() -> None:
    """Run and print."""
    asked = arguments(__doc__)
    seconds = SECONDS_QUICK if asked.quick else SECONDS
    peers, said = of_others(seconds, quick=asked.quick)
    figures = of_gateway(seconds)
    for name, key in (("LiteLLM", "over_litellm"), ("bare proxy", "over_bare_proxy")):
        if name in peers:
            figures[key] = figures["chats_per_core_s"] / peers[name]["chats_per_core_s"]
    versions = {"litellm": litellm.REQUIREMENT.partition("==")[2]}
    print_report(
        "gateway_chats", figures, peers, [0], only_json=asked.json, said=said, versions=versions, bounds=BOUNDS
    )


if __name__ == "__main__":
    main()

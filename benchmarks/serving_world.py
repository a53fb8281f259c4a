"""What benchmarks of serving share: a domain with hosts and a gateway, a small model, and a client that asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import daitn
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, NumberColumn, NumbersInput
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.network import Network
from daitn.sdk.packaging import package_module

COLUMNS = tuple(f"x{number}" for number in range(30))
CONTRACT = DataContract(
    name="thirty",
    columns=(*(NumberColumn(name=name) for name in COLUMNS), CategoryColumn(name="side", values=("left", "right"))),
    inputs=(NumbersInput(name="x", columns=COLUMNS),),
    task=Classification(label="side"),
)
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [number / 30 for number in range(30)]}]}
).encode()
"""One query: one row of 30 numbers."""


class Asked(NamedTuple):
    """One query as its client saw it."""

    began_s: float
    seconds: float
    status: int
    right: bool


class Serving(NamedTuple):
    """A domain that serves the model `thirty`."""

    domain: LocalDomain
    network: Network
    url: str
    key: str


def make_model() -> Any:
    """A net of 30 numbers, 64 and 2."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 2))


@contextmanager
def serving(folder: Path, hosts: int, replicas: int, *, direct: str = "") -> Iterator[Serving]:
    """Router, centre, hosts and a gateway as processes of their own; the model answers. `direct`: where hosts listen
    for gateways; empty: they are reached through the router."""
    package_module(make_model(), CONTRACT, folder / "package", key=Ed25519PrivateKey.generate(), name="thirty")
    with LocalDomain(folder / "domain", "serving", patience_s=2.0) as domain:
        domain.start()
        specs = [
            NodeSpec(name=f"h{one}", operator=f"h{one}", roles=(Role.HOST,), direct=direct) for one in range(hosts)
        ]
        said = domain.join_all([*specs, NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,))])
        with daitn.connect(domain.operator_token()) as operator:
            key = operator.make_owner_token("app", ("ask",))
        with daitn.connect(domain.owner_token("ada")) as network:
            network.models.deploy(folder / "package", "thirty", f"= {replicas} replicas")
            network.models.wait("thirty", 120)
            found = Serving(domain, network, f"{said['gate']['queries']}/v2/models/thirty/infer", key)
            asyncio.run(_until_answered(found))
            yield found


async def _until_answered(found: Serving) -> None:
    """Routes and keys reach a gateway within two seconds."""
    give_up = time.monotonic() + 30
    async with client(found.key) as session:
        while (await ask(session, found.url)).status != 200:
            if time.monotonic() > give_up:
                raise TimeoutError("the gateway does not answer")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def client(key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that keeps its connections."""
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield session


async def ask(session: aiohttp.ClientSession, url: str) -> Asked:
    """One query."""
    began_s = time.monotonic()
    try:
        async with session.post(url, data=BODY) as answer:
            told = await answer.read()
            right = answer.status == 200 and len(json.loads(told)["outputs"][0]["data"]) == 2
            return Asked(began_s, time.monotonic() - began_s, answer.status, right)
    except (aiohttp.ClientError, TimeoutError):
        return Asked(began_s, time.monotonic() - began_s, 0, False)


async def ask_for(session: aiohttp.ClientSession, url: str, seconds: float, connections: int) -> list[Asked]:
    """Queries from so many connections, each asking as soon as it was answered."""
    over_s = time.monotonic() + seconds
    found: list[Asked] = []

    async def go_on() -> None:
        while time.monotonic() < over_s:
            found.append(await ask(session, url))

    await asyncio.gather(*(go_on() for _ in range(connections)))
    return found

"""Several holders serve one receiver: each a part, and what one that dies or hangs owes is taken over by the rest.

Holders are processes of their own with stores and mutual TLS; which chunk each sent is read from its log.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.codec import with_parts
from daitn.artifacts.grants import issue_grant
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.signatures import public_hex, sign_parts
from daitn.base.errors import UnavailableError
from daitn.base.ids import ArtifactId, GrantId, JobId, NodeId
from daitn.descriptors.grant import Grant, Holder
from daitn.node.clock import NodeClock
from daitn.node.fabric.contract import FabricConfig
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.moving import Moving
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import InputRef

A, B, RECEIVER = NodeId("n0001"), NodeId("n0002"), NodeId("n0003")
MODEL_BYTES = 160_000_000
DEADLINE_S = 40.0
CENTER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))

HOLD = """
import asyncio, logging, sys
from pathlib import Path
from daitn.artifacts.signatures import public_key
from daitn.base.ids import DomainId, NodeId
from daitn.node.clock import NodeClock
from daitn.node.fabric.contract import FabricConfig
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.moving import Moving
from daitn.node.store import ChunkStore

domain, node, certificate, key, authority, router, host, store, center, log = sys.argv[1:]
logging.basicConfig(filename=log, level="DEBUG", format="%(message)s")

async def main():
    files = dict(certificate=Path(certificate), key=Path(key), authority=Path(authority))
    config = FabricConfig(
        domain=DomainId(domain), node=NodeId(node), routers=(router,), bulk_host=host or None, **files
    )
    async with open_fabric(config) as fabric:
        moving = Moving(DomainId(domain), fabric, ChunkStore(Path(store), 10**9), public_key(center), NodeClock())
        await moving.start()
        print("ready", *fabric.direct_addresses, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
SENT = re.compile(r"sen(?:t|ding) chunk ([0-9a-f]{64}) to n0003")


class HolderProcess(NamedTuple):
    """A running holder."""

    holder: Holder
    process: subprocess.Popen[str]
    log: Path

    def sent(self) -> list[str]:
        """Chunks it sent, in order."""
        return [match[1] for match in SENT.finditer(self.log.read_text())]


@contextmanager
def holding(config: FabricConfig, store: Path) -> Iterator[HolderProcess]:
    log = store.with_suffix(".log")
    command = [sys.executable, "-c", HOLD, config.domain, config.node]
    command += [str(config.certificate), str(config.key), str(config.authority), config.routers[0]]
    command += [config.bulk_host or "", str(store), public_hex(CENTER_KEY), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            assert words[:1] == ["ready"], words
            yield HolderProcess(Holder(node=config.node, direct=tuple(words[1:])), process, log)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def put_model(*folders: Path) -> tuple[ArtifactId, int]:
    """The same signed model in several stores; its id and number of chunks."""
    spec = TensorSpec(name="weight", dtype="float32", shape=(MODEL_BYTES // 4,))
    layout = plan_layout([spec])
    parts = {"graph": b"a graph", "contract": b"a contract"}
    draft = Manifest(kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=MODEL_BYTES, chunks=())
    draft = sign_parts(with_parts(draft, parts), Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
    data = np.random.default_rng(0).random(MODEL_BYTES // 4, dtype=np.float32).data.cast("B")
    for folder in folders:
        store = ChunkStore(folder, 10**9)
        made = store.put_artifact(draft, parts, {"weight": data})
        store.close()
    return made.artifact, len(made.manifest.all_chunks())


def fetch_with(
    tmp_path: Path,
    host: str | None,
    disturb: Callable[[HolderProcess], None],
    *,
    nodes: tuple[NodeId, ...] = (A, B),
    after: float = 0.3,
) -> tuple[float, list[list[str]], set[str], int]:
    """Fetch from all nodes, disturbing the first when a share of the chunks is verified. Returns seconds, what each
    sent, what was verified by then, and how many chunks there are."""
    with LoopbackDomain(tmp_path / "domain") as domain, ExitStack() as stack:
        model, chunks = put_model(*(tmp_path / node for node in nodes))
        running = [stack.enter_context(holding(domain.node(node, bulk_host=host), tmp_path / node)) for node in nodes]
        store = ChunkStore(tmp_path / "receiver", 10**9)
        progress = tmp_path / "receiver" / "packs" / f"{model}.progress"
        grant = Grant(
            id=GrantId("g"),
            domain=domain.domain,
            artifact=model,
            requester=RECEIVER,
            job=JobId("job"),
            expires_unix_s=int(time.time()) + 600,
        )
        holders = tuple(one.holder for one in running)
        wanted = InputRef(artifact=model, holders=holders, grant=issue_grant(CENTER_KEY, grant))

        def noted() -> set[str]:
            data = progress.read_bytes() if progress.exists() else b""
            return {data[at : at + 32].hex() for at in range(0, len(data) - 31, 32)}

        async def test() -> tuple[float, set[str]]:
            async with asyncio.timeout(DEADLINE_S), open_fabric(domain.node(RECEIVER)) as fabric:
                moving = Moving(domain.domain, fabric, store, CENTER_KEY.public_key(), NodeClock())
                fetching = asyncio.ensure_future(moving.fetch(wanted, "job"))
                while len(noted()) < chunks * after and not fetching.done():
                    await asyncio.sleep(0.001)
                disturb(running[0])
                verified = noted()
                began = time.monotonic()
                assert await fetching <= MODEL_BYTES + 100
                return time.monotonic() - began, verified

        try:
            took_s, verified = asyncio.run(test())
            assert store.holds(model)
            assert store.verify(model)
        finally:
            store.close()
        return took_s, [one.sent() for one in running], verified, chunks


def leave_alone(_holder: HolderProcess) -> None:
    """Nothing happens to it."""


@pytest.mark.parametrize("host", ["127.0.0.1", None], ids=["direct", "routed"])
def test_two_holders_each_serve_a_part_and_no_chunk_twice(tmp_path: Path, host: str | None) -> None:
    _, sent, _, chunks = fetch_with(tmp_path, host, leave_alone)
    every = Counter(sent[0] + sent[1])
    assert len(every) == chunks
    assert set(every.values()) == {1}
    assert all(len(one) >= chunks // 5 for one in sent), [len(one) for one in sent]


@pytest.mark.parametrize("host", ["127.0.0.1", None], ids=["direct", "routed"])
def test_holder_killed_in_the_middle_loses_nothing_and_no_verified_chunk_is_sent_again(
    tmp_path: Path, host: str | None
) -> None:
    def kill(holder: HolderProcess) -> None:
        holder.process.kill()
        holder.process.wait()

    _, (dead, alive), verified, chunks = fetch_with(tmp_path, host, kill)
    assert len(dead) < chunks * 0.8, "it was killed in the middle"
    unnoted = chunks - len(set(dead) | set(alive))
    assert unnoted <= 1, "what it was sending when it was killed may have arrived, but not be in its log"
    again = [chunk for chunk, times in Counter(dead + alive).items() if times > 1]
    assert not verified.intersection(again)


def test_holder_that_hangs_is_left_and_its_share_taken_over(tmp_path: Path) -> None:
    took_s, (hung, alive), verified, _ = fetch_with(
        tmp_path, "127.0.0.1", lambda holder: holder.process.send_signal(signal.SIGSTOP)
    )
    assert took_s < 10
    again = [chunk for chunk, times in Counter(hung + alive).items() if times > 1]
    assert not verified.intersection(again)


def test_only_holder_that_dies_is_named_and_what_came_is_kept(tmp_path: Path) -> None:
    def kill(holder: HolderProcess) -> None:
        holder.process.kill()
        holder.process.wait()

    with pytest.raises(UnavailableError, match=r"cannot be fetched: .*n0001"):
        fetch_with(tmp_path, "127.0.0.1", kill, nodes=(A,))
    store = ChunkStore(tmp_path / "receiver", 10**9)
    assert store.snapshot().partials == 1
    store.close()

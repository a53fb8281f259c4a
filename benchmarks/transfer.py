"""Question: what does it cost to move a big model from one site to another, and what does a cut in the middle cost?

Workload: router and two sites as processes of their own on loopback (`daitn router`, `daitn join`), mTLS, grants,
journals with fsync. North holds a model of 2 GB (48 tensors, 1,000 chunks, random numbers); south is ordered to average
it, which makes it fetch the model under a grant, verify and write every chunk, and then work on it. Orders come from
this program in the place of the control centre, with the centre's own certificate and grant key, because no training
step on 2 GB fits beside it on a small machine; what the sites do is what they do for any order.

Measures, all at the sites, which do not know that they are measured but for their debug logs:
- `gb_per_s`: bytes of the model over the seconds from the order's first question to a holder to the artifact being in
  the receiver's store (from the log of the receiver); the model was written by another process, so that what is read
  is in the page cache, as a model is that a child has just written.
- `share_of_stream`: `gb_per_s` over the rate of one plain mutual-TLS stream between two processes in the same run,
  which neither hashes nor touches a file. Each transfer is compared with a stream right before it, since a shared
  machine's speed drifts; `share_of_stored_stream` is against a stream whose receiver hashes and writes a file.
- `peak_mb`: the most of RssAnon + RssShmem of either node process over the whole run (fetch, serve and average),
  sampled every 5 ms. Pages of mapped model files are the page cache's and are dropped by the kernel when memory is
  short, so they are not counted; `peak_rss_mb` (VmHWM) counts them. The same for the centre and for an owner's program
  that uploads a package of half the size over HTTPS (`peak_mb_center`, `peak_mb_owner`).
- `resent_chunks`: chunks that the holder sent again (from its log) although the receiver had verified and noted them
  before the cut (from its notes on disk), over all cuts: receiver killed, holder killed, router killed under a routed
  transfer. Chunks that were in flight, or arrived and were not verified yet, are sent again and counted apart
  (`unverified_again`): at most what the windows hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from benchmarks.hop import contract
from benchmarks.report import Bounds, arguments, print_report
from daitn.artifacts.codec import with_parts
from daitn.artifacts.grants import issue_grant
from daitn.artifacts.graph import encode_graph_pair
from daitn.artifacts.itineraries import RouteTree, segment_of, sign_itinerary
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import write_package
from daitn.artifacts.signatures import load_key, load_or_create_key, sign_parts
from daitn.base.errors import UnavailableError
from daitn.base.ids import CENTER, ArtifactId, DomainId, GrantId, JobId, NodeId, OwnerId, VisitId
from daitn.descriptors.grant import Grant, Holder
from daitn.descriptors.itinerary import Itinerary, Passage
from daitn.descriptors.terminals import Role
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.learning.graphs.export import export_pair
from daitn.node import pki
from daitn.node.domain_folder import DomainFolder
from daitn.node.fabric.contract import Fabric, FabricConfig
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.processes import LocalDomain
from daitn.node.store import ChunkStore
from daitn.scenario.spec import NodeSpec
from daitn.wire.center_tools import (
    InputRef,
    LeaseRenewed,
    ReleaseArtifacts,
    ResultAccepted,
    ResultFenced,
    VisitFailed,
    VisitOrder,
    VisitProgress,
    VisitRefused,
    VisitResult,
    Warrant,
)
from daitn.wire.codec import decode, encode
from daitn.wire.topology_tools import Describe, Described

BOUNDS: Final[Bounds] = {"share_of_stream": (">=", 0.5), "peak_mb": ("<=", 200.0), "resent_chunks": ("<=", 0.0)}
TENSORS: Final = 48
BYTES: Final = 2_000_000_000
BYTES_QUICK: Final = 400_000_000
REPEATS: Final = 5
REPEATS_QUICK: Final = 2
CHUNK: Final = 2 * 1024 * 1024
LOOPBACK: Final = "127.0.0.1"
ORDER_S: Final = 120.0
LEASE_S: Final = 60.0
DIGEST_BYTES: Final = 32
SENT: Final = re.compile(r"sen(?:t|ding) chunk ([0-9a-f]{64}) to (\S+)")
FETCHED: Final = re.compile(r"fetched ([0-9a-f]{16}): (\d+) bytes in ([0-9.]+) s")


# --- the model ----------------------------------------------------------------------------------------------------


def put_model(folder: Path, size: int, seed: int, owner_key: Path) -> tuple[ArtifactId, int, int]:
    """A signed model of `size` bytes in a site's store; its id, its bytes and its number of chunks."""
    rows = size // TENSORS // 4
    specs = [TensorSpec(name=f"layer{number:02d}", dtype="float32", shape=(rows,)) for number in range(TENSORS)]
    layout = plan_layout(specs)
    parts = {"graph": b"a graph", "contract": b"a contract"}
    draft = Manifest(
        kind="graph", name="big", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    draft = sign_parts(with_parts(draft, parts), load_or_create_key(owner_key))
    rng = np.random.default_rng(seed)
    store = ChunkStore(folder, 64 * 2**30)
    try:
        for data in parts.values():
            store.put_bytes(data)
        with store.new_output(layout.payload_bytes) as output:
            for entry in layout.entries:
                output.write_at(entry.offset, rng.random(rows, dtype=np.float32).data.cast("B"))
            made = store.adopt(output, draft)
        store.sync()
    finally:
        store.close()
    return made.artifact, layout.payload_bytes, len(made.manifest.all_chunks())


# --- the centre's place -------------------------------------------------------------------------------------------


class Conductor:
    """Orders sites as a control centre does: one order at a time, its lease renewed, its result acknowledged."""

    def __init__(self, home: Path, fabric: Fabric) -> None:
        self._domain = DomainFolder(home)
        self._key = load_key(self._domain.center / "grants.key")
        self._fabric = fabric
        self._ended: dict[VisitId, asyncio.Future[VisitResult | VisitFailed]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer what the sites say."""
        await self._fabric.serve(self._heard)

    async def average(
        self, job: str, node: NodeId, model: ArtifactId, holders: tuple[Holder, ...]
    ) -> VisitResult | VisitFailed:
        """Order `node` to average one model; what came of it."""
        self._number += 1
        visit = VisitId(f"{job}/{self._number}")
        self._ended[visit] = asyncio.get_running_loop().create_future()
        grant = Grant(
            id=GrantId(f"{visit}"),
            domain=self._domain.load().domain,
            artifact=model,
            requester=node,
            job=JobId(job),
            expires_unix_s=int(time.time()) + 3600,
        )
        order = VisitOrder(
            visit=visit,
            job=JobId(job),
            fence=self._number,
            lease_s=LEASE_S,
            wall_s=ORDER_S,
            package=model,
            work=AggregateWork(updates=(UpdateRef(model=model, weight=1.0),)),
            inputs=(InputRef(artifact=model, holders=holders, grant=issue_grant(self._key, grant)),),
            warrant=Warrant(owner=OwnerId("bench"), purpose="benchmark", method="fedavg", signer=""),
        )
        await self.tell(node, self._routed(order, node))
        return await asyncio.wait_for(self._ended[visit], ORDER_S)

    def _routed(self, order: VisitOrder, node: NodeId) -> VisitOrder:
        """The order as the one segment of its job's newest route."""
        tree, domain = RouteTree([segment_of(order, node)]), self._domain.load().domain
        route = Itinerary(domain=domain, job=order.job, version=order.fence, segments=1, root=tree.root)
        return msgspec.structs.replace(order, route=Passage(token=sign_itinerary(self._key, route), place=0))

    async def tell(self, node: NodeId, message: object) -> None:
        """Hand a message to a node, again until it is taken."""
        give_up = time.monotonic() + ORDER_S
        while True:
            try:
                await self._fabric.call(node, encode(message), timeout_s=2.0)  # type: ignore[arg-type]
                return
            except UnavailableError:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.1)

    async def _heard(self, sender: NodeId, payload: bytes) -> bytes:
        message = decode(payload)
        match message:
            case Describe(sequence=sequence):
                self._say(sender, Described(sequence=sequence, heartbeat_s=1.0))
            case VisitProgress(visit=visit, fence=fence):
                self._say(sender, LeaseRenewed(visit=visit, fence=fence, lease_s=LEASE_S))
            case VisitResult(report=report):
                self._say(sender, ResultAccepted(visit=report.visit, fence=report.fence))
                self._end(report.visit, message)
            case VisitFailed(visit=visit, fence=fence):
                self._say(sender, ResultFenced(visit=visit, fence=fence))
                self._end(visit, message)
            case VisitRefused(visit=visit, fence=fence, reason=reason):
                self._end(visit, VisitFailed(visit=visit, fence=fence, reason=f"refused: {reason}", blame="policy"))
            case _:
                pass
        return b""

    def _end(self, visit: VisitId, message: VisitResult | VisitFailed) -> None:
        waiting = self._ended.get(visit)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _say(self, node: NodeId, message: object) -> None:
        async def say() -> None:
            with contextlib.suppress(UnavailableError):
                await self._fabric.call(node, encode(message), timeout_s=2.0)  # type: ignore[arg-type]

        task = asyncio.get_running_loop().create_task(say())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# --- memory -------------------------------------------------------------------------------------------------------


class MemoryWatch:
    """Samples a process's own memory every 5 ms; `peak` in bytes, over all lives of the process."""

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.resident: dict[str, int] = {}
        self._pids: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def follow(self, name: str, pid: int) -> None:
        """Sample this process under a name from now on."""
        self._pids[name] = pid

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            for name, pid in list(self._pids.items()):
                try:
                    text = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                own = _kilobytes(text, "RssAnon") + _kilobytes(text, "RssShmem")
                self.own[name] = max(self.own.get(name, 0), own)
                self.resident[name] = max(self.resident.get(name, 0), _kilobytes(text, "VmHWM"))


def _kilobytes(status: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


# --- runs ---------------------------------------------------------------------------------------------------------


class Sites:
    """The two sites, as this benchmark handles them."""

    def __init__(self, domain: LocalDomain, watch: MemoryWatch, *, direct: bool) -> None:
        self.domain = domain
        self._watch = watch
        address = LOOPBACK if direct else ""
        for name in ("north", "south"):
            spec = NodeSpec(name=name, operator=name, roles=(Role.AGGREGATOR,), direct=address)
            domain.join(spec)
            self._watch.follow(name, domain.processes.pid(name))
        self.north, self.south = NodeId("n0001"), NodeId("n0002")

    def log(self, name: str) -> str:
        """All a site has logged."""
        return (self.domain.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def restart(self, name: str) -> None:
        """Start a killed site again."""
        self.domain.restart(name, wait=False)
        self._watch.follow(name, self.domain.processes.pid(name))

    def noted(self, model: ArtifactId) -> list[str]:
        """Chunks that south has verified and noted of a transfer under way."""
        path = self.domain.node_folder("south") / "store" / "packs" / f"{model}.progress"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        return [data[at : at + DIGEST_BYTES].hex() for at in range(0, len(data) - DIGEST_BYTES + 1, DIGEST_BYTES)]

    def sent(self) -> list[str]:
        """Chunks that north has sent, in order, with repetitions."""
        return [match[1] for match in SENT.finditer(self.log("north"))]

    def fetched(self) -> list[tuple[int, float]]:
        """Bytes and seconds of south's finished transfers."""
        return [(int(match[2]), float(match[3])) for match in FETCHED.finditer(self.log("south"))]


async def drop(conductor: Conductor, sites: Sites, job: str, artifacts: list[ArtifactId]) -> None:
    """Let south forget everything of a job, so that the next transfer starts from nothing."""
    await conductor.tell(sites.south, ReleaseArtifacts(job=JobId(job), artifacts=tuple(artifacts), job_ended=True))
    packs = sites.domain.node_folder("south") / "store" / "packs"
    for artifact in artifacts:
        while (packs / f"{artifact}.pack").exists():
            await asyncio.sleep(0.02)
    await rest(sites.domain.processes.pid("south"))


async def rest(pid: int) -> None:
    """Wait until a process computes nothing (a site wipes files aside), so that what is measured next has the cores."""
    before = -1
    while before != (before := sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))):
        await asyncio.sleep(0.3)


async def whole(conductor: Conductor, sites: Sites, job: str, model: ArtifactId, holder: Holder) -> float:
    """One uncut transfer; its seconds."""
    before = len(sites.fetched())
    ended = await conductor.average(job, sites.south, model, (holder,))
    if not isinstance(ended, VisitResult):
        raise SystemExit(f"the order failed: {ended.reason}")
    moved, seconds = sites.fetched()[before]
    if moved != ended.report.outcome.fetched_bytes:  # type: ignore[union-attr]
        raise SystemExit(f"the log says {moved} bytes, the report {ended.report.outcome}")
    await drop(conductor, sites, job, [model, ended.report.outcome.model])  # type: ignore[union-attr]
    return seconds


async def cut(
    conductor: Conductor, sites: Sites, job: str, model: ArtifactId, holder: Holder, chunks: int, victim: str
) -> dict[str, float]:
    """A transfer whose receiver, holder or router is killed when half is there, then taken up again."""
    before = len(sites.sent())
    ordered = asyncio.ensure_future(conductor.average(job, sites.south, model, (holder,)))
    while len(sites.noted(model)) < chunks // 2:
        if ordered.done():
            raise SystemExit(f"the transfer was over before it could be cut: {ordered.result()}")
        await asyncio.sleep(0.001)
    sites.domain.kill(victim)
    sent_before = len(sites.sent()[before:])
    # What still arrives of buffers after the holder or router has died is verified and noted like any other chunk.
    noted = set(sites.noted(model))
    if victim in ("north", "south"):
        sites.restart(victim)
    else:
        sites.domain.restart(victim, wait=False)
    ended = await ordered
    again = 0
    while isinstance(ended, VisitFailed):
        again += 1
        if again > 20:
            raise SystemExit(f"the transfer was not taken up again: {ended.reason}")
        await asyncio.sleep(0.25)
        noted |= set(sites.noted(model))
        ended = await conductor.average(job, sites.south, model, (holder,))
    every = sites.sent()[before:]
    second = every[sent_before:]
    if not second:
        raise SystemExit(f"nothing was sent after {victim} was killed: the cut cut nothing")
    twice = [chunk for chunk in set(every) if every.count(chunk) > 1]
    resent = [chunk for chunk in second if chunk in noted and every.count(chunk) > 1]
    await drop(conductor, sites, job, [model, ended.report.outcome.model])  # type: ignore[union-attr]
    unverified = len(set(twice) - set(resent))
    return {
        "noted_before": len(noted),
        "sent_after": len(second),
        "orders_again": again,
        "resent": len(resent),
        "unverified_again": unverified,
    }


# --- owners -------------------------------------------------------------------------------------------------------

UPLOAD: Final = r"""
import sys
from pathlib import Path
import daitn
print(daitn.connect(sys.argv[1]).upload(Path(sys.argv[2])), flush=True)
"""


def small_graph() -> bytes:
    """A graph that the centre accepts; it does not ask whether it is the graph of these tensors, as the sites do."""
    pair, _ = export_pair(torch.nn.Linear(30, 2), {"input": torch.rand(3, 30)}, {"input": ("batch", None)})
    return encode_graph_pair(pair)


def upload(domain: LocalDomain, folder: Path, size: int, seed: int, watch: MemoryWatch) -> float:
    """An owner's program gives the centre a package over HTTPS; its seconds, the checks of the package included."""
    rows = size // TENSORS // 4
    specs = [TensorSpec(name=f"layer{number:02d}", dtype="float32", shape=(rows,)) for number in range(TENSORS)]
    layout = plan_layout(specs)
    parts = {"graph": small_graph(), "contract": json.dumps(contract()).encode()}
    draft = Manifest(
        kind="graph", name="up", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    draft = sign_parts(with_parts(draft, parts), load_or_create_key(folder / "owner.key"))
    rng = np.random.default_rng(seed)
    write_package(
        folder / "package", draft, parts, {entry.name: rng.random(rows, dtype=np.float32) for entry in layout.entries}
    )
    watch.follow("center", domain.processes.pid("center"))
    command = [sys.executable, "-c", UPLOAD, domain.owner_token("bench"), str(folder / "package")]
    began = time.perf_counter()
    with subprocess.Popen(command) as process:
        watch.follow("owner", process.pid)
        if process.wait(ORDER_S):
            raise SystemExit("the owner's program failed")
    return time.perf_counter() - began


# --- floors -------------------------------------------------------------------------------------------------------

RECEIVER: Final = r"""
import os, socket, ssl, sys
from blake3 import blake3
size, stored, path, certificate, key, authority = int(sys.argv[1]), sys.argv[2] == "stored", *sys.argv[3:7]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(certificate, key); context.load_verify_locations(authority)
context.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("127.0.0.1", 0)); print(listener.getsockname()[1], flush=True)
plain, _ = listener.accept(); stream = context.wrap_socket(plain, server_side=True)
buffer = bytearray(2 * 1024 * 1024); view = memoryview(buffer)
while True:
    if stream.recv(1) != b"g": break
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600); done = 0
    while done < size:
        want = min(len(buffer), size - done); got = 0
        while got < want: got += stream.recv_into(view[got:want])
        if stored: blake3(view[:want]).digest(); os.pwrite(file, view[:want], done)
        done += want
    os.close(file); stream.sendall(b"d")
"""


@contextmanager
def stream(folder: Path, size: int, kind: str) -> Iterator[ssl.SSLSocket]:
    """A mutual-TLS connection to a process that receives `size` bytes for every `g`."""
    folder.mkdir()
    authority = pki.create_authority(folder / "authority", DomainId("floor"))
    (folder / "authority.pem").write_bytes(authority.certificate_pem)
    for slot in ("n0001", CENTER):
        request, key = pki.make_request(slot)
        (folder / f"{slot}.crt").write_bytes(authority.issue_node(request, NodeId(slot)))
        (folder / f"{slot}.key").write_bytes(key)
    files = [str(folder / name) for name in ("out", "n0001.crt", "n0001.key", "authority.pem")]
    command = [sys.executable, "-c", RECEIVER, str(size), kind, *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
        context.check_hostname = False
        context.load_cert_chain(folder / f"{CENTER}.crt", folder / f"{CENTER}.key")
        with context.wrap_socket(socket.create_connection((LOOPBACK, port))) as connection:
            yield connection
            connection.sendall(b"q")
        process.wait(5)


def measure_stream(folder: Path, size: int, kind: str, repeats: int) -> list[float]:
    """Gigabytes per second of one stream: `plain` throws the bytes away, `stored` hashes and writes them."""
    rates: list[float] = []
    data = memoryview(os.urandom(CHUNK))
    with stream(folder, size, kind) as connection:
        for _ in range(repeats):
            began = time.perf_counter()
            connection.sendall(b"g")
            for offset in range(0, size, CHUNK):
                connection.sendall(data[: min(CHUNK, size - offset)])
            if connection.recv(1) != b"d":
                raise SystemExit("the floor's receiver failed")
            rates.append(size / (time.perf_counter() - began) / 1e9)
    (folder / "out").unlink()
    return rates


# --- all ----------------------------------------------------------------------------------------------------------


async def move(
    domain: LocalDomain, sites: Sites, model: ArtifactId, size: int, chunks: int, repeats: int, *, quick: bool
) -> dict[str, float]:
    """Uncut transfers, then one for each kind of cut."""
    certificate, key, authority = DomainFolder(domain.home).renew_center()
    settings = DomainFolder(domain.home).load()
    config = FabricConfig(
        domain=settings.domain,
        node=CENTER,
        certificate=certificate,
        key=key,
        authority=authority,
        routers=(settings.router,),
    )
    figures: dict[str, float] = {}
    async with open_fabric(config) as fabric:
        conductor = Conductor(domain.home, fabric)
        await conductor.start()
        direct = Holder(node=sites.north, direct=direct_address(domain))
        routed = Holder(node=sites.north)
        rates, streams = [], []
        for number in range(repeats):
            streams += measure_stream(domain.folder / f"plain{number}", size, "plain", 1)
            rates.append(size / await whole(conductor, sites, f"whole-{number}", model, direct) / 1e9)
        shares = [rate / one for rate, one in zip(rates, streams, strict=True)]
        for name, found in (("gb_per_s", rates), ("stream_gb_per_s", streams), ("share_of_stream", shares)):
            figures |= {name: statistics.median(found), f"{name}_min": min(found), f"{name}_max": max(found)}
        figures["routed_gb_per_s"] = size / await whole(conductor, sites, "routed", model, routed) / 1e9
        victims = [("south", direct), ("north", direct), ("router", routed)]
        cuts = {}
        for victim, holder in victims[:1] if quick else victims:
            cuts[victim] = await cut(conductor, sites, f"cut-{victim}", model, holder, chunks, victim)
            holder_now = direct_address(domain)
            direct = Holder(node=sites.north, direct=holder_now)
        figures["resent_chunks"] = sum(one["resent"] for one in cuts.values())
        for victim, one in cuts.items():
            figures |= {f"{key}_{victim}": value for key, value in one.items() if key != "resent"}
    return figures


def direct_address(domain: LocalDomain) -> tuple[str, ...]:
    """Where north's bulk server listens now, from its log."""
    log = (domain.folder / "logs" / "north.log").read_text(errors="replace")
    found = re.findall(r"direct transfers at (\S+)", log)
    return (found[-1],) if found else ()


def main() -> None:
    """Run, check, print."""
    chosen = arguments(__doc__)
    size, repeats = (BYTES_QUICK, REPEATS_QUICK) if chosen.quick else (BYTES, REPEATS)
    with tempfile.TemporaryDirectory(prefix="daitn-transfer-") as name:
        folder = Path(name)
        stored = measure_stream(folder / "stored", size, "stored", 2)
        watch = MemoryWatch()
        with LocalDomain(folder / "domain", "big", environment={"DAITN_LOG": "DEBUG"}) as domain:
            domain.start()
            store = domain.node_folder("north") / "store"
            model, moved, chunks = put_model(store, size, 0, folder / "owner.key")
            uploaded_s = upload(domain, folder, moved // 2, 1, watch)
            sites = Sites(domain, watch, direct=True)
            domain.processes.end("center")
            figures = asyncio.run(move(domain, sites, model, moved, chunks, repeats, quick=chosen.quick))
        watch.close()
    figures["stored_stream_gb_per_s"] = statistics.median(stored)
    figures["share_of_stored_stream"] = figures["gb_per_s"] / figures["stored_stream_gb_per_s"]
    figures["upload_gb_per_s"] = moved / 2 / uploaded_s / 1e9
    figures["peak_mb"] = max(watch.own[site] for site in ("north", "south")) / 1e6
    for site in watch.own:
        figures[f"peak_mb_{site}"] = watch.own[site] / 1e6
        figures[f"peak_rss_mb_{site}"] = watch.resident[site] / 1e6
    figures["bytes"] = moved
    figures["chunks"] = chunks
    said = [f"{'quick: ' if chosen.quick else ''}a model of {moved / 1e9:.2f} GB in {chunks} chunks"]
    print_report("transfer", figures, {}, [0], only_json=chosen.json, said=said, bounds=BOUNDS)


if __name__ == "__main__":
    main()

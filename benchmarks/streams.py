"""Question: how fast do two sandboxed children on two nodes exchange tensors, as split learning does?

Workload: two node processes and a router on loopback, mutual TLS, grants checked; in each a sandboxed child. One sends
activations (64 x 256 x 384 float32, 25 MB; and 4 kB), the other answers with a gradient of the same shape, in order,
through the whole real path: child, room shared with its node, stream to the other node, room, child.

Measure: `share_of_stream`, seconds of the floor over seconds of the exchange. Floor, in the same run: one plain
mutual-TLS stream between two processes, the same bytes in the same ping-pong. A shared machine's speed drifts within
seconds, so floor and exchange take turns in blocks, each exchange block is compared with the floors before and after
it, and the figure is the median over blocks, with the least and the most beside it. `cancel_ms`: from the
cancel of the visit at one node until the exchange in the other's child has ended. `peak_mb`: what a node's resident
memory grows by at most, and a child's; also while a child does not take what is sent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.report import Bounds, arguments, print_report, summary
from daitn.artifacts.grants import issue_grant
from daitn.artifacts.manifest import TravellingState
from daitn.base.ids import ArtifactId, DataSetId, DomainId, GrantId, JobId, NodeId, VisitId
from daitn.descriptors.grant import Grant, Holder
from daitn.descriptors.work import Group, Member, Training, TrainWork
from daitn.node import pki
from daitn.node.clock import NodeClock
from daitn.node.exchanges import Exchanges
from daitn.node.fabric.contract import FabricConfig
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.sandbox.answers import plan_run
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.sandbox.visits import ChildHandle, VisitError
from daitn.wire.center_tools import PartnerRef, VisitOrder, Warrant

BOUNDS: Bounds = {
    "share_of_stream": (">=", 0.3),
    "cancel_max_ms": ("<=", 50.0),
    "peak_mb": ("<=", 64.0),
    "peak_mb_stalled": ("<=", 64.0),
}
"""Memory: 24 MiB that room and credits allow for one partner, and what a node reads on the way; 100 MB are sent."""
ACTIVATION = (64, 256, 384)
SMALL = (16, 64)
BLOCKS, BLOCKS_QUICK = 5, 2
ROUNDS, ROUNDS_QUICK = 20, 8
SMALL_ROUNDS, SMALL_ROUNDS_QUICK = 500, 200
CANCELS, CANCELS_QUICK = 20, 5
STALL_S = 1.0
WARM = 3
NODES = (NodeId("n0001"), NodeId("n0002"))
LOOPBACK = "127.0.0.1"
KEY = bytes(range(32))
HERE = Path(__file__).resolve().parent
BOOT = (
    "import sys; sys.path[:0] = [sys.argv[1], {here!r}]; from benchmarks.streams_child import main; "
    "raise SystemExit(main(sys.argv[2:]))"
)


class ChildSandbox(Sandbox):
    """The product's sandbox with another main inside: this benchmark's, bound read-only."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self._plan = json.dumps(plan)

    def _command(self, module: str, arguments: Sequence[str], *more: Any) -> list[str]:
        command = super()._command(module, arguments, *more)
        if module != "child":
            return command
        command[command.index("-c") + 1] = BOOT.format(here=str(HERE.parent))
        if "--remount-ro" in command:
            place = command.index("--remount-ro")
            command[place:place] = ["--ro-bind", str(HERE), str(HERE)]
        return [*command, self._plan]


# --- one node, in a process of its own ----------------------------------------------------------------------------


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a node process is told: who it is, and one order per visit."""

    fabric: FabricConfig
    rank: int
    direct: tuple[str, str]
    shape: tuple[int, ...]
    rounds: int
    visits: int
    cancel: bool = False
    wait_s: float = 0.0


def read_plan(text: str) -> NodePlan:
    """A plan from the command line; paths are texts there."""
    return msgspec.json.decode(text, type=NodePlan, dec_hook=lambda kind, value: kind(value))


def order_of(plan: NodePlan, visit: int) -> VisitOrder:
    """The order of the n-th visit, with a grant signed by this benchmark's key."""
    key = Ed25519PrivateKey.from_private_bytes(KEY)
    members = tuple(
        Member(visit=VisitId(f"j/{2 * visit + rank}"), node=node, dataset=DataSetId(f"{node}/d"))
        for rank, node in enumerate(NODES)
    )
    other = 1 - plan.rank
    grant = Grant(
        id=GrantId(f"j:{visit}:{plan.rank}"),
        domain=plan.fabric.domain,
        artifact=ArtifactId(""),
        requester=plan.fabric.node,
        job=JobId("j"),
        expires_unix_s=int(time.time()) + 600,
        visit=members[other].visit,
        by=members[plan.rank].visit,
    )
    holder = Holder(node=NODES[other], direct=(plan.direct[other],))
    training = Training(batch_size=1, batches=1, learning_rate=1.0, optimizer="sgd", carry_optimizer=False)
    group = Group(members=members, rank=plan.rank)
    work = TrainWork(
        model=ArtifactId("0" * 64), dataset=members[plan.rank].dataset, training=training, seed=0, group=group
    )
    return VisitOrder(
        visit=members[plan.rank].visit,
        job=JobId("j"),
        fence=1,
        lease_s=60,
        wall_s=120,
        package=ArtifactId("0" * 64),
        work=work,
        inputs=(),
        warrant=Warrant(owner="bench", purpose="benchmark", method="data-parallel", signer=""),  # type: ignore[arg-type]
        partners=(PartnerRef(visit=members[other].visit, holder=holder, grant=issue_grant(key, grant)),),
    )


async def run_node(plan: NodePlan) -> list[dict[str, Any]]:
    """All visits of one node; what its children measured, and what it did itself."""
    center_key = Ed25519PrivateKey.from_private_bytes(KEY).public_key()
    told = {"shape": plan.shape, "rounds": plan.rounds, "warm": WARM, "wait_s": plan.wait_s}
    found: list[dict[str, Any]] = []
    async with open_fabric(plan.fabric) as fabric:
        exchanges = Exchanges(plan.fabric.domain, fabric, center_key, NodeClock())
        await exchanges.start()
        sandbox = ChildSandbox(told)
        child: ChildHandle | None = None
        for visit in range(plan.visits):
            if child is None or not child.alive:
                child = ChildHandle(await sandbox.start(module="child"), sandbox)
            found.append(await one_visit(plan, exchanges, child, order_of(plan, visit)))
        if child is not None:
            await child.close()
        await exchanges.stop()
    return found


async def one_visit(plan: NodePlan, exchanges: Exchanges, child: ChildHandle, order: VisitOrder) -> dict[str, Any]:
    """One run of a child with its partner."""
    run = plan_run(order.work, (), 0, TravellingState())  # type: ignore[arg-type]
    begun = asyncio.Event()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as payload:

        async def exchange() -> None:
            async with exchanges.meet(order) as port:
                await child.run(run, payload.fileno(), output.fileno(), on_started=lambda _: begun.set(), exchange=port)

        before_mb = memory_mb("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")
        task = asyncio.ensure_future(exchange())
        said: dict[str, Any] = {}
        if plan.cancel and plan.rank == 0:
            await begun.wait()
            await asyncio.sleep(0.3)  # in the middle of the exchanges
            said["cancelled_ns"] = time.monotonic_ns()
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, VisitError):
            await task
        said["node_peak_mb"] = memory_mb("VmHWM:") - before_mb
        output.seek(0)
        data = output.read()
        return said | (json.loads(data) if data else {})


def memory_mb(name: str) -> float:
    """A figure of this process, in megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


# --- both nodes ---------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def run_pair(domain: LoopbackDomain, **knobs: Any) -> list[list[dict[str, Any]]]:
    """Run a plan at both nodes; what each found."""
    ports = [free_port() for _ in NODES]
    direct = tuple(f"{LOOPBACK}:{port}" for port in ports)
    processes: list[subprocess.Popen[bytes]] = []
    for rank, node in enumerate(NODES):
        config = msgspec.structs.replace(domain.node(node, bulk_host=LOOPBACK), bulk_port=ports[rank])
        plan = NodePlan(fabric=config, rank=rank, direct=direct, **knobs)  # type: ignore[arg-type]
        command = [
            sys.executable,
            "-m",
            "benchmarks.streams",
            "--node",
            msgspec.json.encode(plan, enc_hook=str).decode(),
        ]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parent))
    answers = []
    for process in processes:
        out, _ = process.communicate(timeout=240)
        if process.returncode:
            raise SystemExit(f"a node ended with status {process.returncode}")
        answers.append(json.loads(out.splitlines()[-1]))
    return answers


# --- floor --------------------------------------------------------------------------------------------------------

ANSWERER = r"""
import socket, ssl, sys
size, certificate, key, authority = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key); context.load_verify_locations(authority)
context.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("127.0.0.1", 0)); print(listener.getsockname()[1], flush=True)
plain, _ = listener.accept(); plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
stream = context.wrap_socket(plain, server_side=True)
taken = memoryview(bytearray(size)); own = memoryview(bytearray(size)); own[:] = bytes(size)
while True:
    got = 0
    while got < size:
        count = stream.recv_into(taken[got:])
        if not count: raise SystemExit(0)
        got += count
    stream.sendall(own)
"""


@contextlib.contextmanager
def floor_stream(folder: Path, size: int) -> Iterator[ssl.SSLSocket]:
    """A mutual-TLS connection to a process that answers as many bytes as it got."""
    folder.mkdir()
    authority = pki.create_authority(folder / "authority", DomainId("floor"))
    (folder / "authority.pem").write_bytes(authority.certificate_pem)
    for node in NODES:
        request, key = pki.make_request(node)
        (folder / f"{node}.crt").write_bytes(authority.issue_node(request, node))
        (folder / f"{node}.key").write_bytes(key)
    files = [str(folder / name) for name in (f"{NODES[1]}.crt", f"{NODES[1]}.key", "authority.pem")]
    with subprocess.Popen([sys.executable, "-c", ANSWERER, str(size), *files], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
        context.check_hostname = False
        context.load_cert_chain(folder / f"{NODES[0]}.crt", folder / f"{NODES[0]}.key")
        plain = socket.create_connection((LOOPBACK, port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain) as stream:
            yield stream
        process.wait(5)


def measure_floor(folder: Path, shape: tuple[int, ...], rounds: int) -> list[float]:
    """Seconds of each round trip of the same bytes over one plain TLS stream."""
    size = int(np.prod(shape)) * 4
    own = memoryview(bytearray(os.urandom(size)))
    taken = memoryview(bytearray(size))
    seconds: list[float] = []
    with floor_stream(folder, size) as stream:
        for _ in range(WARM + rounds):
            began = time.perf_counter()
            stream.sendall(own)
            got = 0
            while got < size:
                got += stream.recv_into(taken[got:])
            seconds.append(time.perf_counter() - began)
    return seconds[WARM:]


def main() -> None:
    """Run, check, print."""
    chosen = arguments(__doc__)
    quick = chosen.quick
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="daitn-streams-") as name:
        folder = Path(name)
        (folder / "domain").mkdir()
        with LoopbackDomain(folder / "domain") as domain:
            for label, shape, rounds in (
                ("25mb", ACTIVATION, ROUNDS_QUICK if quick else ROUNDS),
                ("4kb", SMALL, SMALL_ROUNDS_QUICK if quick else SMALL_ROUNDS),
            ):
                floors = [measure_floor(folder / f"floor-{label}-0", shape, rounds // 2)]
                trips: list[list[float]] = []
                peaks: list[dict[str, Any]] = []
                for block in range(BLOCKS_QUICK if quick else BLOCKS):
                    found = run_pair(domain, shape=shape, rounds=rounds, visits=1)
                    trips.append(found[0][0]["seconds"])
                    peaks += [side[0] for side in found]
                    floors.append(measure_floor(folder / f"floor-{label}-{block + 1}", shape, rounds // 2))
                trip, floor = (
                    summary([one for block in trips for one in block]),
                    summary([one for block in floors for one in block]),
                )
                share = summary(
                    [
                        statistics.median(before + after) / statistics.median(block)
                        for before, block, after in zip(floors, trips, floors[1:], strict=False)
                    ]
                )
                figures[f"round_trip_ms_{label}"] = 1000 * trip["median"]
                figures |= {f"round_trip_{key}_ms_{label}": 1000 * trip[key] for key in ("p95", "min", "max")}
                figures[f"floor_ms_{label}"] = 1000 * floor["median"]
                figures |= {f"floor_{key}_ms_{label}": 1000 * floor[key] for key in ("p95", "min", "max")}
                figures[f"share_of_stream_{label}"] = share["median"]
                figures |= {f"share_of_stream_{key}_{label}": share[key] for key in ("min", "max")}
                if label == "25mb":
                    figures["share_of_stream"] = figures["share_of_stream_25mb"]
                    figures["gb_per_s"] = 2 * int(np.prod(shape)) * 4 / trip["median"] / 1e9
                    figures["peak_mb"] = max(side["node_peak_mb"] for side in peaks)
                    figures["peak_mb_child"] = max(side["peak_mb"] for side in peaks)
            stalled = run_pair(domain, shape=(4 * ACTIVATION[0], *ACTIVATION[1:]), rounds=1, visits=1, wait_s=STALL_S)
            figures["peak_mb_stalled"] = max(side[0]["node_peak_mb"] for side in stalled)
            ends = run_pair(
                domain, shape=ACTIVATION, rounds=100_000, visits=CANCELS_QUICK if quick else CANCELS, cancel=True
            )
            cancels = summary(
                [(b["ended_ns"] - a["cancelled_ns"]) / 1e6 for a, b in zip(ends[0], ends[1], strict=True)]
            )
            figures["cancel_ms"] = cancels["median"]
            figures |= {f"cancel_{key}_ms": cancels[key] for key in ("p95", "min", "max")}
    print_report("streams", figures, {}, [0], only_json=chosen.json, bounds=BOUNDS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        print(json.dumps(asyncio.run(run_node(read_plan(sys.argv[2])))), flush=True)
    else:
        main()

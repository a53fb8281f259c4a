"""Question: what does one hop of a model cost besides training?

Workload: two sites, each data and compute, a verification unit, a router and a control centre, all processes of their
own on loopback, mTLS, sandboxed children, journals with fsync. A model of 16 bytes, and one of 100 MB whose every
weight changes in every step, so that no chunk is ever the same, goes back and forth in a naive cycle.

Measure: from the end of the last step in the child at one site to the start of the first step in the child at the
other. What lies between: the result written, hashed, signed and journalled; accepted and journalled at the centre; the
next order taken and journalled; manifest and chunks fetched under a grant, verified and written; the model mapped in
the next child. Hops with a verification between them are left out, and the first two, which warm the children.

Floor, in the same run: one mutual-TLS stream of the same bytes between two processes, each chunk hashed with BLAKE3 and
written to a file.

Peers, in the same run: Flower and NVFlare with models of the same sizes, each installed into an environment of its own
(`benchmarks.peers`). With `--quick` only those that are installed already, and only while the 50 s allow it; otherwise
the output says that they were left out.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from blake3 import blake3

from benchmarks.peers.measuring import measure_peers
from benchmarks.report import QUICK_S, Bounds, arguments, print_report, summary
from daitn.base.ids import CENTER, DomainId, NodeId
from daitn.descriptors.terminals import Role
from daitn.node import pki
from daitn.node.processes import DataFiles, LocalDomain
from daitn.scenario.spec import NodeSpec

BOUNDS: Bounds = {
    "overhead_s_16b": ("<=", 0.05),
    "overhead_s_100mb": ("<=", 0.5),
    "overhead_over_floor_100mb": ("<=", 2.0),
}
SIZES = {"16b": 2, "100mb": 12_500_000}
"""Weights per label; two labels of float32."""

BYTES_PER_WEIGHT = 8
"""Two labels of float32."""

HOPS = 20
HOPS_QUICK = 8
VERIFY_EVERY_ABOUT = 10
FLOOR_REPEATS = 5
CHUNK = 2 * 1024 * 1024
LOOPBACK = "127.0.0.1"
STEP = re.compile(r"visit \S+/(\d+) (first|last) step at (\d+)")


def contract() -> dict[str, object]:
    """One number in, one of two labels out."""
    return {
        "name": "hop",
        "columns": [{"type": "number", "name": "x0"}, {"type": "category", "name": "label", "values": ["a", "b"]}],
        "inputs": [{"type": "numbers", "name": "x", "columns": ["x0"]}],
        "task": {"type": "classification", "label": "label"},
    }


POLICY = """
owners = ["*"]
purposes = ["benchmark"]
sample_frac = 0.25
verification_operators = ["trust"]
epsilon_per_period = 100.0
"""


def write_site(folder: Path, seed: int) -> DataFiles:
    """200 records that can be learnt: the label is the sign of the number."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = "".join(f"{value:.6f},{'ab'[int(value > 0)]}\n" for value in rng.normal(size=200))
    (folder / "data.csv").write_text("x0,label\n" + rows)
    (folder / "contract.json").write_text(json.dumps(contract()))
    (folder / "policy.toml").write_text(POLICY)
    return DataFiles(
        name="d", data=folder / "data.csv", contract=folder / "contract.json", policy=folder / "policy.toml"
    )


def run_job(domain: LocalDomain, size: str, hops: int, seed: int) -> list[float]:
    """Seconds of each hop without a verification, from the sites' logs."""
    import torch
    from torch import nn

    import daitn
    from daitn.artifacts.signatures import load_or_create_key
    from daitn.descriptors.contract import decode_contract
    from daitn.descriptors.request import Budget, Hyperparameters

    class Weights(nn.Module):
        """Logits are the input times the sum of each label's weights: every weight has the same gradient."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, width) / width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight.sum(1).unsqueeze(0)

    torch.manual_seed(seed)
    network = daitn.connect(domain.owner_token(f"bench-{size}"))
    visits = hops + hops // VERIFY_EVERY_ABOUT * 3 + 8
    job = network.train(
        Weights(SIZES[size]),
        contract=decode_contract(json.dumps(contract()).encode()),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        until_deadline=True,
        deadline=600,
        purpose="benchmark",
        method="cyclic",
        budget=Budget(visits=visits),
        hyperparameters=Hyperparameters(
            batch_size=4,
            batches_per_visit=2,
            learning_rate=1e-3 if size == "16b" else 1e-9,
            optimizer="sgd",
            weight_decay=0.0,
        ),
        name=f"hop-{size}",
        key=load_or_create_key(domain.folder / "owner.key"),
    )
    status = job.wait()
    if status.visits < visits:
        raise SystemExit(f"the job ended as {status.phase} after {status.visits} visits: {status.reason}")
    steps: dict[int, dict[str, int]] = {}
    for site in ("north", "south"):
        for line in (domain.folder / "logs" / f"{site}.log").read_text(errors="replace").splitlines():
            match = STEP.search(line)
            if match is not None and job.id in line:
                steps.setdefault(int(match[1]), {})[match[2]] = int(match[3])
    numbers = sorted(steps)
    hops_s = [
        (steps[after]["first"] - steps[before]["last"]) / 1e9
        for before, after in pairwise(numbers)
        if after == before + 1 and "last" in steps[before] and "first" in steps[after]
    ]
    return hops_s[2 : 2 + hops]


# --- floor --------------------------------------------------------------------------------------------------------

RECEIVER = r"""
import os, socket, ssl, sys, time
from blake3 import blake3
size, path, certificate, key, authority = int(sys.argv[1]), *sys.argv[2:6]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
        blake3(view[:want]).digest(); os.pwrite(file, view[:want], done); done += want
    os.close(file); stream.sendall(b"d")
"""


@contextmanager
def floor_stream(folder: Path, size: int) -> Iterator[ssl.SSLSocket]:
    """A mutual-TLS connection to a process that receives, hashes and writes."""
    authority = pki.create_authority(folder / "authority", DomainId("floor"))
    (folder / "authority.pem").write_bytes(authority.certificate_pem)
    for slot in ("n0001", CENTER):
        request, key = pki.make_request(slot)
        (folder / f"{slot}.crt").write_bytes(authority.issue_node(request, NodeId(slot)))
        (folder / f"{slot}.key").write_bytes(key)
    files = [str(folder / name) for name in ("out", "n0001.crt", "n0001.key", "authority.pem")]
    command = [sys.executable, "-c", RECEIVER, str(size), *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
        context.check_hostname = False
        context.load_cert_chain(folder / f"{CENTER}.crt", folder / f"{CENTER}.key")
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as stream:
            yield stream
            stream.sendall(b"q")
        process.wait(5)


def measure_floor(folder: Path, size: int) -> list[float]:
    """Seconds of sending `size` fresh bytes over mTLS, hashed and written at the other side."""
    seconds: list[float] = []
    with floor_stream(folder, size) as stream:
        for _ in range(FLOOR_REPEATS + 1):
            data = memoryview(os.urandom(size))
            began = time.perf_counter()
            stream.sendall(b"g")
            for offset in range(0, size, CHUNK):
                stream.sendall(data[offset : offset + CHUNK])
            if stream.recv(1) != b"d":
                raise SystemExit("the floor's receiver failed")
            seconds.append(time.perf_counter() - began)
    if blake3((folder / "out").read_bytes()).digest() != blake3(data).digest():
        raise SystemExit("the floor's receiver wrote other bytes")
    return seconds[1:]


def main() -> None:
    """Run, check, print."""
    began = time.monotonic()
    chosen = arguments(__doc__)
    hops = HOPS_QUICK if chosen.quick else HOPS
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="daitn-hop-") as name:
        folder = Path(name)
        (folder / "floor").mkdir()
        floor = summary(measure_floor(folder / "floor", 100_000_000))
        with LocalDomain(folder / "domain", "hop") as domain:
            domain.start()
            specs = sites()
            for number, (spec, has_data) in enumerate(specs):
                domain.join(spec, [write_site(folder / spec.name, number)] if has_data else None)
            for size in SIZES:
                found = summary(run_job(domain, size, hops, seed=0))
                figures[f"overhead_s_{size}"] = found["median"]
                figures |= {f"overhead_{key}_s_{size}": found[key] for key in ("p95", "min", "max")}
        again = summary(measure_floor_again(folder, 100_000_000))
        sizes_bytes = {size: width * BYTES_PER_WEIGHT for size, width in SIZES.items()}
        left_s = began + QUICK_S - time.monotonic()
        peers = measure_peers(folder / "peers", sizes_bytes, quick=chosen.quick, left_s=left_s)
    figures["floor_s_100mb"] = (floor["median"] + again["median"]) / 2
    figures["overhead_over_floor_100mb"] = figures["overhead_s_100mb"] / figures["floor_s_100mb"]
    for row in peers.rows.values():
        row |= {f"times_ours_{size}": row[f"overhead_s_{size}"] / figures[f"overhead_s_{size}"] for size in sizes_bytes}
    print_report(
        "hop",
        figures,
        peers.rows,
        [0],
        only_json=chosen.json,
        said=peers.said,
        versions=peers.versions,
        bounds=BOUNDS,
    )


def measure_floor_again(folder: Path, size: int) -> list[float]:
    """The floor once more after the hops, since a shared machine's speed drifts."""
    (folder / "floor2").mkdir()
    return measure_floor(folder / "floor2", size)


def sites() -> list[tuple[NodeSpec, bool]]:
    """Two sites that hold data and compute, and a verification unit."""
    return [
        (NodeSpec(name="north", operator="north", roles=(Role.DATA, Role.COMPUTE), direct=LOOPBACK), True),
        (NodeSpec(name="south", operator="south", roles=(Role.DATA, Role.COMPUTE), direct=LOOPBACK), True),
        (NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,), direct=LOOPBACK), False),
    ]


if __name__ == "__main__":
    main()

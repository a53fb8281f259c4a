"""Flower: `flower-superlink`, two `flower-supernode`s and `flwr run`, as its documentation starts them.

Transport: this version speaks HTTP between nodes and SuperLink (its gRPC interfaces are switched off); here over TLS
with a certificate of the server only, for Flower knows no client certificates (it can sign requests instead, which was
left off). State in memory, applications in processes of their own: the defaults. Dependencies are not installed at
run time.

A *hop*: rounds of federated averaging that go to one site each, the sites in turn; from the end of one site's step to
the start of the next round's step at the other. It holds the answer's way up, its averaging (of one), the next round's
message down: the same work as a hop of ours. A *round*: both sites at once, from before the model goes out until the
mean of both is there, steps included (0.5 to 0.8 s at 100 MB, in which each site checks and changes every byte).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from benchmarks.peers.apps.contents import note
from benchmarks.peers.environments import environment
from benchmarks.peers.processes import LOOPBACK, copy_apps, free_ports, running
from benchmarks.peers.records import WARMING, figures, hops_s, job_start_s, rounds_s
from daitn.base.ids import DomainId
from daitn.node import pki

NAME: Final = "flower"
REQUIREMENT: Final = "flwr==1.42.0"

SITES: Final = 2
HOPS: Final = 8
HOPS_QUICK: Final = 2
ROUNDS: Final = 3
ROUNDS_QUICK: Final = 1
JOB_S: Final = 300.0
"""How long all rounds of one size may take: about thrice what they take."""

PROJECT: Final = """\
[project]
name = "hop"
version = "1.0.0"
description = "Sends a model to and fro without training it."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "hop.flower_server:app"
clientapp = "hop.flower_client:app"

[tool.flwr.app.config]
record = ""
size = 16
hops = 1
rounds = 1
"""

CONNECTION: Final = """\
[superlink]
default = "hop"

[superlink.hop]
address = "{host}:{port}"
root-certificates = "{authority}"
"""


def measure(folder: Path, sizes_bytes: dict[str, int], *, quick: bool) -> dict[str, float]:
    """Seconds of hops and rounds at each size. PeerAbsentError where it does not install or fails."""
    commands = environment(NAME, REQUIREMENT)
    port, *node_ports = free_ports(1 + SITES)
    settings = {
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    hops = WARMING + (HOPS_QUICK if quick else HOPS) + 1
    rounds = ROUNDS_QUICK if quick else ROUNDS
    row: dict[str, float] = {}
    with running(folder, commands, settings) as peer:
        authority, certificate, key = write_certificates(folder)
        (folder / "home" / "config.toml").write_text(
            CONNECTION.format(host=LOOPBACK, port=port, authority=authority), encoding="utf-8"
        )
        copy_apps(folder / "app" / "hop", ["flower_client", "flower_server"])
        (folder / "app" / "pyproject.toml").write_text(PROJECT)
        peer.start(
            *("superlink", "flower-superlink", "--port", str(port), "--disable-runtime-dependency-installation"),
            *("--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", authority),
        )
        for number, node_port in enumerate(node_ports):
            peer.start(
                *(f"supernode{number}", "flower-supernode", "--superlink", f"{LOOPBACK}:{port}"),
                *("--root-certificates", authority, "--port", str(node_port)),
            )
        for one in (port, *node_ports):
            peer.wait_for_port(one)
        for size, size_bytes in sizes_bytes.items():
            record = folder / f"record-{size}"
            wanted = f"record='{record}' size={size_bytes} hops={hops} rounds={rounds}"
            note(str(record), event="submitted", at_ns=time.time_ns())
            peer.run("flwr", "run", str(folder / "app"), "hop", "--run-config", wanted)
            found = peer.wait_for_event(record, "done", JOB_S)
            row |= figures("overhead", size, hops_s(found))
            row |= figures("round", size, rounds_s(found, SITES))
            row[f"job_start_s_{size}"] = job_start_s(found)
    return row


def write_certificates(folder: Path) -> tuple[str, str, str]:
    """(authority, certificate, key) of the SuperLink at loopback, as paths."""
    authority = pki.create_authority(folder / "authority", DomainId("flower"))
    certificate, key = authority.issue_server("superlink")
    (folder / "server.crt").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)
    return str(folder / "authority" / pki.AUTHORITY_CERT_FILE), str(folder / "server.crt"), str(folder / "server.key")

"""NVFlare: a server and two sites provisioned by its proof-of-concept mode, and a cyclic job.

Transport: its default driver, WebSockets over mutual TLS with the certificates that it provisions itself. Each job runs
in processes of its own at the server and at each site: the default. The workflow is its `CyclicController` with its
defaults (the job's state is written to disk after each round of two hops); the first model comes from memory and the
last one goes nowhere. Nothing is trained. The processes are started by the start-up kit's own script, once and in the
foreground; the server's address is set from all interfaces to loopback.

A *hop*: from the end of one site's step to the start of the next one at the other; it holds the result's way to the
server, the server's relay, and the next site's fetching the task. *Start* and *close*: from submitting the job until
its first step, and from its last step until its administrator sees it finished (asked ten times a second).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.environments import PeerAbsentError, environment
from benchmarks.peers.processes import APPS, copy_apps, free_ports, running
from benchmarks.peers.records import figures, hops_s, job_close_s, job_start_s

NAME: Final = "nvflare"
REQUIREMENT: Final = "nvflare==2.9.0"

SITES: Final = ("site-1", "site-2")
ADMINISTRATOR: Final = "admin@nvidia.com"
DEFAULT_PORT: Final = "8002"
ROUNDS: Final = 6
ROUNDS_QUICK: Final = 2
"""Rounds of one step at each site."""

JOB_S: Final = 300.0
"""How long one job may take: about six times what it takes."""


def measure(folder: Path, sizes_bytes: dict[str, int], *, quick: bool) -> dict[str, float]:
    """Seconds of hops, start and close at each size. PeerAbsentError where it does not install or fails."""
    commands = environment(NAME, REQUIREMENT)
    (port,) = free_ports(1)
    rounds = ROUNDS_QUICK if quick else ROUNDS
    row: dict[str, float] = {}
    with running(folder, commands, {"NVFLARE_POC_WORKSPACE": str(folder / "poc")}) as peer:
        peer.run("nvflare", "poc", "prepare", "-n", str(len(SITES)))
        kits = find_kits(folder / "poc")
        for name in ("server", *SITES, ADMINISTRATOR):
            set_address(kits / name / "startup", port)
        for name in ("server", *SITES):
            peer.start(name, "bash", str(kits / name / "startup" / "sub_start.sh"), "--once")
        peer.wait_for_port(port)
        for size, size_bytes in sizes_bytes.items():
            record, job = folder / f"record-{size}", folder / f"job-{size}"
            write_job(job, record, size_bytes, rounds)
            submit = ("python", str(APPS / "flare_submit.py"), str(kits / ADMINISTRATOR), str(job), str(record))
            peer.run(*submit, limit_s=JOB_S)
            peer.wait_for_event(record, "finished", 0)
            found = peer.wait_for_event(record, "done", 0)
            if len(found.steps) != rounds * len(SITES):
                raise PeerAbsentError(f"{len(found.steps)} steps instead of {rounds * len(SITES)}")
            row |= figures("overhead", size, hops_s(found))
            row[f"job_start_s_{size}"] = job_start_s(found)
            row[f"job_close_s_{size}"] = job_close_s(found)
    return row


def find_kits(workspace: Path) -> Path:
    """The folder with every participant's start-up kit."""
    found = sorted(workspace.glob("*/prod_00"))
    if len(found) != 1:
        raise PeerAbsentError(f"its preparation left {len(found)} sets of start-up kits")
    return found[0]


def set_address(startup: Path, port: int) -> None:
    """Loopback and a free port instead of all interfaces and a fixed one."""
    for path in startup.glob("fed_*.json"):
        text = path.read_text().replace(f'"server:{DEFAULT_PORT}"', f'"localhost:{DEFAULT_PORT}"')
        path.write_text(text.replace(DEFAULT_PORT, str(port)))


def write_job(folder: Path, record: Path, size_bytes: int, rounds: int) -> None:
    """A cyclic job with our applications in it."""
    ours = {"record": str(record), "size": size_bytes}
    server = {
        "format_version": 2,
        "workflows": [
            {
                "id": "cyclic",
                "path": "nvflare.app_common.workflows.cyclic_ctl.CyclicController",
                "args": {"num_rounds": rounds, "persistor_id": "models", "shareable_generator_id": "whole"},
            }
        ],
        "components": [
            {"id": "models", "path": "hop.flare_server.Models", "args": {**ours, "hops": rounds * len(SITES)}},
            {
                "id": "whole",
                "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator"
                ".FullModelShareableGenerator",
                "args": {},
            },
        ],
    }
    site = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": {"path": "hop.flare_site.Site", "args": ours}}],
        "components": [],
    }
    about = {"name": "hop", "resource_spec": {}, "min_clients": len(SITES), "deploy_map": {"app": ["@ALL"]}}
    copy_apps(folder / "app" / "custom" / "hop", ["flare_server", "flare_site"])
    _write_json(folder / "meta.json", about)
    _write_json(folder / "app" / "config" / "config_fed_server.json", server)
    _write_json(folder / "app" / "config" / "config_fed_client.json", site)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))

"""`daitn up FILE`: a whole scenario as real processes on this machine, until it is told to stop.

Router, control centre and nodes are started from the scenario, owners get their tokens, and jobs that bring a package
are submitted when their time has come. Faults are for the simulation only; what dies here is told, and stays dead,
because somebody trying a scenario wants to see it.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daitn.base.errors import DaitnError
from daitn.node.processes import LocalDomain
from daitn.scenario.files import load_scenario
from daitn.scenario.spec import JobSpec, Scenario

LOOK_S: Final = 0.2
"""How often jobs that are due and processes that ended are looked for."""

Say = Callable[[str], None]


def run_up(file: Path, folder: Path | None = None, say: Say | None = None) -> None:
    """Run a scenario until SIGINT or SIGTERM; InputError where the file does not hold one.

    `folder`: where its files go and stay; a temporary one, removed at the end, if None.
    """
    tell = say or _print
    scenario = load_scenario(file)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if folder is not None:
            _run(scenario, folder, stop, tell)
        else:
            with tempfile.TemporaryDirectory(prefix="daitn-up-") as temporary:
                _run(scenario, Path(temporary), stop, tell)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run(scenario: Scenario, folder: Path, stop: threading.Event, say: Say) -> None:
    with LocalDomain(folder, scenario.domain, patience_s=scenario.patience_s) as domain:
        domain.start()
        say(f"domain {scenario.domain} runs; its files are in {folder}")
        domain.join_all(scenario.nodes)
        for node in scenario.nodes:
            say(f"{node.name} joined: {', '.join(node.roles)}")
        tokens = {owner: domain.owner_token(owner) for owner in sorted({job.owner for job in scenario.jobs})}
        for owner, token in tokens.items():
            path = folder / f"{owner}.token"
            path.touch(mode=0o600)
            path.write_text(token + "\n", encoding="ascii")
            say(f"token of {owner}: {path}")
        say("everything runs; Ctrl-C ends it")
        _work(domain, sorted(scenario.jobs, key=lambda job: job.at_s), tokens, stop, say)
    say("every process has ended")


def _work(domain: LocalDomain, jobs: list[JobSpec], tokens: dict[str, str], stop: threading.Event, say: Say) -> None:
    """Submit jobs when due, and tell of processes that end, until told to stop."""
    began, told = time.monotonic(), set[str]()
    waiting = [job for job in jobs if job.package]
    while not stop.wait(LOOK_S):
        while waiting and time.monotonic() - began >= waiting[0].at_s:
            job = waiting.pop(0)
            try:
                _submit(domain, job, tokens[job.owner])
                say(f"{job.owner} submitted {job.name}")
            except DaitnError as error:
                say(f"{job.owner} could not submit {job.name}: {error}")
        for name in domain.processes.names():
            if name not in told and not domain.processes.alive(name):
                told.add(name)
                say(f"{name} has ended; the end of its log:\n{domain.tail(name)}")


def _submit(domain: LocalDomain, job: JobSpec, token: str) -> None:
    arguments = ["--package", job.package, "--name", job.name, "--purpose", job.purpose]
    arguments += ["--deadline", f"{job.deadline_s:g} s", "--raw-records", job.raw_records]
    arguments += ["--chance-floor", f"{job.chance_floor:g}"]
    arguments += ["--allow-probe"] if job.allow_probe else []
    arguments += ["--until-deadline"] if job.until_deadline else []
    arguments += ["--secure-aggregation"] if job.secure_aggregation else []
    arguments += ["--compress", str(job.compression)] if job.compression is not None else []
    arguments += [part for target in job.targets for part in ("--target", target)]
    arguments += ["--method", job.method] if job.method else []
    arguments += ["--visits", str(job.visits)] if job.visits is not None else []
    domain.run("train", "submit", *arguments, token=token)

"""After a fault: how soon the job went on, and that nothing was lost, doubled or left unfenced.

What the centre served is compared with what it serves (`told`), and what a node closed is read in its own journal.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import daitn
from benchmarks.faults.sites import SPECS
from benchmarks.faults.told import ACCEPTED, faults_of_log
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import Fault, World
from daitn.base.errors import DaitnError, UnavailableError
from daitn.descriptors.job import FINAL_PHASES, LogEntry
from daitn.node.journal import Journal
from daitn.node.processes import LocalDomain
from daitn.oam.outbox import OUTBOX_RECORDS
from daitn.sdk.jobs import Job
from daitn.terminal.visit_records import KEEPER_RECORDS, VisitClosed
from daitn.wire.oam_records import VisitOver

LEASE: Final = re.compile(r"its lease of ([0-9.]+) s has run out")


class Recovery(NamedTuple):
    """From a fault to the next accepted step."""

    seconds: float
    entry: LogEntry


def recovered(
    world: World, job: Job, fault: Fault, kinds: Sequence[str] = ACCEPTED, timeout_s: float = 60.0
) -> Recovery:
    """Wait for the first step of these kinds accepted after a fault."""

    def counts(entry: LogEntry) -> bool:
        here = entry.node == fault.at if fault.at else entry.node != fault.elsewhere
        later = entry.unix_s > fault.unix_s if fault.known is None else entry.number >= fault.known
        return here and later and entry.kind in kinds

    def accepted() -> LogEntry | None:
        return next((entry for entry in world.log(job) if counts(entry)), None)

    entry = wait_for(accepted, "a step accepted after the fault", timeout_s)
    assert entry is not None
    return Recovery((entry.unix_s if fault.known is None else time.time()) - fault.unix_s, entry)


def longest_lease_s(world: World, job: Job, fault: Fault) -> float:
    """The longest lease that ran out after a fault; 0: none did."""
    lost = [entry.text for entry in world.log(job) if entry.kind == "lost" and entry.unix_s > fault.unix_s]
    return max((float(found[1]) for text in lost if (found := LEASE.search(text))), default=0.0)


def fenced(world: World, job: Job, node: str, visit: str) -> str:
    """How a node closed a visit it lost, once it has; AssertionError where the job has accepted it."""
    assert visit, f"no visit was open at {node}"
    why = closed_at(world.domain, node, visit)
    assert visit not in {entry.visit for entry in job.log() if entry.kind in ACCEPTED}, f"{visit} was accepted"
    assert why != "acknowledged", f"{visit} was acknowledged"
    return why


def closed_at(domain: LocalDomain, node: str, visit: str) -> str:
    """How a node closed a visit, once it has."""

    def closed() -> str:
        return next((record.why for record in closings(domain, node) if record.visit == visit), "")

    return wait_for(closed, f"visit {visit} closed at {node}")


def check(world: World, job: Job) -> None:
    """What must hold after any fault: of what was told before it nothing is gone or changed, no status went back, the
    log has no gap, and each step in it was accepted once, with the fence of its order, and not after it was given
    up."""
    told = world.told(job)
    before = world.status(job)
    entries = told.reread(job.log)
    after = world.status(job)
    faults = told.take_faults() + faults_of_log(entries)
    assert not faults, faults[0]
    trained = sum(entry.kind == "trained" for entry in entries)
    assert before is not None, "the centre does not answer"
    assert after is not None, "the centre does not answer"
    assert before["visits"] <= trained <= after["visits"], "status and log do not tell the same steps"


def end(world: World, job: Job) -> None:
    """Cancel, and see that the end arrives."""
    job.cancel()
    assert job.wait(20).phase in FINAL_PHASES
    check_ended(world, job)


def check_ended(world: World, job: Job) -> None:
    """What must hold of a job that has ended, however it did: the same, and the end of every visit at its site has come
    to the centre, once and in order."""
    check(world, job)
    for node in (spec.name for spec in SPECS):
        wait_for(lambda node=node: _all_told(world, node), f"the ends of all visits at {node}")  # type: ignore[misc]


def closings(domain: LocalDomain, node: str) -> list[VisitClosed]:
    """The ends of visits in a node's journal."""
    with contextlib.suppress(DaitnError, sqlite3.Error):
        journal = Journal(domain.node_folder(node) / "journal.sqlite", (*KEEPER_RECORDS, *OUTBOX_RECORDS))
        try:
            return [record for record in journal.read("terminal") if isinstance(record, VisitClosed)]
        finally:
            journal.close()
    return []


def _all_told(world: World, node: str) -> bool:
    """Whether the centre was told, once each and in order, how every visit at a node ended there."""
    slot = world.slot(node)
    try:
        records = daitn.connect(world.domain.operator_token()).records()
    except UnavailableError:
        return False
    told = [one.entry.visit for one in records if one.node == slot and isinstance(one.entry, VisitOver)]
    closed = [record.visit for record in closings(world.domain, node)]
    assert len(told) == len(set(told)), f"an end of a visit at {node} was kept twice"
    return told == closed

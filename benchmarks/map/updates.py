"""`batch_updates_per_s` and `bytes_per_terminal`: sites' batches into the columns, checked; memory of it all.

An update is one record: all facts of one group of one terminal, with sequence, moment, values and deviations. Batches
are sites' (10,000 terminals), of the groups `load` (6 facts) and `capacity` (8 facts, with bounded claims) in turn.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np

from benchmarks.map.world import START_NS, random_records
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.topology.intake import FactIntake, Intake


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def batch_updates(intake: FactIntake, rounds: int, seed: int) -> tuple[list[float], list[float]]:
    """Updates per second of each round of all terminals: by the clock, and by the processor time of this process, which
    others on the machine do not stretch."""
    rng = np.random.default_rng(seed)
    roster = intake.rosters[Kind.TERMINAL]
    speeds: list[float] = []
    unstretched: list[float] = []
    for turn in range(rounds):
        group = group_named(("load", "capacity")[turn % 2])
        now_ns = START_NS + (turn + 1) * 10 * NS_PER_S
        batches = []
        for index in range(1, len(intake.sources)):
            numbers = np.flatnonzero(roster.rows_of(index) >= 0)
            records = random_records(group, rng.permutation(numbers), turn + 2, now_ns, rng)
            batches.append((np.full(len(records), index, np.int32), records))
        seen = Intake()
        start, used_s = time.perf_counter(), time.process_time()
        for source, records in batches:
            intake.take_records(group, source, records, now_ns, seen)
        took, used_s = time.perf_counter() - start, time.process_time() - used_s
        expected = len(intake.book[Kind.TERMINAL])
        if seen.records != expected or seen.counts:
            raise SystemExit(f"{seen.records} of {expected} records were taken: {seen.counts}")
        speeds.append(seen.records / took)
        unstretched.append(seen.records / used_s)
    return speeds, unstretched

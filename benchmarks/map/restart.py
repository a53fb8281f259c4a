"""`restart_s`: from a snapshot and a journal on the disk to a map that answers, in a process of its own.

The snapshot is the whole map; the journal has the reports of a tenth of the terminals since, a message each. The clock
runs from the start of reading to the last entry applied, ids and columns ready for questions; the files were read a
moment ago, so the disk's own speed is not in it. What came back is compared with what was there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.map.messages import packed_singly
from benchmarks.map.world import INCARNATION, START_NS, site_name
from daitn.descriptors.fact_kinds import Kind
from daitn.node.map_store import MapStore
from daitn.topology.group_columns import GroupColumns
from daitn.topology.image_making import ImageMaking
from daitn.topology.intake import FactIntake
from daitn.topology.map_entries import ReportsEntry
from daitn.topology.map_image import Arrays, ImageHead

BATCH = 8192
SEQUENCE = 1_000_000
"""Above all that the other parts of the benchmark report."""


def restart(intake: FactIntake, share: float, repeats: int) -> tuple[list[float], list[float], dict[str, float]]:
    """Seconds of each restart, by the clock and of processor time; what the files weigh, and how long writing took."""
    with tempfile.TemporaryDirectory() as folder:
        store = MapStore(Path(folder), print)
        generation = store.begin_generation()
        head, arrays, steps = _copy(intake)
        copied = time.perf_counter()
        store.write_snapshot(generation, head, arrays)
        written = time.perf_counter()
        del head, arrays
        messages = _journal(intake, store, share)
        store.close()
        loads = [_load(Path(folder), intake) for _ in range(repeats)]
        sizes = {kind: _size(Path(folder), kind) for kind in ("snapshot", "entries")}
        return (
            [took for took, _ in loads],
            [used for _, used in loads],
            {
                "snapshot_copy_s": sum(steps),
                "snapshot_steps": float(len(steps)),
                "snapshot_step_ms": 1e3 * max(steps),
                "snapshot_step_p99_ms": 1e3 * float(np.quantile(steps, 0.99)),
                "snapshot_write_s": written - copied,
                "snapshot_bytes": float(sizes["snapshot"]),
                "journal_bytes": float(sizes["entries"]),
                "journal_messages": float(messages),
            },
        )


def _copy(intake: FactIntake) -> tuple[ImageHead, Arrays, list[float]]:
    """An image made in steps, and the seconds of each: for so long the centre waits at a time."""
    steps: list[float] = []
    start = time.perf_counter()
    making = ImageMaking(intake, START_NS)
    more = True
    while more:
        more = making.step()
        ended = time.perf_counter()
        steps.append(ended - start)
        start = ended
    image = making.image()
    if image is None:
        raise SystemExit("the map changed while nobody changed it")
    steps.append(time.perf_counter() - start)
    return *image, steps


def _size(folder: Path, kind: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{kind}-*"))


def _journal(intake: FactIntake, store: MapStore, share: float) -> int:
    """Reports of a share of each site's terminals, taken and kept."""
    count = 0
    for index in range(1, len(intake.sources)):
        node = site_name(index - 1)
        numbers = np.flatnonzero(intake.rosters[Kind.TERMINAL].rows_of(index) >= 0)
        chosen = numbers[: round(share * len(numbers))].astype(np.uint32)
        intake.sources.incarnation[index] = INCARNATION
        payloads = packed_singly(chosen, int(intake.sources.sequence[index]) + 1, SEQUENCE, index)
        for start in range(0, len(payloads), BATCH):
            part = payloads[start : start + BATCH]
            entry = ReportsEntry(received_ns=time.time_ns(), senders=[node] * len(part), payloads=part)
            seen = intake.take_messages(entry.senders, entry.payloads, entry.received_ns)
            if seen.records != len(part):
                raise SystemExit(f"{seen.records} of {len(part)} records were taken: {seen.counts}")
            store.append(entry)
            count += len(part)
    return count


def _load(folder: Path, intake: FactIntake) -> tuple[float, float]:
    columns = intake.book[Kind.TERMINAL].ensure("load")
    want = _sums(columns)
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.map.restart", str(folder)], capture_output=True, text=True, check=True
    ).stdout.split()
    got = float(said[2]), int(said[3])
    if got != want:
        raise SystemExit(f"the map came back with {got} where {want} was kept")
    return float(said[0]), float(said[1])


def _sums(columns: GroupColumns) -> tuple[float, int]:
    """What tells one map from another: sums of values and sequences, over all that is not empty."""
    held = np.sort(columns.values["load_frac"][columns.sequence > 0].astype(np.float64))
    return float(held.sum()), int(columns.sequence.astype(np.int64).sum())


def main(folder: str) -> int:
    """Load, and say how long it took and what is there."""
    start, used_s = time.perf_counter(), time.process_time()
    intake = MapStore(Path(folder), print).load()
    intake.book[Kind.TERMINAL].row_of("n0001/t00000")
    took, used_s = time.perf_counter() - start, time.process_time() - used_s
    columns = intake.book[Kind.TERMINAL].ensure("load")
    print(took, used_s, *_sums(columns))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

"""`message_updates_per_s`: one terminal a message, over the real fabric: node process → router process → centre, mTLS.

Two sites, each a process of its own with a session and a certificate, report the group `load` of their terminals one
message each, at a fixed pace; a router in a process of its own checks who may say what; the centre drains, joins,
decodes, checks sequences and applies to the columns of a million terminals. What was sent and did not arrive is counted
by gaps and then mended by a sync: the same reports again, in batches, until every terminal has its newest, which is
checked.

Processor time a message of each of the three is measured too: it says what two cores could carry with nothing else on
them, whatever else this machine is doing.

A run's figure is what was *applied*, over the time from the first to the last of them. The benchmark's is that of the
best run of which at most `LOSS_MOST` was lost; how many runs were so, and the median of all, are printed beside it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.map.world import INCARNATION, random_records, site_name
from daitn.base.ids import CENTER
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.node.fabric.contract import Fabric, FabricConfig
from daitn.node.fabric.loopback import LoopbackDomain
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.topology.intake import FactIntake
from daitn.wire.packed_facts import HEADER, PACKED_VERSION, encode_records, records_most

SENDERS = 2
PACES = (160_000.0, 160_000.0, 160_000.0)
"""Messages a second of all senders together."""

SECONDS = 2.5
SLICE_S = 0.01
LOSS_MOST = 0.01
SYNCS = 5
QUIET_S = 1.0
"""When nothing has come for so long, nothing more is on its way."""


def process_seconds(pid: int | None) -> float:
    """Processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def packed_singly(numbers: np.ndarray, first: int, sequence: int, seed: int) -> list[bytes]:
    """One message for each terminal: header and one record, made together, since the pace is not to be Python's."""
    group = group_named("load")
    now_ns = time.time_ns()
    records = random_records(group, numbers, sequence, now_ns, np.random.default_rng(seed))
    both = np.zeros(len(numbers), [("header", HEADER), ("record", records.dtype)])
    both["header"]["version"], both["header"]["group"] = PACKED_VERSION, group.number
    both["header"]["records"], both["header"]["incarnation"] = 1, INCARNATION
    both["header"]["sequence"] = first + np.arange(len(numbers))
    both["record"] = records
    data, size = both.tobytes(), both.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def send(config: FabricConfig, terminals: int, pace: float, seconds: float, seed: int) -> int:
    """A site: report its terminals in turn at a pace, then, when told, all of them again in batches. In its process."""

    async def run() -> None:
        async with open_fabric(config) as fabric:
            slice_most = round(pace * SLICE_S)
            count = round(pace * seconds)
            numbers = np.arange(count) % terminals
            payloads = packed_singly(numbers.astype(np.uint32), 1, 0, seed)
            rounds = np.arange(count) // terminals + 2
            payloads = _with_sequences(payloads, rounds)
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            began, used_s = time.perf_counter(), time.process_time()
            for place in range(0, count, slice_most):
                await fabric.report(payloads[place : place + slice_most])
                ahead_s = began + (place + slice_most) / pace - time.perf_counter()
                await asyncio.sleep(max(0.0, ahead_s))
            print(f"sent {count} {time.process_time() - used_s:.6f}", flush=True)
            sequence, first = int(rounds[-1]), count + 1
            while (await asyncio.to_thread(sys.stdin.readline)).strip() == "sync":
                sequence += 1
                first += await sync(fabric, terminals, first, sequence, seed)
                print("synced", flush=True)

    asyncio.run(run())
    return 0


def _with_sequences(payloads: list[bytes], sequences: np.ndarray) -> list[bytes]:
    """The records' own sequences, which `packed_singly` left at 0."""
    size, place = len(payloads[0]), HEADER.itemsize + 4
    data = np.frombuffer(b"".join(payloads), np.uint8).reshape(-1, size).copy()
    data[:, place : place + 4] = sequences.astype("<u4").view(np.uint8).reshape(-1, 4)
    blob = data.tobytes()
    return [blob[start : start + size] for start in range(0, len(blob), size)]


async def sync(fabric: Fabric, terminals: int, first: int, sequence: int, seed: int) -> int:
    """Everything again, as many records in a message as fit, slowly enough for any link; how many messages."""
    group = group_named("load")
    most = records_most(group)
    rng = np.random.default_rng(seed + 1)
    for offset, start in enumerate(range(0, terminals, most)):
        numbers = np.arange(start, min(start + most, terminals), dtype=np.uint32)
        records = random_records(group, numbers, sequence, time.time_ns(), rng)
        await fabric.report([encode_records(group, records, sequence=first + offset, incarnation=INCARNATION)])
        await asyncio.sleep(0.02)
    return -(-terminals // most)


async def measure_pace(intake: FactIntake, pace: float, seconds: float, terminals: int, seed: int) -> dict[str, float]:
    """One run at a pace; the intake's sources begin anew first."""
    with tempfile.TemporaryDirectory() as folder, LoopbackDomain(Path(folder)) as domain:
        for site in range(SENDERS):
            node = site_name(site)
            index = intake.sources.find(node)
            intake.sources.incarnation[index] = INCARNATION
            intake.sources.sequence[index] = 0
            intake.sources.dropped[index] = 0
            intake.sources.things[index] = 1 << 30  # the pace is the question, not the share of a site
        columns = intake.book[Kind.TERMINAL].ensure("load")
        columns.sequence[:] = 1
        async with open_fabric(domain.node(CENTER)) as fabric:
            reports = fabric.subscribe_reports(intake.share_bytes_per_s)
            first = asyncio.ensure_future(anext(reports))
            await asyncio.sleep(0.5)
            senders = [await _start(domain, site, pace / SENDERS, seconds, terminals, seed) for site in range(SENDERS)]
            for sender in senders:
                await _line(sender, "ready")
            for sender in senders:
                _go(sender)
            taken, begun, ended, busy_s = 0, 0.0, 0.0, 0.0
            batches = 0
            batch = await first
            used_s, router_s = time.process_time(), process_seconds(domain.router.pid)
            while True:
                start = time.perf_counter()
                seen = intake.take_messages(batch.senders, batch.payloads, time.time_ns())
                ended = time.perf_counter()
                busy_s += ended - start
                begun = begun or start
                taken += seen.records
                batches += 1
                if refused := {fault.label: count for fault, count in seen.counts.items()}:
                    raise SystemExit(f"reports were refused: {refused}")
                try:
                    async with asyncio.timeout(QUIET_S):
                        batch = await anext(reports)
                except TimeoutError:
                    break
            used_s, router_s = time.process_time() - used_s, process_seconds(domain.router.pid) - router_s
            said = [(await _line(sender, "sent")).split() for sender in senders]
            sent = [float(words[1]) for words in said]
            sender_s = sum(float(words[2]) for words in said)
            gaps = int(intake.sources.dropped[1 : SENDERS + 1].sum())
            repaired = await _repair(intake, fabric, senders, terminals)
            await reports.aclose()  # type: ignore[attr-defined]
            return {
                "applied_per_s": taken / (ended - begun),
                "offered_per_s": pace,
                "lost_frac": 1 - taken / sum(sent),
                "lost": sum(sent) - taken,
                "gaps": float(gaps),
                "batch_messages": taken / batches,
                "intake_busy_frac": busy_s / (ended - begun),
                "syncs_until_repaired": float(repaired),
                "sender_cpu_us": 1e6 * sender_s / sum(sent),
                "router_cpu_us": 1e6 * router_s / sum(sent),
                "center_cpu_us": 1e6 * used_s / max(1, taken),
            }


async def _repair(intake: FactIntake, fabric: Fabric, senders: list[Any], terminals: int) -> int:
    """Syncs after the drops, until every terminal of the senders has the newest report: how many it took, 0 for none
    of the `SYNCS` that were tried."""
    reports = fabric.subscribe_reports(intake.share_bytes_per_s)
    heard_s = time.perf_counter()

    async def take() -> None:
        nonlocal heard_s
        async for batch in reports:
            intake.take_messages(batch.senders, batch.payloads, time.time_ns())
            heard_s = time.perf_counter()

    taking = asyncio.ensure_future(take())
    await asyncio.sleep(0.1)
    took = 0
    for attempt in range(1, SYNCS + 1):
        for sender in senders:
            _go(sender, "sync")
        for sender in senders:
            await _line(sender, "synced")
        heard_s = time.perf_counter()
        while time.perf_counter() - heard_s < QUIET_S:
            await asyncio.sleep(0.05)
        if _all_newest(intake, terminals):
            took = attempt
            break
    for sender in senders:
        _go(sender)
        await sender.wait()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await reports.aclose()  # type: ignore[attr-defined]
    return took


def _all_newest(intake: FactIntake, terminals: int) -> bool:
    """Whether every terminal of the senders has the same, newest, report."""
    columns = intake.book[Kind.TERMINAL].ensure("load")
    newest = [columns.sequence[intake.rosters[Kind.TERMINAL].rows_of(site + 1)[:terminals]] for site in range(SENDERS)]
    return all(len(set(one.tolist())) == 1 for one in newest)


async def _start(domain: LoopbackDomain, site: int, pace: float, seconds: float, terminals: int, seed: int) -> Any:
    config = msgspec.json.encode(domain.node(site_name(site)), enc_hook=str).decode()
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.map.messages", config, str(terminals), str(pace), str(seconds), str(seed),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def _line(sender: Any, word: str) -> str:
    line = str((await sender.stdout.readline()).decode())
    if not line.startswith(word):
        raise SystemExit(f"a sender said {line!r} where {word!r} was expected")
    return line


def _go(sender: Any, word: str = "") -> None:
    sender.stdin.write(f"{word}\n".encode())


def message_updates(
    intake: FactIntake, paces: tuple[float, ...], seconds: float, per_site: int
) -> list[dict[str, float]]:
    """A run for each pace."""
    runs: list[dict[str, float]] = []
    for seed, pace in enumerate(paces):
        runs.append(asyncio.run(measure_pace(intake, pace, seconds, per_site, seed)))
        print(runs[-1], file=sys.stderr, flush=True)
    return runs


if __name__ == "__main__":
    raise SystemExit(
        send(
            msgspec.json.decode(sys.argv[1], type=FabricConfig, dec_hook=lambda kind, value: kind(value)),
            int(sys.argv[2]),
            float(sys.argv[3]),
            float(sys.argv[4]),
            int(sys.argv[5]),
        )
    )

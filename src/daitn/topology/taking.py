"""Taking a batch of reports into a table: every check and every change a vector operation.

A record is refused whole, for the first fault in the order of `refusals.Fault`; the rest of the batch is applied. The
result is what a plain dictionary, taking record after record, would hold: a batch may report a row several times, in
any order (`tests/property/test_map_model.py`).

What a node claims of itself counts up to `CLAIM_FACTOR` times what others measured, or up to the fact's
`unmeasured_most` where nobody has: more is cut to that bound, marked by an uncertainty of the bound's own size, and
cut again when a measurement comes later.

B records in the batch, R rows of the table. O(B) time and memory, independent of R.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daitn.descriptors.fact_kinds import CLAIM_FACTOR, UNKNOWN_CODE, Fact, Group, Source
from daitn.descriptors.facts import BY_KIND, fact_named
from daitn.descriptors.uncertainty import NOT_KNOWN, encode_deviations
from daitn.topology.columns import FactTable
from daitn.topology.group_columns import GroupColumns
from daitn.topology.refusals import CULPRITS_MOST, SKEW_AHEAD_NS, SKEW_BEHIND_NS, Example, Fault, Taken
from daitn.wire.packed_facts import Records

CENTER_SOURCE = 0
"""The control centre itself: it speaks for the overseers' groups of everything."""


class Batch:
    """Records of one group, who sent each, and which rows they speak of (-1: nothing on the map)."""

    def __init__(
        self,
        group: Group,
        source: NDArray[np.int32],
        rows: NDArray[np.int32],
        records: Records,
        *,
        admitted: NDArray[np.bool_] | None = None,
        part: int = 0,
    ) -> None:
        self.group = group
        self.source = source
        self.rows = rows
        self.records = records
        self.admitted = admitted
        """Which are within their sender's share of this second; None: all."""
        self.part = part
        """Which facts they tell, as bits by place; 0: all. The others are as they are held."""

    def __len__(self) -> int:
        return len(self.records)


def take(table: FactTable, batch: Batch, received_ns: int) -> Taken:
    """Check and apply a batch; see the module's docstring. Values never raise; only a group of another kind does."""
    columns = table.ensure(batch.group.name)
    verdict = np.zeros(len(batch), np.uint8)
    rows = _check_things(table, batch, verdict)
    examples: dict[Fault, Example] = {}
    _check_values(batch, verdict, examples)
    fit = np.flatnonzero(verdict == Fault.NONE)
    newer = _newer(rows[fit], batch.records["sequence"][fit], columns.sequence)
    verdict[fit[~newer]] = Fault.REPLAYED
    good = fit[newer] if not newer.all() else fit
    counts = {Fault(code): int(count) for code, count in enumerate(np.bincount(verdict)) if code and count}
    for fault in counts:
        if fault not in examples:
            examples[fault] = _example(batch, int(np.argmax(verdict == fault)))
    culprits = [
        (fault, _example(batch, place)) for fault in counts for place in _of_other_sources(batch, verdict == fault)
    ]
    skewed = _apply(columns, batch, rows, good, received_ns)
    if len(skewed):
        counts[Fault.CLOCK_SKEW] = len(skewed)
        examples[Fault.CLOCK_SKEW] = _example(batch, int(skewed[0]))
    changed = rows[good]
    bounded = _bound_claims(table, batch.group, changed, examples, batch, good)
    if bounded:
        counts[Fault.CLAIM_BOUNDED] = bounded
    table.version += bool(len(good))
    columns.changes += bool(len(good))
    return Taken(
        rows=changed.astype(np.int32), counts=counts, examples=examples, culprits=tuple(culprits), part=batch.part
    )


def _check_things(table: FactTable, batch: Batch, verdict: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Mark unknown rows, senders that do not speak for them, and floods; rows, 0 where unknown: (B,)."""
    rows = batch.rows.astype(np.intp)
    known = (rows >= 0) & (rows < table.high)
    if not known.all():
        rows = np.where(known, rows, 0)
    if table.high:
        known &= table.alive()[rows]
    verdict[~known] = Fault.UNKNOWN
    if table.high:
        speaker = table.owners()[rows] if batch.group.source is Source.OWNER else CENTER_SOURCE
        verdict[known & (batch.source != speaker)] = Fault.FORGED
    if batch.admitted is not None:
        verdict[~batch.admitted & (verdict == Fault.NONE)] = Fault.FLOOD
    return rows


def _check_values(batch: Batch, verdict: NDArray[np.uint8], examples: dict[Fault, Example]) -> None:
    """Mark records with a value that cannot be."""
    place = 0
    for fact in batch.group.facts:
        values = batch.records[fact.name]
        if not fact.numeric:
            fits = (values <= fact.most) | (values == UNKNOWN_CODE)
            if not fits.all():
                _mark(batch, verdict, examples, fact, ~fits, Fault.OUT_OF_RANGE)
            continue
        fits = (values >= fact.least) & (values <= fact.most)  # false for what is not a number, too
        if not fits.all():
            unknown = np.isnan(values) & (batch.records["deviations"][:, place] == NOT_KNOWN)
            wrong = ~fits & ~unknown
            _mark(batch, verdict, examples, fact, wrong & np.isnan(values), Fault.NOT_A_NUMBER)
            _mark(batch, verdict, examples, fact, wrong & (values < 0) & (fact.least >= 0), Fault.NEGATIVE)
            _mark(batch, verdict, examples, fact, wrong & ~np.isnan(values), Fault.OUT_OF_RANGE)
        place += 1


def _mark(
    batch: Batch,
    verdict: NDArray[np.uint8],
    examples: dict[Fault, Example],
    fact: Fact,
    wrong: NDArray[np.bool_],
    fault: Fault,
) -> None:
    wrong = wrong & (verdict == Fault.NONE)
    if wrong.any():
        verdict[wrong] = fault
        if fault not in examples:
            examples[fault] = _example(batch, int(np.argmax(wrong)), fact)


def _newer(rows: NDArray[np.intp], sequence: NDArray[np.uint32], held: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which records are newer than all before them of their row, those of the same batch included: (B,)."""
    newer = sequence > held[rows]
    order = np.argsort(rows, kind="stable") if len(rows) > 1 else np.zeros(0, np.intp)
    sorted_rows = rows[order]
    same = sorted_rows[1:] == sorted_rows[:-1]
    if not same.any():
        return newer
    # A running maximum within each row: the row's place in the order stands above the sequence in one 64-bit number.
    place = np.concatenate([[0], np.cumsum(~same)]).astype(np.uint64) << np.uint64(32)
    ordered = sequence[order]
    before = np.maximum.accumulate(place | ordered)[:-1] & np.uint64(0xFFFFFFFF)
    newer[order[1:]] &= ~same | (ordered[1:] > before)
    return newer


def _apply(
    columns: GroupColumns, batch: Batch, rows: NDArray[np.intp], good: NDArray[np.intp], received_ns: int
) -> NDArray[np.intp]:
    """Write the good records, in order, so that of several for one row the last stays; places of skewed clocks."""
    every = len(good) == len(batch)
    records: Records = batch.records if every else batch.records[good]
    at = rows if every else rows[good]
    for fact in batch.group.facts:
        columns.values[fact.name][at] = records[fact.name]
    for place, fact in enumerate(batch.group.numeric):
        columns.deviations[fact.name][at] = records["deviations"][:, place]
    columns.source[at] = batch.source if every else batch.source[good]
    columns.sequence[at] = records["sequence"]
    generated = records["generated_ns"]
    if batch.part:
        part, whole_ns = columns.parts()
        before = part[at] == 0
        whole_ns[at[before]] = columns.generated_ns[at[before]]
        part[at] = batch.part
    elif columns.part is not None:
        columns.part[at] = 0
    columns.generated_ns[at] = np.clip(generated, 1, received_ns)
    columns.received_ns[at] = received_ns
    skewed = (generated > received_ns + SKEW_AHEAD_NS) | (generated < received_ns - SKEW_BEHIND_NS)
    return good[skewed]


def _of_other_sources(batch: Batch, faulty: NDArray[np.bool_]) -> list[int]:
    """Where each source but the first has its first record with a fault."""
    places = np.flatnonzero(faulty)
    _, first = np.unique(batch.source[places], return_index=True)
    return [int(places[place]) for place in np.sort(first)[1 : CULPRITS_MOST + 1]]


def _bound_claims(
    table: FactTable,
    group: Group,
    rows: NDArray[np.intp],
    examples: dict[Fault, Example],
    batch: Batch,
    good: NDArray[np.intp],
) -> int:
    """Cut claims that this group makes, or that it has measured, to what is believed; how many were cut."""
    cut = 0
    names = {fact.name for fact in group.facts}
    for claiming in BY_KIND[group.kind]:
        for fact in claiming.facts:
            if not fact.measured_as or not names & {fact.name, fact.measured_as}:
                continue
            claims = table.group(claiming.name)
            if claims is None:
                continue
            bound = _bounds(table, fact, rows)
            held = claims.values[fact.name][rows]
            above = held > bound
            if above.any():
                claims.values[fact.name][rows[above]] = bound[above]
                claims.deviations[fact.name][rows[above]] = encode_deviations(bound[above])
                cut += int(above.sum())
                worst = int(np.argmax(np.where(above, held / np.maximum(bound, 1e-30), 0.0)))
                if fact.name in names:
                    example = _example(batch, int(good[worst]), fact, most=float(bound[worst]))
                else:
                    row = int(rows[worst])
                    example = Example(
                        source=int(table.owners()[row]), row=row, group=claiming.name, fact=fact.name,
                        value=float(held[worst]), most=float(bound[worst]),
                    )  # fmt: skip
                before = examples.get(Fault.CLAIM_BOUNDED)
                if before is None or example.value * before.most > before.value * example.most:
                    examples[Fault.CLAIM_BOUNDED] = example
    return cut


def _bounds(table: FactTable, fact: Fact, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """What counts at most of a claim, by row: (B,)."""
    measured: NDArray[Any] = table.column(fact.measured_as)[rows]
    unmeasured = fact.unmeasured_most or fact.most
    return np.where(np.isnan(measured), unmeasured, CLAIM_FACTOR * measured).astype(np.float32)


def _example(batch: Batch, place: int, fact: Fact | None = None, most: float = 0.0) -> Example:
    return Example(
        source=int(batch.source[place]),
        row=int(batch.rows[place]),
        group=batch.group.name,
        fact=fact.name if fact is not None else "",
        value=float(batch.records[fact.name][place]) if fact is not None else 0.0,
        most=most if most else fact.most if fact is not None else 0.0,
    )


def bound_claim(table: FactTable, row: int, fact: str) -> Example | None:
    """Cut one claim that was noted singly to what is believed of it; what was claimed, where that was above."""
    group, found = fact_named(table.kind, fact)
    claims = table.group(group.name)
    if claims is None or not found.measured_as:
        return None
    bound = float(_bounds(table, found, np.asarray([row], np.intp))[0])
    claimed = float(claims.values[fact][row])
    if not claimed > bound:
        return None
    claims.values[fact][row] = bound
    claims.deviations[fact][row] = encode_deviations(bound)
    return Example(source=int(table.owners()[row]), row=row, group=group.name, fact=fact, value=claimed, most=bound)

"""Verification units into columns: what their last measurement showed of their test sets, as rows that questions find.

A unit (MPVU) says in its description how often it answers for one job; how large a test set is, and what of each field
is in it, is known once it has measured on one. The control centre says it, from results that the unit has signed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from daitn.base.ids import NodeId
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork
from daitn.topology.columns import FactTable, Value
from daitn.topology.describing import believed
from daitn.topology.intake import FactIntake
from daitn.topology.taking import CENTER_SOURCE

FIELDS_MOST: Final = 1024
"""Fields of one unit that become rows: what can be asked for must not grow with what a hostile unit invents."""


def describe_tests(intake: FactIntake, node: NodeId, work: EvaluateWork, outcome: EvaluateOutcome, now_ns: int) -> None:
    """A unit has measured a model: what that says of its test set. O(samples + measurements + unit's fields)."""
    book = intake.book
    terminal = book[Kind.TERMINAL].row_of(node)
    if terminal is None:
        return
    told: dict[str, Value] = {
        "test_records": float(sum(sample.records for sample in work.samples)),
        "evaluations_left": float(outcome.evaluations_left),
    }

    def note(table: FactTable, row: int, group: str, values: dict[str, Value]) -> None:
        known = believed(table.kind, values)
        table.note(row, group, known, source=CENTER_SOURCE, generated_ns=now_ns, received_ns=now_ns)

    note(book[Kind.TERMINAL], terminal, "verification", told)
    table = book[Kind.UNIT_FIELD]
    held = int(np.count_nonzero((table.column("terminal") == terminal) & table.alive()))
    for measured in outcome.measurements:
        _, at, field = measured.name.partition("@")
        thing = f"{node}#{field}"
        if not at or (table.row_of(thing) is None and held >= FIELDS_MOST):
            continue
        held += table.row_of(thing) is None
        row = table.add(thing, CENTER_SOURCE)
        values: dict[str, Value] = {"terminal": terminal, "field": field, "field_test_records": float(measured.records)}
        note(table, row, "unit_field", values)

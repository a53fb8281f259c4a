"""Models at hosts into columns: what a host serves, as rows of the map that questions and views find.

The control centre says what a model is and whose host it lies at, because it placed it; how it does is reported by the
host under the same name, `<host's name>/<model>`. What a host serves no more leaves the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

import numpy as np

from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.serving import Replica, ReplicaPhase
from daitn.descriptors.terminals import NodeDescriptor
from daitn.descriptors.texts import TextTask
from daitn.topology.columns import Value
from daitn.topology.describing import believed
from daitn.topology.intake import FactIntake
from daitn.topology.taking import CENTER_SOURCE

FIELD_PREFIX: Final = "accuracy@"


class _Stamps(TypedDict):
    source: int
    generated_ns: int
    received_ns: int


def model_thing(host: str, model: str) -> str:
    """The name of a model at a host on the map."""
    return f"{host}/{model}"


def describe_models(
    intake: FactIntake,
    descriptor: NodeDescriptor,
    replicas: Mapping[str, tuple[Replica, Mapping[str, float]]],
    now_ns: int,
) -> None:
    """Put what a host serves into the columns: by model, the replica and what was measured of its quality.

    O(models · fields).
    """
    book, owner = intake.book, intake.sources.add(descriptor.node)
    terminal = book[Kind.TERMINAL].row_of(descriptor.node)
    if terminal is None:
        return
    table, fields = book[Kind.MODEL], book[Kind.MODEL_FIELD]
    serving = {name: one for name, one in replicas.items() if one[0].phase is ReplicaPhase.SERVING}
    wanted = {model_thing(descriptor.name, name) for name in serving}
    held = np.flatnonzero(table.owners() == owner).tolist()
    gone = [row for row in held if table.id_of(row) not in wanted]
    if gone:
        intake.withdraw(Kind.MODEL, gone)
    for name, (replica, quality) in serving.items():
        thing = model_thing(descriptor.name, name)
        known = len(table)
        row = table.add(thing, owner)
        intake.sources.things[owner] += len(table) - known
        stamps = _Stamps(source=CENTER_SOURCE, generated_ns=now_ns, received_ns=now_ns)
        identity: dict[str, Value] = {"terminal": terminal, "model": name, "model_accessible": True}
        identity["task"] = ", ".join(replica.tasks) or "tensors"
        table.note(row, "model_identity", identity, **stamps)
        if not _reported(intake, row):
            table.note(row, "model_state", believed(Kind.MODEL, _state(replica)), **stamps)
        if "accuracy" in quality:
            table.note(row, "model_quality", {"accuracy": min(1.0, max(0.0, quality["accuracy"]))}, **stamps)
        for target, value in quality.items():
            if target.startswith(FIELD_PREFIX) and 0 <= value <= 1:
                field = target.removeprefix(FIELD_PREFIX)
                bar = fields.add(f"{thing}#{field}", CENTER_SOURCE)
                fields.note(bar, "model_field", {"model": row, "field": field, "field_accuracy": value}, **stamps)


def _state(replica: Replica) -> dict[str, Value]:
    """How it did when its host warmed it up; of one that continues texts, the tokens of a second after the first."""
    measured = replica.measured
    state: dict[str, Value] = {"model_bytes": float(measured.memory_bytes), "service_s": measured.row_s}
    rest_s = measured.batch_s - measured.row_s
    if TextTask.GENERATE in replica.tasks and measured.batch_rows > 1 and rest_s > 0:
        state["tokens_per_s"] = (measured.batch_rows - 1) / rest_s
    return state


def _reported(intake: FactIntake, row: int) -> bool:
    """Whether the host itself has reported how the model does; then that stands."""
    columns = intake.book[Kind.MODEL].group("model_state")
    return columns is not None and bool(columns.sequence[row] > 0)

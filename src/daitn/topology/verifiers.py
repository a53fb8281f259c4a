"""Verification units of a view (MPVU): who answers, which data sets give it a sample, and how large its test set is."""

from __future__ import annotations

import msgspec

from daitn.base.ids import DataSetId, OperatorId
from daitn.descriptors.contract import DataContract
from daitn.descriptors.policy import Use, check_use
from daitn.descriptors.request import Request
from daitn.descriptors.terminals import DataDescriptor, Role
from daitn.descriptors.view import Verifier
from daitn.topology.field_counts import field_counts, held_out_frac
from daitn.topology.knowledge_map import KnowledgeMap, NodeFacts


class _Samples:
    """What each data set would give to a unit, worked out once for a view: whom it gives to depends on the unit's
    operator alone, so that is worked out once for each of those."""

    def __init__(self, usable: list[tuple[NodeFacts, DataDescriptor]], contract: DataContract, use: Use) -> None:
        self._use = use
        self._data = [data for _, data in usable]
        targets = contract.target_fields()
        held_out = {name: held_out_frac(contract, name) for name in targets}
        self._records = [data.records * _given(data, contract.test_frac) for data in self._data]
        self._fields = [
            {name: count * _given(data, held_out[name]) for name, count in field_counts(contract, data).items()}
            for data in self._data
        ]
        self._targets = targets
        self._by_operator: dict[OperatorId, tuple[tuple[DataSetId, ...], float, dict[str, float]]] = {}

    def of(self, operator: OperatorId) -> tuple[tuple[DataSetId, ...], float, dict[str, float]]:
        """For a unit of this operator: the data sets that give it a sample, records in all, and per field."""
        if (known := self._by_operator.get(operator)) is not None:
            return known
        use = msgspec.structs.replace(self._use, operator=operator)
        givers = [place for place, data in enumerate(self._data) if not check_use(data.policy, use)]
        fields = dict.fromkeys(self._targets, 0.0)
        for place in givers:
            for name, count in self._fields[place].items():
                fields[name] = fields.get(name, 0.0) + count
        records = sum(self._records[place] for place in givers)
        found = (tuple(self._data[place].dataset for place in givers), records, fields)
        self._by_operator[operator] = found
        return found


def _given(data: DataDescriptor, held_out_frac: float) -> float:
    """Records given to a unit for each one that trains."""
    return min(data.policy.sample_frac, held_out_frac) / (1 - held_out_frac)


def make_verifiers(
    knowledge: KnowledgeMap,
    usable: list[tuple[NodeFacts, DataDescriptor]],
    request: Request,
    contract: DataContract,
    use: Use,
    evaluations_used: int,
    now_ns: int,
) -> tuple[Verifier, ...]:
    """Units that answer, each with those of the `usable` data sets whose policy gives it a sample. `use`: that
    sample's, whatever the unit's operator. O(units + operators × data sets)."""
    verifiers: list[Verifier] = []
    samples = _Samples(usable, contract, use)
    for unit in knowledge.with_role(Role.VERIFICATION):
        described = unit.descriptor.verification
        if (
            described is None
            or unit.descriptor.node in request.data.exclude_nodes
            or not knowledge.usable(unit, now_ns)
            or knowledge.trust(unit, now_ns) < request.trust_floor
        ):
            continue
        datasets, records, fields = samples.of(unit.descriptor.operator)
        verifiers.append(
            Verifier(
                node=unit.descriptor.node,
                operator=unit.descriptor.operator,
                datasets=datasets,
                sample_records=records,
                sample_fields=dict(fields),
                evaluations_left=max(0, described.evaluations_per_job - evaluations_used),
                flops=unit.flops,
                bytes_per_s=unit.bytes_per_s,
            )
        )
    return tuple(sorted(verifiers, key=lambda one: (-one.sample_records, one.node)))

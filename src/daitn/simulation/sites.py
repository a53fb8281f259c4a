"""A simulated terminal: the real terminal core, with a descriptor made from the scenario instead of measured."""

from __future__ import annotations

from collections.abc import Callable

from daitn.artifacts.itineraries import route_check
from daitn.assembly.terminal import TerminalCore
from daitn.base.ids import DataSetId, DomainId, NodeId, OperatorId, VisitId
from daitn.descriptors.contract import CategoryColumn, NumberColumn
from daitn.descriptors.policy import summarise
from daitn.descriptors.terminals import (
    ComputeDescriptor,
    DataDescriptor,
    Histogram,
    NodeDescriptor,
    Quality,
    Role,
    VerificationDescriptor,
)
from daitn.scenario.spec import DataSpec, NodeSpec, Scenario
from daitn.terminal.reporter import Reporter
from daitn.terminal.roles import DataNode, Roles, VerificationUnit
from daitn.terminal.visit_keeper import KeeperConfig, VisitKeeper

EVALUATIONS = 500


def dataset_id(node: NodeSpec, data: DataSpec) -> DataSetId:
    """How a data set is called in the domain."""
    return DataSetId(f"{node.name}/{data.name}")


class SimulatedSite(TerminalCore):
    """See the module's docstring. `working`: visits whose simulated work is under way in this life."""

    def __init__(
        self,
        node: NodeId,
        spec: NodeSpec,
        scenario: Scenario,
        sign: Callable[[bytes], str],
        public_key: str,
        center_key: str,
    ) -> None:
        self.node = node
        self.spec = spec
        self.public_key = public_key
        self.working: set[VisitId] = set()
        policies = {dataset_id(spec, data): data.policy for data in spec.data}
        roles = Roles(
            data=DataNode(policies) if Role.DATA in spec.roles else None,
            computes=Role.COMPUTE in spec.roles,
            verification=VerificationUnit(node, EVALUATIONS) if Role.VERIFICATION in spec.roles else None,
            aggregates=Role.AGGREGATOR in spec.roles,
        )
        config = KeeperConfig(slots=spec.slots, progress_s=scenario.patience_s / 4)
        check = route_check(node, DomainId(scenario.domain), center_key)
        super().__init__(VisitKeeper(config, roles, sign, check), Reporter(), node)

    def descriptor(self) -> NodeDescriptor:
        """What this node says it is."""
        spec = self.spec
        computes = Role.COMPUTE in spec.roles or Role.VERIFICATION in spec.roles
        return NodeDescriptor(
            node=self.node,
            name=spec.name,
            operator=OperatorId(spec.operator),
            region=spec.region,
            roles=spec.roles,
            public_key=self.public_key,
            access=spec.access,
            data=tuple(self._describe(data) for data in spec.data),
            compute=ComputeDescriptor(
                slots=spec.slots,
                cores=2,
                memory_bytes=8e9,
                storage_bytes=spec.storage_bytes or 1e11,
                flops=spec.flops,
                tariff=spec.tariff,
            )
            if computes
            else None,
            verification=VerificationDescriptor(evaluations_per_job=EVALUATIONS, public_key=self.public_key)
            if Role.VERIFICATION in spec.roles
            else None,
        )

    def _describe(self, data: DataSpec) -> DataDescriptor:
        contract = simulated_labels(data.contract)
        total = sum(data.labels.values())
        return DataDescriptor(
            dataset=dataset_id(self.spec, data),
            version="1",
            contract_name=data.contract,
            columns=(NumberColumn(name="x"), CategoryColumn(name="y", values=contract)),
            group="",
            fields=(),
            records=float(total),
            groups=float(total),
            labels=Histogram(counts={label: float(data.labels.get(label, 0)) for label in contract}),
            field_counts=None,
            quality=Quality(),
            record_bytes=8.0,
            policy=summarise(data.policy),
        )


def simulated_labels(contract: str) -> tuple[str, ...]:
    """The label vocabulary of a simulated contract: `<name>-<count>` has that many."""
    return tuple(str(number) for number in range(int(contract.rpartition("-")[2])))

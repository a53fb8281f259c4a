"""`view_ms`: a training view (MS-DRRT) of a thousand candidates, made for one request from the whole map.

A thousand and a few data sites with compute of their own, of as many operators, each with a data set of ten labels and
two fields; some are barred by their policy, and ten verification units take samples. The view is checked before the
clock runs: who is in it, and who is not.
"""

from __future__ import annotations

import statistics
import time

from daitn.base.ids import ArtifactId, DataSetId, DomainId, NodeId, OperatorId, OwnerId
from daitn.base.units import NS_PER_S
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByValues,
    NumberColumn,
    NumbersInput,
)
from daitn.descriptors.policy import PolicySummary
from daitn.descriptors.request import Request, parse_target
from daitn.descriptors.terminals import (
    ComputeDescriptor,
    DataDescriptor,
    Histogram,
    NodeDescriptor,
    Quality,
    Role,
    VerificationDescriptor,
)
from daitn.descriptors.view import TrainingView
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view

CANDIDATES = 1_000
BARRED = 20
UNITS = 10
NOW_NS = 1_700_000_000 * NS_PER_S
LABELS = tuple(str(number) for number in range(10))

CONTRACT = DataContract(
    name="digits",
    columns=(NumberColumn(name="x"), CategoryColumn(name="y", values=LABELS)),
    inputs=(NumbersInput(name="x", columns=("x",)),),
    task=Classification(label="y"),
    fields=(
        FieldByValues(name="low", column="y", values=LABELS[:5]),
        FieldByValues(name="high", column="y", values=LABELS[5:]),
    ),
)


def make_knowledge() -> KnowledgeMap:
    """The map that the view is made of."""
    knowledge = KnowledgeMap()
    for number in range(CANDIDATES + BARRED + UNITS):
        unit = number >= CANDIDATES + BARRED
        node = NodeId(f"n{number:04d}")
        compute = ComputeDescriptor(slots=1, cores=2, memory_bytes=8e9, storage_bytes=1e11, flops=1e10)
        roles = (Role.VERIFICATION,) if unit else (Role.DATA, Role.COMPUTE)
        knowledge.describe(
            NodeDescriptor(
                node=node,
                name=f"site-{number}",
                operator=OperatorId("trust" if unit else f"operator-{number}"),
                roles=roles,
                public_key="",
                data=() if unit else (_data(number),),
                compute=compute,
                verification=VerificationDescriptor(evaluations_per_job=100, public_key="") if unit else None,
            ),
            1,
            NOW_NS,
        )
        knowledge.heard(node, 1, NOW_NS)
    return knowledge


def _data(number: int) -> DataDescriptor:
    policy = PolicySummary(
        owners=("*",),
        purposes=("care",) if number < CANDIDATES else ("research",),
        methods=("*",),
        raw_records="stay",
        compute_operators=(),
        sample_frac=0.2,
        verification_operators=("trust",),
        signers=(),
    )
    counts = {label: 100.0 + (number * place) % 37 for place, label in enumerate(LABELS)}
    return DataDescriptor(
        dataset=DataSetId(f"site-{number}/records"),
        version="1",
        contract_name=CONTRACT.name,
        columns=CONTRACT.columns,
        group="",
        fields=CONTRACT.fields,
        records=sum(counts.values()),
        groups=sum(counts.values()),
        labels=Histogram(counts=counts),
        field_counts=None,
        quality=Quality(),
        record_bytes=8.0,
        policy=policy,
    )


def make_views(repeats: int) -> dict[str, float]:
    """Milliseconds of making the view, over `repeats` of them."""
    knowledge = make_knowledge()
    request = Request(
        name="digits",
        package=ArtifactId("0" * 64),
        purpose="care",
        targets=(parse_target("accuracy >= 0.9"), parse_target("accuracy@low >= 0.9")),
        deadline_s=3600.0,
    )
    asker = Asker(owner=OwnerId("owner"), signer="signer", method="sequential", domain=DomainId("benchmark"))

    def make() -> TrainingView:
        return make_training_view(knowledge, request, CONTRACT, asker, {}, (), NOW_NS + NS_PER_S)

    view = make()
    found = (len(view.candidates), len(view.excluded), len(view.verifiers))
    if found != (CANDIDATES, BARRED, UNITS):
        raise SystemExit(f"the view has {found} candidates, exclusions and units: {view.excluded[:2]}")
    took: list[float] = []
    spent: list[float] = []
    for _ in range(repeats):
        start, before = time.perf_counter(), time.process_time()
        make()
        took.append(1000 * (time.perf_counter() - start))
        spent.append(1000 * (time.process_time() - before))
    by_clock = {"view_ms": statistics.median(took), "view_ms_min": min(took), "view_ms_max": max(took)}
    return by_clock | {"view_cpu_ms": statistics.median(spent)}

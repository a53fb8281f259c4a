"""Training views (MS-DRRT): from the whole map to the few pairs of data and compute that one request can use.

Paper II-A: DRRT-O turns the G-KRRM into model-specific topologies. Everything that could have served and may not is
listed with its reason, so that a refusal can name it. Cost: O(data sets × compute nodes in the trust zone).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from daitn.base.ids import CENTER, DataSetId, DomainId, NodeId, OperatorId, OwnerId
from daitn.base.units import show_bytes
from daitn.descriptors.contract import Classification, DataContract, FieldByColumn, FieldByValues
from daitn.descriptors.fitting import fits
from daitn.descriptors.outcome import Exclusion, ReasonCode
from daitn.descriptors.policy import Use, check_use, to_train
from daitn.descriptors.request import Budget, Request
from daitn.descriptors.terminals import ComputeDescriptor, DataDescriptor, Role
from daitn.descriptors.view import AggregatorSite, Candidate, TrainingView, Verifier
from daitn.descriptors.work import TaughtBy
from daitn.learning.methods import splits
from daitn.topology.knowledge_map import KnowledgeMap, NodeFacts
from daitn.topology.relevance import relevance_shares
from daitn.topology.split_pairs import cut_between, partners_for

TRUST_LEAST: Final = 0.4
"""Sites trusted less are left out while others serve: three lost visits, two harmful ones or one refuted claim of a
newcomer get there."""


FORECAST_S: Final = 300.0
"""How far ahead the availability of a candidate is forecast: some visits, fetch and return included."""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a view is made, and what the run has learnt so far."""

    owner: OwnerId
    signer: str
    method: str
    """The method that will be used: the owner's, the running plan's, or the network's first choice."""
    domain: DomainId
    evaluations_used: int = 0
    package_bytes: int = 0
    """What a site must have room for to fetch the model."""
    begun: bool = True
    """Whether visits are being ordered. Before that, room counts that other jobs hold now: they let go of it."""
    promised_bytes: dict[NodeId, int] = {}
    """Before visits are ordered: room at nodes that is promised to other jobs."""
    holding: frozenset[NodeId] = frozenset()
    """Nodes that hold models of this job: what they publish as room leaves those out."""
    barred: tuple[DataSetId, ...] = ()
    """Data sets that refused or harmed this job."""
    needs: dict[str, float] = {}
    """Field → how far the model is from perfect there, where a unit has measured it."""
    taught: tuple[TaughtBy, ...] = ()
    """What samples of data sets taught the model of each field at a unit."""


def field_counts(contract: DataContract, data: DataDescriptor) -> dict[str, float]:
    """Records per field of the contract, from the label histogram where the rule speaks of the label."""
    counts: dict[str, float] = {}
    published = data.field_counts.counts if data.field_counts is not None else {}
    label = contract.task.label if isinstance(contract.task, Classification) else ""
    labels = data.labels.counts if data.labels is not None else {}
    for rule in contract.fields:
        if isinstance(rule, FieldByValues):
            if rule.column == label:
                counts[rule.name] = sum(labels.get(value, 0.0) for value in rule.values)
            else:
                counts[rule.name] = published.get(rule.name, 0.0)
        elif isinstance(rule, FieldByColumn):
            source = labels if rule.column == label else published
            counts.update({name: source.get(name, 0.0) for name in contract.field_names() if name in source})
    # A mean can be taught as far as its fields can: what counts is that any of them is there.
    return counts | {one.name: sum(counts.get(name, 0.0) for name in one.fields) for one in contract.means}


def _test_frac(contract: DataContract, field: str) -> float:
    """Share of a field's groups that is held out, as far as the contract's rules tell."""
    rule = next((one for one in contract.fields if isinstance(one, FieldByValues) and one.name == field), None)
    shares = [
        share.frac
        for share in contract.held_out_shares
        if rule is not None and rule.column == share.column and set(rule.values) <= set(share.values)
    ]
    return max(shares, default=contract.test_frac)


def _exclude(data: DataDescriptor, code: ReasonCode, why: str) -> Exclusion:
    return Exclusion(dataset=data.dataset, code=code, why=why)


class _Fitting:
    """Whether data sets fit a contract; those with the same columns are compared with it once."""

    def __init__(self, contract: DataContract) -> None:
        self._contract = contract
        self._known: dict[object, tuple[str, ...]] = {}

    def faults(self, data: DataDescriptor) -> tuple[str, ...]:
        """What does not fit."""
        form = (data.columns, data.fields, data.group)
        if (known := self._known.get(form)) is None:
            known = self._known[form] = tuple(fits(self._contract, *form))
        return known


def _judge(
    knowledge: KnowledgeMap,
    facts: NodeFacts,
    data: DataDescriptor,
    request: Request,
    contract: DataContract,
    fitting: _Fitting,
    asker: Asker,
    now_ns: int,
) -> Exclusion | None:
    """Why this data set cannot be used for this request, or None."""
    if faults := fitting.faults(data):
        return _exclude(data, ReasonCode.NO_DATA, "does not fit the contract: " + "; ".join(faults[:3]))
    if request.data.include and data.dataset not in request.data.include:
        return _exclude(data, ReasonCode.NO_DATA, "not among the data sets the request names")
    if data.dataset in request.data.exclude or facts.descriptor.node in request.data.exclude_nodes:
        return _exclude(data, ReasonCode.NO_DATA, "excluded by the request")
    if data.dataset in asker.barred:
        return _exclude(data, ReasonCode.POLICY, "barred from this job, as its log says")
    lacking = [base for base in contract.bases() if base not in facts.descriptor.bases]
    if lacking:
        return _exclude(data, ReasonCode.NO_DATA, f"the base {lacking[0][:16]} is not at its site")
    if contract.bases() and data.policy.cache_activations == "no":
        return _exclude(data, ReasonCode.POLICY, "cache_activations: asked for a frozen base's, allowed no")
    use = to_train(asker.owner, request.purpose, asker.method, asker.signer, request.epsilon)
    refusals = check_use(data.policy, use)
    if refusals:
        text = "; ".join(f"{fault.rule}: asked {fault.asked!r}, allowed {fault.allowed}" for fault in refusals)
        return _exclude(data, ReasonCode.POLICY, text)
    if splits(asker.method) and data.policy.activations == "stay":
        return _exclude(data, ReasonCode.POLICY, "activations: asked to give them to a compute site, allowed stay")
    if not knowledge.usable(facts, now_ns):
        age = knowledge.age_s(facts, now_ns)
        return _exclude(data, ReasonCode.NO_DATA, f"site not reachable, last heard of {age:.0f} s ago")
    if knowledge.trust(facts, now_ns) < request.trust_floor:
        return _exclude(
            data,
            ReasonCode.TRUST,
            f"trust {knowledge.trust(facts, now_ns):.2f}, the request asks for {request.trust_floor:.2f}",
        )
    return None


def _computes_for(
    knowledge: KnowledgeMap, facts: NodeFacts, data: DataDescriptor, request: Request, now_ns: int
) -> tuple[list[NodeFacts], str]:
    """Where this data can be trained on: at home, or at compute sites in its trust zone. Else the reason why not."""
    if facts.descriptor.compute is not None and Role.COMPUTE in facts.descriptor.roles:
        return [facts], ""
    if request.raw_records == "stay":
        return [], "its site has no compute and the request keeps records at their site"
    if data.policy.raw_records == "stay":
        return [], "its site has no compute and its policy keeps records there"
    zone = [
        other
        for other in knowledge.with_role(Role.COMPUTE)
        if other.descriptor.compute is not None
        and knowledge.usable(other, now_ns)
        and ("*" in data.policy.compute_operators or other.descriptor.operator in data.policy.compute_operators)
    ]
    return zone, "" if zone else "no compute site of its trust zone is reachable"


def make_training_view(
    knowledge: KnowledgeMap,
    request: Request,
    contract: DataContract,
    asker: Asker,
    measured_batch_s: Mapping[tuple[DataSetId, NodeId], float],
    resting: Collection[NodeId],
    now_ns: int,
) -> TrainingView:
    """The view for one request now. `measured_batch_s`: seconds per batch at earlier visits of this job; `resting`:
    nodes that failed a moment ago and are left out unless nothing else is there."""
    excluded: list[Exclusion] = []
    candidates: list[Candidate] = []
    usable: list[tuple[NodeFacts, DataDescriptor]] = []
    fitting = _Fitting(contract)
    foreign = bool(request.domains) and asker.domain not in request.domains
    for facts in knowledge.nodes():
        for data in facts.descriptor.data:
            if foreign:
                excluded.append(_exclude(data, ReasonCode.DOMAIN, f"domain {asker.domain} is not among those allowed"))
                continue
            exclusion = _judge(knowledge, facts, data, request, contract, fitting, asker, now_ns)
            if exclusion is not None:
                excluded.append(exclusion)
                continue
            usable.append((facts, data))
            if splits(asker.method):
                computes, why = partners_for(knowledge, facts, data, now_ns)
            else:
                computes, why = _computes_for(knowledge, facts, data, request, now_ns)
            if not computes:
                excluded.append(_exclude(data, ReasonCode.NO_COMPUTE, why))
                continue
            roomy = [compute for compute in computes if has_room(compute, asker)]
            if not roomy:
                excluded.append(_without_room(data, computes, asker))
            for compute in roomy:
                found = _candidate(knowledge, facts, data, compute, contract, measured_batch_s, now_ns)
                candidates.append(cut_between(found, knowledge, facts, compute) if splits(asker.method) else found)
    if resting:
        awake = [one for one in candidates if one.compute_node not in resting]
        awake = [one for one in awake if not one.split or one.data_node not in resting] or awake
        candidates = awake or candidates
    candidates, distrusted = _without_distrusted(candidates)
    candidates, unstated = _stating(candidates, request.budget)
    excluded += distrusted + unstated
    return TrainingView(
        version=knowledge.version,
        made_at_ns=now_ns,
        candidates=tuple(_with_relevance(candidates, [data for _, data in usable], contract, asker)),
        excluded=tuple(excluded),
        verifiers=_verifiers(knowledge, usable, request, contract, asker, now_ns),
        aggregators=tuple(
            AggregatorSite(node=facts.descriptor.node, bytes_per_s=facts.bytes_per_s)
            for facts in knowledge.with_role(Role.AGGREGATOR)
            if knowledge.usable(facts, now_ns)
        ),
    )


def has_room(compute: NodeFacts, asker: Asker) -> bool:
    """Whether the model fits into a node's store, by what the node says of it."""
    machine = compute.descriptor.compute
    if machine is None:
        return False
    node = compute.descriptor.node
    return _room_bytes(node, machine, asker) >= asker.package_bytes or node in asker.holding


def _room_bytes(node: NodeId, machine: ComputeDescriptor, asker: Asker) -> float:
    if asker.begun:
        return machine.storage_bytes
    return max(0.0, max(machine.storage_bytes, machine.store_bytes) - asker.promised_bytes.get(node, 0))


def _stating(candidates: list[Candidate], budget: Budget) -> tuple[list[Candidate], list[Exclusion]]:
    """Candidates that state what the owner bounds: what is not stated cannot be kept account of. All where none does:
    admission says that."""
    excluded: dict[DataSetId, Exclusion] = {}
    for code, bound, fact in (
        (ReasonCode.PRICE, budget.price, "price_per_hour"),
        (ReasonCode.ENERGY, budget.energy_joules, "watts"),
    ):
        stating = [one for one in candidates if getattr(one.tariff, fact) is not None]
        if bound is None or not stating:
            continue
        why = f"the request has a budget of {code.value}, its site states no {fact}"
        left_out = {one.dataset for one in candidates} - {one.dataset for one in stating}
        excluded |= {name: Exclusion(dataset=name, code=code, why=why) for name in sorted(left_out)}
        candidates = stating
    return candidates, list(excluded.values())


def _without_room(data: DataDescriptor, computes: list[NodeFacts], asker: Asker) -> Exclusion:
    machines = [(one.descriptor.node, one.descriptor.compute) for one in computes]
    most = max(_room_bytes(node, machine, asker) for node, machine in machines if machine is not None)
    why = f"the model takes {show_bytes(asker.package_bytes)}, its site has room for {show_bytes(most)}"
    if promised := max(asker.promised_bytes.get(node, 0) for node, _ in machines):
        why += f" beside {show_bytes(promised)} that are promised to other jobs until they end"
    return _exclude(data, ReasonCode.STORAGE, why)


def _without_distrusted(candidates: list[Candidate]) -> tuple[list[Candidate], list[Exclusion]]:
    """Candidates trusted enough, and why the others are left out. They stay where nothing else has their labels and
    fields: a site with the only records of a kind is watched by verification, not shunned."""
    trusted = [candidate for candidate in candidates if candidate.trust >= TRUST_LEAST]
    left_out = [candidate for candidate in candidates if candidate.trust < TRUST_LEAST]
    if not trusted or not left_out or kinds(trusted) < kinds(candidates):
        return candidates, []
    why = "trust {:.2f} is below {:.2f}, and others have records of the same kinds"
    kept = {candidate.dataset for candidate in trusted}
    excluded = {
        candidate.dataset: Exclusion(
            dataset=candidate.dataset, code=ReasonCode.TRUST, why=why.format(candidate.trust, TRUST_LEAST)
        )
        for candidate in left_out
        if candidate.dataset not in kept
    }
    return trusted, list(excluded.values())


def kinds(candidates: Sequence[Candidate]) -> set[str]:
    """Labels and fields that some candidate has records of."""
    found: set[str] = set()
    for candidate in candidates:
        found |= {f"label {label}" for label, count in candidate.labels.items() if count > 0}
        found |= {f"field {field}" for field, count in candidate.fields.items() if count > 0}
    return found


def _candidate(
    knowledge: KnowledgeMap,
    facts: NodeFacts,
    data: DataDescriptor,
    compute: NodeFacts,
    contract: DataContract,
    measured_batch_s: Mapping[tuple[DataSetId, NodeId], float],
    now_ns: int,
) -> Candidate:
    node = compute.descriptor.node
    machine = compute.descriptor.compute
    assert machine is not None
    return Candidate(
        dataset=data.dataset,
        data_node=facts.descriptor.node,
        compute_node=node,
        streamed=node != facts.descriptor.node,
        records=data.records,
        groups=data.groups,
        labels=dict(data.labels.counts) if data.labels is not None else {},
        fields=field_counts(contract, data),
        record_bytes=data.record_bytes,
        relevance={},
        flops=machine.flops,
        memory_bytes=machine.memory_bytes,
        slots=machine.slots,
        batch_s=measured_batch_s.get((data.dataset, node)),
        bytes_per_s=compute.bytes_per_s,
        latency_s=_latency_s(knowledge, facts, compute),
        trust=min(knowledge.trust(facts, now_ns), knowledge.trust(compute, now_ns)),
        availability=_availability(knowledge, (facts, compute), now_ns),
        age_s=max(knowledge.age_s(facts, now_ns), knowledge.age_s(compute, now_ns)),
        tariff=machine.tariff,
    )


def _latency_s(knowledge: KnowledgeMap, facts: NodeFacts, compute: NodeFacts) -> float:
    """Round trip that a visit there waits for: to where its records come from, else to the control centre."""
    node, home = compute.descriptor.node, facts.descriptor.node
    return knowledge.gathered.round_trip_s(node, home if home != node else CENTER) or 0.0


def _availability(knowledge: KnowledgeMap, needed: tuple[NodeFacts, ...], now_ns: int) -> float:
    """Share of the time to come for which all nodes needed can be counted on: planned windows and past absences."""
    nodes = {one.descriptor.node: one.descriptor.access for one in needed}
    shares = [knowledge.gathered.availability_over(*node, now_ns, FORECAST_S) for node in nodes.items()]
    return min(shares)


def _with_relevance(
    candidates: list[Candidate], data: list[DataDescriptor], contract: DataContract, asker: Asker
) -> list[Candidate]:
    """Each candidate with its data set's share of the help that all together promise, over all and per field."""
    found = {candidate.dataset for candidate in candidates}
    data = [one for one in data if one.dataset in found]
    names = contract.target_fields()
    counts = [field_counts(contract, one) for one in data]
    fields_SF = np.array([[count.get(name, 0.0) for name in names] for count in counts]).reshape(len(data), len(names))
    shares = relevance_shares(contract, data, fields_SF, asker.needs, asker.taught)
    return [msgspec.structs.replace(one, relevance=shares[one.dataset]) for one in candidates]


class _Samples:
    """What each data set would give to a unit, worked out once for a view: whom it gives to depends on the unit's
    operator alone, so that is worked out once for each of those."""

    def __init__(
        self, usable: list[tuple[NodeFacts, DataDescriptor]], request: Request, contract: DataContract, asker: Asker
    ) -> None:
        self._request, self._asker = request, asker
        self._data = [data for _, data in usable]
        targets = contract.target_fields()
        held_out = {name: _test_frac(contract, name) for name in targets}
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
        use = Use(
            owner=self._asker.owner,
            purpose=self._request.purpose,
            method="*",
            signer=self._asker.signer,
            kind="sample",
            operator=operator,
        )
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


def _verifiers(
    knowledge: KnowledgeMap,
    usable: list[tuple[NodeFacts, DataDescriptor]],
    request: Request,
    contract: DataContract,
    asker: Asker,
    now_ns: int,
) -> tuple[Verifier, ...]:
    """Units that answer, each with the data sets whose policy gives it a sample."""
    verifiers: list[Verifier] = []
    samples = _Samples(usable, request, contract, asker)
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
        machine = unit.descriptor.compute
        verifiers.append(
            Verifier(
                node=unit.descriptor.node,
                operator=unit.descriptor.operator,
                datasets=datasets,
                sample_records=records,
                sample_fields=dict(fields),
                evaluations_left=max(0, described.evaluations_per_job - asker.evaluations_used),
                flops=machine.flops if machine is not None else 0.0,
                bytes_per_s=unit.bytes_per_s,
            )
        )
    return tuple(sorted(verifiers, key=lambda one: (-one.sample_records, one.node)))

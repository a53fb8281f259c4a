"""Training views (MS-DRRT): from the whole map to the few pairs of data and compute that one request can use.

Paper II-A: DRRT-O turns the G-KRRM into model-specific topologies. Everything that could have served and may not is
listed with its reason, so that a refusal can name it. Cost: O(data sets × compute nodes in the trust zone).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from daitn.base.ids import CENTER, DataSetId, DomainId, NodeId, OwnerId
from daitn.base.units import NS_PER_S, show_bytes, show_seconds
from daitn.descriptors.access import open_frac, open_span
from daitn.descriptors.contract import DataContract
from daitn.descriptors.fitting import fits
from daitn.descriptors.outcome import Exclusion, ReasonCode
from daitn.descriptors.policy import Use, check_use, to_train
from daitn.descriptors.request import Budget, Request
from daitn.descriptors.terminals import ComputeDescriptor, DataDescriptor, Role
from daitn.descriptors.view import AggregatorSite, Candidate, TrainingView
from daitn.descriptors.work import TaughtBy
from daitn.learning.methods import splits
from daitn.topology.field_counts import field_counts
from daitn.topology.knowledge_map import KnowledgeMap, NodeFacts
from daitn.topology.relevance import relevance_shares
from daitn.topology.split_pairs import cut_between, partners_for
from daitn.topology.verifiers import make_verifiers

TRUST_LEAST: Final = 0.4
"""Sites trusted less are left out while others serve: three lost visits, two harmful ones or one refuted claim of a
newcomer get there."""


FORECAST_S: Final = 300.0
"""How far ahead the availability of a candidate is forecast: some visits, fetch and return included."""


SHARE_LEAST: Final = 1e-3
"""Least share of the time that a site open now is taken to be there: what is divided by it stays finite."""


DEVIATIONS: Final = 2.0
"""Of the noise in what a data set says of its changes: what may as well be noise is not taken for a change."""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a view is made, and what the run has learnt so far."""

    owner: OwnerId
    signer: str
    method: str
    """The method that will be used: the owner's, the running plan's, or the network's first choice."""
    domain: DomainId
    open: bool = False
    """Whether the network may take another method: then the view says where the model could be cut, too."""
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
    if (closed := _closed(facts, now_ns)) != "":
        return _exclude(data, ReasonCode.NO_DATA, closed)
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


def _closed(facts: NodeFacts, now_ns: int) -> str:
    """Why a site's access is not there by plan, and when it opens; empty while it is."""
    now_s = now_ns / NS_PER_S
    span = open_span(facts.descriptor.access, now_s)
    if span is None:
        return "the last window of its access is over"
    return f"its access opens in {show_seconds(span[0] - now_s)}" if span[0] > now_s else ""


def _sample_use(request: Request, asker: Asker) -> Use:
    return Use(owner=asker.owner, purpose=request.purpose, method="*", signer=asker.signer, kind="sample")


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
    cut: list[Candidate] = []
    usable: list[tuple[NodeFacts, DataDescriptor]] = []
    fitting = _Fitting(contract)
    # While visits are ordered a site is as quick as it is; how long it is there for is said by its availability.
    planned_s = 0.0 if asker.begun else request.deadline_s
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
            if asker.open and _may_be_cut(data, request, asker):
                for one in partners_for(knowledge, facts, data, now_ns)[0]:
                    found = _candidate(knowledge, facts, data, one, contract, measured_batch_s, planned_s, now_ns)
                    cut += [cut_between(found, knowledge, facts, one, now_ns)] if has_room(one, asker) else []
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
                found = _candidate(knowledge, facts, data, compute, contract, measured_batch_s, planned_s, now_ns)
                candidates.append(
                    cut_between(found, knowledge, facts, compute, now_ns) if splits(asker.method) else found
                )
    candidates = _awake(candidates, resting)
    candidates, distrusted = _without_distrusted(candidates)
    candidates, unstated = _stating(candidates, request.budget)
    excluded += distrusted + unstated
    return TrainingView(
        version=knowledge.version,
        made_at_ns=now_ns,
        candidates=tuple(_with_relevance(candidates, [data for _, data in usable], contract, asker)),
        cut=tuple(_with_relevance(_awake(cut, resting), [data for _, data in usable], contract, asker)),
        excluded=tuple(excluded),
        verifiers=make_verifiers(
            knowledge, usable, request, contract, _sample_use(request, asker), asker.evaluations_used, now_ns
        ),
        aggregators=tuple(
            AggregatorSite(node=facts.descriptor.node, bytes_per_s=facts.bytes_per_s)
            for facts in knowledge.with_role(Role.AGGREGATOR)
            if knowledge.usable(facts, now_ns)
        ),
    )


def _awake(candidates: list[Candidate], resting: Collection[NodeId]) -> list[Candidate]:
    """Without nodes that rest, while others are there."""
    awake = [one for one in candidates if one.compute_node not in resting]
    awake = [one for one in awake if not one.split or one.data_node not in resting] or awake
    return awake or candidates


def _may_be_cut(data: DataDescriptor, request: Request, asker: Asker) -> bool:
    """Whether a data owner lets split learning use what another method may."""
    use = to_train(asker.owner, request.purpose, "split", asker.signer, request.epsilon)
    return data.policy.activations != "stay" and not check_use(data.policy, use)


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
    planned_s: float,
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
        flops=compute.flops,
        memory_bytes=machine.memory_bytes,
        slots=machine.slots,
        batch_s=measured_batch_s.get((data.dataset, node)),
        bytes_per_s=compute.bytes_per_s,
        share=_planned_share((facts, compute), planned_s, now_ns),
        latency_s=_latency_s(knowledge, facts, compute),
        trust=min(knowledge.trust(facts, now_ns), knowledge.trust(compute, now_ns)),
        wait_s=compute.wait_s(now_ns),
        availability=_availability(knowledge, (facts, compute), now_ns),
        age_s=max(knowledge.age_s(facts, now_ns), knowledge.age_s(compute, now_ns)),
        tariff=machine.tariff,
        methods=data.policy.methods,
        arrival_per_day=_arrival_per_day(data),
        drift=_drift(data),
    )


def _arrival_per_day(data: DataDescriptor) -> float:
    """Records that arrive, less what noise may have made of it."""
    found = data.dynamics
    return 0.0 if found is None else max(0.0, found.arrival_per_day - DEVIATIONS * (found.arrival_std_per_day or 0.0))


def _drift(data: DataDescriptor) -> float:
    """How far labels are from what they were, less twice what noise makes of it in the mean."""
    found = data.dynamics
    return 0.0 if found is None or found.drift is None else max(0.0, found.drift - DEVIATIONS * found.drift_noise)


def _latency_s(knowledge: KnowledgeMap, facts: NodeFacts, compute: NodeFacts) -> float:
    """Round trip that a visit there waits for: to where its records come from, else to the control centre."""
    node, home = compute.descriptor.node, facts.descriptor.node
    return knowledge.gathered.round_trip_s(node, home if home != node else CENTER) or 0.0


def _availability(knowledge: KnowledgeMap, needed: tuple[NodeFacts, ...], now_ns: int) -> float:
    """Share of the time to come for which all nodes needed can be counted on: planned windows and past absences."""
    nodes = {one.descriptor.node: one.descriptor.access for one in needed}
    shares = [knowledge.gathered.availability_over(*node, now_ns, FORECAST_S) for node in nodes.items()]
    return min(shares)


def _planned_share(needed: tuple[NodeFacts, ...], planned_s: float, now_ns: int) -> float:
    """Share of the next seconds in which the access of all nodes needed is there, by plan."""
    now_s = now_ns / NS_PER_S
    return max(SHARE_LEAST, min(open_frac(one.descriptor.access, now_s, now_s + planned_s) for one in needed))


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

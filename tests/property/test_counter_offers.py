"""For any network and request: a refusal names what truly fails, and its offer, taken exactly, is admitted."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    OWNER,
    START_NS,
    make_compute,
    make_contract,
    make_data,
    make_mixer,
    make_package,
    make_policy,
    make_request,
    make_site,
    make_unit,
)

from daitn.base.ids import DomainId, NodeId, OperatorId
from daitn.control_center.training.admission import TrainingAdmission
from daitn.decision.facts import Preflight
from daitn.decision.feasibility import Known
from daitn.decision.promises import Owed, Promises
from daitn.descriptors.policy import summarise
from daitn.descriptors.request import Budget, Request, Selection
from daitn.descriptors.terminals import NodeDescriptor, Role
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import CurvePoint, Measurement
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view

laws = settings(deadline=None, derandomize=True, max_examples=200)

policies = st.builds(
    make_policy,
    owners=st.sampled_from([("*",), ("ada",), ("grace",), ()]),
    purposes=st.sampled_from([("care",), ("*",), ("billing",)]),
    methods=st.sampled_from([("*",), ("tram-fl", "cyclic"), ("fedavg",)]),
    raw_records=st.sampled_from(["stay", "trust-zone"]),
    compute_operators=st.sampled_from([(), ("lab",), ("*",)]),
    sample_frac=st.sampled_from([0.0, 0.05, 0.2]),
    verification_operators=st.sampled_from([(), ("trust",)]),
)


@st.composite
def sites(draw: st.DrawFn, number: int) -> NodeDescriptor:
    """A data site with any labels and policy, with or without compute."""
    counts = draw(st.dictionaries(st.sampled_from(["0", "1"]), st.floats(0, 500), max_size=2))
    data = make_data(f"s{number}", counts, policy=summarise(draw(policies)))
    computes = draw(st.booleans())
    return make_site(
        number,
        data=(data,),
        roles=(Role.DATA, Role.COMPUTE) if computes else (Role.DATA,),
        compute=make_compute(memory_bytes=draw(st.sampled_from([1e6, 1e9, 8e9]))) if computes else None,
    )


@st.composite
def networks(draw: st.DrawFn) -> KnowledgeMap:
    """Some sites, and perhaps a machine, a unit and an aggregator; some have broken promises, some are away."""
    knowledge = KnowledgeMap()
    nodes = [draw(sites(number + 1)) for number in range(draw(st.integers(0, 4)))]
    if draw(st.booleans()):
        nodes.append(make_site(7, data=(), roles=(Role.COMPUTE,), operator=OperatorId("lab")))
    nodes += [node for node in (make_unit(), make_mixer()) if draw(st.integers(0, 4))]
    for node in nodes:
        knowledge.describe(node, 1, START_NS)
        for _ in range(draw(st.integers(0, 2))):
            knowledge.found(NodeId(node.node), Evidence.BROKEN, START_NS)
        if not draw(st.integers(0, 9)):
            knowledge.vanished(node.node)
    return knowledge


names = st.sampled_from(["s1/records", "s2/records", "s9/records"])
requests = st.builds(
    lambda targets, **rest: make_request(*targets, **rest),
    targets=st.lists(
        st.sampled_from(["accuracy >= 0.9", "accuracy@ones >= 0.8", "recall[1] >= 0.5", "recall[0]@ones >= 0.5"]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    deadline_s=st.sampled_from([0.001, 1.0, 3600.0]),
    budget=st.builds(
        Budget,
        transfer_bytes=st.sampled_from([None, 0, 5000, 10**9]),
        visits=st.sampled_from([None, 0, 1, 100]),
        energy_joules=st.sampled_from([None, 1.0]),
        price=st.sampled_from([None, 0.0]),
    ),
    raw_records=st.sampled_from(["stay", "trust-zone"]),
    trust_floor=st.sampled_from([0.0, 0.001, 0.6, 1.0]),
    chance_floor=st.sampled_from([0.0, 0.25, 0.9, 1.0]),
    method=st.sampled_from(["", "", "sorcery", *METHODS]),
    domains=st.sampled_from([(), (DomainId("demo"),), (DomainId("other"),)]),
    data=st.builds(
        Selection,
        include=st.lists(names, max_size=2, unique=True).map(tuple),
        exclude=st.sampled_from([(), ("s3/records",)]),
        min_records=st.sampled_from([0, 0, 100, 10_000]),
        min_records_field=st.sampled_from([{}, {"ones": 50}, {"ones": 5000}]),
    ),
)
NAMES = ("accuracy", "accuracy@ones", "recall[1]", "recall[0]@ones")
"""What the targets below speak of."""


@st.composite
def curves(draw: st.DrawFn) -> tuple[CurvePoint, ...]:
    """What a trial may have found: anything between 0 and 1, at 0 to 3 sizes."""

    def figure(name: str) -> Measurement:
        value = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.97, 1.0, float("nan")]))
        records = draw(st.integers(0, 99))
        return Measurement(name=name, value=value, low=value - 0.05, high=value + 0.05, records=records)

    sizes = draw(st.sampled_from([(), (0, 50), (0, 25, 50)]))
    return tuple(CurvePoint(records=size, measurements=tuple(figure(name) for name in NAMES)) for size in sizes)


preflights = st.one_of(
    st.sampled_from([None, None, Preflight(overfits=True), Preflight(overfits=False), Preflight(fault="no")]),
    curves().map(lambda curve: Preflight(overfits=True, curve=curve)),
)


def admission_of(knowledge: KnowledgeMap) -> TrainingAdmission:
    """Admission on a map that does not change."""

    def view(request: Request) -> TrainingView:
        asker = Asker(owner=OWNER, signer="signer", method=request.method or FIRST_CHOICE, domain=DomainId("demo"))
        return make_training_view(knowledge, request, make_contract(), asker, {}, (), START_NS)

    return TrainingAdmission(view)


promises = st.one_of(
    st.just(Promises()),
    st.dictionaries(
        st.sampled_from([f"n{number:04d}" for number in range(1, 9)]).map(NodeId),
        st.lists(st.builds(Owed, st.floats(0.1, 5000), st.floats(0, 5000)), min_size=1, max_size=3).map(tuple),
    ).map(Promises),
)
"""What other jobs hold at some sites."""


@laws
@given(networks(), requests, preflights, promises)
def test_refusals_are_true_and_offers_are_kept(
    knowledge: KnowledgeMap, request: Request, preflight: Preflight | None, held: Promises
) -> None:
    """The two promises of a verdict."""
    admission, package = admission_of(knowledge), make_package()
    known = Known(preflight, promises=held)
    verdict, judged, view = admission.assess(request, package, known)

    assert (verdict.outcome == "admitted") == (not verdict.failed())
    for failed in verdict.failed():
        assert failed.what
        assert failed.required
        assert failed.available
        if failed.required_value is not None and failed.available_value is not None:
            assert failed.required_value > failed.available_value
    if verdict.outcome == "admitted":
        assert verdict.counter_offer is None
        assert view.candidates
        assert view.verifiers
        assert {stop.dataset for stop in judged.plan.route} <= {candidate.dataset for candidate in view.candidates}
    elif verdict.counter_offer is not None:
        offer = verdict.counter_offer
        again, _, _ = admission.assess(offer.request, package, known)
        assert again.outcome == "admitted", again.failed()
        assert offer.request != request
        assert all(change.asked != change.offered for change in offer.changes)
        assert {change.because for change in offer.changes}
        assert msgspec.convert(msgspec.to_builtins(offer.request), Request) == offer.request


@laws
@given(networks(), requests)
def test_offers_leave_what_the_owner_did_not_open(knowledge: KnowledgeMap, request: Request) -> None:
    """Purpose, package, domains and what was excluded stay; no new target, no new data set appears."""
    verdict, _, _ = admission_of(knowledge).assess(request, make_package(), Known())
    if verdict.counter_offer is None:
        return
    offered = verdict.counter_offer.request
    for name in ("purpose", "package", "domains", "epsilon", "hyperparameters", "seed"):
        assert getattr(offered, name) == getattr(request, name)
    assert offered.data.exclude == request.data.exclude
    assert set(offered.targets) <= set(request.targets)
    assert set(offered.data.include) <= set(request.data.include)
    assert bool(offered.data.include) == bool(request.data.include)


@st.composite
def able_networks(draw: st.DrawFn) -> KnowledgeMap:
    """Sites that all serve, a unit and an aggregator; some have broken promises, and are trusted the less."""
    knowledge = KnowledgeMap()
    records = {"0": draw(st.floats(100, 500)), "1": draw(st.floats(100, 500))}
    sites_here = [
        make_site(number, data=(make_data(f"s{number}", records),)) for number in range(1, draw(st.integers(2, 5)))
    ]
    for node in (*sites_here, make_unit(), make_mixer()):
        knowledge.describe(node, 1, START_NS)
    for node in sites_here:
        for _ in range(draw(st.integers(0, 3))):
            knowledge.found(NodeId(node.node), Evidence.BROKEN, START_NS)
    return knowledge


tight_requests = st.builds(
    lambda **rest: make_request("accuracy >= 0.9", **rest),
    budget=st.builds(
        Budget, transfer_bytes=st.sampled_from([None, 0, 5000, 9000]), visits=st.sampled_from([None, 0, 1, 2])
    ),
    trust_floor=st.sampled_from([0.0, 0.0, 0.5, 0.8, 1.0]),
    method=st.sampled_from(["", "", "fedavg", "cyclic"]),
)
"""Requests that fail by their numbers alone."""


@laws
@given(able_networks(), tight_requests)
def test_offered_budgets_and_trust_floors_are_near_to_the_least_that_is_admitted(
    knowledge: KnowledgeMap, request: Request
) -> None:
    """Each changed number, a fifth or two units nearer to what was asked while the others stay, is refused."""
    admission, package, known = admission_of(knowledge), make_package(), Known()
    verdict, _, _ = admission.assess(request, package, known)
    if verdict.counter_offer is None:
        return
    offered = verdict.counter_offer.request
    nearer: list[Request] = []
    for name in ("transfer_bytes", "visits", "energy_joules", "price"):
        asked, now = getattr(request.budget, name), getattr(offered.budget, name)
        if asked != now and now is not None:
            step = max(2, math.ceil(now / 5)) if isinstance(now, int) else now / 5
            value = max(asked, now - step)
            nearer.append(
                msgspec.structs.replace(offered, budget=msgspec.structs.replace(offered.budget, **{name: value}))
            )
    if offered.trust_floor != request.trust_floor:
        floor = min(request.trust_floor, offered.trust_floor + max(0.02, offered.trust_floor / 5))
        nearer.append(msgspec.structs.replace(offered, trust_floor=floor))
    for one in nearer:
        again, _, _ = admission.assess(one, package, known)
        assert again.outcome != "admitted", (one.budget, one.trust_floor)

"""The view adapter: silent while nothing matters, deltas that lead to the view of now, refreshing equal to making."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    OWNER,
    START_NS,
    make_candidate,
    make_compute,
    make_contract,
    make_mixer,
    make_request,
    make_site,
    make_unit,
    make_verifier,
    make_view,
)

from daitn.base.ids import DataSetId, DomainId, NodeId
from daitn.base.units import seconds_to_ns
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.validity import validity_of
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import TrainingView, ViewDelta
from daitn.topology.adapter import ViewAdapter, standings
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.view_deltas import apply_delta, delta_between
from daitn.topology.view_updates import ViewUpdates
from daitn.topology.views import Asker, make_training_view

S = 1_000_000_000
RULE = RULES["routed"]


def following(*candidates) -> tuple[ViewAdapter, TrainingView]:
    """An adapter for a view on which the next stop was chosen."""
    view = make_view(*candidates)
    stop = RULE.next_stop(view, Seen(), 64)
    adapter = ViewAdapter()
    adapter.follow(view, validity_of(view, RULE, Seen(), 64, stop))
    return adapter, view


def changed(view: TrainingView, place: int, **facts) -> TrainingView:
    """The view with other facts of one candidate."""
    candidates = list(view.candidates)
    candidates[place] = msgspec.structs.replace(candidates[place], **facts)
    return msgspec.structs.replace(view, candidates=tuple(candidates), version=view.version + 1)


TWO = (make_candidate("s1", {"0": 100.0}, trust=0.9), make_candidate("s2", {"0": 100.0}, trust=0.5))


def test_adapter_is_silent_while_facts_stay_in_their_ranges():
    adapter, view = following(*TWO)

    assert adapter.compare(changed(view, 1, trust=0.501)) is None
    assert adapter.compare(changed(view, 0, age_s=40.0)) is None


def test_adapter_speaks_when_a_fact_leaves_its_range():
    adapter, view = following(*TWO)

    delta = adapter.compare(changed(view, 0, trust=0.1))

    assert delta is not None
    assert [one.trust for one in delta.candidates] == [0.1]
    assert (delta.since, delta.version) == (1, 2)


@pytest.mark.parametrize(
    "now",
    [
        make_view(TWO[0]),
        make_view(*TWO, make_candidate("s3")),
        make_view(TWO[0], msgspec.structs.replace(TWO[1], batch_s=0.1)),
    ],
    ids=["gone", "new", "timed"],
)
def test_adapter_speaks_when_candidates_come_go_or_are_timed(now):
    adapter, _ = following(*TWO)

    assert adapter.compare(now) is not None


def test_adapter_without_validity_tells_every_change_once():
    adapter = ViewAdapter()
    view = make_view(*TWO)
    adapter.follow(view, None)
    now = changed(view, 1, trust=0.501)

    assert adapter.compare(now) is not None
    assert adapter.compare(now) is None


@st.composite
def views(draw: st.DrawFn) -> TrainingView:
    """Views of up to five of seven candidates, with and without verifiers."""
    names = draw(st.lists(st.sampled_from("abcdefg"), max_size=5, unique=True))
    shares = st.sampled_from([0.2, 0.5, 0.9])
    candidates = [make_candidate(name, trust=draw(shares), availability=draw(shares)) for name in names]
    verifiers = (make_verifier(),) if draw(st.booleans()) else ()
    return make_view(*candidates, verifiers=verifiers, version=draw(st.integers(1, 9)))


@settings(deadline=None)
@given(old=views(), new=views())
def test_delta_leads_from_one_view_to_the_other_and_survives_the_wire(old, new):
    delta = delta_between(old, new)
    if delta is None:
        assert old.verifiers == new.verifiers
        assert {one.dataset: one for one in old.candidates} == {one.dataset: one for one in new.candidates}
        return
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(delta), type=ViewDelta)
    reached = apply_delta(old, sent)

    assert {one.dataset: one for one in reached.candidates} == {one.dataset: one for one in new.candidates}
    assert (reached.version, reached.verifiers, reached.excluded) == (new.version, new.verifiers, new.excluded)


# --- refreshing -----------------------------------------------------------------------------------------------------


class Map:
    """A map of four sites, a unit and a mixer, with an adapter that keeps a job's view."""

    def __init__(self, updates: ViewUpdates | None = None) -> None:
        self.knowledge = KnowledgeMap()
        self.now_ns = START_NS
        for number in range(1, 5):
            self.knowledge.describe(make_site(number), 1, self.now_ns)
        for descriptor in (make_unit(), make_mixer()):
            self.knowledge.describe(descriptor, 1, self.now_ns)
        self.asker = Asker(owner=OWNER, signer="signer", method="routed", domain=DomainId("demo"), package_bytes=1000)
        self.request = make_request()
        self.batch_s: dict[tuple[DataSetId, NodeId], float] = {}
        self.resting: frozenset[NodeId] = frozenset()
        self.adapter = ViewAdapter(updates)
        self.adapter.made(self.made(), self.stand(), "basis")

    def made(self) -> TrainingView:
        """The view made now."""
        contract = make_contract()
        return make_training_view(
            self.knowledge, self.request, contract, self.asker, self.batch_s, self.resting, self.now_ns
        )

    def stand(self):
        """How nodes stand now."""
        return standings(self.knowledge, self.request.trust_floor, self.resting, self.asker, self.now_ns)

    def refreshed(self, basis: str = "basis") -> TrainingView | None:
        """The adapter's view now."""
        version = self.knowledge.version
        return self.adapter.refresh(self.stand(), basis, self.batch_s, version, self.now_ns)


def same(one: TrainingView, other: TrainingView) -> bool:
    """Whether two views say the same but for their age."""
    young = [
        msgspec.structs.replace(
            view,
            made_at_ns=0,
            candidates=tuple(msgspec.structs.replace(candidate, age_s=0.0) for candidate in view.candidates),
        )
        for view in (one, other)
    ]
    return young[0] == young[1]


def test_view_refreshed_is_the_view_made_now():
    world = Map()
    world.now_ns += S
    world.knowledge.found(NodeId("n0001"), Evidence.KEPT, world.now_ns)
    world.knowledge.measured_transfer(NodeId("n0002"), 10_000_000, 0.1)
    world.batch_s[DataSetId("s3/records"), NodeId("n0003")] = 0.25
    refreshed = world.refreshed()

    assert refreshed is not None
    assert same(refreshed, world.made())
    assert refreshed.made_at_ns == START_NS


CHANGES = {
    "vanished": lambda world: world.knowledge.vanished(NodeId("n0001")),
    "left": lambda world: world.knowledge.remove(NodeId("n0001"), "left"),
    "described": lambda world: world.knowledge.describe(make_site(1, compute=make_compute(flops=1e9)), 2, world.now_ns),
    "joined": lambda world: world.knowledge.describe(make_site(5), 1, world.now_ns),
    "resting": lambda world: setattr(world, "resting", frozenset({NodeId("n0001")})),
    "shunned": lambda world: [
        world.knowledge.found(NodeId("n0001"), Evidence.REFUTED, world.now_ns + number * 20 * S) for number in range(3)
    ],
    "old": lambda world: setattr(world, "now_ns", world.now_ns + seconds_to_ns(5.1)),
    "no-room": lambda world: setattr(world, "asker", msgspec.structs.replace(world.asker, package_bytes=10**12)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_view_is_made_anew_after(change):
    world = Map()
    change(world)

    assert world.refreshed() is None


def test_view_is_made_anew_for_another_basis():
    assert Map().refreshed("other") is None


def test_view_by_periodic_triggers_stays_for_its_period_but_for_nodes_that_are_gone():
    world = Map(ViewUpdates(by="periodic", period_s=10.0))
    world.knowledge.describe(make_site(5), 1, world.now_ns)
    world.knowledge.vanished(NodeId("n0001"))
    world.now_ns += 9 * S
    view = world.refreshed()

    assert view is not None
    assert {one.compute_node for one in view.candidates} == {"n0002", "n0003", "n0004"}
    world.now_ns += 2 * S
    assert world.refreshed() is None


def test_view_by_periodic_triggers_never_rests_on_consent_that_has_run_out():
    world = Map(ViewUpdates(by="periodic", period_s=30.0))
    world.now_ns += 50 * S
    world.adapter.made(world.made(), world.stand(), "basis")
    world.now_ns += 15 * S

    assert world.refreshed() is None

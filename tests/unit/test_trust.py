"""Trust: evidence moves a score, time fades it, a restart rebuilds it, and routes keep away from those who lost it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import START_NS, make_contract, make_data, make_request, make_site

from daitn.base.ids import DomainId, NodeId, OwnerId
from daitn.base.units import seconds_to_ns
from daitn.decision.routes.contract import best_compute
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.trust import Evidence
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.trust import CHANGES_KEPT, GOOD_MOST, HALF_LIFE_S, REPEAT_S, WEIGHTS, EvidenceFound, TrustBook
from daitn.topology.views import TRUST_LEAST, Asker, make_training_view

NODE = NodeId("n0001")
HALF_LIFE_NS = seconds_to_ns(HALF_LIFE_S)


def scored(*kinds: Evidence, share: float = 1.0) -> TrustBook:
    """A book with this evidence, far enough apart in time to count each, and near enough not to fade."""
    book = TrustBook()
    for number, kind in enumerate(kinds):
        assert book.found(NODE, kind, START_NS + seconds_to_ns(number * (REPEAT_S + 1)), share=share, why=kind.value)
    return book


def test_newcomer_is_trusted_as_somebody_vouched_for():
    assert TrustBook().score(NODE, START_NS) == 0.8


@pytest.mark.parametrize("kind", Evidence)
def test_evidence_moves_the_score_the_way_it_speaks(kind: Evidence):
    good, bad = WEIGHTS[kind]
    after = scored(kind).score(NODE, START_NS)

    assert after == pytest.approx((4 + good) / (5 + good + bad))
    assert (after > 0.8) == (good > 0)


def test_one_refuted_claim_of_a_newcomer_is_enough_to_be_left_out():
    assert scored(Evidence.REFUTED).score(NODE, START_NS) < TRUST_LEAST


def test_half_a_share_counts_half():
    whole, half = scored(Evidence.HARMED), scored(Evidence.HARMED, Evidence.HARMED, share=0.5)

    assert half.score(NODE, START_NS) == pytest.approx(whole.score(NODE, START_NS), rel=1e-3)


def test_evidence_counts_half_after_its_half_life():
    book = scored(Evidence.BROKEN)

    assert book.score(NODE, START_NS + HALF_LIFE_NS) == pytest.approx(4 / 6)
    assert book.score(NODE, START_NS + 60 * HALF_LIFE_NS) == pytest.approx(0.8)


def test_clock_that_goes_back_changes_no_score():
    book = scored(Evidence.BROKEN)

    assert book.score(NODE, START_NS - HALF_LIFE_NS) == book.score(NODE, START_NS)


def test_repeated_vanishing_counts_once_in_a_while():
    book = scored(Evidence.VANISHED)
    before = book.score(NODE, START_NS)

    assert book.found(NODE, Evidence.VANISHED, START_NS + seconds_to_ns(REPEAT_S / 2)) is None
    assert book.score(NODE, START_NS) == before
    assert book.found(NODE, Evidence.VANISHED, START_NS + seconds_to_ns(REPEAT_S)) is not None


def test_changes_are_kept_with_their_reasons_and_bounded():
    book = scored(*[Evidence.KEPT] * (CHANGES_KEPT + 5), Evidence.BROKEN)

    changes = book.changes(NODE)
    assert len(changes) == CHANGES_KEPT
    assert changes[-1].kind is Evidence.BROKEN
    assert changes[-1].why == "promise-broken"
    assert changes[-1].after < changes[-1].before


def test_long_good_record_is_lost_within_a_bounded_number_of_bad_acts():
    book = TrustBook()
    for _ in range(100_000):
        book.found(NODE, Evidence.KEPT, START_NS)
    lost = 0
    while book.score(NODE, START_NS) >= TRUST_LEAST:
        book.found(NODE, Evidence.BROKEN, START_NS)
        lost += 1

    assert lost <= (4 + GOOD_MOST) * (1 / TRUST_LEAST - 1) / 2 + 1


evidence = st.builds(
    EvidenceFound,
    node=st.sampled_from([NODE, NodeId("n0002")]),
    at_ns=st.integers(START_NS, START_NS + 10 * HALF_LIFE_NS),
    kind=st.sampled_from(Evidence),
    share=st.floats(0.01, 1.0),
)


@given(st.lists(evidence, max_size=40), st.integers(START_NS, START_NS + 20 * HALF_LIFE_NS))
def test_score_stays_between_zero_and_one_and_is_rebuilt_from_records(found: list[EvidenceFound], now_ns: int):
    live = TrustBook()
    kept = [
        one for each in found if (one := live.found(each.node, each.kind, each.at_ns, share=each.share)) is not None
    ]
    replayed = TrustBook()
    for record in kept:
        replayed.apply(record)

    for node in (NODE, NodeId("n0002")):
        assert 0 < live.score(node, now_ns) < 1
        assert replayed.score(node, now_ns) == live.score(node, now_ns)
        assert replayed.changes(node) == live.changes(node)


def view_of(knowledge: KnowledgeMap):
    """The view of an ordinary request."""
    asker = Asker(owner=OwnerId("ada"), signer="a" * 64, method="tram-fl", domain=DomainId("test"))
    contract = make_contract()
    return make_training_view(knowledge, make_request(), contract, asker, {}, (), START_NS)


def distrusted_first_of(*sites) -> KnowledgeMap:
    """A map of these sites; the first has made a claim that is not so."""
    knowledge = KnowledgeMap()
    for site in sites:
        knowledge.describe(site, 1, START_NS)
    assert knowledge.found(NODE, Evidence.REFUTED, START_NS, why="forged") is not None
    return knowledge


def test_distrusted_site_is_left_out_while_others_have_the_same_kinds():
    view = view_of(distrusted_first_of(make_site(1), make_site(2)))

    assert {one.data_node for one in view.candidates} == {NodeId("n0002")}
    (left_out,) = [one for one in view.excluded if one.code is ReasonCode.TRUST]
    assert "0.36" in left_out.why


def test_distrusted_site_stays_where_nobody_else_has_its_labels():
    other = make_site(2, data=(make_data("s2", labels={"a": 100.0, "b": 0.0}),))
    view = view_of(distrusted_first_of(make_site(1), other))

    assert {one.data_node for one in view.candidates} == {NODE, NodeId("n0002")}


def test_compute_site_that_breaks_promises_counts_as_slower():
    knowledge = distrusted_first_of(make_site(1))
    (candidate,) = view_of(knowledge).candidates
    quick = msgspec.structs.replace(candidate, compute_node=NodeId("n0008"), trust=0.4, flops=1e9)
    steady = msgspec.structs.replace(candidate, compute_node=NodeId("n0009"), trust=0.9, flops=0.8e9)
    view = msgspec.structs.replace(view_of(knowledge), candidates=(quick, steady))

    assert best_compute(view, candidate.dataset).compute_node == "n0009"

"""Signed routes: an order is taken only as the segment that the centre signed, for this node, by the newest version."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import JOB, make_evaluation, make_order, make_training, make_warrant, make_work

from daitn.artifacts.itineraries import RouteTree, check_order, segment_of, sign_itinerary
from daitn.base.errors import BugError, PeerError, PolicyError
from daitn.base.ids import DataSetId, DomainId, JobId, NodeId
from daitn.descriptors.itinerary import Action, Itinerary, Passage, Segment
from daitn.wire.center_tools import VisitOrder

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
HERE, DOMAIN = NodeId("n1"), DomainId("clinic")


def routed(order: VisitOrder, others: int = 0, *, place: int = 0, version: int = 1, **changes: object) -> VisitOrder:
    """The order as a segment of a route with `others` around it."""
    segments = [
        Segment(action=Action.TRAIN, node=NodeId(f"m{number}"), dataset=DataSetId(f"d{number}"))
        for number in range(others)
    ]
    segments.insert(place, segment_of(order, HERE))
    tree = RouteTree(segments)
    values = {"domain": DOMAIN, "job": JOB, "version": version, "segments": len(segments), "root": tree.root} | changes
    token = sign_itinerary(KEY, Itinerary(**values))  # type: ignore[arg-type]
    return msgspec.structs.replace(order, route=Passage(token=token, place=place, path=tree.path(place)))


def check(order: VisitOrder, node: NodeId = HERE) -> Itinerary:
    return check_order(order, node, DOMAIN, KEY.public_key())


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 7, 8, 9, 100])
def test_order_is_found_at_each_place_of_a_route_of_any_length(segments: int) -> None:
    for place in range(segments):
        assert check(routed(make_order(), segments - 1, place=place, version=3)).version == 3


def test_whole_number_where_a_float_belongs_is_the_same_order_when_it_arrives() -> None:
    work = make_work(training=make_training(learning_rate=1))
    sent = make_order(work=work)
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(routed(sent)), type=VisitOrder)

    assert isinstance(work.training.learning_rate, int)
    assert check(arrived).version == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"work": make_work(seed=7)},
        {"work": make_evaluation()},
        {"warrant": make_warrant(purpose="marketing")},
        {"warrant": make_warrant(owner="eve")},
        {"fence": 2},
        {"package": "0" * 64},
    ],
    ids=["work", "other work", "purpose", "owner", "fence", "package"],
)
def test_order_that_was_changed_on_its_way_is_no_segment_of_its_route(changed: dict[str, object]) -> None:
    order = msgspec.structs.replace(routed(make_order(), 4, place=2), **changed)

    with pytest.raises(PolicyError, match=r"does not have this order .* as its segment 3 of 5"):
        check(order)


def test_order_for_another_node_is_refused() -> None:
    with pytest.raises(PolicyError, match="at n2"):
        check(routed(make_order(), 3), NodeId("n2"))


def test_order_without_a_route_is_refused() -> None:
    with pytest.raises(PolicyError, match="came without a route"):
        check(make_order())


def test_route_of_another_job_domain_or_signer_is_refused() -> None:
    order = make_order()
    with pytest.raises(PolicyError, match="job other in domain clinic"):
        check(routed(order, job=JobId("other")))
    with pytest.raises(PolicyError, match="in domain elsewhere"):
        check(routed(order, domain=DomainId("elsewhere")))
    with pytest.raises(PolicyError, match="not signed by the control centre's key"):
        check_order(routed(order), HERE, DOMAIN, Ed25519PrivateKey.generate().public_key())


def test_path_of_another_length_place_or_hash_leads_nowhere() -> None:
    order = routed(make_order(), 5, place=3)
    assert order.route is not None
    good = order.route
    wrong = [
        msgspec.structs.replace(good, path=good.path[:-1]),
        msgspec.structs.replace(good, path=(*good.path, good.path[-1])),
        msgspec.structs.replace(good, path=(bytes(32), *good.path[1:])),
        msgspec.structs.replace(good, place=2),
        msgspec.structs.replace(good, place=6),
    ]
    for passage in wrong:
        with pytest.raises(PolicyError, match="does not have this order"):
            check(msgspec.structs.replace(order, route=passage))


def test_what_is_no_token_is_the_peers_fault() -> None:
    for token in ("", "only-one-part", "a.b", "é.ü", "x" * 3000):
        with pytest.raises((PeerError, PolicyError)):
            check(msgspec.structs.replace(make_order(), route=Passage(token=token, place=0)))


def test_a_segment_still_to_come_lets_nobody_do_anything() -> None:
    order = make_order()
    ahead = Segment(action=Action.TRAIN, node=HERE, dataset=DataSetId("s1/records"))
    tree = RouteTree([ahead])
    signed = Itinerary(domain=DOMAIN, job=JOB, version=1, segments=1, root=tree.root)
    with pytest.raises(PolicyError, match="does not have this order"):
        check(msgspec.structs.replace(order, route=Passage(token=sign_itinerary(KEY, signed), place=0)))


def test_an_empty_route_cannot_be_signed() -> None:
    with pytest.raises(BugError):
        RouteTree([])

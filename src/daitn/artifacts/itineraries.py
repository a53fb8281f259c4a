"""Signed itineraries: the hash tree over a route's segments, the token the centre signs, and a node's check of its own.

A node that gets an order makes its segment of it by itself: its own name, the work, the fence, and a digest of what is
to be done on whose behalf (package, work, warrant). Only if the path beside it leads to the signed root is the order
one that this centre gave, to this node, as it stands. So nothing in between, the router included, can give an order,
change one, or put another's purpose on it.

Tree: RFC 6962, with BLAKE3. Legend: S segments. Cost: O(S) hashes for a version, O(log S) for a check; a signature
60 µs, its check 100 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daitn.artifacts.signatures import public_hex, public_key
from daitn.artifacts.tokens import read_token, write_token
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError, PeerError, PolicyError
from daitn.base.ids import DomainId, NodeId
from daitn.descriptors.itinerary import Itinerary, Passage, Segment, action_of, dataset_of
from daitn.descriptors.work import Work
from daitn.wire.center_tools import VisitOrder, Warrant

_DOMAIN: Final = "daitn 1 itinerary"
_CONTENT: Final = "daitn 1 content of a segment"
_LEAF, _INNER = b"\x00", b"\x01"
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Itinerary)
_contents: msgspec.msgpack.Decoder[tuple[str, Work, Warrant]] = msgspec.msgpack.Decoder(tuple[str, Work, Warrant])


def content_of(package: str, work: Work, warrant: Warrant) -> bytes:
    """32 bytes that stand for what is to be done, and on whose behalf, as it arrives: a whole number in a field of
    floats is encoded as one, and is a float to whoever decodes it. 40 µs."""
    arrived = _contents.decode(_encoder.encode((package, work, warrant)))
    return blake3(_encoder.encode(arrived), derive_key_context=_CONTENT).digest()


def segment_of(order: VisitOrder, node: NodeId) -> Segment:
    """The segment that an order to `node` is."""
    return Segment(
        action=action_of(order.work),
        node=node,
        dataset=dataset_of(order.work),
        visit=order.visit,
        fence=order.fence,
        content=content_of(order.package, order.work, order.warrant),
    )


class RouteTree:
    """The hash tree over one version's segments. BugError without any."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        if not segments:
            raise BugError("a route without segments was to be signed")
        self.segments = tuple(segments)
        leaves = [_leaf(segment) for segment in self.segments]
        self._places = {leaf: place for place, leaf in enumerate(leaves)}
        self._levels = [leaves]
        while len(self._levels[-1]) > 1:
            self._levels.append(_next_level(self._levels[-1]))

    @property
    def root(self) -> bytes:
        """Stands for the whole route."""
        return self._levels[-1][0]

    def place_of(self, segment: Segment) -> int | None:
        """Where a segment is on the route; None: it is not on it."""
        return self._places.get(_leaf(segment))

    def path(self, place: int) -> tuple[bytes, ...]:
        """The hashes beside the way from a segment up to the root; a last one without a neighbour rises as it is."""
        found: list[bytes] = []
        for level in self._levels[:-1]:
            beside = place ^ 1
            if beside < len(level):
                found.append(level[beside])
            place //= 2
        return tuple(found)


def sign_itinerary(key: Ed25519PrivateKey, itinerary: Itinerary) -> str:
    """The token for a version of a route, signed by the control centre's `key`."""
    return write_token(_DOMAIN, _encoder.encode(itinerary), key)


def check_order(order: VisitOrder, node: NodeId, domain: DomainId, center_key: Ed25519PublicKey) -> Itinerary:
    """The itinerary that an order came with, if the order is a segment of it for this node.

    PeerError where it does not decode, PolicyError where the centre has not signed it, it is of another domain or job,
    or the order as it stands is not in it.
    """
    passage = order.route
    if passage is None:
        raise PolicyError(f"order {order.visit} came without a route", todo="upgrade the control centre")
    itinerary = _read(passage, center_key)
    ids = {"job": order.job, "node": node}
    if (itinerary.domain, itinerary.job) != (domain, order.job):
        raise PolicyError(
            f"the route is that of job {itinerary.job} in domain {itinerary.domain}, the order is of job {order.job}, "
            f"and this is {domain}",
            todo="have the control centre send the order again",
            ids=ids,
        )
    segment = segment_of(order, node)
    if _root_by(segment, passage, itinerary.segments) != itinerary.root:
        what = f"{segment.action} {segment.dataset or ''}".strip()
        raise PolicyError(
            f"version {itinerary.version} of the route of job {order.job} does not have this order ({what} at {node}, "
            f"visit {order.visit}, fence {order.fence}) as its segment {passage.place + 1} of {itinerary.segments}",
            todo="what lies between this node and the centre has changed it, or sent it here: look at the router",
            ids=ids,
        )
    return itinerary


def route_check(node: NodeId, domain: DomainId, center_key: str) -> Callable[[VisitOrder], int]:
    """`check_order` for one node, whose centre's key is these 64 hex digits: the version of an order's route."""
    key = public_key(center_key)
    return lambda order: check_order(order, node, domain, key).version


def _read(passage: Passage, center_key: Ed25519PublicKey) -> Itinerary:
    body = read_token(_DOMAIN, passage.token, center_key)
    if body is None:
        raise PolicyError(
            f"the route is not signed by the control centre's key {public_hex(center_key)[:16]}…",
            todo="nobody else may give orders here: look at the router",
        )
    try:
        return _decoder.decode(body)
    except UNDECODABLE as error:
        raise PeerError(f"a signed route does not decode: {str(error)[:200]}", todo="upgrade this node") from None


def _root_by(segment: Segment, passage: Passage, segments: int) -> bytes | None:
    """The root that a path leads to; None where a route of so many segments has no such place or path."""
    if passage.place >= segments:
        return None
    at, place, width, left = _leaf(segment), passage.place, segments, list(passage.path)
    while width > 1:
        if place ^ 1 < width:
            if not left:
                return None
            beside = left.pop(0)
            at = _inner(beside, at) if place & 1 else _inner(at, beside)
        place, width = place // 2, (width + 1) // 2
    return None if left else at


def _next_level(level: list[bytes]) -> list[bytes]:
    pairs = [_inner(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
    return pairs + ([level[-1]] if len(level) % 2 else [])


def _leaf(segment: Segment) -> bytes:
    return blake3(_LEAF + _encoder.encode(segment)).digest()


def _inner(left: bytes, right: bytes) -> bytes:
    return blake3(_INNER + left + right).digest()

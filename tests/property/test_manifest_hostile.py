"""Hostile bytes: whatever a peer or a file holds, decoding ends in a value or in an error that says who must act."""

from __future__ import annotations

import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.builders import make_order

from daitn.artifacts.codec import complete_manifest, decode_manifest, encode_manifest
from daitn.artifacts.grants import Grant, check_grant, issue_grant
from daitn.artifacts.itineraries import RouteTree, check_order, segment_of, sign_itinerary
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.tensor_file import parse_header, recognise
from daitn.artifacts.tokens import write_token
from daitn.base.errors import InputError, PeerError, PolicyError
from daitn.base.ids import ArtifactId, DomainId, GrantId, JobId, NodeId
from daitn.descriptors.itinerary import Itinerary, Passage

SPECS = [
    TensorSpec(name="w", dtype="float32", shape=(3, 4)),
    TensorSpec(name="m", dtype="int8", shape=(5,), role="optimizer"),
]
DRAFT = Manifest(kind="graph", name="m", parts=(), tensors=plan_layout(SPECS).entries, payload_bytes=0, chunks=())
GOOD = encode_manifest(complete_manifest(DRAFT, {"graph": b"g", "contract": b"c"}, {"w": bytes(48), "m": bytes(5)}))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def decode_or_refuse(data: bytes) -> Manifest | None:
    try:
        return decode_manifest(data)
    except PeerError:
        return None


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\x91" * 100_000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdd\xff\xff\xff\xff")
def test_manifest_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    assert decode_or_refuse(data) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_manifest_flipped_byte_never_decodes_to_the_same_artifact(place: int, mask: int) -> None:
    flipped = bytearray(GOOD)
    flipped[place] ^= mask
    manifest = decode_or_refuse(bytes(flipped))
    assert manifest is None or encode_manifest(manifest) == flipped


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(msgspec.msgpack.decode(GOOD))), VALUES)
def test_manifest_any_value_in_any_field_decodes_or_is_refused(field: str, value: object) -> None:
    decode_or_refuse(msgspec.msgpack.encode(msgspec.msgpack.decode(GOOD) | {field: value}))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["name", "dtype", "shape", "role", "offset"]), VALUES)
def test_manifest_any_value_in_a_tensor_decodes_or_is_refused(field: str, value: object) -> None:
    fields = msgspec.msgpack.decode(GOOD)
    fields["tensors"][0][field] = value
    decode_or_refuse(msgspec.msgpack.encode(fields))


def test_manifest_too_large_is_refused_before_decoding() -> None:
    with pytest.raises(PeerError, match="the limit is"):
        decode_manifest(bytes(17 * 1024 * 1024))


HEADER = {"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, "__metadata__": {"format": "pt"}}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}')
@example(b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')
@example('{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.encode("utf-16"))
@example(b'{"w":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}')
@example(b'{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}')
@example(b'{"w":NaN}')
@example(b"[]")
def test_safetensors_header_random_bytes_are_refused_as_input(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_header(data, 48, "file")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]), VALUES)
def test_safetensors_header_any_value_in_a_tensor_is_read_or_refused(field: str, value: object) -> None:
    header = json.dumps({"w": HEADER["w"] | {field: value}}, default=lambda blob: blob.hex()).encode()
    try:
        (tensor,) = parse_header(header, 48, "file")
    except InputError:
        return
    assert (tensor.begin, tensor.end) == (0, 48)


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_recognising_a_file_never_fails(data: bytes) -> None:
    recognise(data)


KEY = Ed25519PrivateKey.generate()
GRANT = Grant(
    id=GrantId("g"),
    domain=DomainId("d"),
    artifact=ArtifactId("a" * 64),
    requester=NodeId("n1"),
    job=JobId("j"),
    expires_unix_s=10,
)
TOKEN = issue_grant(KEY, GRANT)


def check(token: str) -> Grant:
    return check_grant(
        token, KEY.public_key(), requester=NodeId("n1"), artifact=ArtifactId("a" * 64), now_unix_s=0, revoked=()
    )


@settings(deadline=None)
@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{86}", fullmatch=True)))
@example("." * 5000)
@example("é.é")
def test_grant_random_text_is_refused(token: str) -> None:
    with pytest.raises((PeerError, PolicyError)):
        check(token)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_grant_with_any_character_changed_is_refused(place: int, character: str) -> None:
    forged = TOKEN[:place] + character + TOKEN[place + 1 :]
    if forged == TOKEN:
        assert check(forged) == GRANT
    else:
        with pytest.raises((PeerError, PolicyError)):
            check(forged)


ORDER = make_order()
TREE = RouteTree([segment_of(ORDER, NodeId("n1"))])
ROUTE = sign_itinerary(KEY, Itinerary(domain=DomainId("d"), job=ORDER.job, version=1, segments=1, root=TREE.root))


def check_route(token: str) -> Itinerary:
    """Through `itineraries._read`, and `tokens.read_token` with its `_to_bytes`."""
    order = msgspec.structs.replace(ORDER, route=Passage(token=token, place=0))
    return check_order(order, NodeId("n1"), DomainId("d"), KEY.public_key())


@settings(deadline=None)
@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{86}", fullmatch=True)))
@example("." * 5000)
@example("é.é")
def test_route_of_random_text_is_refused(token: str) -> None:
    with pytest.raises((PeerError, PolicyError)):
        check_route(token)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(ROUTE) - 1), st.characters(codec="ascii"))
def test_route_with_any_character_changed_is_refused(place: int, character: str) -> None:
    forged = ROUTE[:place] + character + ROUTE[place + 1 :]
    if forged == ROUTE:
        assert check_route(forged).version == 1
    else:
        with pytest.raises((PeerError, PolicyError)):
            check_route(forged)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), VALUES.map(msgspec.msgpack.encode)))
def test_signed_bytes_that_are_no_route_are_the_peers_fault(body: bytes) -> None:
    with pytest.raises((PeerError, PolicyError)):
        check_route(write_token("daitn 1 itinerary", body, KEY))

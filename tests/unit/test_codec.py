"""The codec of control messages: what travels, and what is refused before it is built."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing

import msgspec
import pytest
from tests.builders import JOB, PACKAGE, changed, make_data, make_order, make_site

from daitn import wire
from daitn.base import limits
from daitn.base.effects import Message
from daitn.base.errors import BugError, PeerError
from daitn.base.ids import JobId, VisitId
from daitn.wire.center_tools import InputRef, LeaseRenewed, ReleaseArtifacts, VisitFailed, VisitOrder
from daitn.wire.codec import TOGETHER_MOST, AnyMessage, decode, decode_all, encode, join
from daitn.wire.terminal_tools import Left
from daitn.wire.topology_tools import Describe, Described, Heartbeat

pack = msgspec.msgpack.encode


def altered(message: Message, **fields: object) -> bytes:
    """The bytes of a message with some raw fields replaced."""
    return pack(msgspec.msgpack.decode(encode(message)) | fields)


def test_every_message_of_every_link_is_in_the_codec():
    modules = [importlib.import_module(f"daitn.wire.{one.name}") for one in pkgutil.iter_modules(wire.__path__)]
    defined = {
        one
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Message) and one is not Message
    }

    assert set(typing.get_args(AnyMessage)) == defined
    tags = [one.__struct_config__.tag for one in defined]
    assert len(set(tags)) == len(tags)


def test_message_survives_the_wire():
    order = make_order()

    assert decode(encode(order)) == order


def test_messages_that_go_together_come_out_in_order_and_one_alone_is_as_ever():
    messages = [LeaseRenewed(visit=VisitId(f"j/{number}"), fence=1, lease_s=1.0) for number in range(TOGETHER_MOST)]
    encoded = [encode(one) for one in messages]

    assert decode_all(join(encoded)) == tuple(messages)
    assert join(encoded[:1]) == encoded[0]
    assert decode_all(encoded[0]) == (messages[0],)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [encode(Left())],
        [encode(Left())] * (TOGETHER_MOST + 1),
        [encode(Left()), pack("left")],
        [pack([]), pack([])],
    ],
    ids=["none", "one", "too-many", "one-that-is-none", "nested"],
)
def test_array_that_is_not_of_two_or_more_messages_is_the_peers_fault(parts):
    with pytest.raises(PeerError):
        decode_all(pack([msgspec.Raw(one) for one in parts]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        pack({}),
        pack({"message": "nonsense"}),
        pack({"message": 7}),
        pack({"message": "left", "message ": 1})[:-1],
        pack("left"),
        b"\xc1",
        pack({"message": "lease_renewed"}),
        b"\x81\xa7message\xa4\xff\xff\xff\xff",
    ],
)
def test_bytes_that_are_no_message_are_the_peers_fault(data):
    with pytest.raises(PeerError):
        decode(data)


@pytest.mark.parametrize(
    "data", [b"\x91" * 900_000, b"\x81\xa1a" * 300_000, b"\xdf" * 900_000, b"\xdd\xff\xff\xff\xff"]
)
def test_bytes_nested_or_counted_beyond_reason_are_refused_quickly(data):
    with pytest.raises(PeerError):
        decode(data)
    with pytest.raises(PeerError):
        decode(b"\x82\xa7message\xa4left\xa1z" + data)


def test_message_too_large_is_refused_on_both_sides():
    with pytest.raises(PeerError, match="the limit is"):
        decode(b"\x00" * (limits.MESSAGE_BYTES + 1))
    data = tuple(make_data(f"s{number}") for number in range(5000))
    with pytest.raises(BugError, match="the limit is"):
        encode(Describe(sequence=1, generated_unix_s=0.0, descriptor=make_site(1, data=data)))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Heartbeat(sequence=1), {"sequence": 0}),
        (Heartbeat(sequence=1), {"sequence": -1}),
        (Heartbeat(sequence=1), {"sequence": 1.5}),
        (Heartbeat(sequence=1), {"sequence": "1"}),
        (Heartbeat(sequence=1), {"busy_slots": 65_537}),
        (Described(sequence=1, heartbeat_s=1.0), {"heartbeat_s": 0.0}),
        (Described(sequence=1, heartbeat_s=1.0), {"heartbeat_s": float("nan")}),
        (Described(sequence=1, heartbeat_s=1.0), {"heartbeat_s": float("inf")}),
        (LeaseRenewed(visit=VisitId("j/1"), fence=1, lease_s=1.0), {"fence": 0}),
        (LeaseRenewed(visit=VisitId("j/1"), fence=1, lease_s=1.0), {"lease_s": float("nan")}),
        (LeaseRenewed(visit=VisitId("j/1"), fence=1, lease_s=1.0), {"lease_s": -1.0}),
        (LeaseRenewed(visit=VisitId("j/1"), fence=1, lease_s=1.0), {"lease_s": 1e9}),
        (VisitFailed(visit=VisitId("j/1"), fence=1, reason="", blame="peer"), {"reason": "x" * 4097}),
        (ReleaseArtifacts(job=JOB, artifacts=()), {"artifacts": [PACKAGE] * 10_001}),
    ],
)
def test_field_out_of_range_is_refused(message, fields):
    with pytest.raises(PeerError):
        decode(altered(message, **fields))


def test_order_with_too_many_holders_is_refused():
    holders = tuple({"node": f"n{number}"} for number in range(limits.HOLDERS + 1))
    wanted = InputRef(artifact=PACKAGE, holders=(), grant="g")
    raw = msgspec.to_builtins(wanted) | {"holders": holders}

    with pytest.raises(PeerError):
        decode(altered(make_order(), inputs=[raw]))


def test_histogram_that_is_no_number_never_reaches_a_decision():
    describe = Describe(sequence=1, generated_unix_s=0.0, descriptor=make_site(1))
    for bad in (float("nan"), float("inf"), -1.0, 1e16):
        raw = msgspec.to_builtins(describe)
        raw["descriptor"]["data"][0]["labels"]["counts"]["0"] = bad
        with pytest.raises(PeerError):
            decode(pack(raw))


def test_fields_of_a_later_version_are_passed_over():
    assert decode(altered(Left(), later="x")) == Left()


def test_decoding_gives_values_that_cannot_be_changed():
    order = decode(encode(make_order()))

    assert isinstance(order, VisitOrder)
    with pytest.raises(AttributeError):
        order.job = JobId("other")  # type: ignore[misc]
    assert changed(order, job=JobId("other")) != order

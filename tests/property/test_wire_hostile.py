"""Whatever bytes arrive: a message within its limits, or PeerError. Whatever message arrives: the cores go on."""

from __future__ import annotations

import contextlib
import typing

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import (
    JOB,
    Bench,
    changed,
    make_contract,
    make_data,
    make_mixer,
    make_order,
    make_outcome,
    make_request,
    make_site,
    make_unit,
)
from tests.builders import sign as sign_report
from tests.strategies import same, values_of
from tests.unit.test_visit_keeper import Site

from daitn.base.effects import Message
from daitn.base.errors import PeerError
from daitn.base.ids import CENTER, JobId, NodeId
from daitn.descriptors.contract import FieldRule
from daitn.descriptors.policy import PolicySummary
from daitn.descriptors.terminals import ComputeDescriptor, Count, Histogram
from daitn.wire.center_tools import VisitFailed, VisitProgress, VisitRefused, VisitReport, VisitResult
from daitn.wire.codec import AnyMessage, decode, decode_all, encode, join
from daitn.wire.data_plane import (
    ExchangeHello,
    ExchangeRefused,
    ManifestPage,
    ManifestWanted,
    decode_hello,
    decode_page,
    decode_wanted,
    encode_data_plane,
)
from daitn.wire.topology_tools import Describe

hostile = settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
few = settings(hostile, max_examples=25)

KINDS = typing.get_args(AnyMessage)
SEEDS = [encode(make_order()), encode(Describe(sequence=1, generated_unix_s=0.0, descriptor=make_site(1)))]
SEEDS.append(join(SEEDS))


def decodes_or_blames(data: bytes) -> None:
    """A message that encodes again, or the peer's fault; nothing else."""
    try:
        messages = decode_all(data)
    except PeerError:
        with pytest.raises(PeerError):
            decode(data)
        return
    assert all(isinstance(one, Message) for one in messages)
    again = decode_all(join([encode(one) for one in messages]))
    assert len(again) == len(messages)
    assert all(same(one, other) for one, other in zip(again, messages, strict=True))
    if len(messages) == 1:
        assert same(decode(data), messages[0])


@hostile
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Noise."""
    decodes_or_blames(data)


@hostile
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.data())
def test_real_messages_with_flipped_bytes_and_a_cut(
    seed: bytes, flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Nearly right bytes reach further into a decoder than noise does."""
    altered = bytearray(seed)
    for place, value in flips:
        altered[place % len(altered)] = value
    length = data.draw(st.just(len(altered)) | st.integers(0, len(altered)))
    decodes_or_blames(bytes(altered[:length]))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@hostile
@given(st.sampled_from(KINDS), st.data())
def test_right_fields_with_wrong_values(kind: type, data: st.DataObject) -> None:
    """Every field of every message with anything in it."""
    fields = {name: data.draw(anything) for name in kind.__struct_fields__}
    decodes_or_blames(msgspec.msgpack.encode({"message": kind.__struct_config__.tag} | fields))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_round_trip_of_every_message(kind: type) -> None:
    """What a type allows travels unchanged."""

    @few
    @given(values_of(kind))
    def round_trip(message: Message) -> None:
        assert same(decode(encode(message)), message)

    round_trip()


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [
        (ManifestWanted, decode_wanted),
        (ManifestPage, decode_page),
        (ExchangeHello, decode_hello),
        (ExchangeRefused, decode_hello),
    ],
)
def test_round_trip_and_noise_on_the_data_plane(kind, decoder) -> None:
    """The messages of the data plane."""

    @few
    @given(values_of(kind), st.binary(max_size=60))
    def round_trip(message, noise: bytes) -> None:
        assert decoder(encode_data_plane(message)) == message
        with contextlib.suppress(PeerError):
            decoder(noise)

    round_trip()


@few
@given(st.lists(st.tuples(st.sampled_from(["n0001", "n0002", "n0009", "n0077"]), values_of(AnyMessage)), max_size=6))
def test_centre_goes_on_whatever_nodes_say(said: list[tuple[str, Message]]) -> None:
    """Any decodable message, from members and strangers, about visits that are really under way."""
    made = running_bench()
    for sender, message in said:
        for aimed in (message, about_an_open_visit(made, message)):
            made.say(NodeId(sender), decode(encode(aimed)))
    made.describe()
    made.submit(make_request("accuracy >= 0.5"), job=JobId("job-2"))
    made.wait(3.0)


@few
@given(st.data())
def test_centre_goes_on_after_any_signed_outcome(data: st.DataObject) -> None:
    """A member may sign anything about the visit it holds."""
    made = running_bench()
    for _ in range(4):
        orders = made.orders()
        if not orders:
            made.wait(1.0)
            continue
        node, order = orders[0]
        outcome = data.draw(values_of(type(make_outcome(order.work))))
        report = decode_report(VisitReport(visit=order.visit, fence=order.fence, work=order.work, outcome=outcome))
        made.say(node, VisitResult(report=report, signature=sign_report(made.nodes[node], report)))
    made.wait(5.0)


claims = st.fixed_dictionaries(
    {
        "records": values_of(Count),
        "groups": values_of(Count),
        "record_bytes": values_of(Count),
        "labels": values_of(Histogram | None)
        | st.dictionaries(st.sampled_from(["0", "1", "2"]), values_of(Count)).map(
            lambda counts: Histogram(counts=counts)
        ),
        "field_counts": values_of(Histogram | None),
        "fields": values_of(tuple[FieldRule, ...]) | st.just(make_contract().fields),
        "policy": values_of(PolicySummary) | st.just(make_data("s2").policy),
    }
)


@few
@given(claims, values_of(ComputeDescriptor), values_of(Describe))
def test_centre_goes_on_with_any_description(
    claimed: dict[str, object], compute: ComputeDescriptor, other: Describe
) -> None:
    """A member may claim anything of itself; requests are still judged."""
    made = running_bench()
    fitting = make_site(2, data=(changed(make_data("s2"), **claimed),), compute=compute)
    for node, descriptor in (("n0002", fitting), ("n0001", changed(other.descriptor, node=NodeId("n0001")))):
        describe = Describe(sequence=2, generated_unix_s=0.0, descriptor=descriptor)
        made.say(NodeId(node), decode(encode(describe)))
    made.submit(make_request("accuracy@ones >= 0.5", "recall[1] >= 0.2", trust_floor=0.1), job=JobId("job-2"))
    made.submit(make_request(raw_records="trust-zone", method="fedavg"), job=JobId("job-3"))
    made.wait(3.0)
    for node, order in made.orders(JobId("job-2")):
        made.answer(node, order)


@few
@given(st.lists(values_of(AnyMessage), max_size=8))
def test_terminal_goes_on_whatever_the_centre_says(said: list[Message]) -> None:
    """Any decodable message, in any order."""
    site = Site()
    site.hear(make_order())
    for message in said:
        site.hear(decode(encode(message)), sender=CENTER)
    site.restart()


def running_bench() -> Bench:
    """A job whose sites are being asked."""
    made = Bench(make_site(1), make_site(2), make_unit(), make_mixer())
    made.submit()
    made.answer_until(lambda state: state.visits == 1)
    return made


def about_an_open_visit(made: Bench, message: Message) -> Message:
    """The message, turned to a visit that is under way with its fence."""
    orders = made.orders()
    if not orders:
        return message
    _, order = orders[0]
    match message:
        case VisitProgress() | VisitFailed() | VisitRefused():
            return changed(message, visit=order.visit, fence=order.fence)
        case VisitResult(report=report):
            return changed(message, report=changed(report, visit=order.visit, fence=order.fence, work=order.work))
        case _:
            return message


def decode_report(report: VisitReport) -> VisitReport:
    """As it comes from the wire: only what decodes can arrive."""
    message = decode(encode(VisitResult(report=report, signature="")))
    assert isinstance(message, VisitResult)
    assert message.report.visit.startswith(JOB)
    return message.report

"""What every service of the tools layer promises (`daitn.tools.service`), held by each: minds its own, survives what is
hostile, shows its state, replays exactly."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from daitn.base.effects import Delivered, Effect, Event, Message, PeerAppeared, Send, SendFailed, SetTimer, TimerFired
from daitn.base.ids import CENTER, ArtifactId, DataSetId, JobId, NodeId
from daitn.descriptors.access import Access, AccessKind
from daitn.descriptors.grant import Holder
from daitn.descriptors.links import LinkKind, LinkState
from daitn.descriptors.machine import MachineState, WorkProcess
from daitn.descriptors.places import Place, RoundTrip
from daitn.tools.communication import CommunicationService
from daitn.tools.compute import ComputeService
from daitn.tools.link_keeper import AccessChanged, LinkKeeper
from daitn.tools.location import LocationService
from daitn.tools.measurement import LinkMeasurement
from daitn.tools.processes import ProcessService
from daitn.tools.sensing import DataMeasured, DataRemoved, SensingService
from daitn.tools.service import (
    ChildEnded,
    ChildMeasured,
    ChildStarted,
    LinksSeen,
    MachineMeasured,
    ManagerChanged,
    RoundTripMeasured,
    Service,
    TransferEnded,
)
from daitn.wire.center_tools import InputRef, VisitPrepare, Warrant
from daitn.wire.codec import decode, encode
from daitn.wire.terminal_tools import (
    LinksPlanned,
    LinksReported,
    MachineReported,
    MeasuredReported,
    Neighbor,
    NeighborsGiven,
    Probe,
    ProbeAnswered,
)
from daitn.wire.topology_tools import TerminalNoticed

ME = NodeId("n0001")
PEERS = [CENTER, *(NodeId(f"n{number:04d}") for number in range(1, 9))]
START_NS = 1_700_000_000_000_000_000

SERVICES: dict[str, Callable[[], Service]] = {
    "measurement": lambda: LinkMeasurement(ME),
    "location": lambda: LocationService(ME),
    "links": lambda: LinkKeeper(ME),
    "communication": CommunicationService,
    "compute": ComputeService,
    "processes": ProcessService,
    "sensing": SensingService,
}


def some_events(seed: int, count: int = 300) -> list[tuple[Event, int]]:
    """Events of every kind in any order, with values from the ends of their ranges, some of them twice or late."""
    rng = random.Random(seed)
    events: list[tuple[Event, int]] = []
    now_ns = START_NS
    for _ in range(count):
        now_ns += rng.choice((0, 1, 10_000_000, 1_000_000_000, 100_000_000_000))
        event = _some_event(rng)
        events += [(event, now_ns)] * rng.choice((1, 1, 1, 2))
    return events


def _some_event(rng: random.Random) -> Event:
    peer, number = rng.choice(PEERS), rng.choice((0, 1, 2, 7, 2**63 - 1))
    place = Place(x_s=rng.choice((-60.0, 0.0, 0.1)), height_s=rng.choice((0.0, 0.01)), error_frac=rng.random())
    link = LinkState(
        number=rng.randint(1, 5), peer=peer, kind=rng.choice(list(LinkKind)), direct=rng.random() < 0.5,
        address=rng.choice(("", "a:1", "b:2")), round_trip_s=rng.choice((None, 0.0, 0.02)),
    )  # fmt: skip
    access = Access(kind=rng.choice(list(AccessKind)), metered=rng.random() < 0.5, bytes_per_s=rng.choice((0.0, 1e6)))
    machine = MachineState(slots=4, slots_free=rng.randint(0, 4), load_frac=rng.random())
    process = WorkProcess(pid=rng.randint(1, 4), job=JobId("j"), use="train", started_unix_s=1.0)
    trip = RoundTrip(peer=peer, seconds=rng.choice((0.0, 0.05)))
    package = InputRef(artifact=ArtifactId("a" * 64), holders=(Holder(node=peer, direct=("a:1",)),), grant="")
    warrant = Warrant(owner="o", purpose="p", method="m", signer="s")
    messages: list[Message] = [
        Probe(number=number),
        ProbeAnswered(number=number, place=place),
        NeighborsGiven(sequence=number, neighbors=(Neighbor(node=peer, place=place),)),
        LinksPlanned(sequence=number, bytes_per_s=rng.choice((0.0, 1e6)), close=(peer,)),
        LinksReported(sequence=number, access=access, direct=("a:1",), links=(link,)),
        MeasuredReported(sequence=number, place=place, round_trips=(trip,)),
        MachineReported(sequence=number, machine=machine.hardware(), processes=(process,)),
        TerminalNoticed(node=peer, present=rng.random() < 0.7, left=rng.random() < 0.1),
        VisitPrepare(job=JobId("j"), package=package, warrant=warrant, dataset=None),
    ]
    message = rng.choice(messages)
    return rng.choice(
        [
            Delivered(sender=peer, message=message),
            Delivered(sender=CENTER, message=message),
            SendFailed(receiver=peer, message=message),
            TimerFired(name=rng.choice((*(f"{name} report" for name in SERVICES), "measurement probe", "job x"))),
            ManagerChanged(manager=rng.choice((CENTER, peer))),
            LinksSeen(links=(link,), carried_bytes=number),
            TransferEnded(peer=peer, direct=True, moved_bytes=number, seconds=rng.choice((0.0, 1.0))),
            RoundTripMeasured(peer=peer, seconds=rng.choice((0.0, 0.1)), place=rng.choice((None, place))),
            MachineMeasured(machine=machine),
            ChildStarted(pid=rng.randint(1, 4), job=JobId("j"), use="train"),
            ChildMeasured(pid=rng.randint(1, 4), busy=True, memory_bytes=1e6, cpu_s=1.0),
            ChildEnded(pid=rng.randint(1, 4)),
            AccessChanged(access=access, direct=("a:1",)),
            DataMeasured(
                dataset=DataSetId("n/d"), rows=rng.randint(0, 999), labels={"a": rng.randint(0, 9), "b": 1},
                appended=rng.random() < 0.5,
            ),
            DataRemoved(dataset=DataSetId("n/d")),
            PeerAppeared(node=peer),
        ]
    )  # fmt: skip


def run(service: Service, events: list[tuple[Event, int]]) -> list[list[Effect]]:
    done = []
    for event, now_ns in events:
        done.append(service.handle(event, now_ns))
        service.check_invariants()
        if isinstance(service, LinkMeasurement):
            service.news.clear()
    return done


@pytest.fixture(params=SERVICES)
def make(request: pytest.FixtureRequest) -> Callable[[], Service]:
    return SERVICES[request.param]


@pytest.mark.parametrize("seed", range(5))
def test_service_keeps_its_invariants_whatever_comes(make, seed):
    run(make(), some_events(seed))


def test_same_events_have_the_same_effects(make):
    assert run(make(), some_events(11)) == run(make(), some_events(11))


def test_event_of_others_changes_nothing(make):
    service = make()
    before = service.view()

    for event in (PeerAppeared(node=ME), TimerFired(name="job x"), TimerFired(name="")):
        assert service.handle(event, START_NS) == []
    assert service.view() == before


def test_name_is_one_word_and_its_timers_begin_with_it(make):
    service = make()
    timers = [
        effect.name for effects in run(service, some_events(3)) for effect in effects if isinstance(effect, SetTimer)
    ]

    assert service.name.isalpha()
    assert {name.partition(" ")[0] for name in timers} <= {service.name}


def test_view_is_frozen_and_can_be_shown(make):
    service = make()
    run(service, some_events(4))
    view = service.view()

    assert view.__struct_config__.frozen
    assert view.__struct_config__.tag
    assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view


def test_what_it_says_passes_the_codec(make):
    said = [effect.message for effects in run(make(), some_events(5)) for effect in effects if isinstance(effect, Send)]

    for message in said:
        assert decode(encode(message)) == message


def test_effects_are_bounded_by_what_came(make):
    """Nothing a peer can say makes a service say more than a few things, so no message is an amplifier."""
    for effects in run(make(), some_events(6)):
        assert len([effect for effect in effects if isinstance(effect, Send)]) <= len(PEERS) + 2

"""Link measurement and location: passive first, probes within their share, new nodes placed from a few of them."""

from __future__ import annotations

import random

import pytest
from tests.tools_world import START_NS, ToolsWorld

from daitn.base.effects import Delivered, Send, SendFailed
from daitn.base.ids import CENTER, NodeId
from daitn.descriptors.links import LinkKind, LinkState
from daitn.descriptors.places import Place, estimate_s
from daitn.tools.measurement import (
    ANSWERS_PER_S,
    JOINING_BYTES,
    PEERS,
    PROBE_BYTES,
    SHARE,
    LinkMeasurement,
)
from daitn.tools.service import LinksSeen, TransferEnded
from daitn.wire.terminal_tools import Neighbor, NeighborsGiven, Probe, ProbeAnswered

ME, PEER = NodeId("n0001"), NodeId("n0002")
S = 1_000_000_000


def nodes(count: int) -> list[NodeId]:
    return [NodeId(f"n{number:04d}") for number in range(1, count + 1)]


def scattered(seed: int, count: int) -> dict[NodeId, Place]:
    """True places of nodes, the centre among them."""
    rng = random.Random(seed)
    return {
        node: Place(
            x_s=0.1 * rng.random(), y_s=0.1 * rng.random(), z_s=0.05 * rng.random(), height_s=0.005 * rng.random()
        )
        for node in [CENTER, *nodes(count)]
    }


def grown(seed: int, count: int, seconds: float = 60.0) -> tuple[ToolsWorld, dict[NodeId, Place]]:
    """A domain to which nodes joined one after another."""
    truth = scattered(seed, count)
    world = ToolsWorld(lambda one, other: estimate_s(truth[one], truth[other]))
    for node in nodes(count):
        world.join(node)
        world.run(1.0)
    world.run(seconds)
    return world, truth


def probes_of(world: ToolsWorld, node: NodeId) -> int:
    return sum(sender == node and isinstance(message, Probe) for sender, _, message in world.sent)


def direct(peer: NodeId = PEER, **changes) -> LinkState:
    values = {"number": 1, "peer": peer, "kind": LinkKind.CHUNKS, "direct": True, "round_trip_s": 0.02}
    return LinkState(**(values | changes))


def test_new_node_is_placed_by_a_few_probes_and_the_rest_is_estimated():
    world, truth = grown(1, 60)
    newest = nodes(60)[-1]
    agent = world.agents[newest]
    measured = {one.peer for one in agent.measurement.round_trips()}
    places = {node: world.agents[node].location.place for node in truth}

    offs = sorted(
        abs(estimate_s(places[newest], places[other]) / estimate_s(truth[newest], truth[other]) - 1)
        for other in truth
        if other != newest and other not in measured
    )
    assert len(measured) <= 40, "its neighbours, and those it was given before it had a place"
    assert probes_of(world, newest) <= JOINING_BYTES / PROBE_BYTES
    assert len(offs) >= 20
    assert offs[len(offs) // 2] < 0.2
    assert agent.location.view().reported
    reported = [one for one in world.gathered if one.node == newest and one.place is not None]
    assert reported
    assert reported[-1].round_trips


def test_probes_take_their_share_of_what_is_carried_and_no_more():
    world, _ = grown(2, 6, seconds=3600.0)
    joined = probes_of(world, ME)
    assert joined <= JOINING_BYTES / PROBE_BYTES

    for step in range(1, 11):
        world.give(ME, LinksSeen(links=(), carried_bytes=step * 10_000_000))
        world.run(600.0)

    paid = probes_of(world, ME) - joined
    assert 0 < paid <= SHARE * 100_000_000 / PROBE_BYTES + 1
    view = world.agents[ME].measurement.view()
    assert view.probe_bytes <= JOINING_BYTES + SHARE * view.carried_bytes


def test_kernel_figures_of_a_direct_link_count_before_probes_and_cost_nothing():
    measurement = LinkMeasurement(ME)
    before = measurement.view().probe_bytes

    measurement.handle(LinksSeen(links=(direct(lost_frac=0.01),), carried_bytes=0), START_NS)

    (found,) = [one for one in measurement.round_trips() if one.peer == PEER]
    assert (found.seconds, found.lost_frac, found.passive, found.direct) == (0.02, 0.01, True, True)
    assert measurement.view().probe_bytes - before <= PROBE_BYTES  # the centre's, which is new
    measurement.handle(LinksSeen(links=(), carried_bytes=0), START_NS + S)
    assert not [one for one in measurement.round_trips() if one.peer == PEER], (
        "the link is gone, and so is what it said"
    )


def test_rate_is_that_of_transfers_and_small_ones_say_nothing():
    measurement = LinkMeasurement(ME)
    measurement.handle(LinksSeen(links=(direct(),), carried_bytes=0), START_NS)

    measurement.handle(TransferEnded(peer=PEER, direct=True, moved_bytes=1000, seconds=1.0), START_NS)
    assert measurement.round_trips()[0].bytes_per_s == 0
    measurement.handle(TransferEnded(peer=PEER, direct=True, moved_bytes=50_000_000, seconds=1.0), START_NS)
    assert measurement.round_trips()[0].bytes_per_s == 50e6


def test_probe_that_is_lost_counts_as_loss_and_an_answer_nobody_asked_for_counts_nothing():
    measurement = LinkMeasurement(ME)
    given = NeighborsGiven(sequence=1, neighbors=(Neighbor(node=PEER, place=Place()),))
    effects = measurement.handle(Delivered(sender=CENTER, message=given), START_NS)
    (probe,) = [effect for effect in effects if isinstance(effect, Send)]

    stranger = ProbeAnswered(number=probe.message.number, place=Place())
    measurement.handle(Delivered(sender=NodeId("n0009"), message=stranger), START_NS + 1)
    assert not measurement.round_trips()
    measurement.handle(SendFailed(receiver=PEER, message=probe.message), START_NS + 2)
    assert measurement.view().probes_lost == 1
    measurement.handle(Delivered(sender=PEER, message=stranger), START_NS + 3)
    assert not measurement.round_trips(), "it came after it was given up"
    assert measurement.unasked == 2


def test_node_that_is_asked_too_often_answers_no_more():
    measurement = LinkMeasurement(ME)
    answers = [
        effect
        for number in range(ANSWERS_PER_S + 20)
        for effect in measurement.handle(Delivered(sender=PEER, message=Probe(number=number)), START_NS + number)
    ]

    assert len(answers) == ANSWERS_PER_S
    assert measurement.view().answers_refused == 20
    assert measurement.handle(Delivered(sender=PEER, message=Probe(number=99)), START_NS + 2 * S)


def test_peers_are_bounded_whoever_connects():
    measurement = LinkMeasurement(ME)
    for number in range(3 * PEERS):
        seen = LinksSeen(links=(direct(NodeId(f"n{number:04d}")),), carried_bytes=0)
        measurement.handle(seen, START_NS + number)
        measurement.check_invariants()


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_near_and_far_and_include_the_centre(seed):
    world, truth = grown(seed, 60)
    node = nodes(60)[5]
    given = [one.node for one in world.manager.neighbors_of(node)]
    by_distance = sorted((one for one in truth if one != node), key=lambda one: estimate_s(truth[node], truth[one]))

    assert CENTER in given
    assert node not in given
    assert len(given) == len(set(given)) == 32
    assert len(set(given) & set(by_distance[:12])) >= 5
    assert set(given) & set(by_distance[40:])


def test_node_that_left_is_nobodys_neighbour():
    world, _ = grown(4, 8)
    world.notice(PEER, present=False, left=True)

    assert all(one.node != PEER for node in nodes(8) for one in world.manager.neighbors_of(node))

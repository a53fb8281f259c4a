"""Communication service: the book is what nodes said, classes follow from both ends, others let go of who left or
moved; and the control centre's desk hands the services to a manager of their own and takes them back."""

from __future__ import annotations

import pytest
from tests.builders import START_NS, bench, make_site
from tests.tools_world import ToolsWorld

from daitn.base.effects import Delivered, PeerAppeared, PeerVanished, Send
from daitn.base.ids import CENTER, ArtifactId, JobId, NodeId
from daitn.descriptors.access import Access, AccessKind
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.grant import Holder
from daitn.descriptors.links import ROUTER, LinkKind, LinkState, Priority
from daitn.descriptors.places import Place, RoundTrip
from daitn.descriptors.terminals import Role
from daitn.node.tools_shown import links_shown
from daitn.tools.link_keeper import AccessChanged
from daitn.tools.service import CloseLinks, LinksSeen, OpenLink, PaceLinks
from daitn.wire.center_tools import InputRef, VisitPrepare, Warrant
from daitn.wire.terminal_tools import Leaving, LinksPlanned, LinksReported, MeasuredReported
from daitn.wire.topology_tools import Describe, TerminalGathered, TerminalNoticed, ToolsAt

A, B = NodeId("n0001"), NodeId("n0002")
S = 1_000_000_000
CELLULAR = Access(kind=AccessKind.CELLULAR, metered=True, bytes_per_s=1e6)


def session(number: int = 1, kind: LinkKind = LinkKind.CONTROL) -> LinkState:
    return LinkState(number=number, peer=ROUTER, kind=kind)


def to(peer: NodeId, address: str = "", number: int = 3) -> LinkState:
    values = {"number": number, "peer": peer, "kind": LinkKind.CHUNKS, "direct": True}
    return LinkState(**values, opened_here=bool(address), address=address)


def two() -> ToolsWorld:
    """A and B, with a direct link that A made to where B is."""
    world = ToolsWorld(lambda *_: 0.01)
    for node, direct in ((A, ("a:1",)), (B, ("b:1",))):
        world.join(node)
        world.give(node, AccessChanged(access=Access(), direct=direct))
    world.give(A, LinksSeen(links=(session(), to(B, "b:1")), carried_bytes=0))
    world.give(B, LinksSeen(links=(session(), to(A)), carried_bytes=0))
    world.run(1.0)
    return world


def book(world: ToolsWorld) -> dict[tuple[NodeId, NodeId], bool]:
    return {(one.node, one.state.peer): one.certain for one in world.manager.links(world.now_ns)}


def test_links_are_in_the_book_as_their_nodes_said_and_go_when_they_say_so():
    world = two()
    assert book(world) == {(A, ROUTER): True, (A, B): True, (B, ROUTER): True, (B, A): True}

    world.give(A, LinksSeen(links=(session(),), carried_bytes=0))
    world.give(B, LinksSeen(links=(session(),), carried_bytes=0))
    world.run(1.0)

    assert set(book(world)) == {(A, ROUTER), (B, ROUTER)}


def test_report_that_is_lost_is_said_again_until_it_is_heard():
    world = two()
    world.cut.add(A)
    world.give(A, LinksSeen(links=(session(),), carried_bytes=0))
    world.run(3.0)
    assert (A, B) in book(world)

    world.cut.clear()
    world.run(10.0)

    assert (A, B) not in book(world)


def test_late_report_does_not_bring_an_old_link_back():
    world = two()
    old = next(message for node, _, message in world.sent if node == A and isinstance(message, LinksReported))
    before = book(world)

    world.give(CENTER, Delivered(sender=A, message=old))

    assert book(world) == before
    assert world.manager.dropped == 1


def test_links_of_a_silent_node_are_uncertain_and_those_of_one_that_left_are_gone():
    world = two()
    world.notice(B, present=False)
    assert book(world) == {(A, ROUTER): True, (A, B): False, (B, ROUTER): False, (B, A): False}
    world.notice(B, present=True)
    assert all(book(world).values())

    world.notice(B, present=False, left=True)
    world.run(1.0)

    assert (A, CloseLinks(peer=B)) in world.performed
    assert not [pair for pair in book(world) if pair[0] == B]


def test_node_that_moved_is_let_go_of_where_it_was():
    world = two()

    world.give(B, AccessChanged(access=CELLULAR, direct=("b:2",)))
    world.run(1.0)

    assert (A, CloseLinks(peer=B)) in world.performed
    assert (B, CloseLinks(peer=A)) not in world.performed, "what others made to it ends at their side"
    assert (B, PaceLinks(bytes_per_s=1e6)) in world.performed


def test_class_follows_from_both_ends():
    world = two()
    world.give(B, AccessChanged(access=CELLULAR, direct=("b:1",)))
    world.run(1.0)
    classes = {(one.node, one.state.peer): one.link_class for one in world.manager.links(world.now_ns)}

    assert classes[A, B].metered
    assert classes[A, B].bytes_per_s == 1e6
    assert classes[A, B].priority is Priority.BULK
    assert classes[B, ROUTER].priority is Priority.INTERACTIVE
    assert classes[B, ROUTER].bytes_per_s == 0, "control is not paced"
    assert not classes[A, ROUTER].metered


def test_orders_are_taken_from_the_manager_only():
    world = two()
    world.performed.clear()

    world.give(A, Delivered(sender=B, message=LinksPlanned(sequence=1, bytes_per_s=5.0, close=(B,))))
    world.give(A, Delivered(sender=B, message=ToolsAt(node=B)))

    assert world.performed == []
    assert world.agents[A].manager == CENTER
    assert world.agents[A].counts()["orders_refused"] == 2


def test_process_that_ends_after_it_left_brings_nothing_back():
    world = two()
    world.notice(B, present=False, left=True)
    world.notice(B, present=False)
    world.notice(B, present=True)
    world.manager.check_invariants()

    assert not [pair for pair in book(world) if pair[0] == B]
    assert all(one.node != B for one in world.manager.neighbors_of(A))


# --- the control centre's desk ----------------------------------------------------------------------------------------


def reported(center, node: NodeId, *links: LinkState, at_ns: int = START_NS) -> list:
    report = LinksReported(sequence=at_ns // 1000, access=Access(), links=links)
    return center.handle(Delivered(sender=node, message=report), at_ns)


def with_tools() -> tuple:
    """A centre with two sites, of which the second has the role to manage the tools."""
    made = bench(sites=2)
    center = made.center
    site = make_site(2, roles=(Role.TOOLS,), data=(), compute=None)
    sequence = center.knowledge.node(B).sequence + 1
    center.knowledge.describe(site, sequence, START_NS)
    effects = center.handle(PeerAppeared(node=B), START_NS)
    return center, effects


def test_centre_manages_the_services_by_itself_and_shows_the_book():
    center = bench(sites=2).center

    effects = reported(center, A, session(), to(B, "b:1"))

    assert [one for one in effects if isinstance(one, Send) and one.receiver == A]
    assert {(one.node, one.state.peer) for one in links_shown(center, START_NS)} == {(A, ROUTER), (A, B)}
    center.handle(PeerVanished(node=B), START_NS + S)
    uncertain = {(one.node, one.state.peer) for one in links_shown(center, START_NS) if not one.certain}
    assert uncertain == {(A, B)}


def test_places_that_are_told_give_every_pair_a_latency():
    center = bench(sites=2).center
    for node, x_s in ((A, 0.03), (B, 0.0)):
        place = Place(x_s=x_s, height_s=0.005, error_frac=0.1)
        message = MeasuredReported(sequence=START_NS // 1000, place=place)
        center.handle(Delivered(sender=node, message=message), START_NS)

    assert center.knowledge.gathered.round_trip_s(A, B) == pytest.approx(0.04)


def test_measured_ways_are_links_of_the_map_and_round_trips_of_its_terminals():
    center = bench(sites=2).center
    ways = (
        RoundTrip(peer=CENTER, seconds=0.02, spread_s=0.001),
        RoundTrip(peer=B, seconds=0.03, lost_frac=0.01, bytes_per_s=5e6, direct=True),
    )
    message = MeasuredReported(sequence=START_NS // 1000, place=Place(error_frac=0.5), round_trips=ways)
    center.handle(Delivered(sender=A, message=message), START_NS)

    terminals = [center.knowledge.node(node) for node in (A, B)]
    assert terminals[0].round_trip_s == pytest.approx(0.02)
    way = center.knowledge.links.way(terminals[0].row, terminals[1].row)
    assert way is not None
    assert center.knowledge.gathered.rate_bytes_per_s(A, B) == 5e6


def test_node_with_the_role_takes_the_services_over_and_what_it_gathers_counts():
    center, effects = with_tools()

    assert center.tools.managed_by == B
    told = [one for one in effects if isinstance(one, Send) and one.message == ToolsAt(node=B)]
    assert {one.receiver for one in told} >= {A, B}
    notices = [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, TerminalNoticed)]
    assert {one.node for one in notices} >= {A}
    gathered = TerminalGathered(node=A, links=(session(),))
    center.handle(Delivered(sender=B, message=gathered), START_NS)
    assert [one.node for one in links_shown(center, START_NS)] == [A]


def test_gathered_facts_of_somebody_else_change_nothing():
    center, _ = with_tools()

    center.handle(Delivered(sender=A, message=TerminalGathered(node=A, links=(session(),))), START_NS)

    assert links_shown(center, START_NS) == ()
    assert center.tools.counts()["gathered_refused"] == 1


def share_up(center, node: NodeId) -> float | None:
    """In which share of the time a node answered, as the map has it."""
    return center.knowledge.facts[Kind.TERMINAL].value(center.knowledge.node(node).row, "reachable_frac")


def test_presence_that_is_told_before_a_node_describes_itself_counts_once_it_has():
    made = bench(sites=1)
    made.nodes[B] = make_site(2)

    made.give(PeerAppeared(node=B))
    made.now_ns += S
    made.say(B, Describe(sequence=1, generated_unix_s=0.0, descriptor=made.nodes[B]))

    assert share_up(made.center, B) == 1.0
    made.give(PeerVanished(node=B))
    made.now_ns += S
    made.give(PeerAppeared(node=B))
    assert share_up(made.center, B) == pytest.approx(0.5, abs=0.01)


def test_nothing_but_presence_is_kept_of_a_node_that_has_not_described_itself():
    center, _ = with_tools()
    unknown = NodeId("n0077")

    center.handle(Delivered(sender=B, message=TerminalGathered(node=unknown, links=(session(),))), START_NS)

    assert links_shown(center, START_NS) == ()
    assert center.knowledge.gathered.node(unknown).links == ()


def test_presence_of_a_node_that_left_is_kept_no_more_by_a_centre_that_starts_anew_either():
    made = bench(sites=2)
    made.say(A, Leaving(reason="moves"))
    assert made.center.knowledge.gathered.node(A).up_time is None

    made.restart()  # the manager's memory of who left is gone, and the bench has A appear again

    assert made.center.knowledge.has_left(A)
    assert made.center.knowledge.gathered.node(A).up_time is None
    assert made.center.knowledge.gathered.node(B).up_time is not None


def test_manager_that_vanishes_hands_the_services_back():
    center, _ = with_tools()

    effects = center.handle(PeerVanished(node=B), START_NS + S)

    assert center.tools.managed_by == CENTER
    told = [one.receiver for one in effects if isinstance(one, Send) and one.message == ToolsAt(node=CENTER)]
    assert A in told
    reported(center, A, session(), at_ns=START_NS + 2 * S)
    assert [one.node for one in links_shown(center, START_NS)] == [A]


def test_report_to_the_wrong_manager_is_taken_and_the_right_one_named():
    center, _ = with_tools()

    effects = reported(center, A, session())

    assert ToolsAt(node=B) in [one.message for one in effects if isinstance(one, Send)]
    assert [one.node for one in links_shown(center, START_NS)] == [A]


def announced(*holders: NodeId) -> Delivered:
    """A visit is to be prepared whose package these nodes hold."""
    named = tuple(Holder(node=one, direct=(f"{one}:1",)) for one in holders)
    package = InputRef(artifact=ArtifactId("a" * 64), holders=named, grant="")
    warrant = Warrant(owner="o", purpose="p", method="m", signer="s")
    return Delivered(
        sender=CENTER, message=VisitPrepare(job=JobId("j"), package=package, warrant=warrant, dataset=None)
    )


def opened(world: ToolsWorld) -> list[tuple[NodeId, NodeId]]:
    return [(node, effect.peer) for node, effect in world.performed if isinstance(effect, OpenLink)]


def test_visit_that_is_announced_has_its_link_made():
    world = two()
    world.give(A, announced(B))

    assert (A, OpenLink(peer=B, direct=(f"{B}:1",))) in world.performed


def test_node_that_holds_the_package_itself_makes_its_link_to_another_holder_and_none_to_itself():
    world = two()
    world.give(A, announced(A, B))
    assert opened(world) == [(A, B)]

    world.give(A, announced(A))

    assert opened(world) == [(A, B)]

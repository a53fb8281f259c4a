"""The route of one job as it goes out: all that is ordered, and what is to follow, signed as a whole (MTRCE).

Orders of a turn are sent at its end, when all of them are known: then a new version of the route is issued, once for a
round of a hundred sites as for one visit, and each order gets its way through the tree (`artifacts.itineraries`). An
order that is sent again goes by the newest version, after a restart of the centre too; where what is ordered on whose
behalf has changed since, there is a newer one first.

What is ahead is what is expected now, and no promise: route, verification and average are chosen anew when it is their
turn, which makes the next version.
"""

from __future__ import annotations

from daitn.artifacts.itineraries import RouteTree, content_of
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.orders import OrderDesk
from daitn.control_center.training.records import RouteIssued, VisitOrdered
from daitn.control_center.turn import Turn
from daitn.descriptors.itinerary import SEGMENTS_MOST, Passage, Segment, action_of, dataset_of
from daitn.wire.center_tools import Warrant


class Itineraries:
    """See the module's docstring."""

    def __init__(self, state: JobState, orders: OrderDesk) -> None:
        self._state = state
        self._orders = orders
        self._spoken: list[OpenVisit] = []
        self._tree: RouteTree | None = None
        self._token = ""
        self.ahead: tuple[Segment, ...] = ()
        """What is expected to follow what is under way; signed with the next version, and then thought of anew."""

    def send(self, turn: Turn, opened: OpenVisit) -> None:
        """Have a visit's order sent when the turn ends, if it stands then."""
        if not self._spoken:
            turn.at_end(lambda: self._send_all(turn))
        self._spoken.append(opened)

    def _send_all(self, turn: Turn) -> None:
        state = self._state
        spoken = [one.ordered for one in self._spoken if state.open.get(one.ordered.visit) is one]
        self._spoken = []
        if not spoken or state.ended:
            return
        warrant = self._orders.warrant(state)
        segments = [self._segment(ordered, warrant) for ordered in spoken]
        tree = self._tree or self._last(warrant)
        places = _places(tree, segments)
        if tree is None or places is None:
            tree = self._issue(turn, warrant)
            places = [place for segment in segments if (place := tree.place_of(segment)) is not None]
        if tree is not self._tree:
            self._tree, self._token = tree, self._orders.sign_route(state.job, state.route_version, tree)
        for ordered, place in zip(spoken, places, strict=True):
            passage = Passage(token=self._token, place=place, path=tree.path(place))
            turn.send(ordered.node, self._orders.order(state, ordered, turn.now_ns, passage))

    def _last(self, warrant: Warrant) -> RouteTree | None:
        """The newest version again after a restart; None where there is none, or it would be another by now."""
        state, route = self._state, self._state.route
        if route is None:
            return None
        under_way = [self._segment(state.ordered[visit], warrant) for visit in route.visits]
        tree = RouteTree([*under_way, *route.ahead])
        return tree if tree.root == route.root else None

    def _issue(self, turn: Turn, warrant: Warrant) -> RouteTree:
        """A new version: every visit under way, in the order in which they were ordered, and what follows."""
        state = self._state
        under_way = [opened.ordered for opened in state.open.values()]
        ahead, self.ahead = self.ahead[: max(0, SEGMENTS_MOST - len(under_way))], ()
        tree = RouteTree([*(self._segment(ordered, warrant) for ordered in under_way), *ahead])
        issued = RouteIssued(
            job=state.job,
            at_ns=turn.now_ns,
            version=state.route_version + 1,
            visits=tuple(ordered.visit for ordered in under_way),
            ahead=ahead,
            root=tree.root,
        )
        turn.record(issued)
        return tree

    def _segment(self, ordered: VisitOrdered, warrant: Warrant) -> Segment:
        work = ordered.work
        return Segment(
            action=action_of(work),
            node=ordered.node,
            dataset=dataset_of(work),
            visit=ordered.visit,
            fence=ordered.fence,
            content=content_of(self._state.request.package, work, warrant),
        )


def _places(tree: RouteTree | None, segments: list[Segment]) -> list[int] | None:
    """Where these segments are on a route; None where one of them is not."""
    if tree is None:
        return None
    known = [place for segment in segments if (place := tree.place_of(segment)) is not None]
    return known if len(known) == len(segments) else None

"""Gossip at the centre: which groups average, at whose site, and how all meet before a model is verified.

The method says what comes next (`learning.methods.gossip`), the book keeps who has which model; here is where a mean is
made: at a site that has one of the updates, by turns another one where it was lost.
"""

from __future__ import annotations

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import AllMet, GroupsDrawn, ModelGone
from daitn.control_center.turn import Turn
from daitn.descriptors.itinerary import Action, Segment
from daitn.descriptors.plan import Stop
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.learning.methods.contract import AverageAmong, Step, Train, TrainAmong


class Gossiping:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def draw(
        self, turn: Turn, visits: tuple[Train, ...], groups: tuple[tuple[DataSetId, ...], ...]
    ) -> list[tuple[Stop, ArtifactId]]:
        """A round begins; unless nobody can begin now."""
        found = [(visit.stop, model) for visit in visits if (model := self._begins_from(turn, visit)) is not None]
        if found:
            turn.record(GroupsDrawn(job=self._state.job, at_ns=turn.now_ns, groups=groups))
        return found

    def _begins_from(self, turn: Turn, visit: Train) -> ArtifactId | None:
        """The model that a member's visit begins from: its own, the head where that is gone; None: to be waited for."""
        if self._desk.reachable(visit.model):
            return visit.model
        if not self._desk.gone(turn, visit.model):
            return None
        if visit.model != self._state.head:
            self._forget(turn, visit.model)
        return self._state.head

    def average(self, turn: Turn, step: AverageAmong) -> None:
        """Order a mean at one of its sites. Models that are gone are forgotten, others waited for."""
        away = [one for one in step.updates if not self._desk.reachable(one.model)]
        for one in away:
            if self._desk.gone(turn, one.model):
                self._forget(turn, one.model)
        pieces = self._state.gossip.mixing().pieces
        if len(pieces) == 1:  # all others are gone
            turn.record(AllMet(job=self._state.job, at_ns=turn.now_ns, models=1, head=pieces[0].model))
        if away:
            return
        node = self._site_of(turn, step.updates)
        if node is not None:
            members = sum(one.members for one in step.updates)
            why = f"the mean of all {members} members" if step.last else f"the mean of {members} members"
            work = AggregateWork(updates=step.updates, share=not step.last, among=True)
            self._desk.order(turn, "aggregate", node, work, why)

    def ahead(self, steps: tuple[Step, ...]) -> tuple[Segment, ...]:
        """What follows these steps, for the route that is signed with their orders: after the visits of a round a mean
        of each group, where its first member is, as things are; after the mean of all a measurement."""
        found: list[Segment] = []
        for step in steps:
            match step:
                case TrainAmong(visits=visits, groups=groups):
                    places = {visit.stop.dataset: visit.stop.compute_node for visit in visits}
                    meeting = ([places[name] for name in group if name in places] for group in groups)
                    found += [Segment(action=Action.AGGREGATE, node=one[0]) for one in meeting if len(one) > 1]
                case AverageAmong(last=True) if self._state.plan is not None and self._state.plan.verifier is not None:
                    found.append(Segment(action=Action.VERIFY, node=self._state.plan.verifier))
                case _:
                    pass
        return tuple(found)

    def meet(self, turn: Turn) -> None:
        """All members' models are to become one; where they have one and the same, that is it."""
        apart = self._state.gossip.apart()
        head = apart[0].model if len(apart) == 1 else None
        turn.record(AllMet(job=self._state.job, at_ns=turn.now_ns, models=len(apart), head=head))

    def wind_up(self, turn: Turn) -> bool:
        """A budget is used up: have all meet all the same. False once they have, or there is nothing of their own."""
        book, state = self._state.gossip, self._state
        if not book.begun:
            return False
        if not book.mixing().pieces:
            self.meet(turn)
        pieces = book.mixing().pieces
        if state.open or len(pieces) < 2:
            return book.begun
        for place in range(0, len(pieces) - 1, 2):
            self.average(turn, AverageAmong(updates=pieces[place : place + 2], last=len(pieces) == 2))
        return True

    def _forget(self, turn: Turn, model: ArtifactId) -> None:
        turn.record(ModelGone(job=self._state.job, at_ns=turn.now_ns, model=model, instead=self._state.head))

    def _site_of(self, turn: Turn, updates: tuple[UpdateRef, ...]) -> NodeId | None:
        """Of the sites that hold one of these, the first that answers, and rests only if all do."""
        holders = [node for one in updates for node in self._state.holders.get(one.model, ())]
        found = [node for node in holders if self._desk.answers(node) and self._desk.computes(node)]
        return min(found, key=lambda node: self._desk.cools(turn, node), default=None)

"""Averages at the centre: when a round's updates are averaged, where, and what comes along of earlier rounds."""

from __future__ import annotations

from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.records import ModelGone
from daitn.control_center.turn import Turn
from daitn.decision.rounds.grouping import shares
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import AggregateWork, UpdateRef


class Averages:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def order(self, turn: Turn, view: TrainingView, updates: tuple[UpdateRef, ...]) -> None:
        """Order the average of a round. Updates whose sites do not come back in a while are left out."""
        state = self._state
        here = tuple(update for update in updates if self._desk.reachable(update.model))
        if any(not self._desk.gone(turn, update.model) for update in updates if update not in here):
            return
        if not here:
            turn.record(ModelGone(job=state.job, at_ns=turn.now_ns, model=updates[0].model, instead=state.head))
            return
        # Who made the model has it, and what is remembered beside it.
        rather = tuple(state.holders.get(state.head, ()))
        if (node := self._desk.aggregator(turn, view, rather)) is not None:
            self._desk.order(turn, "aggregate", node, self.work(here), f"{len(here)} updates of a round")

    def order_shares(self, turn: Turn, view: TrainingView, updates: tuple[UpdateRef, ...]) -> None:
        """Order the averages of a round's shares, at several aggregators at once; where one does as well, the average
        of all."""
        state, desk = self._state, self._desk
        regions = {
            one.model: desk.region_of(node)
            for one in updates
            for node in reversed(state.holders.get(one.model, []))
            if desk.answers(node)
        }
        awake = {one.node: desk.region_of(one.node) for one in view.aggregators if not desk.cools(turn, one.node)}
        parted = shares(updates, regions, awake)
        if not parted or any(not desk.reachable(one.model) for one in updates):
            self.order(turn, view, updates)
            return
        for share in parted:
            where = desk.region_of(share.node)
            why = f"{len(share.updates)} of {len(updates)} updates of a round{f', near {where}' if where else ''}"
            desk.order(turn, "aggregate", share.node, self._of_share(share.updates), why)

    def work(self, updates: tuple[UpdateRef, ...]) -> AggregateWork:
        """The mean of these updates, and the step that follows it; what is remembered of earlier rounds comes along if
        somebody who has it is there."""
        state = self._state
        compression = state.plan.compression if state.plan is not None else None
        if state.buffered:
            weighed = state.buffer.weighed(updates)
            return AggregateWork(updates=weighed, base=state.head, compression=compression)
        if state.plan is None or state.plan.server is None:
            base = state.head if compression is not None else None
            return AggregateWork(updates=updates, base=base, compression=compression)
        server, training = state.plan.server, state.plan.training
        remembered = state.server_states.get(state.head)
        if remembered is not None and not self._desk.reachable(remembered):
            remembered = None
        control = None
        if server.optimizer == "scaffold":
            remembered = remembered if state.controls.corrected(updates) else None
            reach = training.batches * training.learning_rate
            control = state.controls.round_of(state.head, remembered, updates, reach)
        return AggregateWork(
            updates=updates,
            server=server,
            base=state.head,
            state=remembered,
            control=control,
            compression=compression,
        )

    def _of_share(self, updates: tuple[UpdateRef, ...]) -> AggregateWork:
        compression = self._state.plan.compression if self._state.plan is not None else None
        base = self._state.head if compression is not None else None
        return AggregateWork(updates=updates, share=True, base=base, compression=compression)

"""The view that a running job's choice was made on, followed while its visits are under way (DRRT-A).

Paper II-A: model-specific topologies are monitored and updated as the terminal layer evolves. A choice is made on a
view (`chosen`), and how far facts may move before it would be another is worked out beside the turn (`valid`). From
then on the map is looked at (`look`): nothing is said while the choice stands, else what changed is told to whoever
planned, and kept for owners who follow along (`told`). By configuration what changed is told once a period instead
(`ViewUpdates`).

Until ranges are known, and for views too large for any, a choice stands while the same candidates are there. Nothing of
this is durable: after a restart of the centre the next choice begins it anew.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from daitn.base.units import NS_PER_MS
from daitn.decision.validity import pair_of
from daitn.descriptors.plan import Validity
from daitn.descriptors.view import TrainingView, ViewDelta, ViewFollowed, ViewStep
from daitn.topology.adapter import ViewAdapter
from daitn.topology.view_deltas import delta_between
from daitn.topology.view_updates import ViewUpdates

STEPS_KEPT: Final = 64
"""Steps of a view that are kept for those who follow along; whoever missed more is given the view as a whole."""


class FollowedView:
    """See the module's docstring."""

    def __init__(self, updates: ViewUpdates) -> None:
        self._adapter = ViewAdapter(updates)
        self._steps: deque[ViewStep] = deque(maxlen=STEPS_KEPT)
        self._basis: object = None
        """Version of the view that ranges are being worked out for."""
        self._ranges = 0
        self._oldest = 0
        """The number of the view that the oldest step kept leads on from."""
        self.number = 0

    @property
    def view(self) -> TrainingView | None:
        """As it was told last; None before the first choice."""
        return self._adapter.view

    def chosen(self, view: TrainingView, why: str, now_ns: int) -> None:
        """A choice was made on this view."""
        before = self.view
        if before is view:
            return
        self._follow(view)
        if before is None:
            self._oldest = self._count(now_ns)
        elif (delta := delta_between(before, view)) is not None:
            self._keep(delta, why, now_ns)

    def valid(self, basis: int, validity: Validity | None) -> None:
        """How long a choice stands that was made on the view of this version; None: that is not known."""
        if validity is not None and self.view is not None and basis == self._basis:
            self._adapter.follow(self.view, validity)
            self._ranges = len(validity.ranges)

    def look(self, now: TrainingView, now_ns: int) -> ViewDelta | None:
        """What the planner is told now that the map says this; None while its choice stands. O(candidates)."""
        why = self._adapter.moved(now)
        delta = self._adapter.compare(now) if why else None
        if delta is not None:
            self._follow(now)
            self._keep(delta, why, now_ns)
        return delta

    def told(self, since: int) -> ViewFollowed:
        """What was told since a step; the view as a whole where that is unknown, or too long ago."""
        if since == self.number:
            return ViewFollowed(number=self.number, ranges=self._ranges)
        if since == self._oldest or any(one.number == since for one in self._steps):
            steps = tuple(one for one in self._steps if one.number > since)
            return ViewFollowed(number=self.number, steps=steps, ranges=self._ranges)
        return ViewFollowed(number=self.number, view=self.view, ranges=self._ranges)

    def _follow(self, view: TrainingView) -> None:
        pairs = tuple(sorted(pair_of(one) for one in view.candidates))
        self._adapter.follow(view, Validity(pairs=pairs))
        self._basis, self._ranges = view.version, 0

    def _keep(self, delta: ViewDelta, why: str, now_ns: int) -> None:
        if len(self._steps) == STEPS_KEPT:
            self._oldest = self._steps[0].number
        self._count(now_ns)
        self._steps.append(ViewStep(number=self.number, why=why, delta=delta))

    def _count(self, now_ns: int) -> int:
        self.number = max(self.number + 1, now_ns // NS_PER_MS)
        return self.number

"""Groups in a simulated world: members that work at the same time, under grants, and end with one model or none.

What the real nodes do with streams is here one look at the moment when the work would be done: every member that runs,
has not been stopped, and reaches the others makes the same model; whoever does not is missed by the rest. A group whose
members do not come together within `GATHER_S` is missed too. In a faulty world a member's child may die, and now and
then a member makes another model than the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from daitn.artifacts.grants import check_exchange_grant
from daitn.base.effects import Event
from daitn.base.errors import PeerError, PolicyError
from daitn.base.ids import NodeId, VisitId
from daitn.base.units import NS_PER_S
from daitn.descriptors.work import Group, TrainWork
from daitn.simulation.sites import SimulatedSite
from daitn.terminal.work import WorkFailed, WorkFinished, WorkProgressed
from daitn.wire.center_tools import VisitOrder

if TYPE_CHECKING:
    from daitn.simulation.process import Process
    from daitn.simulation.world import World

GATHER_S: Final = 10.0
"""How long a member waits for its partners to begin."""

WITNESS_S: Final = 0.2
"""A member that misses another says so a little later than that one itself would."""

DIFFERS: Final = 0.01
"""Chance, in a faulty world, that a member makes another model."""


class _Present(msgspec.Struct):
    """A member at work, in one life of its process."""

    process: Process
    life: int
    order: VisitOrder


class SimulatedGroups:
    """See the module's docstring. `center_key`: what grants are signed with."""

    def __init__(self, world: World, center_key: Ed25519PublicKey) -> None:
        self._world = world
        self._center_key = center_key
        self._present: dict[VisitId, dict[VisitId, _Present]] = {}

    def began(self, process: Process, order: VisitOrder) -> bool:
        """A member of a group begins to work; False if the order belongs to none."""
        group = order.work.group if isinstance(order.work, TrainWork) else None
        if group is None:
            return False
        self._check_grants(process.node, order, group)
        here = self._present.setdefault(group.name, {})
        here[order.visit] = _Present(process, process.life, order)
        life = process.life
        if len(here) == len(group.members):
            seconds = 0.05 + 1.5 * self._world.rng.random()
            for present in here.values():
                visit = present.order.visit
                self._later(present, seconds / 2, lambda visit=visit: WorkProgressed(visit=visit, done=1, of=2))  # type: ignore[misc]
            self._world.after(seconds, lambda: self._end(group, seconds))
        else:
            self._world.after(GATHER_S, lambda: self._give_up(order, group, life))
        return True

    def _check_grants(self, node: NodeId, order: VisitOrder, group: Group) -> None:
        """Every exchange is granted to both of its ends."""
        refs = {ref.visit: ref for ref in order.partners}
        for _, member in group.others():
            try:
                check_exchange_grant(
                    refs[member.visit].grant,
                    self._center_key,
                    requester=node,
                    by=order.visit,
                    visit=member.visit,
                    now_unix_s=self._world.now_ns / NS_PER_S,
                )
            except (PolicyError, PeerError, KeyError) as error:
                self._world.watcher.ungranted.append(str(error))

    def _end(self, group: Group, seconds: float) -> None:
        """All have worked: whoever is whole finishes, if all are."""
        world = self._world
        here = self._present.pop(group.name, None)
        if here is None:
            return
        missed = [visit for visit, present in here.items() if not self._whole(present, here)]
        died = [visit for visit in here if world.network.faulty and world.rng.random() < world.faults.crash]
        odd = ""
        if world.network.faulty and world.rng.random() < DIFFERS:
            odd = world.rng.choice(sorted(here))
        for visit, present in here.items():
            if visit in died and visit not in missed:
                what = "the child process died"
                self._later(present, 0.0, lambda v=visit, w=what: self._fail(v, w, None))  # type: ignore[misc]
            elif missed or died:
                partner = here[(missed or died)[0]].process.node
                what = f"partner at {partner} is gone"
                self._later(present, WITNESS_S, lambda v=visit, w=what, p=partner: self._fail(v, w, p))  # type: ignore[misc]
            else:
                outcome = world.work.group_outcome(
                    present.process.node, present.order, group, seconds, differs=visit == odd
                )
                world.kept.pin(present.process.node, present.order.job, outcome.model)
                self._later(present, 0.0, lambda v=visit, o=outcome: WorkFinished(visit=v, outcome=o))  # type: ignore[misc]

    def _give_up(self, order: VisitOrder, group: Group, life: int) -> None:
        """Some member has not come."""
        here = self._present.get(group.name, {})
        present = here.get(order.visit)
        if present is None or present.life != life or len(here) == len(group.members):
            return
        del here[order.visit]
        late = next(member for member in group.members if member.visit not in here and member.visit != order.visit)
        self._later(present, 0.0, lambda: self._fail(order.visit, f"{late.node} did not come", late.node))

    def _fail(self, visit: VisitId, what: str, partner: NodeId | None) -> Event:
        blame = "unavailable" if partner is None else "partner"
        return WorkFailed(visit=visit, what=what, blame=blame, partner=partner)

    def _whole(self, present: _Present, here: dict[VisitId, _Present]) -> bool:
        """Whether a member is still at work and reaches the others."""
        network, node = self._world.network, present.process.node
        nodes = [other.process.node for other in here.values() if other is not present]
        reaches = all(network.linked(node, other) and network.linked(other, node) for other in nodes)
        return self._works(present) and reaches

    def _works(self, present: _Present) -> bool:
        process = present.process
        core = process.core
        return (
            process.alive
            and process.life == present.life
            and isinstance(core, SimulatedSite)
            and present.order.visit in core.working
        )

    def _later(self, present: _Present, seconds: float, event: Callable[[], Event]) -> None:
        """An event for a member that still works then; it is its last, unless it is progress."""

        def arrive() -> None:
            if self._works(present):
                made = event()
                if not isinstance(made, WorkProgressed) and isinstance(present.process.core, SimulatedSite):
                    present.process.core.working.discard(present.order.visit)
                self._world.give(present.process, made)

        self._world.after(seconds, arrive)

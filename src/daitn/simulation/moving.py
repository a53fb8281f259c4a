"""Moving artifacts in virtual time: from the first holder that is there, under a grant checked as by a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daitn.artifacts.grants import check_grant
from daitn.base.effects import Event
from daitn.base.errors import PeerError, PolicyError
from daitn.base.ids import CENTER, JobId, NodeId
from daitn.base.units import NS_PER_S
from daitn.control_center.training.commands import ModelFetched, ModelNotFetched
from daitn.descriptors.grant import Holder, Lacking
from daitn.simulation.process import Process
from daitn.terminal.work import InputsArrived, InputsFailed
from daitn.wire.center_tools import InputRef, VisitOrder

if TYPE_CHECKING:
    from daitn.simulation.world import World


NOT_HELD: Final = "does not hold it"


class SimulatedMoving:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self._world = world

    def fetch_inputs(self, process: Process, order: VisitOrder) -> None:
        """Bring all inputs of a visit; `InputsArrived` or `InputsFailed` follows."""
        world = self._world
        seconds = (0.01 + 0.2 * world.rng.random()) * world.network.slowness(process.node)
        asked = [wanted.holders[0].node for wanted in order.inputs if wanted.holders]
        world.watcher.sending.update(asked)

        def arrive() -> Event:
            world.watcher.sending.subtract(asked)
            for wanted in order.inputs:
                reason, lacking = self._fetch(process.node, wanted)
                if reason:
                    what = f"artifact {wanted.artifact[:12]} cannot be fetched: {reason}"
                    blame = "unavailable" if lacking is None else "not-held"
                    return InputsFailed(visit=order.visit, what=what, blame=blame, lacking=lacking)
                if not wanted.parts_only:
                    world.kept.pin(process.node, order.job, wanted.artifact)
            return InputsArrived(visit=order.visit, fetched_bytes=1000 * len(order.inputs), seconds=seconds)

        world.later(process, seconds, arrive, lambda: world.watcher.sending.subtract(asked))

    def fetch_model(self, process: Process, job: JobId, model: InputRef) -> None:
        """Bring a finished model to the centre."""

        def arrive() -> Event:
            reason, lacking = self._fetch(CENTER, model)
            if reason:
                return ModelNotFetched(job=job, artifact=model.artifact, what=reason, lacking=lacking)
            return ModelFetched(job=job, artifact=model.artifact)

        self._world.later(process, 0.05, arrive)

    def _fetch(self, requester: NodeId, wanted: InputRef) -> tuple[str, Lacking | None]:
        """Move one artifact; empty, or why it could not be had, and who answered that it does not hold it."""
        if wanted.artifact in self._world.artifacts[requester]:
            return "", None
        reasons: dict[NodeId, str] = {}
        for holder in wanted.holders or (Holder(node=CENTER),):
            reason = self._fetch_from(requester, wanted, holder.node)
            if not reason:
                return "", None
            reasons[holder.node] = reason
        lacking = tuple(node for node, reason in reasons.items() if reason == NOT_HELD)
        said = "; ".join(f"{node}: {reason}" for node, reason in reasons.items())
        return said, Lacking(artifact=wanted.artifact, holders=lacking) if lacking else None

    def _fetch_from(self, requester: NodeId, wanted: InputRef, holder: NodeId) -> str:
        world = self._world
        process = world.processes[holder]
        if not process.alive:
            return "is down"
        linked = world.network.linked(requester, holder) and world.network.linked(holder, requester)
        if not linked or process.frozen_until_ns > world.now_ns:
            return "cannot be reached"
        if wanted.artifact not in world.artifacts[holder]:
            return NOT_HELD
        try:
            check_grant(
                wanted.grant,
                world.center_key,
                requester=requester,
                artifact=wanted.artifact,
                now_unix_s=process.clock_ns(world.now_ns) / NS_PER_S,
                revoked=(),
            )
        except (PolicyError, PeerError) as error:
            world.watcher.ungranted.append(str(error))
            return str(error)
        world.watcher.transfers.append((holder, requester, wanted.artifact))
        world.artifacts[requester].add(wanted.artifact)
        return ""

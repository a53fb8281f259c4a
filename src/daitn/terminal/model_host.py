"""Model host (MDFP, paper II-B): a terminal role that serves the models the control centre orders, as far as its own
policy and memory allow.

A core: orders come in whole (`ServeModels`), what is to be loaded or dropped goes out as effects, and the state of
every replica is told on change and every `TELL_S`. The host's policy is checked here, whatever the centre believed, and
memory is promised before a byte is fetched: a model that does not fit beside the others is said to have failed, with
both numbers. Nothing is durable but the packages in the store: after a restart the centre orders again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.effects import Delivered, Effect, Event, Record, Send, SetTimer, Started, TimerFired
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.base.units import seconds_to_ns
from daitn.descriptors.serving import HostDescriptor, Replica, ReplicaPhase
from daitn.wire.center_serving import ModelsServed, ServeModels, ServeOrder

TIMER: Final = "host tell"
TELL_S: Final = 2.0
"""How often a host tells its state unasked."""


class LoadReplica(Effect, frozen=True, kw_only=True):
    """Fetch the package, start its engines, warm them up; `ReplicaChanged` tells how it goes."""

    order: ServeOrder


class DropReplica(Effect, frozen=True, kw_only=True):
    """End a model's engines once what they compute is done, and let its package go."""

    model: ModelName


class NameGateways(Effect, frozen=True, kw_only=True):
    """Answer queries of these nodes, and nobody else's; let go packages of models that are not among `models`."""

    gateways: tuple[NodeId, ...]
    models: tuple[ModelName, ...]


class ReplicaChanged(Event, frozen=True, kw_only=True):
    """A model at this host is in another phase, or was measured."""

    replica: Replica


class OfferChanged(Event, frozen=True, kw_only=True):
    """A model that this host brings by itself is in another phase, or was measured."""

    replica: Replica


class ModelHost:
    """See the module's docstring."""

    def __init__(self, offered: HostDescriptor) -> None:
        self.offered = offered
        self.counters = Counters()
        self._sequence = 0
        self._orders: dict[ModelName, ServeOrder] = {}
        self._replicas: dict[ModelName, Replica] = {}
        self._offered: dict[ModelName, Replica] = {}

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Delivered(sender=sender, message=ServeModels() as told):
                if sender != CENTER:
                    self.counters.count("messages_not_from_center")
                    return []
                return [*self._ordered(told), self._tell(), self._again(now_ns)]
            case ReplicaChanged(replica=replica):
                order = self._orders.get(replica.model)
                if order is None or order.artifact != replica.artifact:
                    return []  # of a model that was dropped meanwhile
                self._replicas[replica.model] = replica
                return [self._tell()]
            case OfferChanged(replica=replica):
                self._offered[replica.model] = replica
                return [self._tell()]
            case Started() | TimerFired(name="host tell"):
                return [self._tell(), self._again(now_ns)]
            case _:
                return []

    def apply(self, record: Record) -> None:
        """Nothing of this core is journalled."""

    def check_invariants(self) -> None:
        """BugError if more memory is promised than is offered, or a replica has no order."""
        if set(self._replicas) != set(self._orders):
            raise BugError(f"orders {sorted(self._orders)} and replicas {sorted(self._replicas)} differ")
        if (promised := self._promised()) > self.offered.memory_bytes:
            raise BugError(f"{promised} bytes are promised, {self.offered.memory_bytes} are offered")

    def _ordered(self, told: ServeModels) -> list[Effect]:
        if told.sequence <= self._sequence:
            return []
        self._sequence = told.sequence
        wanted = {order.model: order for order in told.orders}
        effects: list[Effect] = []
        for model, order in list(self._orders.items()):
            if model not in wanted or wanted[model].artifact != order.artifact:
                del self._orders[model]
                del self._replicas[model]
                effects.append(DropReplica(model=model))
        effects.append(NameGateways(gateways=told.gateways, models=tuple(wanted)))
        for model, order in wanted.items():
            if model in self._orders:
                self._orders[model] = order
            else:
                effects += self._take(order)
        return effects

    def _take(self, order: ServeOrder) -> list[Effect]:
        needs = order.needs
        faults = list(self.offered.policy.faults(order.owner, needs.signer, needs.licence, needs.payload_bytes))
        left = self.offered.memory_bytes - self._promised()
        if not faults and order.needs.memory_bytes > left:
            faults.append(f"the model needs {order.needs.memory_bytes} bytes of memory, {left} are left")
        phase = ReplicaPhase.FAILED if faults else ReplicaPhase.FETCHING
        self._orders[order.model] = order
        self._replicas[order.model] = Replica(
            model=order.model, artifact=order.artifact, phase=phase, why="; ".join(faults)[:1024]
        )
        if faults:
            self.counters.count("models_not_hosted")
            return []
        return [LoadReplica(order=order)]

    def _promised(self) -> int:
        """Memory of all models that did not fail."""
        return sum(
            order.needs.memory_bytes
            for model, order in self._orders.items()
            if self._replicas[model].phase is not ReplicaPhase.FAILED
        )

    def _tell(self) -> Effect:
        replicas = tuple(
            msgspec.structs.replace(replica, why=replica.why[:1024]) for replica in self._replicas.values()
        )
        offered = tuple(self._offered.values())
        return Send(receiver=CENTER, message=ModelsServed(sequence=self._sequence, replicas=replicas, offered=offered))

    def _again(self, now_ns: int) -> Effect:
        return SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(TELL_S))

"""Gateway desk: tells every gateway of the domain which models may be asked where, and which keys open its door.

Whole states under a sequence, as for hosts (decision 0039). Gateways are equal: each is told the same hosts, with its
own way to them where the map knows it, and none asks another. Hosts are told who the gateways are, and answer nobody
else. What is left of keys' quotas is leased to them in parts (`quota_desk`).
"""

from __future__ import annotations

from msgspec.structs import replace

from daitn.base import limits
from daitn.base.effects import Delivered, Event
from daitn.base.ids import NodeId
from daitn.base.metrics import Counters
from daitn.control_center.inference.commands import KeysListed
from daitn.control_center.inference.deployment_desk import DeploymentDesk
from daitn.control_center.inference.quota_desk import QuotaDesk
from daitn.control_center.turn import Turn
from daitn.descriptors.grant import Holder
from daitn.descriptors.serving import ApiKey, Route, ServedModel
from daitn.descriptors.terminals import Role
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_serving import GATEWAYS, KeysGiven, QuotasAsked, RoutesGiven, RoutesHeld


class GatewayDesk:
    """See the module's docstring."""

    def __init__(self, deployment: DeploymentDesk, knowledge: KnowledgeMap, counters: Counters) -> None:
        self._deployment, self._knowledge, self._counters = deployment, knowledge, counters
        self._routes: tuple[ServedModel, ...] | None = None
        self._others: tuple[Holder, ...] = ()
        """Gateways that can be reached, as they were told of each other."""
        self._keys: tuple[ApiKey, ...] | None = None
        self._quotas = QuotaDesk()
        self._seen = 0
        """Version of the deployment desk that gateways were told of."""
        self._sequence = self._routes_sequence = self._keys_sequence = 0

    def minds(self, event: Event) -> bool:
        """Whether an event is for this desk alone."""
        return isinstance(event, KeysListed) or (
            isinstance(event, Delivered) and isinstance(event.message, RoutesHeld | QuotasAsked)
        )

    def handle(self, turn: Turn, event: Event) -> None:
        """One event that `minds` says yes to."""
        match event:
            case KeysListed(keys=keys):
                if keys != self._keys:
                    self._keys, self._keys_sequence = keys, self._next(turn)
                    self._quotas.take_keys(keys, turn.now_ns)
                    for node in self._gateways():
                        self._give_keys(turn, node)
            case Delivered(sender=sender, message=RoutesHeld() as held):
                self._held(turn, sender, held)
            case Delivered(sender=sender, message=QuotasAsked() as asked):
                gateways = self._gateways()
                if sender not in gateways:
                    self._counters.count("messages_for_another_role")
                    return
                turn.send(sender, self._quotas.answer(sender, asked, gateways, turn.now_ns))
            case _:
                pass

    def settle(self, turn: Turn) -> None:
        """After a turn: who the gateways are, and what may be asked, may have changed. Cheap where nothing has."""
        if self._deployment.version == self._seen:
            return
        self._seen = self._deployment.version
        gateways = tuple(self._gateways())[:GATEWAYS]
        if gateways != self._deployment.gateways:
            self._deployment.gateways = gateways
            self._deployment.described(turn)
        if not gateways:
            return
        routes, holders = self._deployment.served(), self._holders()
        if (routes, holders) != (self._routes, self._others):
            self._routes, self._others, self._routes_sequence = routes, holders, self._next(turn)
            for node in gateways:
                self._give_routes(turn, node)

    def _held(self, turn: Turn, sender: NodeId, held: RoutesHeld) -> None:
        if sender not in self._gateways():
            self._counters.count("messages_for_another_role")
            return
        newest = max(held.routes, held.keys)
        if newest > self._sequence:  # the clock of this machine was set back between two starts
            self._sequence = newest
            self._routes_sequence, self._keys_sequence = self._next(turn), self._next(turn)
        if held.routes != self._routes_sequence and self._routes is not None:
            self._give_routes(turn, sender)
        if held.keys != self._keys_sequence and self._keys is not None:
            self._give_keys(turn, sender)

    def _gateways(self) -> list[NodeId]:
        return sorted(facts.descriptor.node for facts in self._knowledge.with_role(Role.GATEWAY))

    def _holders(self) -> tuple[Holder, ...]:
        """Gateways that can be reached, and where they listen themselves."""
        found = [facts for facts in self._knowledge.with_role(Role.GATEWAY) if facts.reachable]
        holders = (Holder(node=one.descriptor.node, direct=one.descriptor.direct) for one in found)
        return tuple(sorted(holders, key=lambda one: one.node))[:GATEWAYS]

    def _next(self, turn: Turn) -> int:
        self._sequence = max(self._sequence + 1, turn.now_ns // 1000)
        return self._sequence

    def _give_routes(self, turn: Turn, node: NodeId) -> None:
        """The models, each host with its way from this gateway: what a choice begins with before it has learnt more."""
        models = tuple(
            replace(model, routes=tuple(self._from(node, route) for route in model.routes))
            for model in self._routes or ()
        )
        turn.send(node, RoutesGiven(sequence=self._routes_sequence, models=models, gateways=self._others))

    def _from(self, gateway: NodeId, route: Route) -> Route:
        path_s = self._knowledge.gathered.round_trip_s(gateway, route.host.node)
        return route if path_s is None else replace(route, path_s=path_s)

    def _give_keys(self, turn: Turn, node: NodeId) -> None:
        turn.send(node, KeysGiven(sequence=self._keys_sequence, keys=(self._keys or ())[: limits.GATEWAY_KEYS]))

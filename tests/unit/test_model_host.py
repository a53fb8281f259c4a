"""Model host: what it takes on, what it refuses, and what it tells."""

from __future__ import annotations

from daitn.base.effects import Delivered, Effect, Send, Started, TimerFired
from daitn.base.ids import CENTER, ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.serving import EngineKind, HostDescriptor, ModelNeeds, Replica, ReplicaPhase
from daitn.terminal.model_host import DropReplica, LoadReplica, ModelHost, NameGateways, ReplicaChanged
from daitn.wire.center_serving import ModelsServed, ServeModels, ServeOrder
from daitn.wire.center_tools import InputRef

OFFERED = HostDescriptor(
    engines=(EngineKind.TORCH_GRAPH,), memory_bytes=250, policy=HostPolicy(owners=("ada",), model_bytes_most=1000)
)


def order(name: str, *, owner: str = "ada", memory_bytes: int = 100, package: str = "a") -> ServeOrder:
    return ServeOrder(
        model=ModelName(name),
        package=InputRef(artifact=ArtifactId(package * 64), holders=(), grant="g"),
        owner=OwnerId(owner),
        needs=ModelNeeds(kind="graph", payload_bytes=10, memory_bytes=memory_bytes, signer="key"),
    )


def tell(host: ModelHost, sequence: int, *orders: ServeOrder, sender: NodeId = CENTER) -> list[Effect]:
    effects = host.handle(Delivered(sender=sender, message=ServeModels(sequence=sequence, orders=orders)), 0)
    host.check_invariants()
    return effects


def told(effects: list[Effect]) -> dict[str, ReplicaPhase]:
    (said,) = [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, ModelsServed)]
    return {replica.model: replica.phase for replica in said.replicas}


def test_orders_are_loaded_and_what_is_not_ordered_any_more_is_dropped() -> None:
    host = ModelHost(OFFERED)
    effects = tell(host, 1, order("one"), order("two"))
    assert [one.order.model for one in effects if isinstance(one, LoadReplica)] == ["one", "two"]
    assert set(told(effects).values()) == {ReplicaPhase.FETCHING}

    effects = tell(host, 2, order("two"), order("three"))
    assert [one.model for one in effects if isinstance(one, DropReplica)] == ["one"]
    assert [one.order.model for one in effects if isinstance(one, LoadReplica)] == ["three"]
    (named,) = [one for one in effects if isinstance(one, NameGateways)]
    assert named.models == ("two", "three")

    effects = tell(host, 3, order("two", package="b"), order("three"))
    assert [one.model for one in effects if isinstance(one, DropReplica)] == ["two"]
    assert [one.order.artifact[0] for one in effects if isinstance(one, LoadReplica)] == ["b"]


def test_what_policy_or_memory_forbids_fails_with_every_reason_and_costs_nothing() -> None:
    host = ModelHost(OFFERED)
    effects = tell(host, 1, order("mine"), order("other", owner="bob"), order("big", memory_bytes=200))

    assert [one.order.model for one in effects if isinstance(one, LoadReplica)] == ["mine"]
    assert told(effects) == {
        "mine": ReplicaPhase.FETCHING,
        "other": ReplicaPhase.FAILED,
        "big": ReplicaPhase.FAILED,
    }
    assert host.counters.of("models_not_hosted") == 2


def test_only_the_centre_gives_orders_and_an_old_one_changes_nothing() -> None:
    host = ModelHost(OFFERED)
    assert tell(host, 1, order("one"), sender=NodeId("n0009")) == []
    assert host.counters.of("messages_not_from_center") == 1
    tell(host, 5, order("one"))
    assert told(tell(host, 4)) == {"one": ReplicaPhase.FETCHING}


def test_state_is_told_on_change_and_again_by_itself() -> None:
    host = ModelHost(OFFERED)
    tell(host, 1, order("one"))
    serving = Replica(model=ModelName("one"), artifact=ArtifactId("a" * 64), phase=ReplicaPhase.SERVING)

    assert told(host.handle(ReplicaChanged(replica=serving), 0)) == {"one": ReplicaPhase.SERVING}
    assert told(host.handle(TimerFired(name="host tell"), 0)) == {"one": ReplicaPhase.SERVING}
    assert told(ModelHost(OFFERED).handle(Started(), 0)) == {}
    gone = Replica(model=ModelName("two"), artifact=ArtifactId("a" * 64), phase=ReplicaPhase.SERVING)
    assert host.handle(ReplicaChanged(replica=gone), 0) == []

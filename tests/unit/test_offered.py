"""Models that hosts bring by themselves: told by hosts, given to gateways, and taken back with their hosts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.test_deployment_desk import MODEL, Domain, make_gate, make_host

from daitn.base.effects import Delivered, PeerVanished, Send, SetTimer, TimerFired
from daitn.base.errors import InputError
from daitn.base.ids import CENTER, ArtifactId, ModelName, NodeId
from daitn.control_center.inference.commands import UndeployAsked
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.offers import SimulatedFault, SimulatedOffer
from daitn.descriptors.serving import EngineKind, HostDescriptor, Replica, ReplicaMeasured, ReplicaPhase, ServedModel
from daitn.descriptors.texts import TextTask
from daitn.node.node_config import HostConfig
from daitn.node.serving.host_offer import engines_of
from daitn.node.site_files import load_offers
from daitn.terminal.model_host import ModelHost, OfferChanged
from daitn.wire.center_serving import DemandTold, ModelsServed, QueriesOf

TALKER = ModelName("talker")
OTHER = ArtifactId("c" * 64)


def offered(node: str, artifact: ArtifactId = ArtifactId("b" * 64), **changes: object) -> Delivered:  # noqa: B008
    replica = Replica(
        model=TALKER,
        artifact=artifact,
        phase=ReplicaPhase.SERVING,
        tasks=(TextTask.GENERATE,),
        concurrency=7,
        measured=ReplicaMeasured(engine=EngineKind.SIMULATED, row_s=0.1),
    )
    replica = msgspec.structs.replace(replica, **changes)
    return Delivered(sender=NodeId(node), message=ModelsServed(sequence=0, offered=(replica,)))


def talker(domain: Domain) -> ServedModel | None:
    found = {model.model: model for model in domain.center.inference.deployment.served()}
    return found.get(TALKER)


def hosts_of(domain: Domain) -> set[str]:
    model = talker(domain)
    return set() if model is None else {route.host.node for route in model.routes}


def test_hosts_that_offer_the_same_are_replicas_of_one_model_until_they_go() -> None:
    domain = Domain(make_host(1, region="north"), make_host(2))
    domain.do(offered("n0001"))
    domain.do(offered("n0002"))
    model = talker(domain)
    assert model is not None
    assert (model.tasks, model.owner) == ((TextTask.GENERATE,), domain.hosts[NodeId("n0001")].operator)
    assert [(route.region, route.concurrency) for route in model.routes] == [("north", 7), ("", 7)]

    domain.do(offered("n0001", phase=ReplicaPhase.FAILED, why="gone"))
    assert hosts_of(domain) == {"n0002"}
    domain.do(PeerVanished(node=NodeId("n0002")))
    assert hosts_of(domain) == set()


def test_other_model_under_the_same_name_is_not_asked_and_counted() -> None:
    domain = Domain(make_host(1), make_host(2), make_host(3))
    domain.do(offered("n0001"))
    domain.do(offered("n0002"))
    domain.do(offered("n0003", OTHER))
    assert hosts_of(domain) == {"n0001", "n0002"}
    assert domain.center.counters.of("offers_unlike") == 1


def test_deployed_model_keeps_its_name() -> None:
    domain = Domain(make_host(1))
    domain.deploy("= 1 replicas")
    domain.do(offered("n0001", model=MODEL))
    (model,) = domain.center.inference.deployment.served()
    assert model.owner == "ada"
    domain.do(UndeployAsked(model=MODEL))
    (model,) = domain.center.inference.deployment.served()
    assert model.owner == domain.hosts[NodeId("n0001")].operator


def test_host_tells_what_it_offers_beside_what_it_was_ordered() -> None:
    host = ModelHost(HostDescriptor(engines=(EngineKind.TORCH_GRAPH,), memory_bytes=100))
    offer = SimulatedOffer(model=TALKER)
    replica = Replica(model=TALKER, artifact=offer.likeness, phase=ReplicaPhase.WARMING)
    (said,) = host.handle(OfferChanged(replica=replica), 0)
    assert isinstance(said, Send)
    assert (said.receiver, said.message) == (CENTER, ModelsServed(sequence=0, offered=(replica,)))


def test_likeness_leaves_out_how_fast_a_host_is() -> None:
    offer = SimulatedOffer(model=TALKER)
    quick = msgspec.structs.replace(offer, token_s=0.001, fault=SimulatedFault(every=2))
    assert quick.likeness == offer.likeness
    assert msgspec.structs.replace(offer, seed=1).likeness != offer.likeness


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "offer"),
        ('[[offer]]\nengine = "magic"\nmodel = "m"', "magic"),
        ('[[offer]]\nengine = "simulated"\nmodel = "m"\nspeed = 3', "speed"),
        ('[[offer]]\nengine = "simulated"\nmodel = "m"\ntoken_s = -1', "token_s"),
        ('[[offer]]\nengine = "simulated"\nmodel = "no name"', "no name"),
        ('[[offer]]\nengine = "simulated"\nmodel = "m"\n' * 2, "offered twice"),
        ("[[offer", "not TOML"),
    ],
)
def test_file_of_offers_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "offers.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        load_offers(tmp_path / "offers.toml")


def test_engine_that_runs_no_packages_is_refused_for_them() -> None:
    with pytest.raises(InputError, match="simulated runs no packages"):
        engines_of(HostConfig(engine=EngineKind.SIMULATED))


def test_what_is_asked_of_an_offered_model_is_on_the_map_until_nobody_asks() -> None:
    domain = Domain(make_host(1), make_gate(9, "south"))
    domain.do(offered("n0001"))
    told = DemandTold(seconds=2.0, counts=(QueriesOf(model=TALKER, queries=20, bytes=4000.0),))
    effects = domain.do(Delivered(sender=NodeId("n0009"), message=told), after_s=2)
    assert any(isinstance(one, SetTimer) and one.name == "placing" for one in effects)
    domain.do(TimerFired(name="placing"), after_s=5)
    table = domain.center.knowledge.facts[Kind.QUERY]

    row = table.row_of("talker@south")
    assert row is not None
    assert table.value(row, "query_bytes") == pytest.approx(200)
    assert table.value(row, "latency_goal_s") is None
    effects = domain.do(TimerFired(name="placing"), after_s=60)
    assert table.row_of("talker@south") is None
    assert not any(isinstance(one, SetTimer) and one.name == "placing" for one in effects), "nothing is left to look at"

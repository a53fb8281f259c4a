"""Models given to a running domain: placed on hosts, refused with reasons, placed anew when a host is lost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.system.small_domain import CONTRACT, make_model, wait_until

import daitn
from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract
from daitn.descriptors.serving import EngineKind, ModelPhase
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.packaging import package_module

pytestmark = pytest.mark.timeout(240)


def write_package(folder: Path) -> Path:
    contract = msgspec.convert(CONTRACT, DataContract)
    package_module(make_model(), contract, folder, key=Ed25519PrivateKey.generate(), name="sides")
    return folder


def test_model_is_placed_survives_the_loss_of_a_host_and_is_withdrawn(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    with LocalDomain(tmp_path / "domain", "served", patience_s=2.0) as domain:
        domain.start()
        hosts = [NodeSpec(name=name, operator=name, roles=(Role.HOST,), region=name) for name in ("ash", "oak", "yew")]
        domain.join_all(hosts)
        token = domain.owner_token("ada")
        with daitn.connect(token) as network:
            refused = network.models.deploy(package, "sides", "accuracy >= 90%, >= 4 replicas, <= 4 replicas")
            assert refused.phase is ModelPhase.REFUSED
            assert [reason.partition(":")[0] for reason in refused.reasons] == ["replicas", "quality"]
            assert network.models.list() == ()

            network.models.deploy(package, "sides", "p95 <= 500 ms, = 2 replicas")
            status = network.models.wait("sides", 60)
            assert len(status.replicas) == 2
            assert all(0 < one.measured.row_s < 0.5 for one in status.replicas)

            lost = status.replicas[0].name
            domain.kill(lost)
            wait_until(lambda: network.models.status("sides").phase is ModelPhase.SHORT, "the loss is seen", 10)
            wait_until(
                lambda: (
                    (now := network.models.status("sides")).phase is ModelPhase.SERVING
                    and lost not in {one.name for one in now.replicas}
                ),
                "the third host serves it",
                30,
            )

            domain.kill("center")
            domain.restart("center")
            wait_until(lambda: network.models.status("sides").phase is ModelPhase.SERVING, "the centre knows again", 30)

            shown = domain.run("models", token=token)
            assert [one["model"] for one in shown["models"]] == ["sides"]
            domain.run("undeploy", "sides", token=token)
            wait_until(lambda: network.models.list() == (), "it is withdrawn", 10)
            with pytest.raises(InputError, match="has no model 'sides'"):
                network.models.status("sides")


def test_model_too_slow_for_its_goal_is_taken_from_every_host_with_what_was_measured(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    with LocalDomain(tmp_path / "domain", "slow", patience_s=2.0) as domain:
        domain.start()
        domain.join(NodeSpec(name="ash", operator="ash", roles=(Role.HOST,), engine="onnx-graph"))
        with daitn.connect(domain.owner_token("ada")) as network:
            network.models.deploy(package, "patient", "p95 <= 1 s, = 1 replicas")
            with daitn.connect(domain.operator_token()) as operator:
                wait_until(
                    lambda: len(operator.map.ask("model where terminal.name = 'ash'").rows) == 1, "the map has it", 20
                )
                asked = "terminal where models >= 1 and model_memory_free_bytes > 1000000"
                wait_until(lambda: len(operator.map.ask(asked).rows) == 1, "the host tells what it has left", 20)
            assert network.models.wait("patient", 60).replicas[0].measured.engine is EngineKind.ONNX_GRAPH
            network.models.deploy(package, "sides", "p95 <= 0.001 ms, = 1 replicas")
            with pytest.raises(InputError, match=r"one row takes \d+\.\d ms in the engine"):
                network.models.wait("sides", 60)

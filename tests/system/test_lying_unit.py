"""A verification unit that calls every model perfect, before one that does not; a host that turns every number, beside
one that does not: real processes, one domain.

`docs/decisions/0045-second-opinions.md` and `0082-answers-held-together.md` say how they are found.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.system.small_domain import contract, make_model, wait_until, write_site
from tests.system.test_serving import write_package

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.metrics import shown
from daitn.cli.alarms import alarms_of
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(180)


def test_unit_that_calls_every_model_perfect_gives_no_goal_and_an_alarm_names_both(tmp_path: Path) -> None:
    with LocalDomain(tmp_path / "domain", "praised", patience_s=2.0) as domain:
        domain.prefixes["fir"] = (sys.executable, str(Path(__file__).with_name("lying_host.py")))
        domain.prefixes["flatterer"] = (sys.executable, str(Path(__file__).with_name("lying_unit.py")))
        domain.start()
        files = write_site(tmp_path / "north", 0)
        files.policy.write_text(files.policy.read_text().replace('"trust"', '"trust", "audit"'))
        specs = [
            NodeSpec(name="north", operator="north", roles=(Role.DATA, Role.COMPUTE)),
            NodeSpec(name="flatterer", operator="trust", roles=(Role.VERIFICATION,)),
            NodeSpec(name="auditor", operator="audit", roles=(Role.VERIFICATION,)),
            *(NodeSpec(name=name, operator=name, roles=(Role.HOST,)) for name in ("ash", "fir")),
            NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,)),
        ]
        said = domain.join_all(specs, {"north": [files]})
        with daitn.connect(domain.owner_token("ada")) as network, daitn.connect(domain.operator_token()) as operator:
            job = network.train(
                make_model(),
                contract=contract(),
                targets=["accuracy >= 0.9"],
                deadline=90,
                purpose="research",
                name="praised",
                hyperparameters=Hyperparameters(batch_size=16, learning_rate=0.05),
                key=load_or_create_key(domain.folder / "ada.key"),
            )
            job.wait()

            log = "\n".join(entry.text for entry in job.log())
            assert job.status().phase is Phase.DELIVERED, log
            assert "neither counts alone" in log
            assert "trained" in log, "the submitted model was not taken for good"
            texts = [one.entry.text for one in alarms_of(operator.records())]
            assert any("flatterer (run by trust)" in text and "auditor (run by audit)" in text for text in texts), texts
            counters = {one.name: shown(one.counted.counts) for one in operator.counters()}
            assert any(counts.get("units_disagreed", 0) >= 1 for counts in counters.values())
            wait_until(lambda: job.result() is not None, "the model is there", 20)

            network.models.deploy(write_package(tmp_path / "package"), "sides", "= 2 replicas")
            network.models.wait("sides", 60)
            _ask_until_one_is_left(said["gate"]["queries"], operator.make_owner_token("app", ("ask",)), network)
            texts = [one.entry.text for one in alarms_of(operator.records())]
            (found,) = [text for text in texts if "queries it answered otherwise than" in text]
            assert "fir: " in found
            assert "ash" in found
            assert "flatterer" in found or "auditor" in found, "a unit has computed the same"


def _ask_until_one_is_left(address: str, key: str, network: Any) -> None:
    """The host that lies is found by comparison, with a unit as the third that two hosts lack, and serves no more."""
    link = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.25]}]})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    until_s = time.monotonic() + 90
    while {one.name for one in network.models.status("sides").replicas} != {"ash"}:
        assert time.monotonic() < until_s, network.models.status("sides")
        for _ in range(100):
            link.request("POST", "/v2/models/sides/infer", body, headers)
            answer = link.getresponse()
            answer.read()
    link.close()

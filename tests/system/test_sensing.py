"""New data at a running site: appended records are noticed, trained on from then on, and counted for their owner."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.system.small_domain import wait_until, write_site

import daitn
from daitn.base.errors import InputError
from daitn.descriptors.terminals import Role
from daitn.node.datasets import DataShelf
from daitn.node.node_config import NodeFolder
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

pytestmark = pytest.mark.timeout(180)


def test_appended_records_are_sensed_and_published_only_as_releases_allow(tmp_path: Path) -> None:
    with LocalDomain(tmp_path / "domain", "sensed", patience_s=2.0) as domain:
        domain.start()
        files = write_site(tmp_path / "north", 0)
        domain.join(NodeSpec(name="north", operator="north", roles=(Role.DATA,)), [files])
        with daitn.connect(domain.operator_token()) as network:

            def described():
                return network.nodes()[0].descriptor.data[0]

            def sensed() -> dict:
                try:
                    return domain.run("data", "sensing", "--folder", str(domain.node_folder("north")))["data"][0]
                except (InputError, IndexError):
                    return {"rows": 0}

            wait_until(lambda: sensed()["rows"] == 240, "the data was read")
            before = described()
            with files.data.open("a") as file:
                file.write("0.5,0.5,right\n" * 60)
            wait_until(lambda: described().version != before.version, "the map knows the new version")

            now = sensed()
            assert (now["rows"], now["appended"], now["readings"]) == (300, 60, 2)
            assert now["drift"] > 0.25, "only one label came"
            folder = NodeFolder(domain.node_folder("north"))
            shelf = DataShelf(folder.data, folder.site_secret())
            shelf.check_unchanged("sides")
            entry = shelf.entry("sides")
            spent = sum(one.epsilon for one in shelf.ledger().records())
            assert spent <= entry.policy.epsilon_per_period

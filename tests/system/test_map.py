"""The map in real processes: a node's load is reported over the fabric, and the map survives its centre."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import daitn
from daitn.descriptors.terminals import Role
from daitn.node.http.bodies import FactOnMap
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

DEADLINE_S = 40.0


def facts_of(domain: LocalDomain, name: str) -> dict[str, FactOnMap]:
    """The fast facts of a node, as an operator sees them."""
    nodes = daitn.connect(domain.operator_token()).nodes()
    return {fact.name: fact for node in nodes if node.descriptor.name == name for fact in node.facts}


def wait_for(domain: LocalDomain, name: str, fact: str, *, stale: bool = False) -> FactOnMap:
    """The fact once the map holds it, confirmed or not."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        held = facts_of(domain, name)
        if fact in held and (stale or not held[fact].stale):
            return held[fact]
    raise AssertionError(f"{fact} of {name} did not reach the map: {domain.tail(name)}")


def test_load_of_a_node_reaches_the_map_and_outlives_the_centre(tmp_path: Path) -> None:
    with LocalDomain(tmp_path / "domain", "small", patience_s=2.0) as domain:
        domain.start()
        domain.join_all([NodeSpec(name="forge", operator="lab", roles=(Role.COMPUTE,), slots=3)], {})

        free = wait_for(domain, "forge", "free_slots")
        assert (free.value, free.unit) == (3.0, "1")
        assert free.age_s < 30
        assert wait_for(domain, "forge", "wait_s").value == 0.0
        asked = "terminal where attached and flops > 1000 and memory_bytes_per_s > 1MB and age_of(flops) <= 60s"
        assert [row.id for row in daitn.connect(domain.operator_token()).map.ask(asked).rows] == ["n0001"]
        snapshots = list((domain.home / "center" / "map").glob("snapshot-*.map"))
        assert snapshots

        domain.kill("center", signal.SIGKILL)
        domain.kill("forge", signal.SIGSTOP)
        domain.restart("center")
        assert wait_for(domain, "forge", "free_slots", stale=True).stale

        domain.kill("forge", signal.SIGCONT)
        assert wait_for(domain, "forge", "free_slots").value == 3.0

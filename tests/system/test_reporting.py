"""Reports of facts on real processes: load reaches the map, the orchestrator tunes the node, silence is found by φ."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from tests.system.small_domain import wait_until

import daitn
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_node_reports_is_tuned_and_is_found_to_have_stopped(tmp_path: Path) -> None:
    with LocalDomain(tmp_path / "domain", "small", patience_s=1.0) as domain:
        domain.start()
        domain.join_all([NodeSpec(name="north", operator="north", roles=(Role.COMPUTE,))], {})
        operator = daitn.connect(domain.operator_token())

        def counted(name: str) -> int:
            books = [one.counted.counts for one in operator.counters()]
            return sum(one.count for counts in books for one in counts if one.name == name)

        def node():
            return next(one for one in operator.nodes() if one.descriptor.name == "north")

        wait_until(lambda: any(one.name == "load_frac" for one in node().facts), "the load on the map")
        wait_until(lambda: counted("reports_tuned") >= 1, "a tuning at the node")
        assert counted("readings_refused") == 0

        domain.kill("north", signal.SIGSTOP)
        try:
            wait_until(lambda: not node().reachable, "a stopped node off the map")
        finally:
            domain.kill("north", signal.SIGCONT)
        wait_until(lambda: node().reachable, "the node back on the map")

"""The paper on keeping topologies in step with the network: orchestration, adaptation, overhead."""

from __future__ import annotations

from tests.builders import make_candidate, make_view
from tests.paper.claims import claim
from tests.property.test_report_budget import HORIZON_S, WINDOW_S, Sites

from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.validity import validity_of
from daitn.topology.adapter import ViewAdapter
from daitn.topology.view_deltas import apply_delta


@claim(
    "V-A, data overhead",
    "Collecting what topologies are made of must not overburden the network: it keeps to a budget of bytes.",
    "daitn.topology.orchestrator.TopologyOrchestrator",
    "daitn.describe.reporting.ReportingRule",
)
def test_collecting_keeps_to_a_budget_of_bytes():
    sites = Sites(seed=7, budget=50.0, lost=0.2)
    sites.run()

    taken = [0] * HORIZON_S
    for second, size in sites.spent:
        taken[second] += size
    assert max(sum(taken[begin : begin + WINDOW_S]) for begin in range(HORIZON_S - WINDOW_S + 1)) <= 50.0 * WINDOW_S


@claim(
    "II-A, DRRT-A",
    "A unit monitors model-specific topologies and updates them: it tells what changed when a decision could change.",
    "daitn.topology.adapter.ViewAdapter",
    "daitn.descriptors.plan.Validity",
)
def test_topology_is_updated_when_a_decision_could_change_and_not_before():
    rule = RULES["routed"]
    view = make_view(make_candidate("s1", trust=0.9), make_candidate("s2", trust=0.5))
    stop = rule.next_stop(view, Seen(), 64)
    adapter = ViewAdapter()
    adapter.follow(view, validity_of(view, rule, Seen(), 64, stop))
    little = make_view(make_candidate("s1", trust=0.899), make_candidate("s2", trust=0.501), version=2)
    much = make_view(make_candidate("s1", trust=0.2), make_candidate("s2", trust=0.5), version=3)

    assert adapter.compare(little) is None
    delta = adapter.compare(much)
    assert delta is not None
    assert rule.next_stop(apply_delta(view, delta), Seen(), 64).dataset == "s2/records" != stop.dataset

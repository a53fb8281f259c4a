"""The paper's tools layer: services that others use, managed apart or integrated."""

from __future__ import annotations

from tests.paper.claims import claim
from tests.unit import test_communication, test_measuring, test_sensing

from daitn.base.ids import CENTER
from daitn.descriptors.access import Access, AccessKind, Window, is_open


@claim(
    "II-A, tools",
    "The communication service makes control and data links and adapts them as terminals join, leave and move.",
    "daitn.tools.communication.CommunicationService",
    "daitn.tools.link_keeper.LinkKeeper",
    "daitn.node.fabric.link_ledger.LinkLedger",
)
def test_links_follow_terminals_as_they_come_move_and_leave():
    test_communication.test_links_are_in_the_book_as_their_nodes_said_and_go_when_they_say_so()
    test_communication.test_node_that_moved_is_let_go_of_where_it_was()
    test_communication.test_links_of_a_silent_node_are_uncertain_and_those_of_one_that_left_are_gone()
    test_communication.test_visit_that_is_announced_has_its_link_made()


@claim(
    "II-A, tools",
    "Services have managers of their own, or are integrated into other layers.",
    "daitn.tools.manager.ServiceManager",
    "daitn.control_center.tools_desk.ToolsDesk",
)
def test_one_manager_runs_in_the_centre_or_apart():
    center, _ = test_communication.with_tools()
    assert center.tools.managed_by != CENTER
    test_communication.test_centre_manages_the_services_by_itself_and_shows_the_book()
    test_communication.test_manager_that_vanishes_hands_the_services_back()


@claim(
    "II-A, tools",
    "The location service says where terminals are in the network.",
    "daitn.tools.location.LocationService",
    "daitn.tools.measurement.LinkMeasurement",
)
def test_terminals_are_placed_without_measuring_all_pairs():
    test_measuring.test_new_node_is_placed_by_a_few_probes_and_the_rest_is_estimated()


@claim(
    "II-A, tools",
    "Data nodes collect and store new data with the sensing service.",
    "daitn.tools.sensing.SensingService",
    "daitn.describe.dynamics.dynamics_of",
)
def test_new_data_is_sensed_at_its_site():
    test_sensing.test_drift_is_that_of_what_came_against_what_was_there()
    test_sensing.test_dynamics_are_differences_of_releases_with_their_noise()


@claim(
    "II-A, terminals",
    "Any access network may be used, or several: wireline, Wi-Fi, cellular, satellite.",
    "daitn.descriptors.access.Access",
    "daitn.tools.availability.forecast",
)
def test_access_of_every_kind_is_a_fact_that_plans_use():
    passes = Access(
        kind=AccessKind.SATELLITE, metered=True, windows=(Window(start_unix_s=100, seconds=10, every_s=60),)
    )

    assert [is_open(passes, at_s) for at_s in (99, 100, 109, 110, 160)] == [False, True, True, False, True]
    assert {kind.value for kind in AccessKind} == {"wireline", "wifi", "cellular", "satellite"}

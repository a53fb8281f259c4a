"""The paper's inference network: models go to hosts, queries go to models."""

from __future__ import annotations

from tests.paper.claims import claim
from tests.unit import (
    test_asking,
    test_deployment_desk,
    test_gateway_desk,
    test_model_host,
    test_pipelines,
    test_query_engine,
    test_query_views,
    test_retraining,
)

from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.descriptors.serving import QueryGoal


@claim(
    "II-B, terminals",
    "Model deployment facility providers host models of others, as far as they want to and can.",
    "daitn.terminal.model_host.ModelHost",
    "daitn.descriptors.serving.HostDescriptor",
)
def test_hosts_carry_models_of_others_within_their_own_policy_and_memory():
    test_model_host.test_orders_are_loaded_and_what_is_not_ordered_any_more_is_dropped()
    test_model_host.test_what_policy_or_memory_forbids_fails_with_every_reason_and_costs_nothing()


@claim(
    "II-B, MDO",
    "The network decides whether a model can be deployed and where, and adapts that as hosts come, go and fail.",
    "daitn.control_center.inference.deployment_desk.DeploymentDesk",
    "daitn.decision.hosting.admit",
)
def test_models_are_admitted_with_reasons_placed_and_moved_as_hosts_go():
    test_deployment_desk.test_admission_lists_every_condition_that_fails()
    test_deployment_desk.test_model_goes_to_as_many_hosts_as_wanted_spread_over_regions()
    test_deployment_desk.test_host_that_vanishes_is_not_asked_at_once_and_replaced_after_patience()


@claim(
    "II-B, MDO",
    "Models are where queries come from: placement follows demand and distance, and moves lose no query.",
    "daitn.control_center.inference.placing.Placing",
    "daitn.decision.model_placement.PlacementSought",
    "daitn.control_center.inference.demand_book.DemandBook",
)
def test_models_follow_their_queries_and_answer_while_they_move():
    test_deployment_desk.test_model_follows_its_queries_and_stays_where_a_move_would_save_less_than_it_costs()
    test_deployment_desk.test_replica_that_moves_answers_until_another_does_and_ends_once_gateways_ask_it_no_more()
    test_deployment_desk.test_model_nobody_asks_has_no_replica_where_its_goal_allows_that_and_gets_one_when_it_is_asked()


@claim(
    "II-B, Q-FAM",
    "A query is judged before it is carried: whether the network can serve it within what it asks for.",
    "daitn.control_center.inference.query_admission.admissible",
)
def test_query_that_cannot_be_served_as_asked_is_refused_before_it_costs_anything():
    engine = test_query_engine.engine_with(test_query_engine.make_route("one"), accuracy=0.9)
    refused = test_query_engine.ask(engine, goal=QueryGoal(quality_least=0.95))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.offer) == (QueryRefusal.QUALITY, "accuracy >= 0.9")
    late = test_query_engine.ask(engine, left_s=1e-6)
    assert isinstance(late, Refused)
    assert late.reason is QueryRefusal.LATE


@claim(
    "II-B, QIRCE",
    "Queries are routed to the model that answers them best, by the state of paths, queues and hosts.",
    "daitn.control_center.inference.query_engine.QueryRouteEngine",
    "daitn.node.serving.asking.Asking",
)
def test_queries_go_where_they_are_answered_soonest_and_elsewhere_when_that_fails():
    test_query_engine.test_soonest_host_is_asked_and_slots_taken_meanwhile_count()
    test_query_engine.test_host_slower_than_it_measured_itself_is_found_out()
    test_asking.test_query_goes_on_at_another_host_when_one_is_lost()


@claim(
    "II-B, combined inference",
    "Several models answer as one: one after the other, together, the next where the first is not sure.",
    "daitn.descriptors.pipelines.Pipeline",
    "daitn.node.serving.combining.Combining",
)
def test_several_models_answer_as_one_under_the_same_routes_and_goal():
    test_pipelines.test_sequence_is_what_its_models_are_one_after_the_other_and_a_lost_stage_is_asked_elsewhere()
    test_pipelines.test_quorum_is_enough_and_a_slow_host_does_not_delay()
    test_pipelines.test_cascade_asks_the_next_model_only_about_rows_that_are_not_sure()
    test_pipelines.test_missing_modality_degrades_with_a_notice()
    test_pipelines.test_deadline_is_that_of_all_steps_together()


@claim(
    "II-B, QRRT",
    "Those who route queries know which models are where, and what is told to them follows the network.",
    "daitn.control_center.inference.gateway_desk.GatewayDesk",
    "daitn.terminal.gateway.Gateway",
)
def test_gateways_are_told_where_models_are_as_that_changes():
    test_gateway_desk.test_gateway_is_told_routes_and_keys_until_it_has_them()
    test_gateway_desk.test_gateway_takes_what_is_new_from_the_centre_only()


@claim(
    "II-B, QS-QRRT",
    "From the map, topologies are made for one query request: which models at which hosts may serve it, and how soon.",
    "daitn.topology.query_views.make_query_view",
    "daitn.descriptors.query_view.QueryView",
)
def test_query_request_sees_the_hosts_that_may_serve_it_and_why_others_may_not():
    test_query_views.test_hosts_of_a_model_are_candidates_the_soonest_first()
    test_query_views.test_hosts_that_may_not_serve_are_named_with_the_reason()


@claim(
    "II-B, QRRT-A",
    "What a query's topology says is followed: its holder hears of a change when another host would be chosen.",
    "daitn.topology.query_adapter.QueryViewAdapter",
    "daitn.decision.query_route.standing.standing_of",
)
def test_query_topology_is_updated_when_another_host_would_be_chosen_and_not_before():
    test_query_views.test_adapter_is_silent_while_the_choice_stands()


@claim(
    "II-B, II-A, OAM",
    "Models that serve are watched and trained anew when they drift, as far as their provider agreed.",
    "daitn.control_center.inference.retraining.RetrainingDesk",
    "daitn.node.retraining.train_on",
)
def test_model_that_got_worse_is_trained_on_and_replaced_where_that_was_agreed():
    test_retraining.test_model_that_got_worse_is_trained_on_tried_and_takes_over_by_what_it_answers()
    test_retraining.test_training_by_itself_needs_an_agreement_and_rests()
    test_retraining.test_unit_looks_now_and_then_and_its_figures_decide_where_nobody_judges()

"""Sections II-A and III of the paper on a simulated domain: the same cores that real nodes run."""

from __future__ import annotations

from functools import cache
from typing import get_args

import msgspec
from tests.builders import (
    START_NS,
    changed,
    make_candidate,
    make_contract,
    make_data,
    make_package,
    make_policy,
    make_request,
    make_site,
    make_unit,
    make_view,
)
from tests.paper.claims import claim
from tests.simulation.worlds import load, play, records
from tests.unit import test_advising

from daitn.base.ids import CENTER, DomainId, JobId, OwnerId
from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import JobAssessed, ModelJudged, SampleGiven, VisitAccepted, VisitOrdered
from daitn.decision.drafting import draft_plan
from daitn.decision.feasibility import Known
from daitn.decision.planned_routes import RouteSought
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.routes.errand import Aim, Errand
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.policy import summarise
from daitn.descriptors.terminals import Role
from daitn.descriptors.trust import Evidence
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import EvaluateWork, ShareWork, TrainWork
from daitn.learning.catalogue.models import catalogue_models
from daitn.learning.catalogue.parts import Family
from daitn.node.fabric import keys
from daitn.oam.progress import job_status
from daitn.oam.timeline import render_log
from daitn.simulation.run import RunReport
from daitn.simulation.world import World
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view


@cache
def run() -> tuple[RunReport, World]:
    """Three unequal hospitals, a unit, an aggregator, one job with a goal that is reached."""
    scenario = load()
    job = changed(scenario.jobs[0], targets=("accuracy >= 0.985", "recall[1] >= 0.985"), visits=40, chance_floor=0.25)
    return play(changed(scenario, jobs=(job,)))


def state() -> JobState:
    """The job of that run."""
    return run()[1].center.jobs[JobId("j1")].state


def view_of(*nodes, request=None) -> TrainingView:  # type: ignore[no-untyped-def]
    """A request's view of a map of these nodes."""
    knowledge = KnowledgeMap()
    for node in nodes:
        knowledge.describe(node, 1, START_NS)
    asker = Asker(owner=OwnerId("ada"), signer="signer", method="tram-fl", domain=DomainId("demo"))
    return make_training_view(knowledge, request or make_request(), make_contract(), asker, {}, (), START_NS)


@claim(
    "II-A, terminals",
    "Terminals hold data, lend compute, or verify; compute takes many forms, as long as data and model can reach it.",
    "daitn.descriptors.terminals.Role",
    "daitn.terminal.roles.Roles",
)
def test_terminals_of_every_kind_join_and_one_process_may_carry_several():
    _, world = run()
    roles = {facts.descriptor.name: set(facts.descriptor.roles) for facts in world.center.knowledge.nodes()}

    assert roles["north"] == {Role.DATA, Role.COMPUTE}
    assert roles["unit"] == {Role.VERIFICATION}


@claim(
    "II-A, tools",
    "Control and data move on links of their own, each with what it needs.",
    "daitn.node.fabric.keys",
)
def test_control_data_and_operations_have_planes_of_their_own():
    domain = DomainId("demo")
    written = [keys.message(domain, lane, CENTER, "n0001") for lane in keys.LANES]
    written.append(keys.telemetry(domain, "n0001", "load"))

    assert {key.split("/")[2] for key in written} == {"cp", "dp", "oam"}


@claim(
    "II-A, DRRT",
    "An orchestrator gathers data, resources and reachability of terminals into one map, kept in step with them.",
    "daitn.topology.knowledge_map.KnowledgeMap",
)
def test_map_holds_data_resources_and_reachability_of_all_terminals():
    _, world = run()
    knowledge = world.center.knowledge

    assert {facts.descriptor.name for facts in knowledge.nodes()} == {"north", "south", "west", "unit", "mixer"}
    found = knowledge.dataset(state().seen[0][0])
    assert found is not None
    facts, data = found
    assert data.records > 0
    assert facts.descriptor.compute is not None
    assert knowledge.usable(facts, world.now_ns)


@claim(
    "II-A, DRRT",
    "From the map, topologies are made for one model: what its request may and can use, and nothing else.",
    "daitn.topology.views.make_training_view",
    "daitn.descriptors.view.TrainingView",
)
def test_two_requests_see_two_topologies_of_one_map():
    private = make_site(2, data=(make_data("s2", policy=summarise(make_policy(owners=("bob",)))),))
    here = view_of(make_site(1), private, make_unit())

    assert {one.dataset for one in here.candidates} == {"s1/records"}
    assert [(one.dataset, one.code) for one in here.excluded] == [("s2/records", ReasonCode.POLICY)]


@claim(
    "II-A, T-FAM",
    "A feasibility module judges a request, before it runs, from model, goal and state of the network.",
    "daitn.control_center.training.admission.TrainingAdmission",
    "daitn.decision.feasibility.judge",
)
def test_request_that_cannot_be_met_is_refused_with_every_reason_and_a_counter_offer():
    view = make_view(make_candidate("s1"), verifiers=view_of(make_site(1), make_unit()).verifiers)
    asked = make_request(deadline_s=0.01, method="sorcery")
    verdict, _, _ = TrainingAdmission(lambda _: view).assess(asked, make_package(), Known())

    assert verdict.outcome == "refused"
    assert {one.code for one in verdict.failed()} == {ReasonCode.TIME, ReasonCode.METHOD}
    assert verdict.counter_offer is not None


@claim(
    "II-A, TAG and HPO",
    "The network chooses the training method and the hyper-parameters for the place where model and data meet.",
    "daitn.decision.method_choice.choose_method",
    "daitn.decision.hyperparameters.propose_training",
)
def test_plan_says_method_and_hyper_parameters_with_reasons_and_what_was_rejected():
    plan = draft_plan(make_view(make_candidate("s1"), make_candidate("s2")), make_request(), make_package(), None)
    chosen = {choice.what: choice for choice in plan.choices}

    assert chosen["method"].why
    assert chosen["method"].rejected
    assert plan.training.learning_rate > 0
    assert chosen["hyper-parameters"].why


@claim(
    "II-A, MTRCE",
    "A route engine decides which places the model visits, and in which order, from what the data is like.",
    "daitn.decision.routes.RULES",
)
def test_route_goes_where_what_the_model_has_seen_least_lies():
    zeros, ones = (
        make_candidate("s1", labels={"0": 100.0, "1": 0.0}),
        make_candidate("s2", labels={"0": 0.0, "1": 100.0}),
    )
    seen = Seen(visits=((zeros.dataset, 100),))
    stop = RULES["tram-fl"].next_stop(make_view(zeros, ones), seen, 100)

    assert stop is not None
    assert stop.dataset == ones.dataset
    assert stop.why


@claim(
    "II-A, MTRCE",
    "Routes are optimised as a whole, for a goal within budgets, and anew as training goes on.",
    "daitn.decision.routes.planned.Planned",
    "daitn.decision.planned_routes.RouteSought",
)
def test_route_is_planned_as_a_whole_for_a_goal_within_budgets_and_anew_after_each_visit():
    view = make_view(*(make_candidate(f"s{n}", {str(n): 100.0}, batch_s=1.0) for n in range(3)))
    wide = Errand(aims=(Aim(wanted=0.5),), batches=1)
    tight = Errand(aims=(Aim(wanted=0.5),), batches=1, seconds_left=2.2)

    whole = RouteSought(view=view, seen=Seen(errand=wide), records_per_visit=64).solve()
    part = RouteSought(view=view, seen=Seen(errand=tight), records_per_visit=64).solve()
    first = whole.stops[0].dataset
    after = RouteSought(view=view, seen=Seen(visits=((first, 64),), errand=wide), records_per_visit=64).solve()

    assert {stop.dataset for stop in whole.stops} == {one.dataset for one in view.candidates}
    assert whole.share > 0.99 > part.share > 0
    assert (len(part.stops), part.seconds <= 2.2) == (2, True)
    assert after.visits == (first,)
    assert len(after.stops) < len(whole.stops)


@claim(
    "II-A, MPVU",
    "Verification units build their test sets from samples of the participating nodes and guard them.",
    "daitn.terminal.roles.VerificationUnit",
    "daitn.describe.splits.sample_rows",
)
def test_unit_tests_on_samples_of_every_node_that_agreed_and_they_stay_there():
    _, world = run()
    given = records(world, SampleGiven)
    shared = [order for order in records(world, VisitOrdered) if isinstance(order.work, ShareWork)]

    assert {one.sample.dataset for one in given} == {"north/records", "south/records", "west/records"}
    assert {order.work.receiver for order in shared} == {one.unit for one in given}


@claim(
    "II-A, MPVU",
    "Models travel to the units for measuring, and what is measured steers the training.",
    "daitn.decision.keeping.judge_model",
)
def test_models_are_measured_on_their_way_and_kept_or_rolled_back_by_it():
    judged = records(run()[1], ModelJudged)

    assert judged
    assert all(one.measurements and one.why for one in judged)
    assert judged[-1].met


@claim(
    "II-A, tools",
    "Data nodes without compute send their data to a facility that may have it; else the model comes to the data.",
    "daitn.topology.views.make_training_view",
)
def test_data_without_compute_streams_inside_its_trust_zone_and_nowhere_else():
    policy = summarise(make_policy(raw_records="trust-zone", compute_operators=("lab",)))
    source = make_site(1, data=(make_data("s1", policy=policy),), compute=None, roles=(Role.DATA,))
    lab = make_site(2, operator="lab", data=(), roles=(Role.COMPUTE,))
    stranger = make_site(3, operator="stranger", data=(), roles=(Role.COMPUTE,))
    view = view_of(source, lab, stranger, request=make_request(raw_records="trust-zone"))

    assert {(one.dataset, one.compute_node, one.streamed) for one in view.candidates} == {
        ("s1/records", lab.node, True)
    }


@claim(
    "II-A, DRRT-A",
    "Topologies follow the network: as terminals come and go, decisions are taken on what is there now.",
    "daitn.control_center.training.job_desk.JobDesk.view",
)
def test_each_stop_is_chosen_on_a_view_made_after_the_visit_before():
    assert state().visits > 1
    whys = [order.why for order in records(run()[1], VisitOrdered) if isinstance(order.work, TrainWork)]
    assert len(set(whys)) > 1


@claim(
    "II-A, OAM",
    "Owners follow and steer their training: progress, feedback, changes of what is asked.",
    "daitn.oam.progress.job_status",
    "daitn.oam.timeline.render_log",
)
def test_owner_sees_progress_and_a_log_that_explains_each_step():
    _, world = run()
    machine = world.center.jobs[JobId("j1")]
    status, log = job_status(machine.state, machine.name_of), render_log(machine.state, machine.name_of, 0)

    assert [target.met for target in status.targets] == [True, True]
    assert len(log) == status.log_length
    assert all(entry.text for entry in log)


@claim(
    "II-A, (v)",
    "Owners are advised on models: a refusal names one that would reach the goal, of theirs or of a catalogue.",
    "daitn.control_center.training.advising.Advising",
    "daitn.learning.catalogue.models.catalogue_models",
)
def test_refusal_names_another_model_that_would_do_or_says_that_none_does():
    test_advising.test_smallest_variant_that_reaches_the_goal_is_named_and_no_further_one_is_tried()
    test_advising.test_advice_says_that_none_does_where_none_is_predicted_to_reach_the_goal()
    assert {"recurrent", "convolutional", "transformer"} <= set(get_args(Family))
    assert catalogue_models(make_contract())


@claim(
    "III",
    "Trustworthiness scores of facilities are part of what is gathered, and routes are made with them.",
    "daitn.topology.trust.TrustBook",
)
def test_scores_move_with_what_is_seen_and_views_leave_out_who_lost_them():
    _, world = run()
    knowledge = world.center.knowledge
    scores = {facts.descriptor.name: knowledge.trust(facts, world.now_ns) for facts in knowledge.nodes()}
    visited = {world.processes[order.node].name for order in records(world, VisitOrdered)}

    assert all(scores[name] > 0.8 for name in visited)
    assert all(knowledge.trust_book.changes(order.node) for order in records(world, VisitOrdered))
    book = KnowledgeMap()
    for site in (make_site(1), make_site(2)):
        book.describe(site, 1, START_NS)
    book.found(make_site(1).node, Evidence.REFUTED, START_NS, why="a signature that does not hold")
    asker = Asker(owner=OwnerId("ada"), signer="signer", method="tram-fl", domain=DomainId("demo"))
    view = make_training_view(book, make_request(), make_contract(), asker, {}, (), START_NS)
    assert {one.data_node for one in view.candidates} == {make_site(2).node}


@claim(
    "III",
    "A model owner asks for broad knowledge and for expertise in one field; both are goals of one job.",
    "daitn.descriptors.request.Target",
)
def test_goals_over_all_and_in_a_field_are_one_request():
    request = make_request("accuracy >= 80%", "accuracy@ones >= 95%")

    assert [(target.field, target.value) for target in request.targets] == [("", 0.8), ("ones", 0.95)]


@claim(
    "III",
    "One copy of the model moves from site to site, trained at each on data that stays.",
    "daitn.learning.methods.sequential.Sequential",
)
def test_one_copy_goes_from_site_to_site_and_each_visit_begins_with_the_model_of_the_one_before():
    accepted = {one.visit: one.outcome for one in records(run()[1], VisitAccepted)}
    trained = [order for order in records(run()[1], VisitOrdered) if isinstance(order.work, TrainWork)]
    made = {accepted[order.visit].model for order in trained if order.visit in accepted}

    assert len({order.node for order in trained}) > 1
    assert all(order.work.model in made | {state().request.package} for order in trained)
    assert not [order for order in records(run()[1], VisitOrdered) if getattr(order.work, "kind", "") == "records"]


@claim(
    "III",
    "The engine also decides how often the model goes to a verification unit.",
    "daitn.descriptors.plan.Plan",
)
def test_plan_says_how_often_the_model_is_verified_and_it_is():
    assessed = records(run()[1], JobAssessed)[-1]
    orders = [order for order in records(run()[1], VisitOrdered) if isinstance(order.work, EvaluateWork)]

    assert assessed.plan.verify_every >= 1
    assert len(orders) >= state().visits // max(1, assessed.plan.verify_every)


@claim(
    "III",
    "Once training is done the model returns to its owner together with the training log.",
    "daitn.control_center.training.ending.Ending",
)
def test_trained_model_comes_back_and_its_log_ends_with_the_delivery():
    report, world = run()
    machine = world.center.jobs[JobId("j1")]

    assert report.fault == ""
    assert machine.state.phase is Phase.DELIVERED
    assert machine.state.best in world.artifacts[CENTER]
    assert msgspec.json.encode(render_log(machine.state, machine.name_of, 0))


@claim(
    "II-C",
    "Functions can be put where one likes: all in one place, or on many nodes.",
    "daitn.assembly.terminal.TerminalCore",
)
def test_one_node_with_every_role_and_many_with_one_each_do_the_same_job():
    scenario = load()
    alone = changed(scenario.nodes[0], roles=(Role.DATA, Role.COMPUTE, Role.AGGREGATOR))
    job = changed(scenario.jobs[0], targets=("accuracy >= 0.5",), chance_floor=0.0)
    report, world = play(changed(scenario, nodes=(alone, scenario.nodes[3]), jobs=(job,)))

    assert report.fault == ""
    assert world.center.jobs[JobId("j1")].state.phase is Phase.DELIVERED

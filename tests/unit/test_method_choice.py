"""The method generator (TAG): each rule by a view on either side of its border, and what goes before what."""

from __future__ import annotations

import pytest
from tests.builders import (
    OWNER,
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
    measure,
)

from daitn.base.ids import DomainId, NodeId
from daitn.decision.costs import SPLIT_MEMORY_FACTOR, memory_bytes
from daitn.decision.drafting import draft_plan
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.feasibility import Known, judge
from daitn.decision.method_choice import (
    ARRIVING_FRAC,
    DRIFTED,
    as_seen_by,
    choose_method,
    may_cut,
)
from daitn.decision.promises import Owed, Promises, beside
from daitn.descriptors.compression import Compression
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.plan import Choice
from daitn.descriptors.policy import summarise
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Budget, SecureAggregation
from daitn.descriptors.splitting import CutCost
from daitn.descriptors.terminals import Dynamics
from daitn.descriptors.view import AggregatorSite, Candidate, TrainingView
from daitn.learning.methods import METHODS
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.views import Asker, make_training_view

DAY_S = 86_400.0
CUT = CutCost(begin=1, end=9, middle_frac=0.9, up_bytes=400.0, down_bytes=400.0)
LARGE = make_package(payload_bytes=1_000_000_000)


def choose(
    view: TrainingView, *targets: str, package: PackageFacts | None = None, found: Preflight | None = None, **request
) -> Choice:
    return choose_method(view, make_request(*targets, **request), package or make_package(), found)


def against(choice: Choice, method: str) -> str:
    """What was said against a method."""
    return next(one for one in choice.rejected if one.startswith(f"{method}: "))


def pair(name: str, **changes) -> Candidate:
    """Data set `<name>/records` with the middle of the model at the lab."""
    values = {"compute_node": NodeId("lab"), "split": True, "data_flops": 1e9, "flops": 1e11, "bytes_per_s": 1e9}
    return make_candidate(name, **(values | changes))


def many(count: int, **changes) -> tuple[Candidate, ...]:
    return tuple(make_candidate(f"s{number:03}", **changes) for number in range(count))


# --- what is usual --------------------------------------------------------------------------------------------------


def test_one_copy_is_usual_and_every_other_method_is_named_with_a_reason():
    choice = choose(make_view(*many(3)))

    assert choice.chosen == "routed"
    named = {name for one in choice.rejected for name in one.partition(": ")[0].split(", ")}
    assert named == set(METHODS) - {"routed"}
    assert all(one.partition(": ")[2] for one in choice.rejected)


def test_view_without_a_site_gets_the_usual_method():
    assert choose(make_view(aggregators=(), verifiers=())).chosen == "routed"


def test_owners_word_and_secure_aggregation_go_before_any_rule():
    view = make_view(*many(3, arrival_per_day=1e6))

    assert choose(view, method="cyclic").chosen == "cyclic"
    assert choose(view, secure_aggregation=SecureAggregation()).chosen == "fedavg"


# --- split ----------------------------------------------------------------------------------------------------------


def cut_view(*pairs: Candidate, **home) -> TrainingView:
    """A site of a tenth of the unit's speed, with more memory than the model takes; `pairs`: where it could be cut."""
    return make_view(make_candidate("s1", **({"flops": 1e9, "memory_bytes": 1e11} | home)), cut=pairs)


TRIED = Preflight(batch_seconds=0.1, unit_flops=1e10, cuts=(CUT,))


def test_model_is_cut_where_two_sites_are_much_quicker():
    choice = choose(cut_view(pair("s1")), found=TRIED)

    assert choice.chosen == "split"
    assert "whole" in choice.why
    assert against(choice, "routed")


@pytest.mark.parametrize(
    ("home", "away"),
    [
        ({"flops": 1e11}, {"data_flops": 1e11}),
        ({}, {"bytes_per_s": 2e4}),
        ({}, {"flops": 1e9}),
        ({}, {"latency_s": 1.0}),
        ({}, {"share": 0.1}),
    ],
    ids=["fast at home", "narrow link", "slow partner", "far away", "no free slot"],
)
def test_model_stays_whole_where_a_cut_gains_little(home, away):
    choice = choose(cut_view(pair("s1", **away), **home), found=TRIED)

    assert choice.chosen == "routed"
    assert "whole" in against(choice, "split")


def test_gain_of_a_cut_is_not_known_before_the_model_was_tried():
    view = cut_view(pair("s1"))

    assert choose(view).chosen == "routed"
    assert may_cut(make_request(), view)
    assert not may_cut(make_request(), make_view(make_candidate("s1")))
    assert choose(view, found=changed(TRIED, cuts=())).chosen == "routed"


def test_model_that_does_not_fit_a_site_is_cut_before_it_was_tried():
    whole = memory_bytes(LARGE, split=False)

    small = cut_view(pair("s1", memory_bytes=whole - 1), memory_bytes=whole - 1)
    assert choose(small, package=LARGE).chosen == "split"
    assert choose(cut_view(pair("s1"), memory_bytes=whole), package=LARGE).chosen == "routed"


def test_model_that_fits_no_two_sites_either_is_not_cut():
    least = LARGE.payload_bytes * SPLIT_MEMORY_FACTOR
    choice = choose(cut_view(pair("s1", memory_bytes=least), memory_bytes=least), package=LARGE)

    assert choice.chosen == "routed"
    assert "no two sites" in against(choice, "split")


def test_model_is_not_cut_where_that_would_leave_a_data_set_out():
    view = make_view(make_candidate("s1", flops=1e9), make_candidate("s2", flops=1e9), cut=(pair("s1"),))
    choice = choose(view, found=TRIED)

    assert choice.chosen == "routed"
    assert "s2/records" in against(choice, "split")


def test_plan_with_a_cut_is_made_and_judged_on_the_pairs_it_uses():
    view = cut_view(pair("s1"))
    judged = judge(view, make_request(), make_package(), Known(TRIED))

    assert judged.plan.method == "split"
    assert {stop.compute_node for stop in judged.plan.route} == {"lab"}
    assert [one.split for one in judged.view.candidates] == [True]
    assert all(one.met for one in judged.conditions)
    assert as_seen_by(view, "routed") is view


def test_model_without_a_place_to_cut_is_refused_for_the_memory_that_it_takes_whole():
    need = LARGE.payload_bytes * 7.0
    view = cut_view(pair("s1", memory_bytes=need), memory_bytes=need)
    hopeful = judge(view, make_request(), LARGE, Known())
    tried = judge(view, make_request(), LARGE, Known(changed(TRIED, cuts=())))

    assert not [one for one in hopeful.conditions if not one.met]
    assert [one.code for one in tried.conditions if not one.met] == [ReasonCode.MEMORY]


def test_promises_to_others_count_for_pairs_as_well():
    owed = Promises({NodeId("lab"): (Owed(100.0, 90.0),)})

    assert beside(cut_view(pair("s1")), owed, 100.0).cut[0].share == pytest.approx(0.1)


# --- many at once ---------------------------------------------------------------------------------------------------


def test_all_train_at_once_where_one_copy_does_not_get_round_in_time():
    view = make_view(*many(40))
    late, early = choose(view, deadline_s=60.0), choose(view, deadline_s=600.0)

    assert (late.chosen, early.chosen) == ("fedavg", "routed")
    assert "40 sites" in late.why
    assert against(late, "routed")
    assert "gets round" in next(one for one in early.rejected if one.startswith("fedavg"))


@pytest.mark.parametrize(
    ("changes", "request_changes"),
    [
        ({"aggregators": (), "candidates": many(40, methods=("routed", "fedavg"))}, {}),
        ({}, {"deadline_s": 3.0}),
        ({}, {"budget": Budget(visits=1000)}),
        ({}, {"budget": Budget(transfer_bytes=10**9)}),
    ],
    ids=["no aggregator and no leave to gossip", "no time for rounds", "visits bounded", "bytes bounded"],
)
def test_one_copy_goes_on_where_all_at_once_cannot_or_may_not(changes, request_changes):
    view = changed(make_view(*many(40)), **changes)

    assert choose(view, **({"deadline_s": 60.0} | request_changes)).chosen == "routed"


def test_plan_of_all_at_once_is_admitted_by_the_deadline_it_was_chosen_for():
    judged = judge(make_view(*many(40)), make_request(deadline_s=60.0), make_package(), Known())

    assert judged.plan.method == "fedavg"
    assert all(one.met for one in judged.conditions)


def paced(*batch_s: float) -> TrainingView:
    return make_view(*(make_candidate(f"s{number}", batch_s=one) for number, one in enumerate(batch_s)))


def test_buffer_is_taken_where_a_round_would_mostly_wait():
    compressed = {"compression": Compression()}
    spread, even = choose(paced(0.1, 0.1, 0.1, 1.0), **compressed), choose(paced(0.4, 0.4, 0.4, 1.0), **compressed)

    assert (spread.chosen, even.chosen) == ("fedbuff", "fedavg")
    assert "waits" in spread.why
    assert "waits" in against(even, "fedbuff")


def test_average_is_made_in_shares_where_one_link_would_bound_the_round():
    def view(count: int, rate: float) -> TrainingView:
        mixers = tuple(AggregatorSite(node=NodeId(f"m{number}"), bytes_per_s=rate) for number in range(count))
        return make_view(*many(40), aggregators=mixers)

    asked = {"compression": Compression(), "package": make_package(payload_bytes=4_000_000)}
    narrow, wide, alone = (choose(view(count, rate), **asked) for count, rate in ((4, 1e6), (4, 1e9), (1, 1e6)))

    assert (narrow.chosen, wide.chosen, alone.chosen) == ("hierarchical", "fedavg", "fedavg")
    assert "40 updates" in narrow.why
    assert "aggregators make no two shares" in against(alone, "hierarchical")


# --- continual ------------------------------------------------------------------------------------------------------


def test_what_was_learnt_is_held_where_data_keeps_arriving():
    def arriving(frac: float) -> Choice:
        return choose(make_view(make_candidate("s1", arrival_per_day=200.0 * frac)), deadline_s=DAY_S)

    assert arriving(ARRIVING_FRAC * 1.01).chosen == "continual"
    assert arriving(ARRIVING_FRAC).chosen == "routed"


def test_what_was_learnt_is_held_where_data_that_arrives_is_not_what_it_was():
    def drifting(**changes) -> Choice:
        return choose(make_view(make_candidate("s1", **changes), make_candidate("s2", {"0": 10.0})))

    assert drifting(drift=DRIFTED * 1.01, arrival_per_day=1.0).chosen == "continual"
    assert drifting(drift=DRIFTED, arrival_per_day=1.0).chosen == "routed"
    assert drifting(drift=DRIFTED * 1.01).chosen == "routed"


@pytest.mark.parametrize(
    ("ones", "known", "chosen"),
    [(20.0, 0.95, "continual"), (100.0, 0.95, "routed"), (20.0, 0.85, "routed")],
    ids=["scarce and known", "known and there is enough", "scarce and not known"],
)
def test_what_the_model_knows_and_few_records_teach_is_held(ones, known, chosen):
    found = Preflight(measurements=(*measure(0.5, "recall[0]"), *measure(known, "recall[1]")))
    view = make_view(make_candidate("s1", {"0": 100.0, "1": ones}))

    assert choose(view, "recall[0] >= 0.9", "recall[1] >= 0.9", found=found).chosen == chosen


def test_nothing_is_held_where_the_options_or_a_policy_do_not_go_with_it():
    sites = [make_candidate("s1", arrival_per_day=1e6), make_candidate("s2", methods=("routed", "fedavg"))]
    private = choose(make_view(sites[0]), privacy=Privacy(epsilon=2.0))
    closed = choose(make_view(*sites))

    assert (private.chosen, closed.chosen) == ("routed", "routed")
    assert "privacy" in against(private, "continual")
    assert "s2/records" in against(closed, "continual")


def test_plan_that_holds_what_was_learnt_says_how_strongly():
    plan = draft_plan(make_view(make_candidate("s1", arrival_per_day=1e6)), make_request(), make_package(), None)

    assert plan.method == "continual"
    assert plan.training.elastic > 0


# --- facts of the view ----------------------------------------------------------------------------------------------


def view_of(policy_changes: dict | None = None, dynamics: Dynamics | None = None, **asker) -> TrainingView:
    """What the map says of one hospital whose policy gives activations to a lab, for a request without a method."""
    policy = make_policy(**({"activations": "trust-zone", "compute_operators": ("lab",)} | (policy_changes or {})))
    data = make_data("n0001", policy=summarise(policy), dynamics=dynamics)
    knowledge = KnowledgeMap()
    for node in (make_site(1, data=(data,)), make_site(5, data=(), operator="lab"), make_unit()):
        knowledge.describe(node, 1, START_NS)
    asked = {"owner": OWNER, "signer": "signer", "method": "routed", "domain": DomainId("demo"), "open": True}
    return make_training_view(knowledge, make_request(), make_contract(), Asker(**(asked | asker)), {}, (), START_NS)


def test_view_of_an_open_request_says_where_the_model_could_be_cut():
    view = view_of()

    assert [(one.compute_node, one.split) for one in view.candidates] == [("n0001", False)]
    assert [(one.compute_node, one.split) for one in view.cut] == [("n0005", True)]


@pytest.mark.parametrize(
    ("policy", "asker"),
    [
        ({"activations": "stay"}, {}),
        ({"methods": ("routed",)}, {}),
        ({}, {"open": False}),
        ({}, {"package_bytes": 1e12}),
    ],
    ids=["activations stay", "policy without split", "method is settled", "no room"],
)
def test_pairs_that_may_not_or_need_not_be_are_not_in_the_view(policy, asker):
    assert view_of(policy, **asker).cut == ()


def test_candidate_tells_changes_of_its_data_beyond_what_may_be_noise():
    told = Dynamics(over_days=2.0, arrival_per_day=10.0, arrival_std_per_day=3.0, drift=0.5, drift_noise=0.1)
    (found,) = view_of(dynamics=told).candidates
    (noisy,) = view_of(dynamics=changed(told, arrival_std_per_day=9.0, drift_noise=9.0)).candidates
    (still,) = view_of({"methods": ("routed",)}).candidates

    assert (found.arrival_per_day, found.drift) == (pytest.approx(4.0), pytest.approx(0.3))
    assert (noisy.arrival_per_day, noisy.drift) == (0.0, 0.0)
    assert (still.arrival_per_day, still.drift, still.methods) == (0.0, 0.0, ("routed",))

"""Training views: who can be used for a request, and for everybody else the true reason why not."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import (
    OWNER,
    START_NS,
    UNIT,
    make_compute,
    make_contract,
    make_data,
    make_mixer,
    make_policy,
    make_request,
    make_site,
    make_unit,
)

from daitn.base.ids import CENTER, DataSetId, DomainId, NodeId
from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.contract import FieldByColumn
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.places import Place
from daitn.descriptors.policy import summarise
from daitn.descriptors.request import Request, Selection
from daitn.descriptors.terminals import Histogram, NodeDescriptor, Role
from daitn.descriptors.trust import Evidence
from daitn.topology.field_counts import field_counts
from daitn.topology.knowledge_map import CONSENT_AGE_S, KnowledgeMap
from daitn.topology.views import Asker, make_training_view
from daitn.wire.topology_tools import TerminalGathered

S = 1_000_000_000


def view_of(*nodes: NodeDescriptor, request: Request | None = None, now_ns: int = START_NS, **options):
    """The view of a map of these nodes."""
    knowledge = options.pop("knowledge", None) or KnowledgeMap()
    for node in nodes:
        knowledge.describe(node, 1, START_NS)
    method = (request.method if request is not None else "") or "tram-fl"
    asker = {"owner": OWNER, "signer": "signer", "method": method, "domain": DomainId("demo")}
    asker |= options.pop("asker", {})
    return make_training_view(
        knowledge,
        request or make_request(),
        options.pop("contract", make_contract()),
        Asker(**asker),
        options.pop("measured", {}),
        options.pop("resting", ()),
        now_ns,
    )


def reason(view) -> tuple[ReasonCode, str]:
    """Why the one data set was left out."""
    assert view.candidates == ()
    (exclusion,) = view.excluded
    return exclusion.code, exclusion.why


def test_wait_for_a_slot_is_as_its_site_said_less_what_has_passed():
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    terminals = knowledge.facts[Kind.TERMINAL]
    terminals.note(0, "load", {"wait_s": 5.0}, source=1, generated_ns=START_NS - S, received_ns=START_NS)

    waits = [view_of(knowledge=knowledge, now_ns=START_NS + seconds * S).candidates[0].wait_s for seconds in (0, 3, 9)]

    assert waits == [pytest.approx(4), pytest.approx(1), 0]
    terminals.note(0, "load", {"wait_s": None}, source=1, generated_ns=START_NS, received_ns=START_NS)
    assert view_of(knowledge=knowledge).candidates[0].wait_s == 0


def test_view_of_a_site_that_fits_has_one_candidate_at_home():
    view = view_of(make_site(1), make_unit(), make_mixer())

    (candidate,) = view.candidates
    assert (candidate.data_node, candidate.compute_node, candidate.streamed) == ("n0001", "n0001", False)
    assert candidate.fields == {"ones": 100.0}
    assert [unit.node for unit in view.verifiers] == [UNIT]
    assert [site.node for site in view.aggregators] == ["n0008"]


@pytest.mark.parametrize(
    ("data", "request_", "asker", "code"),
    [
        ({"columns": ()}, {}, {}, ReasonCode.NO_DATA),
        ({}, {"data": Selection(include=(DataSetId("s9/records"),))}, {}, ReasonCode.NO_DATA),
        ({}, {"data": Selection(exclude=(DataSetId("s1/records"),))}, {}, ReasonCode.NO_DATA),
        ({}, {"data": Selection(exclude_nodes=(NodeId("n0001"),))}, {}, ReasonCode.NO_DATA),
        ({}, {}, {"barred": (DataSetId("s1/records"),)}, ReasonCode.POLICY),
        ({"policy": summarise(make_policy(owners=()))}, {}, {}, ReasonCode.POLICY),
        ({"policy": summarise(make_policy(signers=("other",)))}, {}, {}, ReasonCode.POLICY),
        ({"policy": summarise(make_policy(methods=("cyclic",)))}, {"method": "fedavg"}, {}, ReasonCode.POLICY),
        ({}, {"domains": (DomainId("elsewhere"),)}, {}, ReasonCode.DOMAIN),
    ],
)
def test_data_set_left_out_is_listed_with_its_reason(data, request_, asker, code):
    site = make_site(1, data=(make_data("s1", **data),))

    found, why = reason(view_of(site, request=make_request(**request_), asker=asker))

    assert found is code
    assert why


def test_policy_on_methods_is_held_against_the_method_that_will_be_used():
    site = make_site(1, data=(make_data("s1", policy=summarise(make_policy(methods=("cyclic",)))),))

    assert not view_of(site).candidates
    assert view_of(site, request=make_request(method="cyclic")).candidates


def test_consent_too_old_leaves_a_reachable_site_out():
    view = view_of(make_site(1), make_unit(), now_ns=START_NS + round((CONSENT_AGE_S + 1) * S))

    assert reason(view)[0] is ReasonCode.NO_DATA
    assert view.verifiers == ()


def test_trust_below_the_floor_leaves_out_and_names_both_figures():
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    knowledge.found(NodeId("n0001"), Evidence.BROKEN, START_NS, why="lost")

    code, why = reason(view_of(knowledge=knowledge, request=make_request(trust_floor=0.9)))

    assert code is ReasonCode.TRUST
    assert "0.57" in why
    assert "0.90" in why


def zone(**policy) -> tuple[NodeDescriptor, NodeDescriptor]:
    """A site without compute, and a machine of `lab`."""
    values = {"raw_records": "trust-zone", "compute_operators": ("lab",)} | policy
    data = make_data("s1", policy=summarise(make_policy(**values)))
    return (
        make_site(1, data=(data,), compute=None, roles=(Role.DATA,)),
        make_site(2, operator="lab", data=(), roles=(Role.COMPUTE,)),
    )


def test_data_without_compute_streams_inside_its_trust_zone():
    view = view_of(*zone(), request=make_request(raw_records="trust-zone"))

    (candidate,) = view.candidates
    assert (candidate.compute_node, candidate.streamed) == ("n0002", True)


@pytest.mark.parametrize(
    ("raw_records", "policy"),
    [("stay", {}), ("trust-zone", {"raw_records": "stay"}), ("trust-zone", {"compute_operators": ("other",)})],
)
def test_data_without_compute_stays_where_request_policy_or_zone_say_so(raw_records, policy):
    code, _ = reason(view_of(*zone(**policy), request=make_request(raw_records=raw_records)))

    assert code is ReasonCode.NO_COMPUTE


def test_resting_nodes_are_left_out_while_others_are_there():
    sites = (make_site(1), make_site(2))

    assert {one.compute_node for one in view_of(*sites, resting=("n0001",)).candidates} == {"n0002"}
    assert len(view_of(*sites, resting=("n0001", "n0002")).candidates) == 2


def test_relevance_adds_up_to_one_over_data_sets():
    view = view_of(make_site(1), make_site(2, data=(make_data("s2", {"0": 10.0, "1": 300.0}),)))

    for field in ("", "ones"):
        assert sum(one.relevance[field] for one in view.candidates) == pytest.approx(1.0)


def test_units_are_ordered_by_the_records_they_would_hold_and_count_only_givers():
    stranger = make_unit(NodeId("n0010"), operator="stranger")
    view = view_of(make_site(1), make_unit(), stranger, asker={"evaluations_used": 99})

    assert [unit.node for unit in view.verifiers] == [UNIT, "n0010"]
    assert [unit.datasets for unit in view.verifiers] == [("s1/records",), ()]
    assert view.verifiers[0].sample_records == pytest.approx(200 * 0.2 / 0.8)
    assert view.verifiers[0].evaluations_left == 1


def test_measured_seconds_are_those_of_the_very_pair():
    key = (DataSetId("s1/records"), NodeId("n0001"))
    sites = (make_site(1), make_site(2))

    assert [one.batch_s for one in view_of(*sites, measured={key: 0.25}).candidates] == [0.25, None]


def test_view_does_not_change_with_the_map_afterwards():
    knowledge = KnowledgeMap()
    view = view_of(make_site(1), knowledge=knowledge)
    knowledge.vanished(NodeId("n0001"))

    assert view.candidates
    assert view.version < knowledge.version


def test_field_counts_come_from_the_label_or_the_published_counts():
    by_column = make_contract(fields=(FieldByColumn(column="y"),))
    assert field_counts(by_column, make_data("s1", {"0": 3.0, "1": 5.0})) == {"0": 3.0, "1": 5.0}
    assert field_counts(make_contract(), make_data("s1", labels_missing := {"0": 3.0})) == {"ones": 0.0}, labels_missing
    unknown = make_data("s1", labels=None)
    published = make_data("s1", field_counts=Histogram(counts={"ones": 7.0}))
    assert field_counts(make_contract(), unknown) == {"ones": 100.0}
    assert field_counts(make_contract(), published)["ones"] == 100.0


def test_site_with_a_compute_role_but_no_machine_counts_as_without():
    site = make_site(1, compute=None)

    assert reason(view_of(site))[0] is ReasonCode.NO_COMPUTE
    assert view_of(make_site(1, compute=make_compute(flops=0.0))).candidates


def test_site_without_room_for_the_model_is_left_out_with_both_numbers():
    full = make_site(1, compute=make_compute(storage_bytes=1e9))

    code, why = reason(view_of(full, make_unit(), asker={"package_bytes": 2_000_000_000}))

    assert code is ReasonCode.STORAGE
    assert why == "the model takes 2.0 GB, its site has room for 1.0 GB"


def test_room_that_others_hold_now_counts_until_visits_are_ordered():
    full = make_site(1, compute=make_compute(storage_bytes=0.0, store_bytes=3e9))
    small = make_site(2, compute=make_compute(storage_bytes=0.0, store_bytes=1e9))
    asker = {"package_bytes": 2_000_000_000}

    assessing = view_of(full, small, make_unit(), asker=asker | {"begun": False})
    running = view_of(full, small, make_unit(), asker=asker)

    assert [one.compute_node for one in assessing.candidates] == [full.node]
    assert [one.why for one in assessing.excluded] == ["the model takes 2.0 GB, its site has room for 1.0 GB"]
    assert running.candidates == ()
    assert {one.code for one in running.excluded} == {ReasonCode.STORAGE}


def test_site_without_room_that_holds_the_model_stays_in():
    full = make_site(1, compute=make_compute(storage_bytes=0.0))
    asker = {"package_bytes": 2_000_000_000, "holding": frozenset([full.node])}

    assert len(view_of(full, make_unit(), asker=asker).candidates) == 1


def test_candidate_has_the_latency_and_the_availability_that_were_gathered():
    knowledge = KnowledgeMap()
    passes = Access(kind=AccessKind.SATELLITE, windows=(Window(start_unix_s=START_NS / 1e9, seconds=30),))
    for node in (make_site(1), make_site(2, access=passes)):
        knowledge.describe(node, 1, START_NS)
    for number, x_s in ((1, 0.02), (2, 0.3)):
        place = Place(x_s=x_s, height_s=0.001, error_frac=0.2)
        knowledge.gathered.take(TerminalGathered(node=NodeId(f"n000{number}"), place=place), START_NS)
    knowledge.gathered.take(TerminalGathered(node=CENTER, place=Place(height_s=0.001, error_frac=0.2)), START_NS)

    view = view_of(knowledge=knowledge)

    near, far = sorted(view.candidates, key=lambda one: one.latency_s)
    assert near.latency_s == pytest.approx(0.022)
    assert far.latency_s == pytest.approx(0.302)
    assert near.availability == 1.0
    assert far.availability == pytest.approx(0.1), "thirty of the next 300 seconds"


def passes_of(*spans_s: tuple[float, float]) -> Access:
    """Satellite passes: when each begins, in seconds from now, and how long it is."""
    windows = tuple(Window(start_unix_s=START_NS / S + begin_s, seconds=long_s) for begin_s, long_s in spans_s)
    return Access(kind=AccessKind.SATELLITE, windows=windows)


@pytest.mark.parametrize(
    ("spans_s", "why"),
    [
        ([(600, 60)], "its access opens in 10 min 00 s"),
        ([(-100, 50), (7200, 60)], "its access opens in 2 h 00 min"),
        ([(-100, 50)], "the last window of its access is over"),
    ],
)
def test_site_whose_window_is_not_open_is_left_out_though_it_still_answers(spans_s, why):
    assert reason(view_of(make_site(1, access=passes_of(*spans_s)))) == (ReasonCode.NO_DATA, why)


def test_compute_site_unit_and_aggregator_outside_their_windows_are_not_asked():
    later = passes_of((600, 60))
    view = view_of(make_site(1), *(msgspec.structs.replace(one, access=later) for one in (make_unit(), make_mixer())))

    assert len(view.candidates) == 1
    assert (view.verifiers, view.aggregators) == ((), ())


def test_site_is_back_in_the_view_when_its_window_opens():
    site = make_site(1, access=passes_of((600, 60)))
    knowledge = KnowledgeMap()
    knowledge.describe(site, 1, START_NS)
    now_ns = START_NS + 601 * S
    knowledge.heard(site.node, 1, now_ns)

    assert len(view_of(knowledge=knowledge, now_ns=now_ns).candidates) == 1


def test_admission_counts_on_a_site_for_the_time_that_its_windows_leave():
    site = make_site(1, access=passes_of((-60, 420), (3000, 240)))  # 10 min of the hour that the request gives

    (judged,) = view_of(site, asker={"begun": False}).candidates
    (running,) = view_of(site, asker={"begun": True}).candidates

    assert judged.share == pytest.approx(600 / 3600)
    assert running.share == 1.0

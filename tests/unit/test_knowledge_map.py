"""The knowledge map: newest description wins, what is too old counts for nothing, measurements are smoothed."""

from __future__ import annotations

import numpy as np
import pytest
from tests.builders import START_NS, UNIT, make_site, make_unit

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.availability import UpTime
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.machine import Battery, EnergySource, Hardware
from daitn.descriptors.places import Place, estimate_s
from daitn.descriptors.terminals import Role
from daitn.descriptors.trials import Measurement
from daitn.descriptors.trust import Evidence
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, SampleRef
from daitn.topology.describing_units import FIELDS_MOST
from daitn.topology.knowledge_map import CONSENT_AGE_S, DEFAULT_BYTES_PER_S, KnowledgeMap, NodeDescribed, NodeRemoved
from daitn.topology.questions.near import distances_to
from daitn.topology.questions.reading import Reading
from daitn.wire.topology_tools import TerminalGathered

S = 1_000_000_000
NODE = NodeId("n0001")


def made(*nodes) -> KnowledgeMap:
    """A map of these nodes, described with sequence 5."""
    knowledge = KnowledgeMap()
    for node in nodes or (make_site(1),):
        assert knowledge.describe(node, 5, START_NS) is not None
    return knowledge


@pytest.mark.parametrize("sequence", [1, 4, 5])
def test_description_that_is_not_newer_changes_nothing(sequence):
    knowledge = made()
    version = knowledge.version

    assert knowledge.describe(make_site(1, region="old"), sequence, START_NS) is None
    assert knowledge.node(NODE).descriptor.region == ""
    assert knowledge.version == version


def test_description_that_is_newer_replaces_and_keeps_measurements():
    knowledge = made()
    knowledge.found(NODE, Evidence.KEPT, START_NS)
    trusted = knowledge.trust(knowledge.node(NODE), START_NS)

    record = knowledge.describe(make_site(1, region="new"), 6, START_NS)

    assert record == NodeDescribed(descriptor=make_site(1, region="new"), sequence=6)
    assert knowledge.trust(knowledge.node(NODE), START_NS) == trusted > 0.8


def test_node_is_usable_until_its_consent_is_too_old():
    knowledge = made()
    facts = knowledge.node(NODE)
    edge_ns = START_NS + round(CONSENT_AGE_S * S)

    assert knowledge.usable(facts, edge_ns)
    assert not knowledge.usable(facts, edge_ns + 1)
    assert knowledge.heard(NODE, 5, edge_ns + 1)
    assert knowledge.usable(facts, edge_ns + 1)


def test_presence_alone_does_not_confirm_consent():
    knowledge = made()
    knowledge.vanished(NODE)
    knowledge.seen(NODE)

    facts = knowledge.node(NODE)
    assert facts.reachable
    assert not knowledge.usable(facts, START_NS + 100 * S)


def test_heartbeat_of_another_sequence_confirms_nothing():
    knowledge = made()

    assert not knowledge.heard(NODE, 4, START_NS + S)
    assert not knowledge.heard(NodeId("n0002"), 5, START_NS + S)
    assert knowledge.age_s(knowledge.node(NODE), START_NS + S) == 1.0


def test_node_from_the_journal_counts_as_not_heard_of():
    knowledge = KnowledgeMap()
    knowledge.apply(NodeDescribed(descriptor=make_site(1), sequence=5))

    assert not knowledge.usable(knowledge.node(NODE), START_NS)
    assert knowledge.heard(NODE, 5, START_NS)
    assert knowledge.usable(knowledge.node(NODE), START_NS)


def test_node_that_left_stays_away_over_a_replay():
    knowledge = made()
    assert knowledge.remove(NODE, "left") == NodeRemoved(node=NODE, why="left")
    assert knowledge.remove(NODE, "left") is None
    again = KnowledgeMap()
    for record in (NodeDescribed(descriptor=make_site(1), sequence=5), NodeRemoved(node=NODE, why="left")):
        again.apply(record)

    for one in (knowledge, again):
        assert one.has_left(NODE)
        assert one.describe(make_site(1), 9, START_NS) is None
        assert one.nodes() == ()


def test_version_grows_with_what_a_decision_could_depend_on_only():
    knowledge = made()
    version = knowledge.version
    knowledge.heard(NODE, 5, START_NS)
    knowledge.seen(NODE)
    knowledge.measured_transfer(NODE, 10_000_000, 1.0)
    assert knowledge.version == version

    knowledge.vanished(NODE)
    knowledge.vanished(NODE)
    assert knowledge.version == version + 1


@pytest.mark.parametrize(("size", "seconds"), [(10, 1.0), (10_000_000, 0.0), (10_000_000, float("nan"))])
def test_transfer_that_says_nothing_of_the_rate_is_left_out(size, seconds):
    knowledge = made()
    knowledge.measured_transfer(NODE, size, seconds)

    assert knowledge.node(NODE).bytes_per_s == DEFAULT_BYTES_PER_S


def test_transfer_rates_are_smoothed_towards_what_is_measured():
    knowledge = made()
    for _ in range(50):
        knowledge.measured_transfer(NODE, 10_000_000, 1.0)

    assert knowledge.node(NODE).bytes_per_s == pytest.approx(1e7, rel=0.01)


def test_lookups_find_data_sets_and_roles():
    knowledge = made(make_site(1), make_unit())

    assert knowledge.dataset(DataSetId("s1/records"))[0].descriptor.node == NODE
    assert knowledge.dataset(DataSetId("s9/records")) is None
    assert [facts.descriptor.name for facts in knowledge.with_role(Role.COMPUTE)] == ["s1"]


def test_facts_about_unknown_nodes_are_ignored():
    knowledge = KnowledgeMap()
    for call in (knowledge.seen, knowledge.vanished):
        call(NODE)
    knowledge.rest(NODE, START_NS)
    assert knowledge.found(NODE, Evidence.KEPT, START_NS) is None
    knowledge.measured_transfer(NODE, 10_000_000, 1.0)

    assert knowledge.nodes() == ()


def test_patience_grows_with_a_node_whose_signs_of_life_come_slowly():
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    node = make_site(1).node
    for _ in range(7):
        knowledge.measured_gap(node, 3.0)
    assert knowledge.patience_with(node, 4.0) == 4.0  # too few to say

    knowledge.measured_gap(node, 3.0)
    assert knowledge.patience_with(node, 4.0) == 12.0

    for _ in range(40):
        knowledge.measured_gap(node, 1.0)
    assert knowledge.patience_with(node, 4.0) == 4.0
    for _ in range(40):
        knowledge.measured_gap(node, 100.0)
    assert knowledge.patience_with(node, 4.0) == 20.0  # at most five times


def test_newcomer_is_trusted_in_the_columns_as_in_the_book():
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, 1_000)

    facts = knowledge.node(NodeId("n0001"))
    assert facts is not None
    column = knowledge.facts[Kind.TERMINAL].column("trust")

    assert float(column[0]) == pytest.approx(knowledge.trust(facts, 1_000))


def test_access_and_its_next_window_are_facts_that_move_on_when_it_has_closed():
    now_s = START_NS // S
    window = Window(start_unix_s=now_s + 10, seconds=20, every_s=100)
    knowledge = made(make_site(1, access=Access(kind=AccessKind.SATELLITE, metered=True, windows=(window,))))
    table = knowledge.facts[Kind.TERMINAL]
    row = table.row_of(NODE)

    def facts(*names: str) -> list[object]:
        return [table.value(row, name) for name in names]

    assert facts("access_kind", "metered") == ["satellite", True]
    assert table.value(row, "available_frac") == pytest.approx(0.2, abs=0.01)
    for seconds, begins in ((5, 10), (25, 10), (35, 110)):
        assert knowledge.heard(NODE, 5, START_NS + seconds * S)
        assert facts("window_opens_unix_s", "window_closes_unix_s") == [now_s + begins, now_s + begins + 20]


def test_access_without_windows_has_none_on_the_map():
    knowledge = made()
    table = knowledge.facts[Kind.TERMINAL]
    row = table.row_of(NODE)

    assert knowledge.heard(NODE, 5, START_NS + S)
    assert [table.value(row, name) for name in ("window_opens_unix_s", "window_closes_unix_s")] == [None, None]
    assert (table.value(row, "access_kind"), table.value(row, "available_frac")) == ("wireline", 1.0)


def gathered(node: NodeId = NODE, **told) -> TerminalGathered:
    """What the tools' services tell of a node."""
    return TerminalGathered(node=node, **told)


def told_of(knowledge: KnowledgeMap, *facts: str):
    """Facts of the first site, as people read them."""
    return [knowledge.facts[Kind.TERMINAL].value(knowledge.node(NODE).row, fact) for fact in facts]


def test_place_that_the_location_service_knows_can_be_asked_for():
    knowledge = made(make_site(1), make_site(2))
    one = Place(x_s=0.01, y_s=0.02, z_s=0.03, height_s=0.001, error_frac=0.2)
    other = Place(x_s=0.01, y_s=0.02, z_s=0.0, height_s=0.001, error_frac=0.2)
    knowledge.take_gathered(gathered(place=Place()), START_NS)
    assert told_of(knowledge, "position_x_s") == [None]  # it has none yet

    for node, place in ((NODE, one), (NodeId("n0002"), other)):
        knowledge.take_gathered(gathered(node, place=place), START_NS)

    assert told_of(knowledge, *(f"position_{axis}_s" for axis in ("x", "y", "z", "height"))) == [
        pytest.approx(value, rel=1e-6) for value in (0.01, 0.02, 0.03, 0.001)
    ]
    reading = Reading(knowledge.facts, START_NS)
    rows = np.array([knowledge.node(node).row for node in (NODE, NodeId("n0002"))])
    apart_s = distances_to(reading, Kind.TERMINAL, rows, knowledge.node(NODE).row, "position")
    assert apart_s[1] == pytest.approx(estimate_s(one, other), rel=1e-5) == pytest.approx(0.032)


def test_share_of_time_in_which_a_node_answered_counts_on_while_it_does_not():
    knowledge = made()
    start_s = START_NS / S
    knowledge.take_gathered(gathered(up_time=UpTime(up_s=300.0, is_up=False, since_s=start_s)), START_NS)
    assert told_of(knowledge, "reachable_frac") == [1.0]

    knowledge.count_presence(START_NS + 100 * S)

    assert told_of(knowledge, "reachable_frac") == [pytest.approx(0.75, rel=1e-3)]


def test_what_a_machine_runs_on_can_be_asked_for():
    knowledge = made()
    battery = Battery(charge_frac=0.5, charging=False, draw_watts=12.5)

    knowledge.take_gathered(gathered(machine=Hardware(energy=EnergySource.BATTERY, battery=battery)), START_NS)
    assert told_of(knowledge, "energy_source", "battery_frac", "power_watts") == ["battery", 0.5, 12.5]
    knowledge.take_gathered(gathered(machine=Hardware(energy=EnergySource.MAINS)), START_NS)
    assert told_of(knowledge, "energy_source", "battery_frac", "power_watts") == ["mains", 1.0, None]
    knowledge.take_gathered(gathered(machine=Hardware()), START_NS)
    assert told_of(knowledge, "energy_source", "battery_frac", "power_watts") == [None, None, None]


def test_way_and_evidence_are_facts():
    knowledge = made()
    knowledge.measured_round_trip(NODE, 0.02, 0.004, START_NS, loss_frac=0.125)
    assert told_of(knowledge, "jitter_s", "loss_frac", "trust_evidence") == [pytest.approx(0.004), 0.125, 0.0]

    knowledge.found(NODE, Evidence.KEPT, START_NS)
    assert told_of(knowledge, "trust_evidence") == [1.0]


def test_what_a_unit_can_test_can_be_asked_for():
    knowledge = made(make_site(1), make_unit())
    terminals, fields = knowledge.facts[Kind.TERMINAL], knowledge.facts[Kind.UNIT_FIELD]
    row = knowledge.node(UNIT).row
    assert terminals.value(row, "evaluations_left") == 100.0
    sample = SampleRef(dataset=DataSetId("s1/records"), artifact=ArtifactId("a"), holder=NODE, records=40)
    work = EvaluateWork(model=ArtifactId("m"), samples=(sample, sample), measurements=("accuracy", "accuracy@heart"))
    figures = tuple(
        Measurement(name=name, value=0.5, low=0.4, high=0.6, records=records)
        for name, records in (("accuracy", 80), ("accuracy@heart", 25))
    )
    outcome = EvaluateOutcome(
        model=ArtifactId("m"), measurements=figures, test_set="t", evaluations_left=97, seconds=1.0
    )

    knowledge.measured_tests(UNIT, work, outcome, START_NS)
    assert knowledge.describe(make_unit(), 9, START_NS) is not None

    assert [terminals.value(row, fact) for fact in ("test_records", "evaluations_left")] == [80.0, 97.0]
    assert [fields.value(0, fact) for fact in ("terminal", "field", "field_test_records")] == [row, "heart", 25.0]
    knowledge.remove(UNIT, "it left")
    assert len(fields) == 0


def test_tests_of_a_unit_become_so_many_rows_and_no_more():
    knowledge = made(make_unit())
    work = EvaluateWork(model=ArtifactId("m"), samples=(), measurements=("accuracy",))
    figures = tuple(
        Measurement(name=f"accuracy@{number}", value=0.5, low=0.4, high=0.6, records=1)
        for number in range(FIELDS_MOST + 10)
    )
    outcome = EvaluateOutcome(model=ArtifactId("m"), measurements=figures, test_set="t", evaluations_left=1, seconds=1)

    knowledge.measured_tests(UNIT, work, outcome, START_NS)

    assert len(knowledge.facts[Kind.UNIT_FIELD]) == FIELDS_MOST


def test_share_of_time_is_known_as_soon_as_a_node_has_spoken_again():
    knowledge = made()
    knowledge.take_gathered(gathered(up_time=UpTime(is_up=True, since_s=START_NS / S)), START_NS)
    assert told_of(knowledge, "reachable_frac") == [None]  # no time has passed

    assert knowledge.heard(NODE, 5, START_NS + S)
    assert told_of(knowledge, "reachable_frac") == [1.0]

"""Descriptions into columns: what a node says of itself can be asked for by fact, and leaves with it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from tests.builders import START_NS, make_site

from daitn.base.ids import NodeId
from daitn.descriptors.contract import NumberColumn
from daitn.descriptors.descriptions import Quantiles
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.terminals import Dynamics
from daitn.topology.knowledge_map import KnowledgeMap

NODE = NodeId("n0001")


def made(*nodes) -> KnowledgeMap:
    knowledge = KnowledgeMap()
    for sequence, node in enumerate(nodes, start=1):
        knowledge.describe(node, sequence, START_NS)
    return knowledge


def test_description_can_be_asked_for_by_fact():
    site = make_site(1, region="north")
    knowledge = made(site)
    terminals, data = knowledge.facts[Kind.TERMINAL], knowledge.facts[Kind.DATA]

    row = terminals.row_of(NODE)
    assert row is not None
    assert terminals.value(row, "region") == "north"
    assert terminals.value(row, "reachable") is True
    assert terminals.value(row, "computes") is (site.compute is not None)
    held = data.row_of(site.data[0].dataset)
    assert held is not None
    assert data.value(held, "terminal") == row
    assert data.value(held, "records") == pytest.approx(site.data[0].records)
    labels = knowledge.facts[Kind.DATA_LABEL]
    told = {labels.value(one, "label"): labels.value(one, "label_records") for one in range(labels.high)}
    assert told == (site.data[0].labels.counts if site.data[0].labels is not None else {})


def test_data_set_that_is_not_described_any_more_leaves():
    site = make_site(1)
    knowledge = made(site, msgspec.structs.replace(site, data=()))

    assert len(knowledge.facts[Kind.DATA]) == 0
    assert len(knowledge.facts[Kind.DATA_FIELD]) == len(knowledge.facts[Kind.DATA_LABEL]) == 0
    assert len(knowledge.facts[Kind.TERMINAL]) == 1


def test_node_that_leaves_takes_all_along():
    knowledge = made(make_site(1), make_site(2))

    knowledge.remove(NODE, "left")

    assert {kind: len(knowledge.facts[kind]) for kind in (Kind.TERMINAL, Kind.DATA)} == {
        Kind.TERMINAL: 1, Kind.DATA: 1,
    }  # fmt: skip


def test_site_that_joined_anew_under_its_name_has_its_data():
    old = make_site(1)
    new = msgspec.structs.replace(old, node=NodeId("n0009"))
    knowledge = made(old, new)
    data = knowledge.facts[Kind.DATA]

    row = data.row_of(old.data[0].dataset)
    assert row is not None
    assert data.value(row, "terminal") == knowledge.facts[Kind.TERMINAL].row_of("n0009")


@pytest.mark.parametrize(
    "change", [{"newest_day": "not a day"}, {"newest_day": "9999-99-99"}, {"record_bytes": 1e15, "records": 1e15}]
)
def test_description_that_cannot_be_is_not_known_and_harms_nothing(change):
    site = make_site(1)
    data = msgspec.structs.replace(site.data[0], **change)
    knowledge = made(msgspec.structs.replace(site, data=(data,)))

    table = knowledge.facts[Kind.DATA]
    assert table.value(0, "newest_unix_s" if "newest_day" in change else "data_bytes") is None


def test_absurd_claim_in_a_description_is_bounded():
    site = make_site(1)
    assert site.compute is not None
    compute = msgspec.structs.replace(site.compute, flops=1e15)
    knowledge = made(msgspec.structs.replace(site, compute=compute))

    assert knowledge.facts[Kind.TERMINAL].value(0, "flops") == pytest.approx(1e14)


def test_heartbeat_confirms_all_that_was_described():
    knowledge = made(make_site(1))
    later_ns = START_NS + 3600 * 1_000_000_000
    terminals, data = knowledge.facts[Kind.TERMINAL], knowledge.facts[Kind.DATA]
    assert data.age_s("volume", later_ns)[0] == 3600

    assert knowledge.heard(NODE, 1, later_ns)

    ages = [terminals.age_s("identity", later_ns), terminals.age_s("capacity", later_ns)]
    ages += [data.age_s(group, later_ns) for group in ("data_identity", "volume", "quality")]
    ages += [knowledge.facts[Kind.DATA_LABEL].age_s("data_label", later_ns)]
    assert [age.max() for age in ages] == [0] * 6


def test_what_is_kept_from_before_a_restart_is_confirmed_by_a_heartbeat():
    before = made(make_site(1))
    knowledge = KnowledgeMap()
    record = before.describe(make_site(1), 2, START_NS)
    assert record is not None
    knowledge.apply(record)
    knowledge.adopt(before.intake, START_NS + 1)
    assert knowledge.facts[Kind.DATA].stale("volume").all()

    assert knowledge.heard(NODE, 2, START_NS + 2)

    assert not knowledge.facts[Kind.DATA].stale("volume").any()
    assert not knowledge.facts[Kind.TERMINAL].stale("capacity").any()


def test_dates_and_changes_of_a_data_set_can_be_asked_for():
    site = make_site(1)
    columns = (*site.data[0].columns, NumberColumn(name="written", unit="unix_s", low=0.0, high=2e9))
    half = Quantiles(column="written", shares=(0.25, 0.5), values=(1e9, 1.5e9), resolution=1e7, epsilon=0.1)
    dynamics = Dynamics(over_days=10.0, arrival_per_day=86_400.0, drift=0.5, drift_noise=0.125)
    told = {"columns": columns, "descriptions": (half,), "dynamics": dynamics, "newest_day": "2026-05-17"}
    knowledge = made(msgspec.structs.replace(site, data=(msgspec.structs.replace(site.data[0], **told),)))

    data = knowledge.facts[Kind.DATA]
    facts = ("newest_unix_s", "median_unix_s", "records_per_s", "drift", "drift_per_s")
    assert [data.value(0, fact) for fact in facts] == [
        datetime(2026, 5, 17, tzinfo=UTC).timestamp(), 1.5e9, 1.0, 0.5, pytest.approx(0.5 / 864_000)
    ]  # fmt: skip
    assert data.deviation("median_unix_s")[0] == pytest.approx(1e7, rel=0.2)
    assert data.deviation("drift")[0] == pytest.approx(0.125, rel=0.2)

    assert knowledge.describe(site, 9, START_NS) is not None
    assert data.value(0, "newest_unix_s") is None  # it is not told any more


def test_volume_is_as_uncertain_as_its_own_noise_makes_it():
    site = make_site(1)
    told = msgspec.structs.replace(site.data[0], records_std=40.0, groups_std=8.0, record_bytes=100.0)
    knowledge = made(msgspec.structs.replace(site, data=(told,)))
    data = knowledge.facts[Kind.DATA]
    spreads = [data.deviation(fact)[0] for fact in ("records", "groups", "data_bytes", "record_bytes")]
    assert spreads == [pytest.approx(40, rel=0.2), pytest.approx(8, rel=0.2), pytest.approx(4000, rel=0.2), 0.0]

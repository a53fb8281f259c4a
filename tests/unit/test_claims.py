"""Absurd claims: what a site says of its compute is bounded by what was measured, counted, named, and decided on so."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.builders import (
    OWNER,
    START_NS,
    Bench,
    make_compute,
    make_contract,
    make_evaluation,
    make_outcome,
    make_request,
    make_site,
    make_training,
    make_unit,
    make_work,
)

from daitn.base.ids import DomainId, NodeId
from daitn.control_center.training.pacing import pace_of
from daitn.decision.facts import Preflight
from daitn.descriptors.fact_kinds import CLAIM_FACTOR, Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import TrainWork
from daitn.topology.adapter import ViewAdapter, standings
from daitn.topology.fact_book import FactBook
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.paces import PACES, PACES_LEAST, VISIT_LEAST_S, VisitPace
from daitn.topology.refusals import Fault
from daitn.topology.taking import Batch, take
from daitn.topology.views import Asker, make_training_view
from daitn.wire.codec import decode, encode
from daitn.wire.oam_records import Alarm
from daitn.wire.packed_facts import record_dtype
from daitn.wire.topology_tools import Describe

LAPTOP = NodeId("n0001")


def alarms(made: Bench) -> list[str]:
    return [one.entry.text for one in made.center.records.shown() if isinstance(one.entry, Alarm)]


def laptop(flops: float = 1e18):
    return make_site(1, compute=make_compute(flops=flops, memory_bytes_per_s=1e10))


def test_laptop_that_claims_1e18_is_taken_bounded_counted_and_named():
    said = Describe(sequence=1, generated_unix_s=0.0, descriptor=laptop())
    assert decode(encode(said)) == said, "the claim is one that the wire carries, and the map judges"

    made = Bench(laptop(), make_site(2), make_unit())

    assert made.center.knowledge.facts[Kind.TERMINAL].value(0, "flops") == pytest.approx(1e14)
    assert made.center.counters.of("facts_marked", "claim-bounded") == 1
    (alarm,) = alarms(made)
    assert LAPTOP in alarm
    assert "flops 1e+18, at most 1e+14 is believed" in alarm


def test_honest_site_that_was_busy_is_counted_and_not_named():
    made = Bench(laptop(2e14), make_site(2), make_unit())

    assert made.center.knowledge.facts[Kind.TERMINAL].value(0, "flops") == pytest.approx(1e14)
    assert made.center.counters.of("facts_marked", "claim-bounded") == 1
    assert alarms(made) == []


def test_worst_claim_of_a_batch_is_its_example():
    table = FactBook()[Kind.TERMINAL]
    for name in ("one", "other"):
        table.add(name, 1)
    group = group_named("capacity")
    records = np.zeros(2, record_dtype(group))
    records["sequence"], records["generated_ns"], records["flops"] = 1, START_NS, [2e14, 1e18]

    taken = take(table, Batch(group, np.ones(2, np.int32), np.arange(2, dtype=np.int32), records), START_NS)

    assert taken.counts == {Fault.CLAIM_BOUNDED: 2}
    assert taken.examples[Fault.CLAIM_BOUNDED].row == 1


def test_decisions_are_made_on_what_is_believed_of_a_claim():
    made = Bench(laptop(), make_site(2), make_unit(compute=make_compute(flops=1e17)))

    view = seen(made.center.knowledge)

    assert {one.data_node: one.flops for one in view.candidates}[LAPTOP] == pytest.approx(1e14)
    assert [one.flops for one in view.verifiers] == [pytest.approx(1e14)]
    made.submit()
    made.answer_until(lambda state: state.preflight is not None)
    assert made.state().preflight.unit_flops == pytest.approx(1e14)


def test_visits_bound_what_a_site_claims_and_a_view_that_is_followed_has_it():
    made = Bench(laptop(1e13), make_site(2), make_unit())
    adapter, asker = ViewAdapter(), Asker(owner=OWNER, signer="owner", method="sequential", domain=DomainId("demo"))
    knowledge = made.center.knowledge
    adapter.made(seen(knowledge), standings(knowledge, 0.0, (), asker, START_NS), None)
    made.submit()
    made.answer_until(lambda state: state.phase.name == "RUNNING")
    for _ in range(100):
        made.solve()
        if knowledge.facts[Kind.TERMINAL].value(0, "measured_flops") is not None:
            break
        for node, order in made.orders():
            trains = isinstance(order.work, TrainWork)
            # As slow as the unit, whose batch takes 10 ms at 10^10 FLOP/s.
            made.answer(node, order, **({"seconds": 0.01 * max(100, order.work.training.batches)} if trains else {}))

    terminals = knowledge.facts[Kind.TERMINAL]
    assert terminals.value(0, "batch_seconds") >= 0.01
    measured = terminals.value(0, "measured_flops")
    assert measured < 1e12
    assert terminals.value(0, "flops") == pytest.approx(CLAIM_FACTOR * measured)
    assert made.center.counters.of("facts_marked", "claim-bounded") >= 1
    assert any(LAPTOP in one and "at most" in one for one in alarms(made))
    moved = adapter.refresh(standings(knowledge, 0.0, (), asker, START_NS), None, {}, 9, START_NS)
    assert moved is not None
    assert moved.candidates[0].flops == pytest.approx(CLAIM_FACTOR * measured)


def test_best_of_some_longer_visits_counts_and_a_site_that_became_slower_is_found_out():
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    terminals = knowledge.facts[Kind.TERMINAL]

    def visit(flops: float, seconds: float = VISIT_LEAST_S) -> float | None:
        knowledge.measured_visit(LAPTOP, VisitPace(batch_s=0.1, seconds=seconds, flops=flops), START_NS)
        return terminals.value(0, "measured_flops")

    assert [visit(1e3, seconds=VISIT_LEAST_S / 2) for _ in range(PACES_LEAST)][-1] is None
    assert terminals.value(0, "batch_seconds") == pytest.approx(0.1)
    assert [visit(flops) for flops in (3e9, 6e9, 2e9)] == [None, None, pytest.approx(6e9)]
    assert knowledge.intake.bounded == [], "an honest claim of 10^10 FLOP/s is within twice that"
    assert [visit(1e9) for _ in range(PACES)][-1] == pytest.approx(1e9)
    assert terminals.value(0, "flops") == pytest.approx(CLAIM_FACTOR * 1e9)
    assert {one.fact for one in knowledge.intake.bounded} == {"flops"}
    knowledge.measured_visit(NodeId("n0077"), VisitPace(batch_s=0.1, seconds=9.0, flops=1.0), START_NS)


def test_pace_is_told_of_plain_training_alone():
    found = Preflight(batch_seconds=0.01, unit_flops=1e10, unit_memory_bytes_per_s=1e9)
    work = make_work(training=make_training(batches=100, batch_size=64))
    outcome = make_outcome(work, batches=100, seconds=4.0)

    pace = pace_of(work, outcome, found)

    assert pace == VisitPace(batch_s=0.04, seconds=4.0, flops=5e9, memory_bytes_per_s=5e8)
    private = PrivateSteps(epsilon=1.0, delta=1e-6, clip=1.0, noise_multiplier=1.0, sampling_rate=0.1)
    for other in (
        msgspec.structs.replace(work, private=private),
        msgspec.structs.replace(work, training=make_training(batches=100, distillation=1.0)),
    ):
        assert pace_of(other, outcome, found) == VisitPace(batch_s=0.04, seconds=4.0)
    assert pace_of(work, outcome, None) == VisitPace(batch_s=0.04, seconds=4.0)
    assert pace_of(make_evaluation(), make_outcome(make_evaluation()), found) is None
    assert pace_of(work, make_outcome(work, batches=0), found) is None


def seen(knowledge: KnowledgeMap) -> TrainingView:
    asker = Asker(owner=OWNER, signer="owner", method="sequential", domain=DomainId("demo"))
    return make_training_view(knowledge, make_request(), make_contract(), asker, {}, (), START_NS)

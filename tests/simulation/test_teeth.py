"""The checkers have teeth: each core is broken in one place, and the invariant meant for it says so within some seeds.

A checker that never fails proves nothing. Where one guard stands behind another, breaking one alone must still hold.
"""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.base.effects import Append, Effect, Started, TimerFired
from daitn.control_center import center
from daitn.control_center.node_records import NodeRecords
from daitn.control_center.training.admission import TrainingAdmission
from daitn.control_center.training.commands import JobChanged
from daitn.control_center.training.ending import Ending
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.open_visits import OpenVisit
from daitn.control_center.training.records import VisitLost
from daitn.control_center.training.visit_desk import VisitDesk
from daitn.control_center.turn import Turn
from daitn.oam.outbox import RecordOutbox
from daitn.scenario.spec import CrashSpec, CutSpec, Scenario
from daitn.simulation import sites, world
from daitn.simulation.generate import generate
from daitn.simulation.invariants import Invariants
from daitn.simulation.kept import Kept
from daitn.simulation.run import run_scenario
from daitn.terminal.reporter import Linked
from daitn.terminal.roles import DataNode
from daitn.terminal.visit_keeper import VisitKeeper
from daitn.topology import views
from daitn.topology.knowledge_map import CONSENT_AGE_S, KnowledgeMap
from daitn.topology.orchestrator import TopologyOrchestrator
from daitn.wire.center_tools import VisitResult

SEEDS = 30
"""Seeds within which a sabotage has to be found."""


def faults_of(*scenarios: Scenario) -> str:
    """The first fault found, or nothing."""
    return next((report.fault for report in map(run_scenario, scenarios) if report.fault), "")


def generated(*, count: int = SEEDS) -> list[Scenario]:
    """Faulty scenarios of the first seeds."""
    return [generate(seed) for seed in range(count)]


class FencelessDesk(VisitDesk):
    """Takes whatever comes for a visit it once ordered, whoever holds the visit now."""

    def hear(self, turn, sender, message):
        visit = message.report.visit if isinstance(message, VisitResult) else message.visit
        machine = self.machine_of(visit)
        ordered = machine.state.ordered.get(visit) if machine is not None else None
        if machine is not None and ordered is not None and not machine.state.ended:
            machine.state.accepted.discard(visit)
            machine.state.open.setdefault(visit, OpenVisit(ordered=ordered, spoken_ns=turn.now_ns))
        return super().hear(turn, sender, message)


class HastyKeeper(VisitKeeper):
    """Reports first and writes afterwards."""

    def _end(self, *given) -> list[Effect]:
        append, *rest = super()._end(*given)
        return [*rest, append]


class HastyTurn(Turn):
    """Speaks first and writes afterwards."""

    def effects(self) -> list[Effect]:
        return sorted(super().effects(), key=lambda effect: isinstance(effect, Append))


class ShowyTurn(Turn):
    """Shows owners what is not yet written."""

    def effects(self) -> list[Effect]:
        return sorted(super().effects(), key=lambda effect: not isinstance(effect, JobChanged))


def test_result_without_the_fence_check_is_found(monkeypatch):
    monkeypatch.setattr(center, "VisitDesk", FencelessDesk)

    faults = [report.fault for report in map(run_scenario, generated())]

    assert any("accepted twice" in fault or "the head is another model" in fault for fault in faults)


def test_report_before_it_is_durable_is_found(monkeypatch):
    monkeypatch.setattr(sites, "VisitKeeper", HastyKeeper)

    assert "before that is durable" in faults_of(load())


def test_order_before_it_is_durable_is_found(monkeypatch):
    monkeypatch.setattr("daitn.control_center.center.Turn", HastyTurn)

    assert "VisitOrder of visit" in faults_of(load())


def test_progress_shown_before_it_is_durable_goes_back_and_is_found(monkeypatch):
    """The centre dies before each of its writes in turn; where one held an accepted visit, it had been shown."""
    monkeypatch.setattr("daitn.control_center.center.Turn", ShowyTurn)

    crashes = [CrashSpec(node="center", when="before", number=number) for number in range(8, 33)]
    faults = [faults_of(with_faults(load(), crash)) for crash in crashes]

    assert sum("the owner of j1 saw" in fault and "and now sees" in fault for fault in faults) >= 3


def test_transfer_without_a_grant_is_found(monkeypatch):
    monkeypatch.setattr(world, "issue_grant", lambda key, grant: "")

    assert "without a grant" in faults_of(load())


def test_policy_ignored_by_the_centre_alone_is_held_up_by_the_site(monkeypatch):
    monkeypatch.setattr(views, "check_use", lambda policy, use: ())

    assert faults_of(*generated(count=10)) == ""


def test_policy_ignored_by_centre_and_site_is_found(monkeypatch):
    monkeypatch.setattr(views, "check_use", lambda policy, use: ())
    monkeypatch.setattr(DataNode, "judge_use", lambda *given, **named: ())

    assert "against its policy" in faults_of(*generated())


def silent_site() -> Scenario:
    """A long job during which one hospital is heard no more, for longer than consent holds."""
    scenario = load()
    job = changed(scenario.jobs[0], visits=None, deadline_s=100.0, until_deadline=True)
    cut = CutSpec(node="north", at_s=3.0, seconds=CONSENT_AGE_S + 60, down=False)
    return with_faults(changed(scenario, jobs=(job,)), cut)


def test_consent_that_is_checked_stays_fresh():
    assert faults_of(silent_site()) == ""


def test_consent_taken_for_granted_is_found(monkeypatch):
    monkeypatch.setattr(KnowledgeMap, "usable", lambda *given: True)
    # Either of these would keep away from a silent site by itself.
    monkeypatch.setattr(KnowledgeMap, "trust", lambda *given: 0.8)
    monkeypatch.setattr(TopologyOrchestrator, "suspect", lambda *given: False)

    assert "ordered on consent" in faults_of(silent_site())


def test_record_that_is_never_repeated_is_found(monkeypatch):
    handle = RecordOutbox.handle

    def lazy(self, event, now_ns):
        return [] if isinstance(event, TimerFired | Linked | Started) else handle(self, event, now_ns)

    monkeypatch.setattr(RecordOutbox, "handle", lazy)

    assert any("the centre was told of" in report.fault for report in map(run_scenario, generated(count=10)))


def test_record_that_is_kept_twice_is_found(monkeypatch):
    monkeypatch.setattr(NodeRecords, "held", lambda self, node, since_ns: 0)

    assert "the centre was told of" in faults_of(*generated(count=10))


def test_result_of_a_visit_that_was_given_up_is_found(monkeypatch):
    lose = JobMachine.lose

    def keep_open(self, turn, visit, *given):
        opened = self.state.open[visit]
        lose(self, turn, visit, *given)
        self.state.open[visit] = opened

    monkeypatch.setattr(JobMachine, "lose", keep_open)

    faults = [report.fault for report in map(run_scenario, generated())]
    assert any("from a site that came back late" in fault for fault in faults)


def test_refusal_without_a_reason_is_found(monkeypatch):
    assess = TrainingAdmission.assess

    def refuse(self, *given):
        verdict, plan, view = assess(self, *given)
        return changed(verdict, outcome="refused"), plan, view

    monkeypatch.setattr(TrainingAdmission, "assess", refuse)

    assert "refused for no reason" in faults_of(load())


def test_job_that_never_ends_is_found(monkeypatch):
    monkeypatch.setattr(Ending, "finish", lambda *given, **named: None)

    assert "has not ended" in faults_of(load())


@pytest.mark.parametrize("checker", ["_check_record", "_check_use", "_check_spoken", "_check_consent"])
def test_every_checker_is_run_in_an_ordinary_scenario(monkeypatch, checker):
    calls = []
    check = getattr(Invariants, checker)
    monkeypatch.setattr(Invariants, checker, lambda *given: (calls.append(1), check(*given))[1])

    assert faults_of(load()) == ""
    assert calls


def test_pins_of_ended_jobs_that_nobody_asks_about_are_found(monkeypatch):
    monkeypatch.setattr(world, "JobsPinned", lambda jobs: Linked())

    assert "still keeps artifacts" in faults_of(*generated())


def test_model_that_no_job_pins_is_lost_and_found_missing(monkeypatch):
    monkeypatch.setattr(Kept, "pin", lambda *given: None)

    _, played = play(load())

    assert any("does not hold it" in one.why for one in records(played, VisitLost))

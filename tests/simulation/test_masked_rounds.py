"""Masked rounds in simulated worlds: real keys, shares and masks, and every point at which somebody can be lost."""

from __future__ import annotations

import pytest
from tests.builders import changed
from tests.simulation.worlds import load, play, records, with_faults

from daitn.base.errors import PolicyError
from daitn.control_center.training.masked_rounds import MaskedRounds
from daitn.control_center.training.records import MaskedRoundLost, VisitAccepted, VisitLost, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, TrainWork
from daitn.scenario.spec import CrashSpec, Scenario
from daitn.simulation.generate import generate
from daitn.simulation.run import run_scenario


def masked(sites: int = 5, visits: int = 10) -> Scenario:
    """Hospitals whose updates are masked: of five, one may be lost in a round."""
    scenario = load()
    hospitals, others = scenario.nodes[:3], scenario.nodes[3:]
    more = tuple(changed(hospitals[2], name=f"more{n}", operator=f"more{n}") for n in range(sites - 3))
    job = changed(scenario.jobs[0], visits=visits, secure_aggregation=True)
    return changed(scenario, nodes=(*hospitals, *more, *others), jobs=(job,))


def openings(world) -> list[AggregateWork]:
    works = [order.work for order in records(world, VisitOrdered)]
    return [work for work in works if isinstance(work, AggregateWork) and work.unmasking is not None]


def test_rounds_of_a_calm_world_are_opened_and_nothing_but_masked_updates_is_added_up():
    report, world = play(with_faults(masked()))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    state = world.center.jobs["j1"].state
    assert state.plan.method == "fedavg"
    assert (state.rounds, state.visits, world.masks.opened) == (2, 10, 2)
    assert not records(world, MaskedRoundLost)
    orders = records(world, VisitOrdered)
    assert all(order.work.masking is not None for order in orders if isinstance(order.work, TrainWork))
    assert all(order.work.masked or order.work.unmasking for order in orders if isinstance(order.work, AggregateWork))
    assert state.holders.keys() >= {state.head}
    assert state.masks.stage == ""


def test_site_lost_while_it_trains_costs_the_round_nothing():
    crash = CrashSpec(node="north", effect="BeginWork", when="after", number=4, down_s=20.0)
    report, world = play(with_faults(masked(), crash))

    assert report.fault == ""
    lost = records(world, VisitLost)
    assert [world.processes[world.center.jobs["j1"].state.ordered[one.visit].node].name for one in lost] == ["north"]
    first = openings(world)[0].unmasking
    assert (len(first.sealed), len(first.summed)) == (5, 4)
    assert not records(world, MaskedRoundLost)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_site_lost_at_another_stage_costs_nothing_either_where_enough_are_left(number):
    crash = CrashSpec(node="north", effect="BeginWork", when="after", number=number, down_s=20.0)
    report, world = play(with_faults(masked(6), crash))

    assert report.fault == ""
    assert report.crashes == 1
    assert not records(world, MaskedRoundLost)
    assert world.masks.opened >= 2


def test_three_sites_of_which_one_is_lost_begin_another_round():
    crash = CrashSpec(node="north", effect="BeginWork", when="after", number=4, down_s=2.0)
    report, world = play(with_faults(masked(3), crash))

    assert report.fault == ""
    assert report.phases == (Phase.EXHAUSTED,)
    (lost,) = records(world, MaskedRoundLost)
    assert lost.why == "2 of 3 sites handed in an update, 3 are needed to take the masks off"
    assert world.masks.opened >= 1


@pytest.mark.parametrize(
    ("node", "first", "when"),
    [
        ("center", 10, "before"),
        ("center", 10, "after"),
        ("mixer", 1, "before"),
        ("mixer", 1, "after"),
        ("north", 1, "after"),
    ],
)
def test_crash_at_each_append_in_turn_ends_the_job_all_the_same(node, first, when):
    number = first
    while True:
        report, world = play(with_faults(masked(4, 7), CrashSpec(node=node, when=when, number=number)))
        assert report.fault == "", f"append {number}: {report.fault}"
        assert report.phases == (Phase.EXHAUSTED,), f"append {number}"
        assert world.masks.opened, f"append {number}"
        if not report.crashes:
            break
        number += 1
    assert number > first + 4


def masked_seeds(count: int) -> list[Scenario]:
    return [
        changed(one, jobs=tuple(changed(job, method="", secure_aggregation=True) for job in one.jobs))
        for one in (generate(seed) for seed in range(count))
    ]


def test_faulty_worlds_hold_and_every_sum_that_is_opened_is_right():
    played = [play(scenario) for scenario in masked_seeds(8)]

    assert [report.fault for report, _ in played if report.fault] == []
    assert sum(world.masks.opened for _, world in played) > 0


# --- teeth --------------------------------------------------------------------------------------------------------


class HastyRounds(MaskedRounds):
    """Opens what it believes to be the sum: all that sealed, whoever has handed in an update."""

    def _unmask(self, turn, view):
        if self._book.sum is not None:
            stranger = next(iter(self._book.ranks))
            self._book.ranks[stranger] = (self._book.ranks[stranger] + 1) % len(self._book.members)
        super()._unmask(turn, view)


def test_centre_that_opens_another_sum_than_was_made_is_found(monkeypatch):
    monkeypatch.setattr("daitn.control_center.training.running.MaskedRounds", HastyRounds)
    crash = CrashSpec(node="north", effect="BeginWork", when="after", number=4, down_s=20.0)
    report = run_scenario(with_faults(masked(), crash))

    assert report.fault


def test_site_that_restarts_in_mid_round_tells_nothing_of_it(monkeypatch):
    """Its secrets are gone with it: what it is asked to unmask then, it cannot."""
    told: list[str] = []
    from daitn.learning.masking.site import SiteMasks

    real = SiteMasks.unmask

    def watch(self, name, summed):
        try:
            return real(self, name, summed)
        except PolicyError as error:
            told.append(error.what)
            raise

    monkeypatch.setattr(SiteMasks, "unmask", watch)
    for number in range(1, 8):
        crash = CrashSpec(node="north", effect="BeginWork", when="after", number=number)
        report, world = play(with_faults(masked(6, 12), crash))
        assert report.fault == ""
        ended = {one.visit for one in (*records(world, VisitLost), *records(world, VisitAccepted))}
        assert ended
    assert told == []

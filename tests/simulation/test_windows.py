"""Access windows in a run: nobody is sent to a site before its window opens, nor promised its time."""

from __future__ import annotations

from types import SimpleNamespace

from tests.builders import changed, make_candidate
from tests.simulation.worlds import load, play, records

from daitn.base.ids import CENTER
from daitn.base.units import NS_PER_S
from daitn.control_center.training import running
from daitn.control_center.training.records import JobAssessed, PromiseMade, VisitAccepted, VisitOrdered
from daitn.control_center.training.windows import batches_in_window, closes_before
from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.job import Phase
from daitn.descriptors.work import TrainWork
from daitn.scenario.spec import CutSpec, Scenario
from daitn.simulation.world import EPOCH_NS

OPENS_S = 20.0


def passing(*names: str, cut: bool = True) -> Scenario:
    """Three hospitals; those named are out of reach for 20 s, then there for half a minute."""
    scenario = load()
    window = Window(start_unix_s=EPOCH_NS / NS_PER_S + OPENS_S, seconds=30.0)
    access = Access(kind=AccessKind.SATELLITE, metered=True, windows=(window,))
    nodes = tuple(changed(one, access=access) if one.name in names else one for one in scenario.nodes)
    # Described while its link was up; then silent until its window opens.
    cuts = tuple(CutSpec(node=name, at_s=0.9, seconds=OPENS_S - 0.9) for name in names) if cut else ()
    job = changed(scenario.jobs[0], method="cyclic", visits=60)
    return changed(scenario, nodes=nodes, jobs=(job,), faults=changed(scenario.faults, cuts=cuts))


def test_site_is_visited_from_when_its_window_opens_and_not_before():
    for cut in (True, False):  # whether it is silent by then, or its plan alone says so
        report, world = play(passing("north", cut=cut))

        assert report.fault == ""
        (north,) = (node for node, process in world.processes.items() if process.name == "north")
        ordered = [one for one in records(world, VisitOrdered) if isinstance(one.work, TrainWork)]
        there_s = [(one.at_ns - EPOCH_NS) / NS_PER_S for one in ordered if one.node == north]
        assert any((one.at_ns - EPOCH_NS) / NS_PER_S < OPENS_S for one in ordered), "others were visited meanwhile"
        assert there_s
        assert OPENS_S <= min(there_s) <= max(there_s) < OPENS_S + 30


def test_site_outside_its_window_is_promised_to_nobody_and_the_verdict_says_when_it_opens():
    _, world = play(passing("north", cut=False))

    (north,) = (node for node, process in world.processes.items() if process.name == "north")
    first = records(world, PromiseMade)[0]
    assert north not in {hold.node for hold in first.promise.holds}
    said = [one.why for one in records(world, JobAssessed)[0].verdict.excluded if one.dataset == "north/records"]
    assert said
    assert said[0].startswith("its access opens in 1")


def test_job_that_has_only_sites_outside_their_windows_is_refused_with_that_reason():
    report, world = play(passing("north", "south", "west", cut=False))

    assert report.fault == ""
    assert report.phases == (Phase.REFUSED,)
    verdict = records(world, JobAssessed)[-1].verdict
    assert {one.why.split(" in ")[0] for one in verdict.excluded} == {"its access opens"}


def test_no_visit_begins_that_would_not_be_through_before_its_window_closes():
    scenario = load()
    window = Window(start_unix_s=EPOCH_NS / NS_PER_S, seconds=2.0, every_s=4.0)
    access = Access(kind=AccessKind.SATELLITE, windows=(window,))
    nodes = tuple(changed(one, access=access) if one.name == "north" else one for one in scenario.nodes)
    job = changed(scenario.jobs[0], method="cyclic", visits=60)
    report, world = play(changed(scenario, nodes=nodes, jobs=(job,), faults=changed(scenario.faults, cuts=())))

    assert report.fault == ""
    (north,) = (node for node, process in world.processes.items() if process.name == "north")
    orders: dict[str, VisitOrdered] = {}
    took_s: list[float] = []
    left_s: list[tuple[float, float]] = []
    for record in world.processes[CENTER].journal:
        if isinstance(record, VisitOrdered) and record.node == north and isinstance(record.work, TrainWork):
            orders[record.visit] = record
            if took_s:
                left_s.append((2.0 - (record.at_ns - EPOCH_NS) / NS_PER_S % 4.0, took_s[-1]))
        elif isinstance(record, VisitAccepted) and record.visit in orders:
            took_s.append(record.outcome.seconds)
    assert len(left_s) >= 3
    assert all(left >= needed for left, needed in left_s)


def known_state(epochs: float = 1.0) -> SimpleNamespace:
    """What is asked of a job: visits of 64 batches at a site of 400 records."""
    training = SimpleNamespace(batches=64, batch_size=8)
    plan = SimpleNamespace(epochs=epochs, training=training)
    return SimpleNamespace(plan=plan, package=SimpleNamespace(total_bytes=1000), preflight=None)


def attached(access: Access) -> SimpleNamespace:
    """A map on which all nodes are attached like this."""
    return SimpleNamespace(node=lambda _: SimpleNamespace(descriptor=SimpleNamespace(access=access)))


def test_visit_has_as_many_batches_as_would_be_through_before_the_window_closes():
    candidate = make_candidate("north", batch_s=1.0, bytes_per_s=1e6, share=1.0)
    passes = attached(Access(kind=AccessKind.SATELLITE, windows=(Window(start_unix_s=1000.0, seconds=60.0),)))

    def batches(at_s: float, epochs: float = 1.0) -> int:
        return batches_in_window(candidate, 64, known_state(epochs), passes, int(at_s * NS_PER_S))

    assert batches(1000.0) == 47  # 60 s with a quarter to spare, and the way there
    assert batches(1030.0) == 23
    assert batches(1045.0) == 64, "not even sixteen fit: the whole visit goes on in the next window"
    assert batches(1000.0, epochs=0.0) == 64, "visits are as long as each other"
    assert batches_in_window(candidate, 20, known_state(), passes, 1000 * NS_PER_S) == 20
    assert batches_in_window(candidate, 64, known_state(), attached(Access()), 1000 * NS_PER_S) == 64


def test_visit_of_fewer_batches_is_ordered_and_the_log_says_why(monkeypatch):
    monkeypatch.setattr(running, "batches_in_window", lambda one, batches, *_: 5 if "north" in one.dataset else batches)
    scenario = load()
    job = changed(scenario.jobs[0], method="cyclic", visits=8)
    report, world = play(changed(scenario, jobs=(job,), faults=changed(scenario.faults, cuts=())))

    assert report.fault == ""
    ordered = [one for one in records(world, VisitOrdered) if isinstance(one.work, TrainWork)]
    shorter = [one for one in ordered if one.work.dataset == "north/records"]
    assert {one.work.training.batches for one in shorter} == {5}
    assert all(one.why.endswith("; 5 batches, since its window closes soon") for one in shorter)
    assert {one.work.training.batches for one in ordered if one not in shorter} == {16}


def test_what_waits_for_the_next_window_is_what_fits_there_and_not_in_this_one():
    window = Window(start_unix_s=1000.0, seconds=60.0, every_s=600.0)
    passes = Access(kind=AccessKind.SATELLITE, windows=(window,))

    assert not closes_before(passes, 1010.0, 50.0)
    assert closes_before(passes, 1011.0, 50.0)
    assert not closes_before(passes, 1010.0, 61.0), "no window is long enough: its transfer goes on in the next"
    assert not closes_before(Access(), 1010.0, 1e9)
    once = Access(kind=AccessKind.SATELLITE, windows=(Window(start_unix_s=1000.0, seconds=60.0),))
    assert not closes_before(once, 1010.0, 55.0), "no window comes any more"

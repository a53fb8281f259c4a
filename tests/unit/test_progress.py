"""The status an owner sees follows from the job's state, and its counters never go back."""

from __future__ import annotations

import asyncio
import itertools
import math

import msgspec
import pytest
from tests.owner_world import MemoryService, make_policy, make_request, put_package

from daitn.base.ids import NodeId, OwnerId
from daitn.control_center.training.records import ModelJudged
from daitn.descriptors.job import JobStatus, Phase
from daitn.descriptors.request import parse_target
from daitn.descriptors.work import Measurement
from daitn.oam.progress import ORDERED, finite, job_status, target_state

ALICE = OwnerId("alice")


def measured(value: float, low: float, high: float, name: str = "accuracy") -> Measurement:
    return Measurement(name=name, value=value, low=low, high=high, records=160)


@pytest.mark.parametrize(
    ("wanted", "figure", "met", "sure"),
    [
        ("accuracy >= 0.9", measured(0.95, 0.91, 0.97), True, True),
        ("accuracy >= 0.9", measured(0.95, 0.89, 0.97), True, False),
        ("accuracy >= 0.9", measured(0.85, 0.80, 0.95), False, False),
        ("loss <= 0.3", measured(0.2, 0.1, 0.29, "loss"), True, True),
        ("loss <= 0.3", measured(0.2, 0.1, 0.31, "loss"), True, False),
    ],
    ids=["bound reaches", "bound below", "estimate below", "loss bound reaches", "loss bound above"],
)
def test_target_state_met_is_the_estimate_and_sure_its_bound(
    wanted: str, figure: Measurement, met: bool, sure: bool
) -> None:
    state = target_state(parse_target(wanted), [figure], [])
    assert (state.met, state.sure, state.reached, state.untrained) == (met, sure, figure.value, None)


def test_target_state_unmeasured_is_neither_met_nor_sure() -> None:
    state = target_state(parse_target("accuracy@rare >= 0.9"), [measured(0.99, 0.98, 1.0)], [])
    assert (state.met, state.sure, state.reached, state.low, state.high) == (False, False, None, None, None)


def test_target_state_stands_beside_the_untrained_model() -> None:
    state = target_state(parse_target("accuracy >= 90%"), [measured(0.95, 0.91, 0.97)], [measured(0.5, 0.4, 0.6)])
    assert (state.wanted, state.untrained) == (">= 0.9", 0.5)


def test_finite_drops_what_is_not_a_number_and_survives_json() -> None:
    kept = finite([measured(0.5, -math.inf, math.inf), measured(math.nan, math.nan, math.nan)])
    assert len(kept) == 1
    assert msgspec.json.decode(msgspec.json.encode(kept), type=tuple[Measurement, ...]) == kept


def test_status_of_visit_under_way_tells_where_what_how_far_and_why() -> None:
    async def run() -> tuple[JobStatus, JobStatus]:
        service = MemoryService(hold=True)
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        while service.status(ALICE, job).phase is not Phase.RUNNING:
            service.answer()
        before = service.status(ALICE, job)
        service.report_progress(12, 40, 0.61)
        return before, service.status(ALICE, job)

    before, after = asyncio.run(asyncio.wait_for(run(), 20))
    (ordered,), (working,) = before.now, after.now
    assert (ordered.kind, ordered.phase, ordered.done, ordered.of) == ("train", ORDERED, 0, 0)
    assert (working.phase, working.done, working.of, working.loss) == ("working", 12, 40, 0.61)
    assert working.node_name in ("h1", "h2")
    assert working.dataset == f"{working.node_name}/lesions"
    assert working.why


def test_status_loss_that_is_not_a_number_is_not_shown() -> None:
    async def run() -> JobStatus:
        service = MemoryService(hold=True)
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        service.report_progress(1, 2, math.nan)
        return service.status(ALICE, job)

    status = asyncio.run(asyncio.wait_for(run(), 20))
    assert status.now[0].loss is None


def test_status_through_a_run_counters_never_go_back() -> None:
    async def run() -> list[JobStatus]:
        service = MemoryService(hold=True)
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        seen = [service.status(ALICE, job)]
        while service.orders:
            service.answer()
            seen.append(service.status(ALICE, job))
            await asyncio.sleep(0)
        return seen

    seen = asyncio.run(asyncio.wait_for(run(), 20))
    counters = ("visits", "rounds", "verifications", "rolled_back", "lost", "transfer_bytes", "log_length")
    for earlier, later in itertools.pairwise(seen):
        for name in counters:
            assert getattr(later, name) >= getattr(earlier, name), name
    last = seen[-1]
    assert last.visits >= 1
    assert last.targets[0].untrained == pytest.approx(0.55)
    assert last.model is not None


def test_status_after_rolling_back_keeps_what_was_reached() -> None:
    async def run() -> tuple[JobStatus, JobStatus]:
        service = MemoryService(hold=True)
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        while service.status(ALICE, job).verifications == 0:
            service.answer()
        state = service.center.jobs[job].state
        before = job_status(state, str)
        worse = ModelJudged(
            job=job,
            at_ns=1,
            model=state.head,
            keep=False,
            best=False,
            met=False,
            score=-1.0,
            measurements=(measured(0.1, 0.0, 0.2),),
            why="it fell",
        )
        state.apply(worse)
        return before, job_status(state, str)

    before, after = asyncio.run(asyncio.wait_for(run(), 20))
    assert after.rolled_back == before.rolled_back + 1
    assert after.verifications == before.verifications + 1
    assert after.targets == before.targets
    assert after.model == before.model


def test_status_of_refused_job_carries_verdict_and_end() -> None:
    async def run() -> JobStatus:
        service = MemoryService(policy=make_policy(purposes=("billing",)))
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        return service.status(ALICE, job)

    status = asyncio.run(asyncio.wait_for(run(), 20))
    assert status.phase is Phase.REFUSED
    assert status.ended_unix_s is not None
    assert status.verdict is not None
    assert status.verdict.failed()
    assert status.now == ()


def test_status_survives_json() -> None:
    async def run() -> JobStatus:
        service = MemoryService()
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        async for status in service.watch(ALICE, job):
            last = status
        return last

    status = asyncio.run(asyncio.wait_for(run(), 20))
    assert status.phase is Phase.DELIVERED
    assert msgspec.json.decode(msgspec.json.encode(status), type=JobStatus) == status


def test_names_are_asked_for_each_node() -> None:
    async def run() -> JobStatus:
        service = MemoryService(hold=True)
        job = await service.submit(ALICE, make_request(put_package(service)), "k")
        return job_status(service.center.jobs[job].state, lambda node: f"<{node}>")

    status = asyncio.run(asyncio.wait_for(run(), 20))
    assert {visit.node_name for visit in status.now} == {f"<{NodeId('n-h1')}>", f"<{NodeId('n-h2')}>"}

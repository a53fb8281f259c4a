"""Rounds averaged in shares: who takes which updates, and that the mean of means is the mean of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.builders import Bench, changed, facts_of, make_mixer, make_order, make_request, make_site, make_unit
from tests.unit.test_visit_worker import put_model

from daitn.base.ids import ArtifactId, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.training.records import VisitOrdered
from daitn.decision.rounds.grouping import shares
from daitn.descriptors.job import Phase
from daitn.descriptors.work import AggregateWork, TrainWork, UpdateRef
from daitn.node.averaging import aggregate
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitFailed, VisitOrder


def updates(count: int) -> list[UpdateRef]:
    return [UpdateRef(model=ArtifactId(f"u{n}"), weight=1.0 + n) for n in range(count)]


def aggregators(*regions: str) -> dict[NodeId, str]:
    return {NodeId(f"a{n}"): region for n, region in enumerate(regions)}


def test_shares_are_even_where_nobody_says_where_he_is():
    found = shares(updates(10), {}, aggregators("", "", ""))

    assert sorted(len(share.updates) for share in found) == [3, 3, 4]
    assert sorted(one.model for share in found for one in share.updates) == sorted(one.model for one in updates(10))


def test_updates_are_averaged_in_their_own_region_as_far_as_shares_stay_even():
    regions = {one.model: "north" if place < 6 else "south" for place, one in enumerate(updates(8))}
    found = {
        share.node: {one.model for one in share.updates}
        for share in shares(updates(8), regions, aggregators("north", "south"))
    }

    assert {len(models) for models in found.values()} == {4}
    assert {regions[model] for model in found["a0"]} == {"north"}
    assert {"u6", "u7"} <= found["a1"]


@pytest.mark.parametrize(("count", "nodes"), [(100, 1), (3, 5), (0, 3), (1, 2)])
def test_one_aggregator_does_as_well(count, nodes):
    assert shares(updates(count), {}, aggregators(*[""] * nodes)) == ()


def test_order_of_the_aggregators_changes_nothing():
    there = aggregators("north", "", "south", "")
    regions = {one.model: "south" for one in updates(9)}

    assert shares(updates(9), regions, there) == shares(updates(9), regions, dict(reversed(there.items())))


# --- the numbers --------------------------------------------------------------------------------------------------


@contextmanager
def opened(folder: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(folder, quota_bytes=1 << 22)
    try:
        yield store
    finally:
        store.close()


def test_average_of_shares_is_the_average_of_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with opened(tmp_path) as store:
        refs = [
            UpdateRef(model=put_model(store, list(rng.normal(size=50))), weight=float(weight))
            for weight in rng.integers(1, 400, 7)
        ]

        def average(these: list[UpdateRef], *, share: bool) -> ArtifactId:
            work = AggregateWork(updates=tuple(these), share=share)
            return aggregate(store, Counters(), make_order(work=work), work).model

        parts = [refs[:3], refs[3:]]
        means = [
            UpdateRef(model=average(part, share=True), weight=sum(one.weight for one in part), members=len(part))
            for part in parts
        ]
        in_shares = store.read_tensor_map(average(means, share=False)).array("w")
        at_once = store.read_tensor_map(average(refs, share=False)).array("w")
        np.testing.assert_allclose(in_shares, at_once, rtol=1e-6, atol=1e-7)


# --- the centre ---------------------------------------------------------------------------------------------------


def begun(mixers: int = 2, sites: int = 6) -> Bench:
    several = [
        changed(make_mixer(), node=NodeId(f"m{n}"), name=f"mixer{n}", public_key=f"mixer{n}") for n in range(mixers)
    ]
    made = Bench(*(make_site(n + 1) for n in range(sites)), make_unit(), *several)
    made.submit(make_request(method="hierarchical"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def averages(made: Bench) -> list[tuple[NodeId, VisitOrder]]:
    return [(node, order) for node, order in made.orders() if isinstance(order.work, AggregateWork)]


def in_shares(made: Bench) -> list[tuple[NodeId, VisitOrder]]:
    """The orders of a first round's shares."""
    for node, order in made.orders():
        assert isinstance(order.work, TrainWork)
        made.answer(node, order)
    return averages(made)


def test_shares_are_averaged_at_once_then_their_averages_and_only_that_is_a_model():
    made = begun()
    first, second = in_shares(made)

    assert {first[0], second[0]} == {NodeId("m0"), NodeId("m1")}
    assert [(len(order.work.updates), order.work.share) for _, order in (first, second)] == [(3, True), (3, True)]
    made.answer(*first)
    assert not made.state().rounds
    made.answer(*second)
    ((_, last),) = averages(made)
    assert [(one.weight, one.members) for one in last.work.updates] == [(600.0, 3), (600.0, 3)]
    assert not last.work.share
    made.answer(*averages(made)[0])
    assert made.state().rounds == 1


def test_share_whose_aggregator_is_lost_goes_into_the_last_average_as_it_is():
    made = begun()
    first, second = in_shares(made)
    made.answer(*first)
    made.say(second[0], VisitFailed(visit=second[1].visit, fence=second[1].fence, reason="gone", blame="unavailable"))

    ((_, last),) = averages(made)
    assert sorted(one.members for one in last.work.updates) == [1, 1, 1, 3]
    assert sum(one.weight for one in last.work.updates) == 1200.0


def test_update_that_an_aggregator_left_out_weighs_nothing():
    made = begun()
    first, second = in_shares(made)
    made.answer(*first, left_out=(first[1].work.updates[0].model,))
    made.answer(*second)

    ((_, last),) = averages(made)
    assert sorted((one.weight, one.members) for one in last.work.updates) == [(400.0, 2), (600.0, 3)]


def test_one_aggregator_averages_all_at_once():
    made = begun(mixers=1)
    ((_, order),) = in_shares(made)

    assert not order.work.share
    assert len(order.work.updates) == 6


def test_state_is_the_same_after_a_restart_between_the_averages():
    made = begun()
    first, _ = in_shares(made)
    made.answer(*first)
    before = facts_of(made.state())
    made.restart()

    assert facts_of(made.state()) == before
    made.answer_until(lambda state: state.rounds >= 2)
    shares_of = [one for one in made.journal if isinstance(one, VisitOrdered) and getattr(one.work, "share", False)]
    assert len(shares_of) == 4

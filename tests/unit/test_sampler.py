"""Batches by a travelling cursor: every record equally often, whatever the visits' lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.artifacts.manifest import Cursor
from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.learning.numerics.sampler import Sampler, permutation

DATASET = DataSetId("site/d")


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 50),
    batch=st.integers(1, 70),
    visits=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 2**40),
)
def test_visits_continue_one_walk_and_favour_no_record(count: int, batch: int, visits: list[int], seed: int) -> None:
    cursor = None
    drawn = []
    for steps in visits:
        sampler = Sampler(DATASET, count, batch, seed, cursor)
        drawn += [sampler.next_rows() for _ in range(steps)]
        cursor = sampler.cursor()
    assert all(len(rows) == batch for rows in drawn)
    walk = np.concatenate(drawn)
    whole = Sampler(DATASET, count, batch, seed)
    assert np.array_equal(walk, np.concatenate([whole.next_rows() for _ in range(sum(visits))]))
    seen = np.bincount(walk, minlength=count)
    assert seen.max() - seen.min() <= 1
    assert cursor is not None
    assert cursor.epoch * count + cursor.position == len(walk)


def test_epochs_data_sets_and_seeds_have_their_own_order() -> None:
    orders = [
        permutation(seed, dataset, epoch, 100).tolist()
        for seed, dataset, epoch in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
    ]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(0, "a", 0, 100).tolist() == orders[0]


def test_cursor_beyond_a_shrunken_data_set_begins_a_new_epoch() -> None:
    sampler = Sampler(DATASET, 10, 4, 0, Cursor(dataset=DATASET, epoch=3, position=12))
    assert sampler.cursor() == Cursor(dataset=DATASET, epoch=4, position=0)


def test_data_set_without_records_is_refused() -> None:
    with pytest.raises(InputError, match="no training records"):
        Sampler(DATASET, 0, 4, 0)

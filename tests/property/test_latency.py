"""Quantiles from counts by bucket: as near to those of the times themselves as buckets are wide."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.descriptors.latency import BUCKETS, FIRST_S, GROWTH, bucket_of, quantile_of

TIMES = st.floats(1e-6, 300.0)


@given(seconds=TIMES)
def test_bucket_holds_its_time(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert seconds <= FIRST_S * GROWTH**bucket * (1 + 1e-9)
    assert bucket == 0 or seconds >= FIRST_S * GROWTH ** (bucket - 1) * (1 - 1e-9)


@given(times=st.lists(TIMES, min_size=1, max_size=200), quantile=st.floats(0.01, 0.99))
def test_quantile_lies_in_the_bucket_of_the_one_of_the_times(times: list[float], quantile: float) -> None:
    found = quantile_of(Counter(map(bucket_of, times)), quantile)
    exact = float(np.quantile(times, quantile, method="inverted_cdf"))
    assert found is not None
    assert found <= FIRST_S * GROWTH ** bucket_of(exact) * (1 + 1e-9)
    assert bucket_of(exact) == 0 or found >= exact / GROWTH * (1 - 1e-9)


def test_what_was_lost_took_longest_and_nothing_has_no_quantile() -> None:
    assert quantile_of({}, 0.5) is None
    assert bucket_of(math.inf) == bucket_of(math.nan) == bucket_of(1e9) == BUCKETS - 1
    assert quantile_of({3: 90, BUCKETS - 1: 10}, 0.95) == math.inf
    assert quantile_of({3: 90, BUCKETS - 1: 10}, 0.5) == pytest.approx(FIRST_S * GROWTH**3, rel=0.2)

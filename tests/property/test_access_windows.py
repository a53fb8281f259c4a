"""Access windows: what is open when agrees with a plain walk over small steps, and transfers resume from window to
window."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.base.errors import InputError
from daitn.descriptors.access import (
    STEPS,
    Access,
    AccessKind,
    Window,
    check_access,
    done_at,
    is_open,
    open_frac,
    open_span,
)

EPOCH_S = 1_700_000_000


@st.composite
def windows(draw):
    seconds = draw(st.integers(1, 50))
    every = draw(st.one_of(st.none(), st.integers(seconds + 1, 120)))
    return Window(start_unix_s=EPOCH_S + draw(st.integers(0, 200)), seconds=seconds, every_s=every)


accesses = st.builds(Access, windows=st.lists(windows(), min_size=1, max_size=4).map(tuple))
moments = st.integers(EPOCH_S - 20, EPOCH_S + 400)


def plainly_open(access: Access, at_s: float) -> bool:
    for one in access.windows:
        since = at_s - one.start_unix_s
        if since >= 0 and (since if one.every_s is None else since % one.every_s) < one.seconds:
            return True
    return False


@given(access=accesses, at_s=moments)
def test_open_is_what_a_plain_look_at_each_window_says(access, at_s):
    assert is_open(access, at_s) == plainly_open(access, at_s)


@given(access=accesses, at_s=moments, length=st.integers(1, 200))
def test_open_share_is_that_of_all_whole_seconds(access, at_s, length):
    there = sum(plainly_open(access, at_s + step) for step in range(length))

    assert open_frac(access, at_s, at_s + length) == pytest.approx(there / length)


@given(access=accesses, at_s=moments, needs_s=st.integers(1, 60))
def test_transfer_is_through_when_as_many_open_seconds_have_passed(access, at_s, needs_s):
    end_s = done_at(access, at_s, needs_s)

    if math.isinf(end_s):
        assert not any(one.every_s for one in access.windows)
    else:
        steps = range(at_s, math.ceil(end_s))
        assert sum(plainly_open(access, step) for step in steps) == needs_s
        assert plainly_open(access, math.ceil(end_s) - 1)


@given(access=accesses, at_s=moments)
def test_span_that_comes_next_is_open_at_its_beginning_and_closed_at_its_end(access, at_s):
    span = open_span(access, at_s)

    if span is None:
        assert not any(one.every_s for one in access.windows)
    else:
        begin_s = max(span[0], at_s)
        assert plainly_open(access, begin_s)
        # A span of more windows than are looked at is told as far as one looked; each adds at least a second.
        if span[1] - begin_s < STEPS:
            assert not plainly_open(access, span[1])


def test_access_without_windows_is_always_there():
    wire = Access(kind=AccessKind.WIRELINE)

    assert is_open(wire, 5.0)
    assert open_frac(wire, 0.0, 1e6) == 1.0
    assert done_at(wire, 100.0, 7.0) == 107.0


def test_window_longer_than_its_period_is_named():
    with pytest.raises(InputError, match=r"100 s every 60 s never ends"):
        check_access(Access(windows=(Window(start_unix_s=0, seconds=100, every_s=60),)))

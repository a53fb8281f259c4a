"""Flap damping: falls suppress, steadiness releases, and never later than the longest hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import START_NS

from daitn.base.errors import InputError
from daitn.base.units import ns_to_seconds, seconds_to_ns
from daitn.describe.damping import DampingConfig, FlapDamper

CONFIG = DampingConfig(suppress=3.0, reuse=1.0, half_life_s=60.0, hold_most_s=240.0)
S = 1_000_000_000


def fallen(times: int, every_s: float = 1.0, config: DampingConfig = CONFIG) -> tuple[FlapDamper, int]:
    """A subject that fell so often, and when it last did."""
    damper, now_ns = FlapDamper(config), START_NS
    for _ in range(times):
        now_ns += seconds_to_ns(every_s)
        damper.fell(now_ns)
    return damper, now_ns


def test_subject_that_falls_seldom_is_never_suppressed():
    damper, now_ns = fallen(50, every_s=60.0)

    assert not damper.suppressed(now_ns)
    assert damper.released_ns(now_ns) is None


def test_subject_that_falls_too_often_is_suppressed_until_it_was_steady():
    damper, now_ns = fallen(4)
    released_ns = damper.released_ns(now_ns)

    assert damper.suppressed(now_ns)
    assert released_ns is not None
    assert damper.suppressed(released_ns - S)
    assert not damper.suppressed(released_ns)


def test_subject_released_needs_as_many_falls_again():
    damper, now_ns = fallen(4)
    released_ns = damper.released_ns(now_ns)

    assert not damper.suppressed(released_ns)
    assert not damper.fell(released_ns + S)


def test_penalty_fades_until_nothing_needs_to_be_kept():
    damper, now_ns = fallen(1)

    assert not damper.forgotten(now_ns)
    assert damper.forgotten(now_ns + 240 * S)


def test_clock_that_goes_back_releases_nobody():
    damper, now_ns = fallen(4)

    assert damper.suppressed(now_ns - 3600 * S)
    assert damper.penalty(now_ns - 3600 * S) == damper.penalty(now_ns)


@given(times=st.integers(1, 100), every_s=st.floats(0.001, 30))
def test_nobody_is_held_longer_than_the_longest_hold(times, every_s):
    damper, now_ns = fallen(times, every_s)

    assert damper.penalty(now_ns) <= CONFIG.ceiling
    if (released_ns := damper.released_ns(now_ns)) is not None:
        assert ns_to_seconds(released_ns - now_ns) <= CONFIG.hold_most_s + 0.001
        assert not damper.suppressed(released_ns)


def test_config_that_cannot_work_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="set `reuse` below"):
        DampingConfig(suppress=1.0, reuse=2.0)
    with pytest.raises(InputError, match="hold_most_s"):
        DampingConfig(suppress=6.0, reuse=0.75, half_life_s=900.0, hold_most_s=60.0)

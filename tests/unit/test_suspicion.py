"""Suspicion: φ grows with silence, adapts to how a node speaks, and nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import START_NS

from daitn.base.units import seconds_to_ns
from daitn.topology.suspicion import PHI_MOST, GapHistory, Standing, SuspicionConfig, phi_of

CONFIG = SuspicionConfig()


def spoken(gaps_s: list[float], beat_s: float = 1.0) -> tuple[GapHistory, int]:
    """A node that spoke with these gaps, and when it last did."""
    history, now_ns = GapHistory(beat_s, START_NS), START_NS
    for gap_s in gaps_s:
        now_ns += seconds_to_ns(gap_s)
        history.beat(now_ns)
    return history, now_ns


@given(st.floats(-50, 200), st.floats(0, 50))
def test_phi_never_falls_with_lateness(deviations, more):
    assert phi_of(deviations) <= phi_of(deviations + more)


@pytest.mark.parametrize(("deviations", "chance"), [(0.0, 0.5), (1.2815515655, 0.1), (3.0902323062, 0.001)])
def test_phi_is_the_chance_that_a_gap_is_longer(deviations, chance):
    assert phi_of(deviations) == pytest.approx(-math.log10(chance), rel=1e-6)


def test_phi_far_out_is_bounded():
    assert phi_of(1e6) == PHI_MOST


@given(gaps=st.lists(st.floats(0.01, 5), max_size=300), first_s=st.floats(0, 100), more_s=st.floats(0, 100))
def test_phi_of_a_node_never_falls_while_it_is_silent(gaps, first_s, more_s):
    history, now_ns = spoken(gaps)

    early = history.phi(now_ns + seconds_to_ns(first_s), CONFIG)
    assert early <= history.phi(now_ns + seconds_to_ns(first_s + more_s), CONFIG)


@given(gaps=st.lists(st.floats(0.01, 5), max_size=300))
def test_sums_stay_those_of_the_gaps_kept(gaps):
    history, _ = spoken(gaps)
    kept = [1.0, *gaps][-200:]

    assert history.mean_s == pytest.approx(sum(kept) / len(kept), rel=1e-6)
    assert history.deviation_s(CONFIG) >= CONFIG.deviation_least_frac * history.mean_s


def test_node_that_speaks_evenly_fails_after_its_pause_and_a_little():
    history, now_ns = spoken([1.0] * 50)

    assert history.standing(now_ns + seconds_to_ns(6.9), CONFIG) is Standing.ALIVE
    assert history.standing(now_ns + seconds_to_ns(7.5), CONFIG) is Standing.SUSPECT
    assert history.standing(now_ns + seconds_to_ns(8.6), CONFIG) is Standing.FAILED
    assert history.fails_after_s(CONFIG) == pytest.approx(8.4, abs=0.1)


def test_node_that_speaks_unevenly_is_waited_for_longer():
    even, _ = spoken([1.0] * 60)
    uneven, _ = spoken([0.2, 0.2, 2.6] * 20)

    assert uneven.mean_s == pytest.approx(even.mean_s, abs=0.05)
    assert uneven.fails_after_s(CONFIG) > even.fails_after_s(CONFIG) + 3.0


def test_other_signs_of_life_end_the_silence_and_leave_the_beat_alone():
    history, now_ns = spoken([1.0] * 20)
    mean_s = history.mean_s
    for tenth in range(100):
        history.heard(now_ns + seconds_to_ns(tenth / 10))

    assert history.mean_s == mean_s
    assert history.standing(now_ns + seconds_to_ns(11), CONFIG) is Standing.ALIVE


def test_silence_of_a_failure_is_no_gap():
    history, now_ns = spoken([1.0] * 20)
    history.resumed(now_ns + seconds_to_ns(600))
    history.beat(now_ns + seconds_to_ns(601))

    assert history.mean_s == pytest.approx(1.0)

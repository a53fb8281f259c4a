"""Places: moves go the right way and stay within bounds, few round trips place a node, whatever was measured."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.descriptors.places import ROUND_TRIP_MOST_S, Place, estimate_s
from daitn.tools.vivaldi import HEIGHT_LEAST_S, move, settle

coordinates = st.floats(-2.0, 2.0)
heights = st.floats(HEIGHT_LEAST_S, 0.5)
errors = st.floats(0.001, 1.0)
places = st.builds(Place, x_s=coordinates, y_s=coordinates, z_s=coordinates, height_s=heights, error_frac=errors)
round_trips = st.floats(1e-5, 3.0)


@given(place=places, other=places, seconds=round_trips)
def test_move_brings_the_estimate_nearer_to_what_was_measured(place, other, seconds):
    before = estimate_s(place, other)
    moved = move(place, other, seconds, "peer")

    assert abs(estimate_s(moved, other) - seconds) <= abs(before - seconds) + 1e-9


@given(place=places, other=places, seconds=st.floats(allow_nan=True, allow_infinity=True))
def test_move_stays_within_bounds_whatever_was_measured(place, other, seconds):
    moved = move(place, other, seconds, "peer")

    for value in (moved.x_s, moved.y_s, moved.z_s, moved.height_s):
        assert math.isfinite(value)
        assert abs(value) <= ROUND_TRIP_MOST_S
    assert 0 < moved.error_frac <= 1
    if not 0 < seconds <= ROUND_TRIP_MOST_S:
        assert moved == place


@given(place=places, other=places)
def test_estimate_is_the_same_both_ways_and_never_less_than_the_heights(place, other):
    assert estimate_s(place, other) == pytest.approx(estimate_s(other, place))
    assert estimate_s(place, other) >= place.height_s + other.height_s - 1e-12


def test_two_nodes_at_one_place_part_in_a_direction_of_their_own():
    here = Place(height_s=0.001)
    one, other = move(here, here, 0.1, "n0001"), move(here, here, 0.1, "n0002")

    assert one != other
    assert move(here, here, 0.1, "n0001") == one


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([16, 32]))
def test_a_few_round_trips_place_a_node_in_a_space_that_is_one(seed, count):
    """Where round trips are distances, sixteen of them are enough for all others."""
    rng = random.Random(seed)
    world = [
        Place(x_s=rng.random(), y_s=rng.random(), z_s=rng.random(), height_s=0.01 * rng.random(), error_frac=0.05)
        for _ in range(80)
    ]
    hidden = Place(x_s=rng.random(), y_s=rng.random(), z_s=rng.random(), height_s=0.01)
    samples = [(str(number), world[number], estimate_s(hidden, world[number])) for number in range(count)]

    found = settle(Place(), samples)

    offs = sorted(abs(estimate_s(found, one) / estimate_s(hidden, one) - 1) for one in world[count:])
    assert offs[len(offs) // 2] < 0.1
    assert found.error_frac < 0.2

"""Vivaldi: network coordinates that move, measurement by measurement, to where distances are round trips.

Dabek, Cox, Kaashoek, Morris, SIGCOMM 2004: each measurement is a spring between two nodes; the local error of either
decides how far one follows the other. With a height beside the coordinates (section 5.4). Where we differ: samples of
a round trip go through a low quartile first, since queues only add (Ledlie, Gardner, Seltzer, "Network coordinates in
the wild", NSDI 2007, section 5.1), and a new node settles by going round its few samples again (`settle`) instead of
waiting for as many fresh ones. Three coordinates: on 490 PlanetLab nodes more of them changed nothing.

Everything here is pure. Cost: O(1) a move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from daitn.descriptors.places import ROUND_TRIP_MOST_S, Place, estimate_s

ERROR_WEIGHT: Final = 0.25
"""c_e of the article: how fast the local error follows."""

STEP: Final = 0.25
"""c_c of the article: the largest part of a spring that one measurement takes up."""

HEIGHT_LEAST_S: Final = 1e-5
"""No node is nearer to the network than this; keeps heights from collapsing."""

ROUND_TRIP_LEAST_S: Final = 1e-6
"""Shorter round trips are those of a clock that stands still."""

ERROR_LEAST: Final = 1e-3

ROUNDS: Final = 40
"""How often a new node goes round its samples: further rounds moved nobody by more than a percent."""

COOLING_ROUNDS: Final = 10.0
"""Rounds after which steps are half as long."""

Vector = tuple[float, float, float]


def move(place: Place, other: Place, round_trip_s: float, toward: str, step: float = STEP) -> Place:
    """`place` after a round trip to `other` was measured. `toward` names the peer: where both places are one, it gives
    the direction to part in. A round trip that is no positive number within bounds moves nothing."""
    if not (0 < round_trip_s <= ROUND_TRIP_MOST_S) or not math.isfinite(round_trip_s):
        return place
    round_trip_s = max(round_trip_s, ROUND_TRIP_LEAST_S)
    weight = place.error_frac / max(place.error_frac + other.error_frac, ERROR_LEAST)
    estimated_s = estimate_s(place, other)
    off_frac = abs(estimated_s - round_trip_s) / round_trip_s
    follow = ERROR_WEIGHT * weight
    error = min(1.0, max(ERROR_LEAST, off_frac * follow + place.error_frac * (1 - follow)))
    force_s = step * weight * (round_trip_s - estimated_s)
    ahead, flat_s = _direction(place, other, toward)
    shift_s = max(force_s, -flat_s)  # nearer than one place two nodes cannot come: what is left is their heights
    x_s, y_s, z_s = (
        _within(coordinate + shift_s * part)
        for coordinate, part in zip((place.x_s, place.y_s, place.z_s), ahead, strict=True)
    )
    both_s = place.height_s + other.height_s
    pull_s = force_s * both_s / estimated_s if estimated_s > 0 else force_s / 2
    height_s = min(ROUND_TRIP_MOST_S, max(HEIGHT_LEAST_S, place.height_s + pull_s))
    return Place(x_s=x_s, y_s=y_s, z_s=z_s, height_s=height_s, error_frac=error)


def settle(place: Place, samples: Sequence[tuple[str, Place, float]]) -> Place:
    """Where a node is by its samples (peer, the peer's place, seconds) alone, begun at `place`; its peers stay where
    they are. O(ROUNDS · samples)."""
    for number in range(ROUNDS):
        step = STEP / (1 + number / COOLING_ROUNDS)
        for peer, other, round_trip_s in samples:
            moved = move(place, other, round_trip_s, peer, step)
            # While it settles, a node trusts its peers as much at the end as in the beginning.
            place = Place(
                x_s=moved.x_s, y_s=moved.y_s, z_s=moved.z_s, height_s=moved.height_s, error_frac=place.error_frac
            )
    offs = sorted(abs(estimate_s(place, other) - seconds) / seconds for _, other, seconds in samples if seconds > 0)
    error = min(1.0, max(ERROR_LEAST, offs[len(offs) // 2])) if offs else 1.0
    return Place(x_s=place.x_s, y_s=place.y_s, z_s=place.z_s, height_s=place.height_s, error_frac=error)


def _direction(place: Place, other: Place, toward: str) -> tuple[Vector, float]:
    """Away from `other`, and how far the two are apart without their heights."""
    away = (place.x_s - other.x_s, place.y_s - other.y_s, place.z_s - other.z_s)
    length = math.hypot(*away)
    if length > 0:
        return (away[0] / length, away[1] / length, away[2] / length), length
    digest = blake3(toward.encode()).digest()
    parts = [int.from_bytes(digest[start : start + 4], "big") / 2**31 - 1 for start in (0, 4, 8)]
    length = math.hypot(*parts) or 1.0
    return (parts[0] / length, parts[1] / length, parts[2] / length), 0.0


def _within(coordinate_s: float) -> float:
    return min(ROUND_TRIP_MOST_S, max(-ROUND_TRIP_MOST_S, coordinate_s))

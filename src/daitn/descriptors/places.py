"""Places: where a node is in the network, as coordinates whose distance estimates a round trip.

A place is three coordinates and a height (the way from the node to the core of the network, travelled with every
round trip whatever its direction), all in seconds: Dabek, Cox, Kaashoek, Morris, "Vivaldi: a decentralized network
coordinate system", SIGCOMM 2004, section 5.4. What moves a place is `tools.vivaldi`.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from daitn.base.ids import NodeId

ROUND_TRIP_MOST_S: Final = 60.0
"""Longest round trip that means anything; a geostationary satellite takes 0.6 s, a link slower than this is down."""

Coordinate = Annotated[float, msgspec.Meta(ge=-ROUND_TRIP_MOST_S, le=ROUND_TRIP_MOST_S)]
RoundTripSeconds = Annotated[float, msgspec.Meta(ge=0, le=ROUND_TRIP_MOST_S)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Coordinates of a node; `error_frac` is how far its estimates are off, by its own experience (1: unplaced)."""

    x_s: Coordinate = 0.0
    y_s: Coordinate = 0.0
    z_s: Coordinate = 0.0
    height_s: RoundTripSeconds = 0.0
    error_frac: Share = 1.0


def estimate_s(one: Place, other: Place) -> float:
    """Estimated round trip between two places, in seconds."""
    flat_s = math.dist((one.x_s, one.y_s, one.z_s), (other.x_s, other.y_s, other.z_s))
    return flat_s + one.height_s + other.height_s


class RoundTrip(msgspec.Struct, frozen=True, kw_only=True):
    """What a node measured of its way to a peer."""

    peer: NodeId
    seconds: RoundTripSeconds
    """A low quartile of the newest samples: queues only add."""
    spread_s: RoundTripSeconds = 0.0
    """Between the quartiles."""
    lost_frac: Share = 0.0
    samples: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 1
    passive: bool = False
    """Read from a connection that carried data anyway, not probed."""
    direct: bool = False
    """Of a direct link; else through the router."""
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """As transfers from that peer had it; 0: none was seen."""

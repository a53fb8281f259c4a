"""Shamir's secret sharing (CACM 1979) over the field of 2^255 - 19.

A secret is the value at 0 of a random polynomial, a share its value at a member's rank + 1: `threshold` shares give the
secret, fewer say nothing of it. The field is that of X25519, so that a private key is one secret.

Our own because the vetted one at hand (PyCryptodome, GF(2^128)) finds the coefficients anew for every secret: 0.26 s
for each of a hundred at a threshold of 67. Here they are found once for all secrets of a round.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daitn.base.errors import BugError, PeerError

PRIME: Final = 2**255 - 19

SHARE_BYTES: Final = 32


def draw_secret() -> int:
    """A number of the field, all equally likely, from the system's generator."""
    return secrets.randbelow(PRIME)


def split(secret: int, threshold: int, count: int, draw: Callable[[], int] = draw_secret) -> tuple[bytes, ...]:
    """`count` shares of `secret` (0 ≤ secret < PRIME), by rank, of which `threshold` give it back.

    Cost: O(count × threshold). `draw`: where the polynomial's other coefficients come from.
    """
    if not 1 <= threshold <= count < PRIME or not 0 <= secret < PRIME:
        raise BugError(f"{threshold} of {count} shares of a secret of {secret.bit_length()} bits")
    coefficients = [secret, *(draw() for _ in range(threshold - 1))]
    shares: list[bytes] = []
    for place in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "little"))
    return tuple(shares)


def coefficients_at_zero(ranks: Sequence[int]) -> dict[int, int]:
    """What each of these ranks' shares is multiplied with, so that the sum is the secret. O(ranks²)."""
    places = {rank: rank + 1 for rank in ranks}
    found: dict[int, int] = {}
    for rank, place in places.items():
        above, below = 1, 1
        for other in places.values():
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        found[rank] = above * pow(below, -1, PRIME) % PRIME
    return found


def combine(shares: Mapping[int, bytes], coefficients: Mapping[int, int]) -> int:
    """The secret that these shares, by rank, are of. PeerError where one is no number of the field. O(ranks).

    Shares of another secret, or too few, give a number that has nothing to do with it: what it is for must show that.
    """
    total = 0
    for rank, coefficient in coefficients.items():
        value = int.from_bytes(shares[rank], "little")
        if value >= PRIME:
            raise PeerError(f"the share of member {rank} is not below 2^255 - 19")
        total += value * coefficient
    return total % PRIME

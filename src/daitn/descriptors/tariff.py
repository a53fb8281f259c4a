"""A site's tariff: what a training visit there is charged, and what power it draws, as its operator states them.

Prices are in the domain's unit of account, whatever its members agreed that to be; energy is in joules. What a site
does not state is None and not free: jobs with a budget of it do not go there.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

SECONDS_PER_HOUR: Final = 3600.0
BYTES_PER_GB: Final = 1e9

Price = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Tariff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module's docstring."""

    price_per_hour: Price | None = None
    """Of one slot."""
    price_per_gigabyte: Price | None = None
    """Of 10⁹ bytes that a visit fetches; None: nothing is charged for them where hours are."""
    watts: Annotated[float, msgspec.Meta(ge=0, le=1e8)] | None = None
    """What one visit draws while it works."""

    def price_of(self, seconds: float, fetched_bytes: float) -> float | None:
        """What a visit of so many seconds is charged, in units of account; None where no price is stated."""
        if self.price_per_hour is None:
            return None
        return (
            self.price_per_hour * seconds / SECONDS_PER_HOUR
            + (self.price_per_gigabyte or 0.0) * fetched_bytes / BYTES_PER_GB
        )

    def joules_of(self, seconds: float) -> float | None:
        """What a visit of so many seconds draws; None where no power is stated."""
        return None if self.watts is None else self.watts * seconds

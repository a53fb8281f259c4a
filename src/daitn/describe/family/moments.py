"""Moments: mean and standard deviation of number columns whose range the contract states.

Three integers: how many records have a value, the sum of the values and that of their squares, each value first moved
into 0 … 1 by the contract's bounds. One record changes them by at most 1, 1 and 1 (in fixed point), a group of k by k
times that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from daitn.describe.family.contract import UNIT, Facts, Item, Measured, Part, Source, bounded_numbers, scaled_numbers
from daitn.descriptors.contract import DataContract
from daitn.descriptors.descriptions import COLUMNS_MOST, Description, Moments


class MomentsMember:
    """See the module; the contract is `describe.family.contract.Member`."""

    name = "moments"
    weight = 0.5
    what = "mean and standard deviation of number columns with a stated range"

    def items(self, contract: DataContract, bases: Iterable[str]) -> tuple[Item, ...]:  # noqa: ARG002 - the contract's
        """One for each bounded number column."""
        return tuple(Item(self.name, column) for column in list(bounded_numbers(contract))[:COLUMNS_MOST])

    def measure(self, item: Item, source: Source, groups: int) -> Measured:  # noqa: ARG002 - the contract's
        """Count, sum, sum of squares."""
        values = scaled_numbers(source, item.column)
        values = values[~np.isnan(values)]
        first = np.rint(values * UNIT).astype(np.int64)
        second = np.rint(values**2 * UNIT).astype(np.int64)
        return Measured([len(values) * UNIT, int(first.sum()), int(second.sum())], 3 * UNIT * source.bound)

    def publish(self, part: Part, facts: Facts) -> Description | None:
        """Mean and deviation in the column's unit."""
        bounds = bounded_numbers(facts.contract)[part.column]
        width = bounds.high - bounds.low
        count, first, second = (value / UNIT for value in part.integers)
        if facts.records < max(1, facts.policy.min_count) or count < max(1, facts.policy.min_count):
            return None
        mean = min(1.0, max(0.0, first / count))
        variance = min(0.25, max(0.0, second / count - mean**2))
        return Moments(
            column=part.column,
            mean=bounds.low + width * mean,
            deviation=width * math.sqrt(variance),
            noise_std=width * part.share.noise_std / UNIT / count,
            epsilon=part.share.epsilon,
        )

    def explain(self, description: Description) -> str:
        """`age: 54.1 ± 12.0 (noise 0.4)`."""
        assert isinstance(description, Moments)
        return (
            f"{description.column}: mean {description.mean:.4g}, deviation {description.deviation:.4g} "
            f"(noise on the mean ± {description.noise_std:.2g})"
        )

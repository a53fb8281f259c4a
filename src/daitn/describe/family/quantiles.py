"""Quantiles of number columns whose range the contract states, from a noisy binary tree of counts.

The range is cut into 32 bins; counts of all dyadic intervals of bins are noised and made consistent with one another
(Hay, Rastogi, Miklau, Suciu, Boosting the Accuracy of Differentially Private Histograms Through Consistency, VLDB
2010; OpenDP's `make_consistent_b_ary_tree`), so that a quantile needs few noisy numbers. One record is in six
intervals, one on each level. Chosen over one exponential mechanism for each quantile because all quantiles come for
one price.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.describe.family.contract import Facts, Item, Measured, Part, Source, bounded_numbers, scaled_numbers
from daitn.describe.mechanisms import load_opendp
from daitn.descriptors.contract import DataContract
from daitn.descriptors.descriptions import COLUMNS_MOST, Description, Quantiles

BINS: Final = 32
LEVELS: Final = 6
"""1, 2, 4, 8, 16, 32 intervals."""
COUNT_MOST: Final = 1 << 30
"""Noisy counts are cut to this, since OpenDP takes 32 bits here."""
SHARES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


class QuantilesMember:
    """See the module; the contract is `describe.family.contract.Member`."""

    name = "quantiles"
    weight = 0.5
    what = "quantiles of number columns with a stated range"

    def items(self, contract: DataContract, bases: Iterable[str]) -> tuple[Item, ...]:  # noqa: ARG002 - the contract's
        """One for each bounded number column."""
        return tuple(Item(self.name, column) for column in list(bounded_numbers(contract))[:COLUMNS_MOST])

    def measure(self, item: Item, source: Source, groups: int) -> Measured:  # noqa: ARG002 - the contract's
        """Counts of all dyadic intervals, the widest first."""
        values = scaled_numbers(source, item.column)
        bins = np.minimum((values[~np.isnan(values)] * BINS).astype(np.int64), BINS - 1)
        level = np.bincount(bins, minlength=BINS)
        levels = [level]
        while len(level) > 1:
            level = level.reshape(-1, 2).sum(axis=1)
            levels.append(level)
        return Measured([int(count) for level in reversed(levels) for count in level], LEVELS * source.bound)

    def publish(self, part: Part, facts: Facts) -> Description | None:
        """Quantiles in the column's unit, rising."""
        bounds = bounded_numbers(facts.contract)[part.column]
        least = max(1, facts.policy.min_count)
        counts = np.maximum(_consistent(part.integers), 0.0)
        total = counts.sum()
        if facts.records < least or total < least:
            return None
        edges = np.linspace(bounds.low, bounds.high, BINS + 1)
        below = np.concatenate(([0.0], np.cumsum(counts))) / total
        # A flat stretch has no inverse: of its ends the lower one is taken, as numpy's interp does for rising values.
        rising, first = np.unique(below, return_index=True)
        values = np.interp(SHARES, rising, edges[first])
        return Quantiles(
            column=part.column,
            shares=SHARES,
            values=tuple(float(value) for value in values),
            resolution=float(edges[1] - edges[0]),
            epsilon=part.share.epsilon,
        )

    def explain(self, description: Description) -> str:
        """`age: 5 % 31, 25 % 44, …`."""
        assert isinstance(description, Quantiles)
        pairs = zip(description.shares, description.values, strict=True)
        return f"{description.column}: " + ", ".join(f"{share:.0%} below {value:.4g}" for share, value in pairs)


def _consistent(tree: tuple[int, ...]) -> NDArray[np.float64]:
    """Counts of the bins, (B,), that agree best with the counts of all intervals."""
    load_opendp()
    from opendp.transformations import make_consistent_b_ary_tree

    leaves: Any = make_consistent_b_ary_tree(2)([max(-COUNT_MOST, min(COUNT_MOST, count)) for count in tree])
    return np.asarray(leaves, dtype=np.float64)[:BINS]

"""Synthetic records: drawn from noisy marginals of pairs of columns, never from records (paper, V-A: a generative
representation in place of the data).

The model is a star: one column in the middle (the label of a classification, else the first column that can be) and,
for each other column, the table of its values by those of the middle. Columns are categories of up to 64 values, and
numbers with stated bounds in 8 bins; texts, images, vectors and identifiers are left out. The tables get their noise
together; what falls below `min_count` becomes 0; the middle is drawn first, then each other column given it.

Why a star and no tree that is learnt (MST; McKenna, Miklau, Sheldon, Winning the NIST Contest, 2021) or workload-aware
selection (AIM): choosing edges costs a share of a budget that is small already, and with some hundred records and
ε = 0.3 the choice is mostly noise; the relation that matters for a model is that to the label, and it is known before.
The price: columns are independent given the middle.

Legend: C values of the middle, V values of another column, K tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.describe.family.contract import Facts, Item, Measured, Part, Source, bounded_numbers, scaled_numbers
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract
from daitn.descriptors.descriptions import SYNTHETIC_RECORDS, Description, Synthetic

VALUES_MOST: Final = 64
"""Longest vocabulary taken in: of a longer one a cell would have no records beside its noise."""
NUMBER_BINS: Final = 8
TABLES_MOST: Final = 12
"""One record is in a cell of every table, so the noise grows with their number."""


class _Axis(NamedTuple):
    """One column as codes; the last code is a missing value."""

    name: str
    words: tuple[str, ...]
    """Values of a category; empty for a number."""
    low: float
    high: float

    @property
    def codes(self) -> int:
        return (len(self.words) or NUMBER_BINS) + 1


class SyntheticMember:
    """See the module; the contract is `describe.family.contract.Member`."""

    name = "synthetic"
    weight = 1.0
    what = "records that never were, from noisy tables of pairs of columns"

    def items(self, contract: DataContract, bases: Iterable[str]) -> tuple[Item, ...]:  # noqa: ARG002 - the contract's
        """One for all columns together, where there are any."""
        return (Item(self.name),) if _axes(contract) else ()

    def measure(self, item: Item, source: Source, groups: int) -> Measured:  # noqa: ARG002 - the contract's
        """All tables, one after the other; one column alone is a table of one row."""
        middle, others = _star(source.contract)
        first = _codes(middle, source)
        if not others:
            return Measured(np.bincount(first, minlength=middle.codes).tolist(), source.bound)
        integers: list[int] = []
        for other in others:
            cells = first * other.codes + _codes(other, source)
            integers += np.bincount(cells, minlength=middle.codes * other.codes).tolist()
        return Measured(integers, source.bound * len(others))

    def publish(self, part: Part, facts: Facts) -> Description | None:
        """At most 256 records; fewer where fewer are published to be there."""
        count = min(SYNTHETIC_RECORDS, facts.records)
        if facts.records < max(1, facts.policy.min_count):
            return None
        middle, others = _star(facts.contract)
        noisy = np.array(part.integers, dtype=np.float64)
        noisy[noisy < max(1, facts.policy.min_count)] = 0.0
        seed = int.from_bytes(blake3(f"synthetic {facts.key}".encode()).digest(16), "little")
        rng = np.random.Generator(np.random.PCG64(seed))
        tables: list[NDArray[np.float64]] = []
        start = 0
        for other in others:
            stop = start + middle.codes * other.codes
            tables.append(noisy[start:stop].reshape(middle.codes, other.codes))
            start = stop
        weights = sum((table.sum(axis=1) for table in tables), np.zeros(middle.codes)) if tables else noisy
        if weights.sum() <= 0:
            return None
        chosen = rng.choice(middle.codes, size=count, p=weights / weights.sum())
        columns = [_written(middle, chosen, rng)]
        for other, table in zip(others, tables, strict=True):
            codes = np.empty(count, dtype=np.int64)
            for code in np.unique(chosen).tolist():
                given = table[code] if table[code].sum() > 0 else table.sum(axis=0)
                given = given if given.sum() > 0 else np.ones(other.codes)
                rows = np.flatnonzero(chosen == code)
                codes[rows] = rng.choice(other.codes, size=len(rows), p=given / given.sum())
            columns.append(_written(other, codes, rng))
        return Synthetic(
            columns=tuple(axis.name for axis in (middle, *others)),
            cells=tuple(zip(*columns, strict=True)),
            epsilon=part.share.epsilon,
        )

    def explain(self, description: Description) -> str:
        """`200 records of label, age, sex, such as …`."""
        assert isinstance(description, Synthetic)
        shown = "; ".join(", ".join(cell or "–" for cell in row[:8]) for row in description.cells[:3])
        return f"{len(description.cells)} records of {', '.join(description.columns)}, such as {shown}"


def _axes(contract: DataContract) -> list[_Axis]:
    bounds = bounded_numbers(contract)
    axes: list[_Axis] = []
    for column in contract.columns:
        if isinstance(column, CategoryColumn) and len(column.values) <= VALUES_MOST:
            axes.append(_Axis(column.name, column.values, 0.0, 0.0))
        elif column.name in bounds:
            axes.append(_Axis(column.name, (), *bounds[column.name]))
    return axes


def _star(contract: DataContract) -> tuple[_Axis, list[_Axis]]:
    """The middle and the others, in the contract's order."""
    axes = _axes(contract)
    label = contract.task.label if isinstance(contract.task, Classification) else ""
    middle = next((axis for axis in axes if axis.name == label), axes[0])
    return middle, [axis for axis in axes if axis is not middle][:TABLES_MOST]


def _codes(axis: _Axis, source: Source) -> NDArray[np.int64]:
    if axis.words:
        codes = source.table.categories(axis.name, source.rows, axis.words).astype(np.int64)
        return np.where(codes < 0, len(axis.words), codes)
    values = scaled_numbers(source, axis.name)
    bins = np.minimum(np.nan_to_num(values) * NUMBER_BINS, NUMBER_BINS - 1).astype(np.int64)
    return np.where(np.isnan(values), NUMBER_BINS, bins)


def _written(axis: _Axis, codes: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    if axis.words:
        return [axis.words[code] if code < len(axis.words) else "" for code in codes.tolist()]
    width = (axis.high - axis.low) / NUMBER_BINS
    values = axis.low + width * (codes + rng.random(len(codes)))
    return ["" if code == NUMBER_BINS else f"{value:.6g}" for code, value in zip(codes.tolist(), values, strict=True)]

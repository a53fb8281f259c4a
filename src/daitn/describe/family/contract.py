"""The contract of a member of the description family, and how a release of all members is made.

A member turns records into integers, and noisy integers into a description. Between the two stands the mechanism
(`describe.mechanisms`), and nothing else: a member draws no noise and never sees records again once they are noisy.
The laws, held by `tests/contract/test_descriptions.py`:

1. What is described, and how many integers it takes, follows from contract, policy and the published number of groups
   alone.
2. One group more or less (one record, in a contract without a group) changes the integers of an item by at most its
   `sensitivity`, in L1.
3. `publish` is a function of noisy integers and public facts: equal ones give equal bytes, and any integers at all
   give a description whose numbers are finite and which the codec takes.
4. Without noise the description says what the records are like, within the member's own resolution.

Legend: N records kept, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.describe.mechanisms import Noise, Share, make_share
from daitn.describe.table import MappedTable, Rows
from daitn.descriptors.contract import DataContract, NumberColumn
from daitn.descriptors.descriptions import Description
from daitn.descriptors.policy import Policy

UNIT: Final = 1 << 16
"""Fixed-point integers of one: fine beside any noise (a thousandth of its deviation at ε = 1), and 10^9 records of it
fit 64 bits a hundred times."""

NOISE_LIMIT: Final = 1 << 62
"""Noisy integers are cut to this: beyond it they would not fit what reads them."""

VectorsOf = Mapping[str, NDArray[Any]]
"""Basis of a sketch (`sketches.base_basis`) → (N, L) vectors of a frozen base, for all rows of the table."""


class Item(NamedTuple):
    """One thing to describe: a column (or all of them together, ""), of the records of one field (or all, "")."""

    member: str
    column: str = ""
    basis: str = ""

    @property
    def key(self) -> str:
        """How the item is called in a release."""
        return ":".join(part for part in self if part)


class Source(NamedTuple):
    """Records to measure; never leaves the site."""

    table: MappedTable
    contract: DataContract
    policy: Policy
    rows: Rows
    """Training records, at most `policy.records_per_group` of a group."""
    group_of: NDArray[np.int64]
    """Group of each of `rows` as 0 … G - 1."""
    bound: int
    """Most records of one group among `rows`."""
    vectors: VectorsOf


class Facts(NamedTuple):
    """What is public when a description is made."""

    contract: DataContract
    policy: Policy
    records: int
    groups: int
    """Both as published in the same release."""
    key: str
    """The release's name: seed of whatever is drawn after the noise."""


class Measured(NamedTuple):
    """Exact integers of one item, and how far one group can change them (L1)."""

    integers: list[int]
    sensitivity: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a release: noisy integers. Already private, so it may be kept."""

    member: str
    column: str
    basis: str
    share: Share
    integers: tuple[int, ...]

    @property
    def item(self) -> Item:
        """The item this is of."""
        return Item(self.member, self.column, self.basis)


class Member(Protocol):
    """See the module's docstring."""

    name: str
    weight: float
    """Its part of a release's epsilon beside the counts' 1, shared by its items."""
    what: str
    """One line for the data owner."""

    def items(self, contract: DataContract, bases: Iterable[str]) -> tuple[Item, ...]:
        """What this member can say of data of this contract; `bases`: bases of sketches (`sketches.base_basis`)
        whose vectors are at hand."""
        ...

    def measure(self, item: Item, source: Source, groups: int) -> Measured:
        """Exact integers; `groups`: their published number. O(N) and one pass over the column."""
        ...

    def publish(self, part: Part, facts: Facts) -> Description | None:
        """The description, or None where too little stands behind it (`policy.min_count`)."""
        ...

    def explain(self, description: Description) -> str:
        """What the data owner reads of it: values, in one line."""
        ...


def draw_parts(
    wanted: Iterable[tuple[Member, Item]], source: Source, groups: int, epsilon: float, noise: Noise
) -> tuple[Part, ...]:
    """Measure items and draw their noise; `epsilon` is divided by the members' weights, and adds up (composition)."""
    pairs = list(wanted)
    members = {member.name: member for member, _ in pairs}
    whole = sum(member.weight for member in members.values())
    parts: list[Part] = []
    for member, item in pairs:
        beside = sum(other is member for other, _ in pairs)
        cost = epsilon * member.weight / whole / beside
        measured = member.measure(item, source, groups)
        noisy = noise(measured.integers, measured.sensitivity, cost)
        parts.append(
            Part(
                member=item.member,
                column=item.column,
                basis=item.basis,
                share=make_share(measured.sensitivity, cost),
                integers=tuple(max(-NOISE_LIMIT, min(NOISE_LIMIT, value)) for value in noisy),
            )
        )
    return tuple(parts)


class Bounds(NamedTuple):
    """Range of a number column, by the contract alone: bounds taken from the records would say something of them."""

    low: float
    high: float


def bounded_numbers(contract: DataContract) -> dict[str, Bounds]:
    """Number columns that have both bounds."""
    return {
        column.name: Bounds(column.low, column.high)
        for column in contract.columns
        if isinstance(column, NumberColumn)
        and column.low is not None
        and column.high is not None
        and column.low < column.high
    }


def scaled_numbers(source: Source, column: str) -> NDArray[np.float64]:
    """A bounded number column of the kept rows as 0 … 1, (N,); missing values are left out with their rows' places
    NaN."""
    bounds = bounded_numbers(source.contract)[column]
    values = source.table.numbers([column], source.rows)[:, 0]
    scaled: NDArray[np.float64] = np.clip((values - bounds.low) / (bounds.high - bounds.low), 0.0, 1.0)
    return scaled

"""Descriptions: what a data set says of its records beyond counts. All of it is differentially private.

One struct for each member of the family (`describe.family` makes them). Every number is post-processing of noisy
integers, so it may be kept, merged and sent on. `epsilon` is what the numbers of one struct cost together; they hide
one group of the contract, or one record where it has no group.

Legend: B bins, D numbers of a sketch, K columns, N records.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.descriptors.contract import Name

SKETCH_NUMBERS: Final = 16
"""Most numbers of one sketch: with 1,000 groups the noise of sixteen is small beside the distance between two sites;
of 384 at 200 it is not (docs/sketches.md has the curve)."""

QUANTILES_MOST: Final = 32

COLUMNS_MOST: Final = 64
"""Columns described by one data set, for each member: more would leave each of them only noise."""

SYNTHETIC_RECORDS: Final = 256
"""Records of one synthetic table: below 100 kB of a control message with every column there may be."""

DESCRIPTIONS_MOST: Final = 4 * COLUMNS_MOST

Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Spread = Annotated[float, msgspec.Meta(ge=0, le=1e300)]
Epsilon = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Moments(msgspec.Struct, frozen=True, kw_only=True, tag="moments"):
    """Mean and standard deviation of a number column, in its unit."""

    column: Name
    mean: Finite
    deviation: Spread
    noise_std: Spread
    """Standard deviation of the noise on `mean`, in the column's unit."""
    epsilon: Epsilon


class Quantiles(msgspec.Struct, frozen=True, kw_only=True, tag="quantiles"):
    """Quantiles of a number column, in its unit: `values[i]` has a share `shares[i]` of the records below it."""

    column: Name
    shares: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1)], ...], msgspec.Meta(max_length=QUANTILES_MOST)]
    values: Annotated[tuple[Finite, ...], msgspec.Meta(max_length=QUANTILES_MOST)]
    resolution: Spread
    """Width of a bin: values between are interpolated."""
    epsilon: Epsilon


class Sketch(msgspec.Struct, frozen=True, kw_only=True, tag="sketch"):
    """Mean of a feature map over the groups of a column. Sketches with equal `basis` can be compared."""

    column: Name
    basis: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    """Names the feature map with all that it depends on (kind, encoder, seed): the same at all sites."""
    field: str = ""
    """Which field's records were sketched; empty: all."""
    mean: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=1, max_length=SKETCH_NUMBERS)]
    """(D,), the first D of the map's features: a site with few groups says fewer."""
    noise_std: Spread
    """Standard deviation of the noise on each number of `mean`."""
    groups: Spread
    """Groups behind it, as published: the weight when sketches are merged."""
    epsilon: Epsilon


class Synthetic(msgspec.Struct, frozen=True, kw_only=True, tag="synthetic"):
    """Records that never were: drawn from noisy marginals of the columns. `cells[n][k]` is a text of the vocabulary, or
    a number in the column's unit, written as the contract's columns are; missing values are empty."""

    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=COLUMNS_MOST)]
    cells: Annotated[tuple[tuple[str, ...], ...], msgspec.Meta(max_length=SYNTHETIC_RECORDS)]
    epsilon: Epsilon


Description = Moments | Quantiles | Sketch | Synthetic


def sketches_of(descriptions: tuple[Description, ...]) -> tuple[Sketch, ...]:
    """The sketches among some descriptions."""
    return tuple(one for one in descriptions if isinstance(one, Sketch))


def tag_of(description: Description) -> str:
    """Name of the member that made a description."""
    return str(description.__struct_config__.tag)

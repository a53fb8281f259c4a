"""Splits: which records train, which are held out, which may go to a verification unit, and who is in which field.

A record's side is a function of its group's digest and the contract alone, so all sites agree without speaking: a
patient who was at two hospitals is held out at both, and a new record of a known patient falls where the others are.
The digest of the group (BLAKE3, made when the data is mapped) is mixed with a salt of the contract's column names by
the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which is a bijection: groups stay as distinct as their
digests. Hashing again with BLAKE3 would do the same at 1 µs a group; this is 5 ns.

Where the contract has no group column each record's content is its group, so exact duplicates stay together.

Legend: N records, F fields.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.describe.table import MappedTable, Rows
from daitn.descriptors.contract import CategoryColumn, DataContract, FieldByColumn
from daitn.descriptors.policy import Policy

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def split_positions(table: MappedTable, contract: DataContract) -> NDArray[np.uint64]:
    """Where each record's group lies between 0 and 2**64, (N,): uniform over groups, equal within one.

    InputError where the table was grouped by another column than the contract's.
    """
    if table.group != contract.group:
        raise InputError(
            f"the data was mapped with group {table.group or 'none'!r}, "
            f"contract {contract.name!r} groups by {contract.group or 'none'!r}",
            todo="add the data set again with this contract",
        )
    names = sorted(column.name for column in contract.columns)
    salt = np.uint64(int.from_bytes(blake3(msgspec.json.encode(names)).digest(8), "little"))
    with np.errstate(over="ignore"):
        mixed = (np.asarray(table.groups) ^ salt) + _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def held_out_mask(table: MappedTable, contract: DataContract) -> NDArray[np.bool_]:
    """True (N,) for records that never train: those whose group lies below its share, `test_frac` or a larger or
    smaller one of `held_out_shares` (held out at a fifth is held out at a half, too, since positions are the same)."""
    positions = split_positions(table, contract)
    held = np.asarray(positions < _bound(contract.test_frac))
    for share in sorted(contract.held_out_shares, key=lambda one: one.frac):
        column = contract.column(share.column)
        vocabulary = column.values if isinstance(column, CategoryColumn) else ()
        codes = table.categories(share.column, None, vocabulary)
        named = np.isin(codes, [vocabulary.index(value) for value in share.values])
        # By group and not by record, so that a group never straddles.
        named = np.isin(positions, np.unique(positions[named]))
        held[named] = positions[named] < _bound(share.frac)
    return held


def _bound(frac: float) -> np.uint64:
    return np.uint64(int(frac * 2.0**64))


def training_rows(table: MappedTable, contract: DataContract) -> Rows:
    """Rows that train, ascending."""
    return np.flatnonzero(~held_out_mask(table, contract))


def held_out_rows(table: MappedTable, contract: DataContract) -> Rows:
    """Rows that never train, ascending."""
    return np.flatnonzero(held_out_mask(table, contract))


def sample_rows(table: MappedTable, contract: DataContract, policy: Policy) -> Rows:
    """Rows that may be given to a verification unit, ascending: whole held-out groups, at most `sample_frac` of all.

    Groups are taken in the order of their position, so the sample of a grown data set keeps most of the old one.
    O(N log N).
    """
    rows = held_out_rows(table, contract)
    room = int(policy.sample_frac * table.rows + 1e-9)  # 0.1 of 30 is 3, not 2
    positions = split_positions(table, contract)[rows]
    _, group_of, sizes = np.unique(positions, return_inverse=True, return_counts=True)
    taken = np.zeros(len(sizes), dtype=bool)
    prefix = int(np.searchsorted(np.cumsum(sizes), room, side="right"))
    taken[:prefix] = True
    room -= int(sizes[:prefix].sum())
    for group in range(prefix, len(sizes)):
        if room <= 0:
            break
        if sizes[group] <= room:
            taken[group] = True
            room -= int(sizes[group])
    return rows[taken[group_of]]


def field_matrix(table: MappedTable, contract: DataContract, rows: Rows | None = None) -> NDArray[np.bool_]:
    """Which records belong to which fields, (N, F) in the order of `contract.field_names()`; `rows` picks records."""
    count = table.rows if rows is None else len(rows)
    columns_F: list[NDArray[np.bool_]] = []
    for rule in contract.fields:
        column = contract.column(rule.column)
        vocabulary = column.values if isinstance(column, CategoryColumn) else ()
        codes = table.categories(rule.column, rows, vocabulary)
        if isinstance(rule, FieldByColumn):
            columns_F += [codes == code for code in range(len(vocabulary))]
        else:
            wanted = [vocabulary.index(value) for value in rule.values]
            columns_F.append(np.isin(codes, wanted))
    return np.stack(columns_F, axis=1) if columns_F else np.zeros((count, 0), dtype=bool)

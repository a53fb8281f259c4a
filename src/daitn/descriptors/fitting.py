"""Fitting: whether data mapped to the columns of one contract serves another, and what tensors a contract asks for.

Pure, from descriptors alone, so that the map can answer it without asking a site. Two models may differ in inputs,
normalisation and even in the columns they use, and still train on the same mapped data.
"""

from __future__ import annotations

import msgspec

from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    Column,
    DataContract,
    EmbeddedInput,
    FieldByColumn,
    FieldByValues,
    FieldRule,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
    Regression,
    TokensInput,
    VectorColumn,
    VectorInput,
)


def fits(
    contract: DataContract, columns: tuple[Column, ...], fields: tuple[FieldRule, ...], group: str | None = None
) -> tuple[str, ...]:
    """All reasons why data mapped to `columns` does not serve `contract`; empty: it does. O(columns × vocabulary).

    Every column of the contract must be there, of the same kind, size and unit. The contract's vocabulary must hold
    every value of the data's where records depend on it (label, fields); of other categories one shared value is
    enough, since a model has an index for "other". `fields` of one name must mean the same. `group`, where given, is
    the data's group column; it must be the contract's, or the splits would differ.
    """
    faults: list[str] = []
    held = {column.name: column for column in columns}
    closed = {rule.column for rule in contract.fields} | {share.column for share in contract.held_out_shares}
    if isinstance(contract.task, Classification | Regression):
        closed.add(contract.task.label)
    for wanted in contract.columns:
        there = held.get(wanted.name)
        if there is None:
            faults.append(f"column {wanted.name!r} is not mapped")
        elif type(there) is not type(wanted):
            faults.append(f"column {wanted.name!r} is a {_kind(there)}, the contract needs a {_kind(wanted)}")
        else:
            faults += _compare(wanted, there, wanted.name in closed)
    if group is not None and group != contract.group:
        faults.append(f"grouped by {group or 'record'!r}, the contract groups by {contract.group or 'record'!r}")
    rules = {_rule_name(rule): rule for rule in contract.fields}
    for rule in fields:
        other = rules.get(_rule_name(rule), rule)
        if not _same_rule(rule, other):
            faults.append(f"field {_rule_name(rule)!r} means something else in the data")
    return tuple(faults)


def _kind(column: Column) -> str:
    return type(column).__name__.removesuffix("Column").lower()


def _rule_name(rule: FieldRule) -> str:
    return rule.name if isinstance(rule, FieldByValues) else rule.column


def _same_rule(one: FieldRule, other: FieldRule) -> bool:
    if isinstance(one, FieldByColumn) or isinstance(other, FieldByColumn):
        return one == other
    return one.column == other.column and set(one.values) == set(other.values)


def _compare(wanted: Column, there: Column, closed: bool) -> list[str]:
    """Faults between two columns of one name and kind. `closed`: every value of the data must be known."""
    faults: list[str] = []
    if isinstance(wanted, NumberColumn | VectorColumn) and isinstance(there, NumberColumn | VectorColumn):
        units = [column.unit or "no unit" for column in (there, wanted)]
        if units[0] != units[1]:
            faults.append(f"column {wanted.name!r} is in {units[0]!r}, the contract needs {units[1]!r}")
    match wanted, there:
        case VectorColumn(), VectorColumn():
            if wanted.length != there.length:
                faults.append(f"column {wanted.name!r} has length {there.length}, not {wanted.length}")
        case ImageColumn(), ImageColumn():
            sizes = [(column.channels, column.height, column.width) for column in (there, wanted)]
            if sizes[0] != sizes[1]:
                shown = ["×".join(str(length) for length in size) for size in sizes]
                faults.append(f"column {wanted.name!r} has images of {shown[0]}, not {shown[1]}")
        case CategoryColumn(), CategoryColumn():
            known = set(wanted.values)
            unknown = [value for value in there.values if value not in known]
            if closed and unknown:
                faults.append(f"column {wanted.name!r} has values the contract lacks: {', '.join(unknown[:5])}")
            elif len(unknown) == len(there.values):
                faults.append(f"column {wanted.name!r} shares no value with the contract")
    return faults


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor that a contract makes of a record, batch dimension left out."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    """Inclusive bounds of the values, where the contract implies them."""


def input_specs(contract: DataContract) -> tuple[InputSpec, ...]:
    """All input tensors, in the order of the contract, masks after the tokens they belong to."""
    specs: list[InputSpec] = []
    for spec in contract.inputs:
        match spec:
            case NumbersInput(name=name, columns=columns):
                specs.append(InputSpec(name=name, dtype="float32", shape=(len(columns),)))
            case VectorInput(name=name, column=column_name, shape=shape):
                column = contract.column(column_name)
                length = column.length if isinstance(column, VectorColumn) else 0
                specs.append(InputSpec(name=name, dtype="float32", shape=shape or (length,)))
            case CategoryInput(name=name, column=column_name):
                column = contract.column(column_name)
                high = len(column.values) if isinstance(column, CategoryColumn) else 0
                specs.append(InputSpec(name=name, dtype="int64", shape=(), low=0, high=high))
            case ImageInput(name=name, column=column_name):
                column = contract.column(column_name)
                if isinstance(column, ImageColumn):
                    size = (column.channels, column.height, column.width)
                    specs.append(InputSpec(name=name, dtype="float32", shape=size))
            case TokensInput(name=name, length=length):
                most = max(256, spec.padding) if spec.tokenizer == "bytes" else None
                specs.append(InputSpec(name=name, dtype="int64", shape=(length,), low=0, high=most))
                if spec.mask:
                    specs.append(InputSpec(name=spec.mask, dtype="int64", shape=(length,), low=0, high=1))
            case EmbeddedInput(name=name, width=width):
                specs.append(InputSpec(name=name, dtype="float32", shape=(width,)))
    return tuple(specs)


def record_bytes(contract: DataContract) -> int:
    """Size of one record as tensors, in bytes: inputs and label. It follows from the contract alone."""
    total = 8 if isinstance(contract.task, Classification) else 4 if isinstance(contract.task, Regression) else 0
    for spec in input_specs(contract):
        count = 1
        for length in spec.shape:
            count *= length
        total += count * (4 if spec.dtype == "float32" else 8)
    return total

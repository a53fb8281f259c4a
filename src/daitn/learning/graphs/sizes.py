"""Sizes in traced programs: which symbol is which named dimension, over which range, and as which expression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from daitn.artifacts.graph_check import SIDE
from daitn.artifacts.graph_schema import (
    Add,
    Constant,
    Dimension,
    DimensionRange,
    Expression,
    FloorDiv,
    Max,
    Min,
    Mod,
    Mul,
)
from daitn.base.errors import InputError
from daitn.learning.graphs.tracing import place_of_fixing

_DIVISIONS = {"FloorDiv", "CleanDiv"}
_REMAINDERS = {"Mod", "PythonMod"}


def symbol_labels(
    program: ExportedProgram, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, tuple[str | None, ...]]
) -> dict[Any, str]:
    """Which of the program's symbols is the size of which named dimension.

    InputError where a side that should vary was fixed by the module, or tied to another name or a multiple.
    """
    users = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    _, positions = pytree.tree_unflatten(list(range(len(users))), program.call_spec.in_spec)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    traced = [
        node
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True)
        if spec.kind is InputKind.USER_INPUT
    ]
    labels: dict[Any, str] = {}
    for name in inputs:
        shape = traced[positions[name]].meta["val"].shape
        for number, label in enumerate(dynamic.get(name, ())):
            if label is None:
                continue
            side = shape[number]
            symbol = side.node.expr if isinstance(side, torch.SymInt) else None
            if symbol is None or not symbol.is_Symbol:
                if symbol is None or symbol.is_Integer:
                    only = f"the size {side}, because of {place_of_fixing(program, int(side))}"
                else:
                    only = f"multiples such as {symbol}"
                raise InputError(
                    f"side {number} of input {name!r} cannot vary as {label!r}: the module works only for {only}",
                    todo=f"leave it out of `dynamic`, or do not loop over {label!r} or read it as a plain number",
                )
            if labels.setdefault(symbol, label) != label:
                raise InputError(
                    f"the module needs {label!r} of input {name!r} to equal {labels[symbol]!r}",
                    todo="give both sides the same name in `dynamic`",
                )
    return labels


def symbol_range(program: ExportedProgram, symbol: Any, label: str, known: DimensionRange | None) -> DimensionRange:
    """Sizes of a dimension for which the program holds, within what is already `known` of it.

    Tracing never assumes a size of 0 or 1, so its lower bound of 2 says nothing; a size of 1 is proven by running.
    """
    bounds = program.range_constraints.get(symbol)
    lower = int(bounds.lower) if bounds is not None and bounds.lower.is_Integer else 0
    upper = int(bounds.upper) if bounds is not None and bounds.upper.is_Integer else None
    minimum = 1 if lower <= 2 else lower
    maximum = None if upper is None or upper >= SIDE else upper
    if known is not None:
        minimum = max(minimum, known.minimum)
        maximum = min((top for top in (maximum, known.maximum) if top is not None), default=None)
    return DimensionRange(label, minimum, maximum)


def to_expression(size: torch.SymInt, labels: Mapping[str, str]) -> Expression | None:
    """`size` in the format's grammar; None where it depends on values or uses arithmetic the grammar lacks."""
    return _convert(size.node.expr, labels)


def _convert(expression: Any, labels: Mapping[str, str]) -> Expression | None:
    """One sympy expression over the program's symbols."""
    if expression.is_Integer:
        return Constant(int(expression))
    if expression.is_Symbol:
        label = labels.get(str(expression))
        return None if label is None else Dimension(label)
    if expression.is_Pow:
        base, exponent = expression.args
        part = _convert(base, labels)
        if part is None or not (exponent.is_Integer and 1 <= int(exponent) <= 4):
            return None
        return reduce(Mul, [part] * int(exponent))
    parts = [_convert(argument, labels) for argument in expression.args]
    known = [part for part in parts if part is not None]
    if not known or len(known) != len(parts):
        return None
    kind = type(expression).__name__
    if expression.is_Add:
        return reduce(Add, known)
    if expression.is_Mul:
        return reduce(Mul, known)
    if kind == "Max":
        return reduce(Max, known)
    if kind == "Min":
        return reduce(Min, known)
    if kind in _DIVISIONS and len(known) == 2:
        return FloorDiv(known[0], known[1])
    if kind in _REMAINDERS and len(known) == 2:
        return Mod(known[0], known[1])
    return None

"""Values of any message type, drawn from the type itself, so that a new field is tested the day it is added."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import reject
from hypothesis import strategies as st
from msgspec import inspect as mi

TEXT_MOST = 8
COUNT_MOST = 3


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that decoding `kind` accepts, small enough to be many."""
    return _of(mi.type_info(kind))


def _of(info: mi.Type) -> st.SearchStrategy[Any]:
    match info:
        case mi.StructType(cls=cls, fields=fields):
            return st.deferred(lambda: st.builds(_builder(cls), **{field.name: _of(field.type) for field in fields}))
        case mi.UnionType(types=types):
            return st.one_of([_of(one) for one in types])
        case mi.TupleType(item_types=items):
            return st.tuples(*(_of(item) for item in items))
        case mi.VarTupleType(item_type=item, min_length=least):
            most = max(COUNT_MOST, least or 0)
            return st.lists(_of(item), min_size=least or 0, max_size=most).map(tuple)
        case mi.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=COUNT_MOST)
        case mi.IntType():
            least = info.ge if info.ge is not None else info.gt + 1 if info.gt is not None else -(2**63)
            most = info.le if info.le is not None else info.lt - 1 if info.lt is not None else 2**64 - 1
            return st.integers(int(least), int(most))
        case mi.FloatType():
            bounded = any(bound is not None for bound in (info.ge, info.gt, info.le, info.lt))
            low = info.ge if info.ge is not None else info.gt
            high = info.le if info.le is not None else info.lt
            return st.floats(
                low,
                high,
                exclude_min=info.gt is not None,
                exclude_max=info.lt is not None,
                allow_nan=not bounded,
                allow_infinity=False if bounded and (low is None or high is None) else None,
            )
        case mi.StrType(pattern=pattern) if pattern is not None:
            return st.from_regex(pattern, fullmatch=True)
        case mi.StrType(min_length=least, max_length=most):
            return st.text(min_size=least or 0, max_size=min(TEXT_MOST, most or TEXT_MOST))
        case mi.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=max(least or 0, min(TEXT_MOST, most or TEXT_MOST)))
        case mi.BoolType():
            return st.booleans()
        case mi.NoneType():
            return st.none()
        case mi.LiteralType(values=values):
            return st.sampled_from(values)
        case mi.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case mi.Metadata(type=inner):
            return _of(inner)
        case _:
            raise TypeError(f"no values of {info} are known")


def _builder(cls: type) -> Callable[..., Any]:
    """Makes a value, but for those that the type's own check refuses, as decoding does."""

    def build(**fields: Any) -> Any:
        try:
            return cls(**fields)
        except ValueError:
            reject()

    return build


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN, since a message may carry one."""
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case msgspec.Struct():
            fields = value.__struct_fields__
            return type(value).__name__, {name: _plain(getattr(value, name)) for name in fields}
        case tuple() | list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case _:
            return value

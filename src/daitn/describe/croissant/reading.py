"""A Croissant document, ours or anybody's, as what a site needs to add the data: contract, column map, conditions.

Read is JSON-LD as Croissant writes it: one object, terms bare or with the prefixes `cr`, `sc`, `schema`, `odrl`, or as
whole IRIs. A context is never fetched, and nothing a document points at is opened: where the data lies is given by
whoever adds it. All faults are listed at once. What Croissant leaves open and a contract needs (the size of images,
which column groups records) is asked for where it is missing, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.describe.column_map import ColumnMap, ColumnSource
from daitn.describe.croissant.conditions import Conditions, conditions_of
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    Column,
    DataContract,
    FieldByColumn,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    ModelInput,
    NumberColumn,
    NumbersInput,
    Regression,
    TextColumn,
    TokensInput,
    VectorColumn,
    VectorInput,
    check_contract,
)

DOCUMENT_BYTES: Final = 16 * MIB
"""Largest document: vocabularies of 100,000 words inline are 6 MiB."""

FIELDS_MOST: Final = 10_000
TEXT_BYTES: Final = 256

_VERSIONS: Final = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/1.1")
_PREFIXES: Final = (
    "http://mlcommons.org/croissant/",
    "https://schema.org/",
    "http://schema.org/",
    "http://purl.org/dc/terms/",
    "urn:daitn:terms:",
    "cr:",
    "sc:",
    "schema:",
    "dct:",
    "daitn:",
)
_NUMBERS: Final = frozenset(
    {"Integer", "Float", "Number", "Float16", "Float32", "Float64"}
    | {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
)
_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class Read(NamedTuple):
    """What a document says. `conditions` is None where it says nothing of use."""

    contract: DataContract
    column_map: ColumnMap
    conditions: Conditions | None


def read_croissant(data: bytes, *, record_set: str = "", label: str = "", group: str = "") -> Read:
    """A document as a contract with inputs for all its columns, and what its files call them.

    `record_set`: which one, where there are several; `label`: the column that is one, where none is marked; `group`:
    the column that groups records. InputError listing every fault.
    """
    document = _decode(data)
    faults: list[str] = []
    versions = [str(one) for one in _listed(document.get("conformsTo"))]
    if not any(version in _VERSIONS for version in versions):
        faults.append(f"it conforms to {', '.join(versions)[:80] or 'nothing it names'}, not to Croissant 1.0 or 1.1")
    chosen, fields = _choose(document, record_set, faults)
    words = _enumerations(document)
    columns: list[Column] = []
    sources: dict[str, ColumnSource] = {}
    marked = ""
    for field in fields[:FIELDS_MOST]:
        name = _last(field)
        column = _column(name, field, words, label, group, faults)
        if column is None:
            continue
        columns.append(column)
        local = _local_column(field)
        if local and local != name:
            sources[name] = ColumnSource(column=local)
        if "Label" in _kinds(field):
            marked = marked or name
    if len(fields) > FIELDS_MOST:
        faults.append(f"record set {chosen!r} has {len(fields)} fields, the limit is {FIELDS_MOST}")
    label, group = label or marked, group or _own_group(document, columns)
    task = _task(columns, label, faults)
    if faults or task is None:
        raise InputError(
            "the Croissant document cannot be used: " + "; ".join(faults[:20]), todo="see docs/croissant.md"
        )
    inputs = _inputs(columns, label)
    if not inputs:
        raise InputError("the Croissant document has no column that a model could eat", todo="see docs/croissant.md")
    contract = DataContract(
        name=_NAME.sub("-", str(document.get("contract") or _text(document.get("name")) or "data")).strip("-")[:80]
        or "data",
        columns=tuple(columns),
        inputs=inputs,
        task=task,
        group=group,
        fields=(FieldByColumn(column=label),) if isinstance(task, Classification) and _few(columns, label) else (),
    )
    check_contract(contract)
    usage = document.get("usageInfo")
    return Read(contract, ColumnMap(columns=sources), None if usage is None else conditions_of(usage))


def _decode(data: bytes) -> dict[str, Any]:
    if len(data) > DOCUMENT_BYTES:
        raise InputError(f"the Croissant document has {len(data)} bytes, the limit is {DOCUMENT_BYTES}")
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except UNDECODABLE as error:
        raise InputError(f"the Croissant document is no JSON object: {error}", todo="see docs/croissant.md") from None
    plain: dict[str, Any] = _plain_keys(found, 0)
    return plain


def _plain_keys(value: Any, depth: int) -> Any:
    """Keys without their prefixes, all the way down; conditions of use are left as they are."""
    if depth > limits.MESSAGE_DEPTH:
        raise InputError(f"the Croissant document is nested deeper than {limits.MESSAGE_DEPTH}")
    if isinstance(value, dict):
        return {
            _plain(key): one if _plain(key) in ("usageInfo", "@context", "data") else _plain_keys(one, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_plain_keys(one, depth + 1) for one in value]
    return value


def _choose(document: Mapping[str, Any], wanted: str, faults: list[str]) -> tuple[str, list[Mapping[str, Any]]]:
    """The record set that holds the records: the one named, or the only one that is no enumeration or split."""
    sets = [one for one in _listed(document.get("recordSet")) if isinstance(one, Mapping)]
    named = {_identity(one): one for one in sets}
    able = [name for name, one in named.items() if not {"Enumeration", "Split"} & _kinds(one) and "data" not in one]
    if wanted and wanted not in named:
        faults.append(f"there is no record set {wanted!r}; there are: {', '.join(list(named)[:12]) or 'none'}")
        return wanted, []
    if not wanted and len(able) != 1:
        faults.append(f"it has {len(able)} record sets of records; choose one: {', '.join(able[:12]) or 'none'}")
        return "", []
    name = wanted or able[0]
    fields = [one for one in _listed(named[name].get("field")) if isinstance(one, Mapping)]
    if not fields:
        faults.append(f"record set {name!r} has no fields")
    return name, fields


def _enumerations(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Field of an enumeration → its words, those that stand in the document."""
    found: dict[str, list[str]] = {}
    for one in _listed(document.get("recordSet")):
        if isinstance(one, Mapping) and "Enumeration" in _kinds(one):
            for row in _listed(one.get("data")):
                if isinstance(row, Mapping):
                    for key, value in row.items():
                        found.setdefault(str(key), []).append(str(value))
    return found


def _column(
    name: str, field: Mapping[str, Any], words: Mapping[str, list[str]], label: str, group: str, faults: list[str]
) -> Column | None:
    kinds = _kinds(field)
    what = f"field {name!r}"
    try:
        if name == group or field.get("identifier") is True:
            return IdentifierColumn(name=name)
        reference = _reference(field)
        if reference in words:
            return CategoryColumn(name=name, values=tuple(dict.fromkeys(words[reference]))[: limits.CLASSES])
        if "Boolean" in kinds:
            return CategoryColumn(name=name, values=("false", "true"))
        if "ImageObject" in kinds:
            return _image(name, field, faults)
        if kinds & _NUMBERS:
            if field.get("isArray") is True or field.get("repeated") is True:
                return _vector(name, field, faults)
            low, high = (_number(field.get(key)) for key in ("minValue", "maxValue"))
            return NumberColumn(name=name, unit=str(field.get("unitText") or ""), low=low, high=high)
        if kinds & {"Text", "URL", "Date", "DateTime"} or reference:
            if name == label:
                faults.append(f"{what} is the label, and its vocabulary does not stand in the document")
            return TextColumn(name=name)
    except msgspec.ValidationError as error:
        faults.append(f"{what}: {error}")
        return None
    faults.append(f"{what} has type {', '.join(sorted(kinds))[:60] or 'none'}, for which there is no kind of column")
    return None


def _image(name: str, field: Mapping[str, Any], faults: list[str]) -> Column | None:
    shape = [int(part) for part in re.findall(r"\d+", str(field.get("shape") or ""))]
    if len(shape) != 3 or shape[0] not in (1, 3):
        faults.append(f"field {name!r} is an image, and the document does not say its size (daitn:shape: '1,28,28')")
        return None
    return msgspec.convert(
        {"type": "image", "name": name, "channels": shape[0], "height": shape[1], "width": shape[2]}, ImageColumn
    )


def _vector(name: str, field: Mapping[str, Any], faults: list[str]) -> Column | None:
    shape = [int(part) for part in re.findall(r"-?\d+", str(field.get("arrayShape") or ""))]
    length = 1
    for part in shape:
        length *= part
    if not shape or min(shape) < 1 or length > 1_000_000:
        faults.append(f"field {name!r} is an array of shape {str(field.get('arrayShape'))[:40]!r}, not of a fixed size")
        return None
    return VectorColumn(name=name, length=length, unit=str(field.get("unitText") or ""))


def _task(columns: list[Column], label: str, faults: list[str]) -> Classification | Regression | None:
    found = next((column for column in columns if column.name == label), None)
    match found:
        case CategoryColumn():
            return Classification(label=label)
        case NumberColumn():
            return Regression(label=label)
        case None:
            named = f"{label!r} is no field" if label else "no field is marked as the label (cr:Label)"
            faults.append(f"{named}; name the column that a model is to predict")
        case _:
            faults.append(f"the label {label!r} is neither a category nor a number")
    return None


def _inputs(columns: list[Column], label: str) -> tuple[ModelInput, ...]:
    """One input for each column but the label; numbers go together."""
    numbers = tuple(one.name for one in columns if isinstance(one, NumberColumn) and one.name != label)
    found: list[ModelInput] = [NumbersInput(name="numbers", columns=numbers)] if numbers else []
    for column in columns:
        if column.name == label:
            continue
        match column:
            case CategoryColumn():
                found.append(CategoryInput(name=column.name, column=column.name))
            case ImageColumn():
                found.append(ImageInput(name=column.name, column=column.name))
            case VectorColumn():
                found.append(VectorInput(name=column.name, column=column.name))
            case TextColumn():
                found.append(TokensInput(name=column.name, column=column.name, length=TEXT_BYTES))
            case _:
                pass
    return tuple(found[:64])


def _few(columns: list[Column], label: str) -> bool:
    return any(
        isinstance(one, CategoryColumn) and one.name == label and len(one.values) <= limits.FIELDS for one in columns
    )


def _own_group(document: Mapping[str, Any], columns: list[Column]) -> str:
    group = str(document.get("group") or "")
    return group if any(isinstance(one, IdentifierColumn) and one.name == group for one in columns) else ""


def _local_column(field: Mapping[str, Any]) -> str:
    source = field.get("source")
    extract = source.get("extract") if isinstance(source, Mapping) else None
    return str(extract.get("column") or "") if isinstance(extract, Mapping) else ""


def _reference(field: Mapping[str, Any]) -> str:
    """`@id` of the field that this one refers to, written either way."""
    found = field.get("references")
    if isinstance(found, Mapping):
        inner = found.get("field")
        return str((inner if isinstance(inner, Mapping) else found).get("@id") or "")
    return ""


def _kinds(one: Mapping[str, Any]) -> set[str]:
    return {
        _plain(str(kind.get("@id") if isinstance(kind, Mapping) else kind)) for kind in _listed(one.get("dataType"))
    }


def _identity(one: Mapping[str, Any]) -> str:
    return str(one.get("@id") or _text(one.get("name")))


def _last(field: Mapping[str, Any]) -> str:
    """A field's own name: what its identity ends in."""
    return _identity(field).rpartition("/")[2][: limits.NAME_CHARS]


def _text(value: Any) -> str:
    """A text that may be given by language."""
    if isinstance(value, Mapping):
        return str(next(iter(value.values()), ""))
    return str(value or "")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name

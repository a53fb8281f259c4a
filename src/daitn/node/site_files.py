"""The files a data owner writes: policy and column map (TOML), and the contract they were given (JSON).

Every fault is listed at once, with the place and the nearest name that would have been right: the reader is somebody
in a hospital's IT who will not want to try ten times.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.describe.column_map import ColumnMap, ColumnSource, nearest
from daitn.descriptors.contract import DataContract, decode_contract
from daitn.descriptors.offers import OFFERS, Offer, check_offers
from daitn.descriptors.pipelines import PIPELINES, Pipeline, TextSwitch, check_pipelines, check_switches
from daitn.descriptors.policy import Policy

_TOML_BYTES: Final = 1 * MIB
"""Largest policy or column map; ten thousand mapped values are 300 kB."""


def load_policy(path: Path) -> Policy:
    """Read a policy; InputError listing every unknown key and wrong value."""
    table = _read_toml(path, "policy")
    faults: list[str] = []
    values = _convert_keys(table, Policy, "", faults)
    if values.get("sample_frac") and not values.get("verification_operators"):
        faults.append("sample_frac is given, but no verification_operators may receive a sample")
    if values.get("raw_records") == "trust-zone" and not values.get("compute_operators"):
        faults.append("raw_records is 'trust-zone', but compute_operators lists nobody")
    _refuse(path, "policy", faults)
    return Policy(**values)


def load_column_map(path: Path) -> ColumnMap:
    """Read a column map; InputError listing every fault. `age = "alter"` is short for `age = {column = "alter"}`."""
    table = _read_toml(path, "column map")
    faults: list[str] = []
    entries = table.pop("columns", {})
    values = _convert_keys(table, ColumnMap, "", faults)
    columns: dict[str, ColumnSource] = {}
    if not isinstance(entries, dict):
        faults.append("columns is not a table: write [columns] and below it one line per column")
        entries = {}
    for name, entry in entries.items():
        if isinstance(entry, str):
            columns[name] = ColumnSource(column=entry)
        elif isinstance(entry, dict):
            columns[name] = ColumnSource(**_convert_keys(entry, ColumnSource, f"columns.{name}.", faults))
        else:
            faults.append(f"columns.{name} is neither a name nor a table")
    _refuse(path, "column map", faults)
    return ColumnMap(**values | {"columns": columns})


def load_offers(path: Path) -> tuple[Offer, ...]:
    """Read what a host offers by itself, a table `[[offer]]` for each model; InputError naming the place of a fault."""
    table = _read_toml(path, "file of offers")
    try:
        offers = msgspec.convert(table, _Offers).offer
    except msgspec.ValidationError as error:
        raise InputError(f"{path.name} is not a file of offers: {error}") from None
    return check_offers(offers)


class _Offers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    offer: Annotated[tuple[Offer, ...], msgspec.Meta(min_length=1, max_length=OFFERS)]


def load_pipelines(path: Path) -> tuple[tuple[Pipeline, ...], tuple[TextSwitch, ...]]:
    """Read a gateway's combined models, a table `[[pipeline]]` or `[[switch]]` for each; InputError naming the place of
    a fault. Where a switch's outcomes lie is told from the file's folder."""
    table = _read_toml(path, "file of pipelines")
    try:
        read = msgspec.convert(table, _Pipelines)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"{path.name} is not a file of pipelines: {error}") from None
    if not read.pipeline and not read.switch:
        raise InputError(f"{path.name} is not a file of pipelines: it has no [[pipeline]] and no [[switch]]")
    switches = tuple(
        msgspec.structs.replace(one, outcomes=str((path.parent / one.outcomes).resolve())) for one in read.switch
    )
    return check_pipelines(read.pipeline), check_switches(switches, read.pipeline)


class _Pipelines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pipeline: Annotated[tuple[Pipeline, ...], msgspec.Meta(max_length=PIPELINES)] = ()
    switch: Annotated[tuple[TextSwitch, ...], msgspec.Meta(max_length=PIPELINES)] = ()


def load_contract(path: Path) -> DataContract:
    """Read and check a data contract; InputError with the place of a syntax fault, or all other faults."""
    return decode_contract(_read(path, "contract", limits.MANIFEST_BYTES), what=path.name)


def _convert_keys(table: dict[str, Any], kind: type[msgspec.Struct], prefix: str, faults: list[str]) -> dict[str, Any]:
    """Each key of `table` as the type its field has; one fault per key that is unknown or wrong."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            faults.append(f"{prefix}{key} is unknown ({nearest(key, fields)})")
            continue
        try:
            values[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            faults.append(f"{prefix}{key}: {error}")
    return values


def _refuse(path: Path, what: str, faults: list[str]) -> None:
    if faults:
        raise InputError(f"{path.name} is not a {what}: " + "; ".join(faults))


def _read_toml(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path, what, _TOML_BYTES).decode("utf-8"))
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        raise InputError(f"{path.name} is not TOML: {error}") from None


def _read(path: Path, what: str, most_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{what} {str(path)!r} cannot be read: {error.strerror}", todo="check the path") from None
    if len(data) > most_bytes:
        raise InputError(f"{what} {path.name} has more than {most_bytes} bytes")
    return data

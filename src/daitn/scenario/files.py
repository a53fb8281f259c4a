"""Scenario files: a scenario as TOML or JSON, read with every fault listed and every path made absolute.

    name = "two clinics"
    [[nodes]]
    name = "alder"
    operator = "alder-hospital"
    roles = ["data", "compute"]
    [[nodes.data]]
    name = "cells"
    path = "alder/cells.csv"            # relative to this file
    contract = "cells.contract.json"
    policy = {owners = ["mira"], purposes = ["diagnosis-support"]}

A policy may also be the path of a file, as `daitn data add` takes it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.descriptors.policy import Policy
from daitn.scenario.spec import Scenario, check_scenario

SCENARIO_BYTES: Final = 8 * MIB
"""Largest scenario file: 4,096 nodes with a data set each are 2 MB."""

FAULTS_SHOWN: Final = 20


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario; InputError listing every unknown key, wrong value, missing file and contradiction."""
    here, faults = path.resolve().parent, list[str]()
    table = _read(path)
    for place, data in _data_of(table):
        if isinstance(policy := data.get("policy"), str):
            data["policy"] = _read_policy(here / policy, place, faults)
        for key in ("path", "contract", "column_map"):
            _absolute(data, key, here, place, faults)
    for place, job in _tables(table, "jobs", ""):
        _absolute(job, "contract", here, place, faults)
        _absolute(job, "package", here, place, faults)
    scenario = _convert(table, faults)
    if scenario is not None:
        try:
            check_scenario(scenario)
        except InputError as error:
            faults.append(error.what)
    if faults or scenario is None:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise InputError(f"{path.name} is not a scenario: " + "; ".join(faults[:FAULTS_SHOWN]) + more)
    return scenario


def policy_toml(policy: Policy) -> str:
    """A policy as its file: only what differs from the defaults, which deny."""
    given, default = msgspec.to_builtins(policy), msgspec.to_builtins(Policy())
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in given.items() if value != default[key])


def toml_value(value: Any) -> str:
    """A value as TOML on one line: JSON's notation for texts, numbers and booleans is TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(text: str) -> str:
    bare = text.isascii() and text.replace("_", "").isalnum()
    return text if bare else json.dumps(text, ensure_ascii=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(SCENARIO_BYTES + 1)
    except OSError as error:
        raise InputError(f"scenario {str(path)!r} cannot be read: {error.strerror}", todo="check the path") from None
    if len(data) > SCENARIO_BYTES:
        raise InputError(f"scenario {path.name} has more than {SCENARIO_BYTES} bytes")
    try:
        if path.suffix == ".json":
            table = msgspec.json.decode(data)
        else:
            table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InputError(f"{path.name} is not {kind}: {error}") from None
    if not isinstance(table, dict):
        raise InputError(f"{path.name} is not a scenario: it is a {type(table).__name__}, not a table")
    return table


def _tables(table: dict[str, Any], key: str, place: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """The tables in the list `key`, each with its place for messages."""
    listed = table.get(key)
    for number, one in enumerate(listed if isinstance(listed, list) else [], 1):
        if isinstance(one, dict):
            yield f"{place}{key}[{number}] {one.get('name', '')}".strip(), one


def _data_of(table: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for place, node in _tables(table, "nodes", ""):
        yield from _tables(node, "data", f"{place}.")


def _absolute(table: dict[str, Any], key: str, here: Path, place: str, faults: list[str]) -> None:
    """Make a path absolute; a fault where nothing is there."""
    given = table.get(key)
    if not isinstance(given, str) or not given:
        return
    path = here / given
    table[key] = str(path)
    if not path.exists():
        faults.append(f"{place}: {key} {given!r} does not exist beside the scenario")


def _read_policy(path: Path, place: str, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        faults.append(f"{place}: policy {path.name!r} cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        faults.append(f"{place}: policy {path.name!r} is not TOML: {error}")
    return {}


def _convert(table: dict[str, Any], faults: list[str]) -> Scenario | None:
    """The whole table at once; where that fails, piece by piece, so that every fault is found."""
    try:
        return msgspec.convert(table, Scenario)
    except msgspec.ValidationError:
        _convert_fields(table, Scenario, "", faults)
        return None


def _convert_fields(table: dict[str, Any], kind: type[msgspec.Struct], place: str, faults: list[str]) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    faults += [f"{place}{key} is unknown" for key in table if key not in fields]
    for name, field in fields.items():
        if name not in table:
            if field.required:
                faults.append(f"{place}{name} is missing")
            continue
        value, inner = table[name], _element(field.type)
        if inner is not None and isinstance(value, list):
            for number, one in enumerate(value, 1):
                if isinstance(one, dict):
                    _convert_fields(one, inner, f"{place}{name}[{number}].", faults)
                else:
                    faults.append(f"{place}{name}[{number}] is not a table")
        elif isinstance(value, dict) and isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            _convert_fields(value, field.type, f"{place}{name}.", faults)
        else:
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                faults.append(f"{place}{name}: {error}")


def _element(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a tuple of structs is made of."""
    arguments = getattr(kind, "__args__", ())
    if getattr(kind, "__metadata__", None) is not None and arguments:
        return _element(arguments[0])
    if getattr(kind, "__origin__", None) is tuple and arguments and isinstance(arguments[0], type):
        return arguments[0] if issubclass(arguments[0], msgspec.Struct) else None
    origin = getattr(kind, "__origin__", None)
    return _element(origin) if origin not in (None, tuple) else None

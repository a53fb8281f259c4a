"""Requests as people write them: `"accuracy >= 95%"`, `"1h"`, `"2 GB"`, a list of data sets; and what they become."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, DataSetId
from daitn.base.names import check_name
from daitn.base.units import MIB
from daitn.descriptors.compression import Compression, parse_compression
from daitn.descriptors.contract import DataContract, Task, check_contract, decode_contract
from daitn.descriptors.privacy import Privacy, parse_privacy
from daitn.descriptors.request import (
    Budget,
    Hyperparameters,
    Request,
    SecureAggregation,
    Selection,
    Target,
    Tuning,
    parse_target,
)

SPEC_BYTES: Final = 1 * MIB
"""Largest request file; a thousand targets are 100 kB."""

_SECONDS: Final = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "m": 60.0,
    "h": 3600.0, "hour": 3600.0, "d": 86_400.0, "day": 86_400.0, "w": 604_800.0, "week": 604_800.0,
}  # fmt: skip
_BYTES: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_AMOUNT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")

MOST_BYTES: Final = 2**63 - 1
"""Largest number of bytes a request can hold."""

Duration = float | int | str | datetime.timedelta
Targets = Sequence[Target | str] | Target | str


def parse_duration(value: Duration) -> float:
    """Seconds of `90`, `"90 s"`, `"1h 30min"`, `"2 days"` or a timedelta; InputError otherwise."""
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)):
        return float(value)
    wrong = InputError(
        f"{str(value)[:80]!r} is not a length of time", todo="write for example 90, '90 s', '1h 30min' or '2 days'"
    )
    if not isinstance(value, str) or not value.strip():
        raise wrong
    total, rest = 0.0, value.strip()
    while rest:
        match = _AMOUNT.match(rest)
        unit = match[2].lower() if match else ""
        seconds = _SECONDS.get(unit or "s") or _SECONDS.get(unit.removesuffix("s"))
        if match is None or seconds is None:
            raise wrong
        total += float(match[1]) * seconds
        rest = rest[match.end() :]
    return total


def parse_bytes(value: int | str) -> int:
    """Bytes of `2000000`, `"2 MB"` or `"1.5 GiB"`; InputError otherwise."""
    if isinstance(value, int):
        return value
    match = _AMOUNT.fullmatch(value)
    factor = _BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InputError(f"{value!r} is not a number of bytes", todo="write for example 2000000, '2 MB' or '1.5 GiB'")
    amount = float(match[1]) * factor
    if amount > MOST_BYTES:
        raise InputError(f"{value[:40]!r} is more bytes than can be", todo=f"give at most {MOST_BYTES}")
    return round(amount)


def parse_targets(targets: Targets) -> tuple[Target, ...]:
    """One target or several, as text or values; InputError listing all that cannot be read."""
    listed = [targets] if isinstance(targets, (str, Target)) else list(targets)
    read: list[Target] = []
    faults: list[str] = []
    for one in listed:
        try:
            read.append(parse_target(one) if isinstance(one, str) else one)
        except InputError as error:
            faults.append(error.what)
    if faults or not read:
        raise InputError("; ".join(faults) or "no target is given", todo="write for example 'accuracy >= 0.95'")
    return tuple(read)


def read_contract(contract: DataContract | str | Path, task: Task | None = None) -> DataContract:
    """A contract given as a value or as the path of its JSON file; with `task` in place of its own, if given."""
    if not isinstance(contract, DataContract):
        path = Path(contract)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"contract {str(path)!r} cannot be read: {error.strerror}", todo="check the path"
            ) from None
        contract = decode_contract(data, path.name)
    if task is not None:
        contract = msgspec.structs.replace(contract, task=task)
    check_contract(contract)
    return contract


def make_request(
    package: ArtifactId,
    *,
    name: str,
    targets: Targets,
    deadline: Duration,
    purpose: str,
    data: Selection | Sequence[str] | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    hyperparameters: Hyperparameters | Mapping[str, Any] | None = None,
    secure_aggregation: SecureAggregation | Mapping[str, Any] | bool | None = None,
    compression: Compression | Mapping[str, Any] | str | None = None,
    privacy: Privacy | Mapping[str, Any] | str | None = None,
    tuning: Tuning | Mapping[str, Any] | bool | None = None,
    **others: Any,
) -> Request:
    """A request from what people write; `others` are fields of `Request` as they are. InputError listing the faults."""
    check_name("job", name)
    values: dict[str, Any] = {
        "name": name,
        "package": package,
        "purpose": purpose,
        "targets": parse_targets(targets),
        "deadline_s": parse_duration(deadline),
        "data": _selection(data),
        "budget": _struct(budget, Budget),
        "hyperparameters": _struct(hyperparameters, Hyperparameters),
        "secure_aggregation": SecureAggregation() if secure_aggregation is True else secure_aggregation or None,
        "tuning": Tuning() if tuning is True else tuning or None,
        "compression": parse_compression(compression) if isinstance(compression, str) else compression,
        "privacy": parse_privacy(privacy) if isinstance(privacy, str) else privacy,
        **{key: value for key, value in others.items() if value is not None},
    }
    try:
        # Through builtins, so that ranges and unknown fields are checked as they will be at the other side.
        return msgspec.convert(msgspec.to_builtins(values), Request)
    except msgspec.ValidationError as error:
        raise InputError(f"the request is not possible: {error}") from None


def load_spec(path: Path) -> dict[str, Any]:
    """A request file (TOML): the arguments of `Network.train` by name, `package` or `contract` relative to the file."""
    try:
        with path.open("rb") as file:
            text = file.read(SPEC_BYTES + 1)
        if len(text) > SPEC_BYTES:
            raise InputError(f"{path} has more than {SPEC_BYTES} bytes")
        return tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise InputError(f"request {str(path)!r} cannot be read: {error.strerror}", todo="check the path") from None
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        raise InputError(f"{path.name} is not TOML: {error}") from None


def _selection(data: Selection | Sequence[str] | Mapping[str, Any] | None) -> Any:
    if data is None:
        return Selection()
    if isinstance(data, Selection | Mapping):
        return _struct(data, Selection)
    if isinstance(data, str):
        return Selection(include=(DataSetId(data),))
    return Selection(include=tuple(DataSetId(name) for name in data))


def _struct(value: Any, kind: type[msgspec.Struct]) -> Any:
    if value is None:
        return kind()
    if isinstance(value, Mapping) and kind is Budget and isinstance(value.get("transfer_bytes"), str):
        return {**value, "transfer_bytes": parse_bytes(value["transfer_bytes"])}
    return value

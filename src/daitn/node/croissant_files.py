"""Croissant documents as files: made of a descriptor, checked by mlcroissant, turned into the files of a data owner."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from daitn.base.errors import InputError
from daitn.describe.croissant.conditions import policy_of
from daitn.describe.croissant.document import croissant_of
from daitn.describe.croissant.reading import DOCUMENT_BYTES, read_croissant
from daitn.descriptors.terminals import DataDescriptor
from daitn.scenario.files import policy_toml, toml_value


def export_document(descriptor: DataDescriptor, label: str, license_url: str) -> tuple[dict[str, Any], bytes]:
    """The document of a descriptor, and its bytes."""
    document = croissant_of(descriptor, label=label, license_url=license_url)
    return document, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def check_document(document: dict[str, Any]) -> list[str]:
    """What mlcroissant, the standard's own library, remarks on a document; InputError where it is not valid.

    It opens nothing that the document points at.
    """
    try:
        import mlcroissant
    except ImportError:
        raise InputError("checking needs the package mlcroissant", todo="install daitn[croissant]") from None
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        found = mlcroissant.Dataset(jsonld=msgspec.json.decode(msgspec.json.encode(document)))
    except mlcroissant.ValidationError as error:
        raise InputError(f"mlcroissant finds the document not valid: {error}") from None
    return sorted(str(one) for one in found.metadata.ctx.issues.warnings)


def import_document(
    path: Path,
    folder: Path,
    *,
    record_set: str = "",
    label: str = "",
    group: str = "",
    owners: Iterable[str] = (),
    accepted: Iterable[str] = (),
) -> list[Path]:
    """Write `contract.json`, `map.toml` and, where the document has conditions of use, `policy.toml` into `folder`.

    InputError listing what cannot be mapped; then nothing is written.
    """
    try:
        with path.open("rb") as file:
            data = file.read(DOCUMENT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", todo="check the path") from None
    found = read_croissant(data, record_set=record_set, label=label, group=group)
    columns = {name: source.column for name, source in found.column_map.columns.items()}
    files = {
        "contract.json": msgspec.json.format(msgspec.json.encode(found.contract)),
        "map.toml": f"columns = {toml_value(columns)}\n".encode(),
    }
    if found.conditions is not None:
        policy = policy_of(found.conditions, owners=owners, accepted=accepted)
        files["policy.toml"] = policy_toml(policy).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]

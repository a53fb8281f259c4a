"""The files of a frozen base: which they are, their digest, and what the configuration says; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3

from daitn.artifacts.tensor_file import SNIFF_BYTES, read_header
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB

BASE_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")
CONFIG_BYTES: Final = 1 * MIB
"""Largest configuration: 10,000 labels with their names are 300 kB."""


def base_digest(folder: Path) -> str:
    """BLAKE3 (hex) over the names and bytes of a base's files; InputError where one is missing. O(bytes)."""
    whole = blake3()
    for name in BASE_FILES:
        file = blake3()
        try:
            file.update_mmap(folder / name)
        except OSError as error:
            raise InputError(
                f"{folder} is no base: {name} cannot be read ({error.strerror})",
                todo=f"a base is a folder with {', '.join(BASE_FILES)}, as transformers saves it",
            ) from None
        whole.update(f"{name}\x00{file.hexdigest()}\n".encode())
    return str(whole.hexdigest())


def check_weights(path: Path) -> None:
    """InputError where a file of tensors is not what its name says: an archive or pickle in disguise, or a header that
    does not fit the file. Reads the header only."""
    try:
        with path.open("rb") as file:
            read_header(file.read(SNIFF_BYTES), file, path.stat().st_size, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", todo="check the path and its rights") from None


def folder_digest(folder: Path) -> str:
    """BLAKE3 (hex) over the names and bytes of a model's folder: what it is, whatever else lies beside it. InputError
    where a file that is needed is missing. O(bytes)."""
    files = sorted(
        path for path in folder.glob("*") if path.suffix in (".safetensors", ".json") and not path.name.startswith(".")
    )
    names = {path.name for path in files}
    lacking = [name for name in ("config.json", "tokenizer.json") if name not in names]
    lacking += [] if any(path.suffix == ".safetensors" for path in files) else ["*.safetensors"]
    if lacking:
        raise InputError(f"{folder} is no model's folder: it lacks {', '.join(lacking)}")
    whole = blake3()
    for path in files:
        file = blake3()
        try:
            file.update_mmap(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        whole.update(f"{path.name}\x00{file.hexdigest()}\n".encode())
    return str(whole.hexdigest())


def base_width(folder: Path) -> int:
    """D as the configuration says; InputError where it does not."""
    width = read_config(folder).get("hidden_size")
    if not isinstance(width, int) or not 1 <= width <= 65_536:
        raise InputError(f"{folder / 'config.json'} says no hidden_size", todo="take an encoder, such as a BERT")
    return width


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration as it stands in the file; InputError where it is too large or no JSON object."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise InputError(f"{path} has more than {CONFIG_BYTES // MIB} MiB")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UNDECODABLE as error:
        raise InputError(f"{path} is no configuration: {error}") from None

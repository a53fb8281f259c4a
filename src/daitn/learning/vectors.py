"""Vectors of texts as files beside a mapped table: one file per base, column, cut and pooling, float16, row by row.

Legend: N records of the table, D length of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.descriptors.contract import DataContract, EmbeddedInput

Vectors = Mapping[str, NDArray[Any]]
"""Input name → (N, D) float16."""


def embedded_inputs(contract: DataContract) -> tuple[EmbeddedInput, ...]:
    """The inputs of a contract that a frozen base makes."""
    return tuple(spec for spec in contract.inputs if isinstance(spec, EmbeddedInput))


def vector_file(spec: EmbeddedInput) -> str:
    """Name of the file, which says base, column, cut, pooling and width."""
    parts = (spec.base, spec.column, spec.length, spec.pooling, spec.width)
    return f"{str(blake3(msgspec.json.encode(parts)).hexdigest())[:32]}.f16"


def map_vectors(folder: Path, contract: DataContract) -> dict[str, NDArray[Any]]:
    """All that a contract asks for, mapped read-only; InputError where a file is missing."""
    mapped: dict[str, NDArray[Any]] = {}
    for spec in embedded_inputs(contract):
        try:
            flat = np.memmap(folder / vector_file(spec), dtype="<f2", mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"the vectors of input {spec.name!r} are not there: {error}") from None
        mapped[spec.name] = flat.reshape(-1, spec.width)
    return mapped

"""Writers: one local table in each of the formats that a site might have its data in.

A local table is column name → list of values, None where a value was never filled in. Images are lists of rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

LocalTable = dict[str, list[Any]]


def _write_csv(table: LocalTable, path: Path) -> Path:
    """Semicolons, as spreadsheets write them where the comma is the decimal mark."""
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path.with_suffix(".csv")


def _write_jsonl(table: LocalTable, path: Path) -> Path:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
    return path.with_suffix(".jsonl")


def _write_npz(table: LocalTable, path: Path) -> Path:
    """Numbers as float64 with NaN for what is missing, images as bytes, texts as numpy texts."""
    arrays: dict[str, Any] = {}
    for name, values in table.items():
        if isinstance(values[0], str):
            arrays[name] = np.array(values)
        elif isinstance(values[0], list):
            arrays[name] = np.array(values, dtype=np.uint8)
        else:
            arrays[name] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def _write_parquet(table: LocalTable, path: Path) -> Path:
    """Pictures as PNG files in a binary column."""
    import pyarrow
    import pyarrow.parquet as parquet

    columns = {
        name: [_png(value) for value in values] if _is_image(values) else values for name, values in table.items()
    }
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def _write_arrow(table: LocalTable, path: Path) -> Path:
    """Pictures as lists of rows of bytes."""
    import pyarrow

    columns = {
        name: pyarrow.array(values, pyarrow.list_(pyarrow.list_(pyarrow.uint8()))) if _is_image(values) else values
        for name, values in table.items()
    }
    made = pyarrow.table(columns)
    with pyarrow.OSFile(str(path.with_suffix(".arrow")), "wb") as file, pyarrow.ipc.new_file(file, made.schema) as out:
        out.write_table(made)
    return path.with_suffix(".arrow")


def _write_image_folder(table: LocalTable, path: Path) -> Path:
    """One folder per label; the table's first column is the image, its second the label."""
    images, labels = table.values()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"scan-{number:04d}.png").write_bytes(_png(image))
    return path


def _write_idx(table: LocalTable, path: Path) -> Path:
    """The pair of files that MNIST made known, gzipped."""
    images, labels = table.values()
    path.mkdir(parents=True, exist_ok=True)
    pixels = np.array(images, dtype=np.uint8)
    for name, array in (("forms-images-idx3-ubyte", pixels), ("forms-labels-idx1-ubyte", np.array(labels, np.uint8))):
        head = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
        (path / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
    return path


def _is_image(values: Sequence[Any]) -> bool:
    return isinstance(values[0], list)


def _png(image: list[list[int]]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.array(image, dtype=np.uint8), mode="L").save(buffer, format="PNG")
    return buffer.getvalue()


WRITERS: Final[dict[str, Callable[[LocalTable, Path], Path]]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "npz": _write_npz,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "imagefolder": _write_image_folder,
    "idx": _write_idx,
}
"""Format → writer of a table at a path without suffix; each returns the path to give to `daitn data add`."""

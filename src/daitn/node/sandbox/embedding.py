"""What a child does with an `Embed`: every text of each column through the site's base, into the descriptor for it.

Runs inside, imports torch. No foreign model is near: the base is the site's own, the records never leave the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from daitn.base.errors import BugError, InputError
from daitn.describe.table import MappedTable
from daitn.learning.bases import FrozenBase
from daitn.node.sandbox.protocol import Embed, EmbedColumn


def embed_columns(ask: Embed, descriptors: Sequence[int]) -> tuple[int, tuple[float, ...]]:
    """Encode and write; returns the records of the table and the seconds that each column took. Closes the descriptors.
    InputError where the base is another."""
    try:
        if len(descriptors) != len(ask.columns):
            raise BugError(
                f"an embedding of {len(ask.columns)} columns takes as many descriptors, not {len(descriptors)}"
            )
        torch.set_num_threads(ask.threads)
        table = MappedTable.open(Path(ask.table))
        base = FrozenBase(Path(ask.base))
        seconds: list[float] = []
        for one, output in zip(ask.columns, descriptors, strict=True):
            began = time.perf_counter()
            _embed_column(one, table, base, output)
            seconds.append(time.perf_counter() - began)
        return table.rows, tuple(seconds)
    finally:
        for output in descriptors:
            os.close(output)


def _embed_column(ask: EmbedColumn, table: MappedTable, base: FrozenBase, output: int) -> None:
    texts = table.texts(ask.column)
    stride = ask.width * 2
    for rows, vectors in base.embed([texts.text(row) for row in range(table.rows)], ask.length, ask.pooling):
        if vectors.shape[1] != ask.width:
            raise InputError(f"the base gives {vectors.shape[1]} numbers a text, the contract says {ask.width}")
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            os.pwrite(output, vector.tobytes(), row * stride)

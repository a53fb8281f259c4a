"""What a child does with an `Embed`: every text of a column through the site's base, into the descriptor it was given.

Runs inside, imports torch. No foreign model is near: the base is the site's own, the records never leave the process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from daitn.base.errors import BugError, InputError
from daitn.describe.table import MappedTable
from daitn.learning.bases import FrozenBase
from daitn.node.sandbox.protocol import Embed


def embed_column(ask: Embed, descriptors: Sequence[int]) -> int:
    """Encode and write; returns the number of records. Closes the descriptor. InputError where the base is another."""
    if len(descriptors) != 1:
        raise BugError(f"an embedding takes 1 descriptor, not {len(descriptors)}")
    output = descriptors[0]
    torch.set_num_threads(ask.threads)
    try:
        table = MappedTable.open(Path(ask.table))
        texts = table.texts(ask.column)
        base = FrozenBase(Path(ask.base))
        stride = ask.width * 2
        for rows, vectors in base.embed([texts.text(row) for row in range(table.rows)], ask.length, ask.pooling):
            if vectors.shape[1] != ask.width:
                raise InputError(f"the base gives {vectors.shape[1]} numbers a text, the contract says {ask.width}")
            for row, vector in zip(rows.tolist(), vectors, strict=True):
                os.pwrite(output, vector.tobytes(), row * stride)
        return table.rows
    finally:
        os.close(output)

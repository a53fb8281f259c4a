"""Short messages of packed facts: where their records lie, what their last bytes mean, and in which order they count.

Of the forms that tell some facts of a group (`wire.packed_facts`). Each stands on what came before it: sequences of
which the last bytes travel are completed by those held, and what one leaves out is as the message before it told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.wire.packed_facts import BRIEF_VERSION, PART_VERSION, Records

PART_MARKS: Final = {bytes([PART_VERSION]): 4, bytes([BRIEF_VERSION]): 3}
"""What messages begin with that tell some facts of a group, and how many bytes say which."""

WAVES_MOST: Final = 16
"""Messages of one source that come together and are taken one after the other; of more, later ones may be refused, as
if they had been lost."""


def records_in(blob: bytes, header_bytes: int, length: int, dtype: np.dtype[Any] | None) -> Records | None:
    """Records (messages, records in each) behind the headers of messages of one length; None where they do not fit."""
    held, rest = divmod(length - header_bytes, dtype.itemsize) if dtype is not None else (0, 1)
    if rest or dtype is None:
        return None
    return np.ndarray((len(blob) // length, held), dtype, blob, header_bytes, (length, dtype.itemsize))


def completed(last: NDArray[Any], held: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sequences of which the last bytes were told, near those that are held: what is further ahead than half of what
    the bytes reach is behind. O(n)."""
    signed = np.dtype(f"i{last.dtype.itemsize}")
    ahead = (last - held.astype(last.dtype)).astype(signed)
    return np.asarray(np.maximum(held.astype(np.int64) + ahead, 0), np.uint32)


def waves_of(source: NDArray[np.int32], payloads: Sequence[bytes]) -> NDArray[np.int64]:
    """In which turn each message is taken: those of a source in the order in which they came, as far as they are of
    different forms (version, group, facts, length); all first ones together. O(messages)."""
    waves = np.zeros(len(payloads), np.int64)
    last: dict[int, tuple[object, int]] = {}
    for place, (index, payload) in enumerate(zip(source.tolist(), payloads, strict=True)):
        form = (len(payload), payload[: PART_MARKS.get(payload[:1], 2)])
        before = last.get(index)
        wave = 0 if before is None else before[1] if before[0] == form else min(WAVES_MOST - 1, before[1] + 1)
        waves[place], last[index] = wave, (form, wave)
    return waves

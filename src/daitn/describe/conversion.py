"""Conversion: the local values of one column, one batch, into the arrays of a mapped table, with the faults seen.

Local values are what a reader gives: an array, or a list of Python values with None for absent and `Unreadable` for
what could not be decoded. Each function returns the values, a mask of the records that have none, and one mask per
kind of fault. Whole arrays are converted at once; only a batch with a bad value is walked through value by value.

Legend: B records in a batch.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.describe.column_map import ColumnSource
from daitn.describe.table import TextArray
from daitn.descriptors.contract import DATE_UNIT, CategoryColumn, ImageColumn, NumberColumn, VectorColumn

Mask = NDArray[np.bool_]
LocalValues = NDArray[Any] | Sequence[Any]


class Unreadable(NamedTuple):
    """Stands for a value that a reader found but could not decode, such as a broken image."""

    reason: str


class FaultKind(StrEnum):
    """What can be wrong with one value."""

    MISSING = "missing"
    OUT_OF_VOCABULARY = "out of vocabulary"
    OUT_OF_RANGE = "out of range"
    UNPARSABLE = "unparsable"
    WRONG_SIZE = "wrong size"


class Converted(NamedTuple):
    """One column of one batch. `absent` (B,): records without a usable value; `faults`: why, one mask (B,) a kind."""

    values: NDArray[Any] | TextArray
    absent: Mask
    faults: dict[FaultKind, Mask]


def as_text(value: Any) -> str | None:
    """The text of a local value, the same for every format: whole floats lose their `.0`, booleans are lower case."""
    match value:
        case None:
            return None
        case str():
            return value
        case bool() | np.bool_():
            return "true" if value else "false"
        case float() | np.floating():
            if np.isnan(value):
                return None
            return str(int(value)) if float(value).is_integer() else repr(float(value))
        case bytes():
            return value.decode("utf-8", "replace")
        case datetime.date():
            return value.isoformat()
        case Unreadable():
            return None
        case _:
            return str(value)


def _as_list(values: LocalValues) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _blank(values: LocalValues, words: frozenset[str]) -> list[Any]:
    """Values as a list with None where a text says that the value is missing."""
    return [None if isinstance(value, str) and value.strip() in words else value for value in _as_list(values)]


def _parse_one(value: Any) -> float:
    if value is None or isinstance(value, Unreadable):
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def parse_numbers(values: LocalValues, words: frozenset[str]) -> tuple[NDArray[np.float64], Mask, Mask]:
    """Numbers (B,), NaN where there is none; masks of the missing and of the unparsable (text, infinities)."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb" and values.ndim == 1:
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        unparsable = np.zeros(len(numbers), dtype=bool)
    else:
        blanked = _blank(values, words)
        missing = np.array([value is None for value in blanked], dtype=bool)
        try:
            numbers = np.array(blanked, dtype=np.float64)
            if numbers.ndim != 1:
                raise ValueError("values are lists")
        except (TypeError, ValueError):
            numbers = np.array([_parse_one(value) for value in blanked], dtype=np.float64)
            unparsable = np.isnan(numbers) & ~missing
            missing |= np.array([isinstance(value, float) and np.isnan(value) for value in blanked], dtype=bool)
            unparsable &= ~missing
        else:
            missing |= np.isnan(numbers)
            unparsable = np.zeros(len(numbers), dtype=bool)
    infinite = np.isinf(numbers)
    return np.where(infinite, np.nan, numbers), missing, unparsable | infinite


def as_moments(values: LocalValues) -> LocalValues:
    """Dates as seconds since 1970: ISO texts, dates and times of Python and numpy, without a zone taken as UTC. What is
    none stays as it is: a number is one already, and another text is found unparsable."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        seconds = values.astype("datetime64[us]").astype(np.int64) / 1e6
        return np.where(np.isnat(values), np.nan, seconds)
    return [_moment(value) for value in _as_list(values)]


def _moment(value: Any) -> Any:
    try:
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value.strip())
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value, datetime.time(tzinfo=datetime.UTC))
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    return value


def convert_numbers(
    values: LocalValues, column: NumberColumn, source: ColumnSource, words: frozenset[str]
) -> Converted:
    """float64 (B,): `value * multiply + add`, NaN where missing, unparsable or outside `low..high`."""
    numbers, missing, unparsable = parse_numbers(as_moments(values) if column.unit == DATE_UNIT else values, words)
    numbers = numbers * source.multiply + source.add
    outside = np.zeros(len(numbers), dtype=bool)
    if column.low is not None:
        outside |= numbers < column.low
    if column.high is not None:
        outside |= numbers > column.high
    numbers = np.where(outside, np.nan, numbers) + 0.0  # -0.0 becomes 0.0: equal content, equal bytes
    faults = {FaultKind.MISSING: missing, FaultKind.UNPARSABLE: unparsable, FaultKind.OUT_OF_RANGE: outside}
    return Converted(numbers, np.isnan(numbers), faults)


def convert_categories(
    values: LocalValues, column: CategoryColumn, source: ColumnSource, words: frozenset[str]
) -> Converted:
    """int32 (B,): index in the vocabulary, -1 where missing or outside; a word in the vocabulary is never missing."""
    index = {value: number for number, value in enumerate(column.values)}
    index |= {local: index[value] for local, value in source.values.items()}
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        distinct, inverse = np.unique(values, return_inverse=True)
        codes = np.array([_code(as_text(value), index, words) for value in distinct.tolist()], dtype=np.int32)
        codes = codes[inverse]
    else:
        seen: dict[str | None, int] = {}
        texts = [as_text(value) for value in _as_list(values)]
        for text in texts:
            if text not in seen:
                seen[text] = _code(text, index, words)
        codes = np.array([seen[text] for text in texts], dtype=np.int32)
    missing, outside = codes == -1, codes == -2
    return Converted(
        np.maximum(codes, -1), codes < 0, {FaultKind.MISSING: missing, FaultKind.OUT_OF_VOCABULARY: outside}
    )


def _code(text: str | None, index: dict[str, int], words: frozenset[str]) -> int:
    if text is None:
        return -1
    if text in index:
        return index[text]
    stripped = text.strip()
    return index.get(stripped, -1 if stripped in words else -2)


def convert_identifiers(values: LocalValues, words: frozenset[str], site_secret: bytes) -> Converted:
    """uint64 (B,): keyed BLAKE3 of the text, 0 where missing."""
    texts = identifier_texts(values, words)
    digests = digest_texts(texts, site_secret)
    missing = np.array([text is None for text in texts], dtype=bool)
    return Converted(digests, missing, {FaultKind.MISSING: missing})


def identifier_texts(values: LocalValues, words: frozenset[str]) -> list[str | None]:
    """The texts of identifiers as all sites write them: stripped, None where missing."""
    texts = [as_text(value) for value in _as_list(values)]
    return [None if text is None or text.strip() in words else text.strip() for text in texts]


def digest_texts(texts: Sequence[str | None], key: bytes | None = None) -> NDArray[np.uint64]:
    """64-bit BLAKE3 of each text, 0 for None; each distinct text is hashed once."""
    seen: dict[str | None, int] = {None: 0}
    for text in texts:
        if text is not None and text not in seen:
            data = text.encode("utf-8", "replace")
            digest = blake3(data) if key is None else blake3(data, key=key)
            seen[text] = int.from_bytes(digest.digest(8), "little")
    return np.array([seen[text] for text in texts], dtype=np.uint64)


def convert_texts(values: LocalValues) -> Converted:
    """UTF-8 bytes and offsets; an empty text counts as missing."""
    listed = _as_list(values)
    encoded = [(as_text(value) or "").encode("utf-8", "replace") for value in listed]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    missing = offsets[1:] == offsets[:-1]
    blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return Converted(TextArray(blob, offsets), missing, {FaultKind.MISSING: missing})


def convert_vectors(values: LocalValues, column: VectorColumn, source: ColumnSource) -> Converted:
    """float32 (B, L): `value * multiply + add`; a vector with a hole, or of another length, is absent.

    Arrays of more dimensions (images) are flattened where the product of their shape is the length.
    """
    count = len(values)
    missing, unparsable, wrong = (np.zeros(count, dtype=bool) for _ in range(3))
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb" and values.ndim >= 2:
        flat = values.reshape(count, -1)
        if flat.shape[1] == column.length:
            vectors = flat.astype(np.float64)
        else:
            vectors, wrong = np.zeros((count, column.length)), np.ones(count, dtype=bool)
    else:
        vectors = np.zeros((count, column.length))
        for row, value in enumerate(values):
            if value is None or isinstance(value, Unreadable):
                (missing if value is None else unparsable)[row] = True
                continue
            try:
                vector = np.asarray(value, dtype=np.float64).reshape(-1)
            except (TypeError, ValueError):
                unparsable[row] = True
                continue
            if len(vector) != column.length:
                wrong[row] = True
            else:
                vectors[row] = vector
    return _finish_vectors(vectors, missing, unparsable, wrong, source)


def join_numbers(columns: Sequence[LocalValues], source: ColumnSource, words: frozenset[str]) -> Converted:
    """float32 (B, L) made of L number columns."""
    parsed = [parse_numbers(values, words) for values in columns]
    missing = np.any([part[1] for part in parsed], axis=0)
    unparsable = np.any([part[2] for part in parsed], axis=0)
    wrong = np.zeros(len(missing), dtype=bool)
    return _finish_vectors(np.stack([part[0] for part in parsed], axis=1), missing, unparsable, wrong, source)


def _finish_vectors(
    vectors: NDArray[np.float64], missing: Mask, unparsable: Mask, wrong: Mask, source: ColumnSource
) -> Converted:
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is found below
        converted = (vectors * source.multiply + source.add + 0.0).astype(np.float32)
    holes = np.isnan(converted).any(axis=1) & ~unparsable
    infinite = np.isinf(converted).any(axis=1)
    faults = {
        FaultKind.MISSING: missing | holes,
        FaultKind.UNPARSABLE: unparsable | infinite,
        FaultKind.WRONG_SIZE: wrong,
    }
    return Converted(converted, missing | holes | unparsable | infinite | wrong, faults)


def convert_images(values: LocalValues, column: ImageColumn) -> Converted:
    """uint8 (B, C, H, W); an image of another size, or not of 8 bits a value, is absent."""
    shape = (column.channels, column.height, column.width)
    count = len(values)
    missing, unparsable, wrong = (np.zeros(count, dtype=bool) for _ in range(3))
    if isinstance(values, np.ndarray) and values.ndim in (3, 4):
        whole = _arrange(values, shape)
        if whole is not None and whole.dtype == np.uint8:
            faults = {FaultKind.MISSING: missing, FaultKind.UNPARSABLE: unparsable, FaultKind.WRONG_SIZE: wrong}
            return Converted(whole, missing, faults)
    images = np.zeros((count, *shape), dtype=np.uint8)
    for row, value in enumerate(values):
        if value is None:
            missing[row] = True
            continue
        image = _as_bytes(value)
        if image is None:
            unparsable[row] = True
            continue
        arranged = _arrange(image[None], shape)
        if arranged is None:
            wrong[row] = True
        else:
            images[row] = arranged[0]
    faults = {FaultKind.MISSING: missing, FaultKind.UNPARSABLE: unparsable, FaultKind.WRONG_SIZE: wrong}
    return Converted(images, missing | unparsable | wrong, faults)


def _as_bytes(value: Any) -> NDArray[np.uint8] | None:
    """An image as uint8; whole numbers of 0 … 255 in another type are accepted; None where it is not an image."""
    if isinstance(value, Unreadable | str | bytes):
        return None
    try:
        image = np.asarray(value)
    except ValueError:
        return None
    if image.ndim not in (2, 3) or image.dtype.kind not in "iu" or not image.size:
        return None
    if image.dtype != np.uint8 and (image.min() < 0 or image.max() > 255):
        return None
    return image.astype(np.uint8)


def _arrange(images: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any] | None:
    """Images of shape (B, H, W), (B, H, W, C) or (B, C, H, W) as (B, C, H, W); None where the size differs."""
    channels, height, width = shape
    if images.shape[1:] == shape:
        return images
    if images.shape[1:] == (height, width, channels):
        return images.transpose(0, 3, 1, 2)
    if channels == 1 and images.shape[1:] == (height, width):
        return images[:, None]
    return None
